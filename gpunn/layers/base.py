"""The base class of layers, the descriptions of their parameters, and the registry of their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from .. import activations
from ..activations import Activation
from ..initializers import Initializer
from ..recording import Array, Recorder
from ..registry import Registry, check_config
from ..validation import boolean


@dataclass(frozen=True)
class Parameter:
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


class Buffers(SimpleNamespace):
    """The buffers of a layer in a plan: a_prev, z, a, grad_a, delta, grad_prev, its parameters and their gradients."""


class Layer:
    """A map from (n, n_in) to (n, n_out). ``trainable = False`` freezes its parameters from the next step on.

    A subclass records its two passes instead of computing them. A recorded step can then run many times, compiled or
    as a CUDA graph. It defines:

    - ``build(n_in)``, which stores ``self.n_in`` and ``self.n_out`` and returns n_out, unless n_out = n_in;
    - ``parameters()``, if it has any, and ``running()`` for running statistics;
    - ``forward(ops, t, training)``, which records ``t.a`` (n, n_out) from ``t.a_prev`` (n, n_in);
    - ``backward(ops, t, training)``, which records ``t.grad_prev`` = ∂C/∂a_prev and the gradient ``t.dNAME`` of each
      parameter from ``t.grad_a`` = ∂C/∂a. ``t.grad_prev`` is None in a first layer whose input gradient is not needed.
      The gradients of a frozen layer (``self.trainable`` is False) are not computed;
    - ``get_config()``, if its constructor has arguments. When one of them is set on the layer, the next step is
      recorded again.

    ``t`` has the layer's buffers, and a parameter NAME as ``t.NAME``. ``ops`` is a `gpunn.recording.Recorder`, with
    ``ops.matmul(a, b, out=c)``, ``ops(kernel, …, out=…)``, and ``ops.call_python(function, reason=…)`` for Python code
    that works on the arrays themselves. `Sequential.summary` reports such code with its reason.

    A saved network stores the name of the class; ``gpunn.load(…, custom={name: class})`` restores it.

    Examples
    --------
    >>> class Scale(gpunn.Layer):
    ...     def parameters(self):
    ...         return [gpunn.layers.Parameter("s", (self.n_in,), gpunn.initializers.Ones())]
    ...
    ...     def forward(self, ops, t, training):
    ...         def multiply():
    ...             t.a[...] = t.a_prev * t.s
    ...
    ...         ops.call_python(multiply, reason="Scale is written in Python")
    ...
    ...     def backward(self, ops, t, training):
    ...         def gradients():
    ...             if self.trainable:
    ...                 t.ds[...] = (t.grad_a * t.a_prev).sum(axis=0)
    ...             if t.grad_prev is not None:
    ...                 t.grad_prev[...] = t.grad_a * t.s
    ...
    ...         ops.call_python(gradients, reason="Scale is written in Python")

    Attributes
    ----------
    n_in, n_out : int or None
        The number of inputs and outputs; None before `build`.
    activation : Activation
        f, the identity for layers without one.
    owned : bool
        True if the layer belongs to a network. Two networks cannot share a layer.
    """

    n_in: int | None = None
    n_out: int | None = None
    activation: Activation = activations.Identity()
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
    def can_fuse_backward(self) -> bool:
        """True if ∂C/∂a_prev is one matrix product. The f′ of a preceding layer of this kind can be fused with it."""
        return False

    @property
    def supports_bf16(self) -> bool:
        """True if z, a and their gradients may be stored in bfloat16 between two matrix products."""
        return False

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

    def is_identity(self, training: bool) -> bool:
        """Return True if a equals a_prev, so that nothing needs to be computed or stored."""
        return False

    def allocate(self, t: Buffers, new: Callable[..., Array], n: int, trace: bool) -> None:
        """Allocate z, a and any other buffer that the layer writes. Without an activation, z is a.

        Parameters
        ----------
        t : Buffers
            Receives the buffers.
        new : callable
            ``new(shape, dtype=None)`` returns an array on the device, of the network's dtype if `dtype` is None.
        n : int
            The batch size.
        trace : bool
            True if `Sequential.trace` reads z and a, so that they cannot share a buffer.
        """
        t.z = t.a = new((n, self.n_out or 0))

    def forward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record a from a_prev. (E1, E2)"""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, ops, t, training)")

    def forward_to_z(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record z only, for a loss that is fused with the activation and computes a and δ from z. (E4)"""
        raise NotImplementedError(f"{type(self).__name__} has no activation that a loss can be fused with")

    def backward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record ∂C/∂a_prev and the parameters' gradients from ∂C/∂a. (E5 to E7)"""
        raise NotImplementedError(f"{type(self).__name__} must define backward(self, ops, t, training)")

    def after_update(self, ops: Recorder, t: Buffers) -> None:
        """Record operations that follow the optimizer's update, such as a constraint or a running statistic."""

    def plan_key(self) -> Any:
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
        shown = {k: v for k, v in self.get_config().items() if v is not None and not isinstance(v, dict)}
        arguments = ", ".join(f"{k}={v!r}" for k, v in shown.items())
        return f"{type(self).__name__}({arguments})"


REGISTRY: Registry[Layer] = Registry("layer", Layer, __package__)


def to_config(layer: Layer) -> dict[str, Any]:
    """Describe a layer as JSON: its class, its arguments, and whether it is frozen."""
    trainable = boolean("trainable", layer.trainable)
    return {"class": type(layer).__name__, "trainable": trainable, "config": check_config(layer, layer.get_config())}


def from_config(config: dict[str, Any], custom: dict[str, Any]) -> Layer:
    """Make the layer that `to_config` described. `custom` maps the names of user classes and functions to them."""
    layer: Layer = REGISTRY.find(config["class"], custom).from_config(config["config"], custom)
    if not isinstance(config["trainable"], bool):
        raise TypeError(f"trainable must be true or false, got {config['trainable']!r}")
    layer.trainable = config["trainable"]
    return layer
