"""The base class of layers, the descriptions of their parameters, and the registry of their names."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

from .. import activations
from ..activations import Activation
from ..initializers import Initializer
from ..registry import Registry, Versioned, call_text, check_config
from ..validation import boolean, positive


class Parameter(NamedTuple):
    """A parameter of a layer.

    Attributes
    ----------
    name : str
        The parameter is ``t.NAME`` in `Layer.forward`, its gradient ``t.dNAME`` in `Layer.backward`.
    shape : tuple of int
    initializer : Initializer
    penalized : bool
        True for weights (E9, E10), False for intercepts and other parameters that no penalty applies to.
    l2, l1 : float
        λ of E9 and of its l1 form.
    max_norm : float or None
        The largest Euclidean norm of a column after an update.
    """

    name: str
    shape: tuple[int, ...]
    initializer: Initializer
    penalized: bool = False
    l2: float = 0.0
    l1: float = 0.0
    max_norm: float | None = None


@dataclass(frozen=True)
class RunningStat:
    """A running statistic of a layer: training changes it, the optimizer does not. It is ``t.NAME``."""

    name: str
    shape: tuple[int, ...]
    initial_value: float


class Quantities(SimpleNamespace):
    """The quantities of a layer in a step, arrays or symbolic tensors. The docstring of `Layer` lists them."""


class Layer(Versioned):
    """A map from (n, n_in) to (n, n_out), written as equations.

    `forward` and `backward` compute with operators and kernels. The same text runs on NumPy and CuPy arrays, and on
    symbolic tensors (`gpunn.program.Tensor`) that record the step's program, which is then fused and compiled.

    A subclass defines:

    - ``build(n_in)``, which stores ``self.n_in`` and ``self.n_out`` and returns n_out, unless n_out = n_in;
    - ``parameters()``, if it has any, and ``running()``, if it has running statistics;
    - ``forward(t)``, which sets ``t.a`` (n, n_out), and ``t.z`` if it differs from ``t.a``;
    - ``backward(t)``, which sets ``t.grad_prev`` (n, n_in) = ∂C/∂a_prev, the gradient ``t.dNAME`` of each parameter
      NAME in its shape, and δ = ``t.delta`` if it differs from ``t.grad_a``;
    - ``after_update(t)``, if a constraint or a running statistic follows the optimizer's update: it sets parameters
      ``t.NAME`` and running statistics ``t.NAME``, which the step then stores;
    - ``get_config()``, if its constructor has arguments.

    They are given `t`. Its values have the network's dtype, except the state array:

    ===============  ===================================================================================
    ``t.a_prev``     (n, n_in), the layer's input
    ``t.NAME``       each parameter and each running statistic, in its shape
    ``t.grad_a``     (n, n_out), ∂C/∂a; in `backward`
    ``t.training``   bool, True in a training step
    ``t.rows``       int, the number of rows of batch statistics
    ``t.index``      int, the layer's index in the network
    ``t.state``      float64, the state array, which only kernels read
    ===============  ===================================================================================

    What `forward` stores on `t` is available in `backward` and `after_update`. A layer computes all gradients: the
    step removes what nothing reads, such as the gradients of a frozen layer.

    Tensors support ``@ + - * /`` with tensors, numbers and row vectors, ``.T``, ``.sum(axis=0)`` and kernels. Other
    functions raise TypeError. A class with ``opaque = True`` may use all of NumPy: its methods get arrays, which they
    must not change, each time the step runs. No op is fused with it, and `Sequential.summary` reports it.

    A new value of an attribute that `get_config` returns takes effect at the next step, as do ``trainable`` and
    ``learning_rate_factor``. A saved network stores them, the name of the class and `get_config`;
    ``gpunn.load(…, custom={name: class})`` restores it.

    Examples
    --------
    >>> class Scale(gpunn.Layer):
    ...     def parameters(self):
    ...         return [gpunn.layers.Parameter("s", (self.n_in,), gpunn.initializers.Ones())]
    ...
    ...     def forward(self, t):
    ...         t.a = t.a_prev * t.s
    ...
    ...     def backward(self, t):
    ...         t.ds = (t.grad_a * t.a_prev).sum(axis=0)
    ...         t.grad_prev = t.grad_a * t.s

    Attributes
    ----------
    n_in, n_out : int or None
        The number of inputs and outputs; None before `build`.
    activation : Activation
        f, the identity for layers without one.
    trainable : bool
        False freezes the parameters, from the next step on.
    learning_rate_factor : float
        The factor > 0 of η for the layer's parameters, 1 by default, from the next step on.
    opaque : bool
        True if the methods take arrays only.
    batch_statistics : bool
        True if the layer's sums over rows are statistics of the batch. In distributed training each rank uses its own
        rows for them, unless they are synchronized.
    owned : bool
        True if the layer belongs to a network. Two networks cannot share a layer.
    """

    n_in: int | None = None
    n_out: int | None = None
    activation: Activation = activations.Identity()
    opaque = False
    batch_statistics = False
    owned = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        REGISTRY.check_free([cls.__name__])
        REGISTRY.register(cls, cls.__name__)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which belongs to no network."""
        return {k: v for k, v in vars(self).items() if k != "owned"}

    @property
    def trainable(self) -> bool:
        """True if steps change the layer's parameters. Setting it takes effect at the next step."""
        found: bool = self.__dict__.get("trainable", True)
        return found

    @trainable.setter
    def trainable(self, value: bool) -> None:
        vars(self)["trainable"] = boolean("trainable", value)

    @property
    def learning_rate_factor(self) -> float:
        """The factor of η for the layer's parameters. Setting it takes effect at the next step."""
        found: float = self.__dict__.get("learning_rate_factor", 1.0)
        return found

    @learning_rate_factor.setter
    def learning_rate_factor(self, value: float) -> None:
        vars(self)["learning_rate_factor"] = positive("learning_rate_factor", value)

    def build(self, n_in: int) -> int:
        """Set the number of inputs and return the number of outputs, which is the same by default."""
        self.n_in = self.n_out = n_in
        return n_in

    def parameters(self) -> list[Parameter]:
        """The parameters, in the order of `get_weights`."""
        return []

    def running(self) -> list[RunningStat]:
        """The running statistics."""
        return []

    def forward(self, t: Quantities) -> None:
        """Set a, and z if it differs, from a_prev. (E1, E2)"""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, t)")

    def backward(self, t: Quantities) -> None:
        """Set ∂C/∂a_prev, the parameters' gradients, and δ if it differs, from ∂C/∂a. (E5 to E7)"""
        raise NotImplementedError(f"{type(self).__name__} must define backward(self, t)")

    def after_update(self, t: Quantities) -> None:
        """Set what changes after the optimizer's update: constrained parameters and running statistics."""

    def step_key(self) -> Any:
        """The attributes that a recorded step depends on. The step is recorded again when they change."""
        return self.trainable, repr(self.get_config())

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom: dict[str, Any]) -> Layer:
        """Make a layer from `get_config`'s result. `custom` maps the names of user classes and functions to them."""
        return cls(**config)

    def __repr__(self) -> str:
        """The call that makes an equal layer, without arguments that have their defaults."""
        return call_text(type(self), {k: getattr(self, k, v) for k, v in self.get_config().items()})


REGISTRY: Registry[Layer] = Registry("layer", Layer, __package__)


def to_config(layer: Layer) -> dict[str, Any]:
    """Describe a layer as JSON: its class, its arguments, whether it is frozen, and its factor of the learning rate."""
    return {
        "class": type(layer).__name__,
        "trainable": boolean("trainable", layer.trainable),
        "learning_rate_factor": layer.learning_rate_factor,
        "config": check_config(layer, layer.get_config()),
    }


def from_config(config: dict[str, Any], custom: dict[str, Any]) -> Layer:
    """Make the layer that `to_config` described. `custom` maps the names of user classes and functions to them."""
    layer: Layer = REGISTRY.find(config["class"], custom).from_config(config["config"], custom)
    if not isinstance(config["trainable"], bool):
        raise TypeError(f"trainable must be true or false, got {config['trainable']!r}")
    layer.trainable = config["trainable"]
    layer.learning_rate_factor = config.get("learning_rate_factor", 1.0)  # earlier files do not have it
    return layer
