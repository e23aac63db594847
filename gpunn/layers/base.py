"""What a layer is: its parameters, its buffers in a plan, and the launches of its forward and backward pass.

A layer of one's own is a subclass of `Layer`:

- ``build(n_in)`` stores ``self.n_in`` and ``self.n_out`` and returns n_out;
- ``parameters()`` lists its `Parameter`s;
- ``forward(ops, t, training)`` records how ``t.a`` (n, n_out) comes from ``t.a_prev`` (n, n_in);
- ``backward(ops, t, training)`` records how ``t.grad_prev`` = ∂C/∂a_prev and the gradients ``t.dNAME`` of its
  parameters come from ``t.grad_a`` = ∂C/∂a. ``t.grad_prev`` may be None in the first layer, and the gradients of a
  frozen layer (``self.trainable`` False) are left alone;
- ``get_config()`` gives the constructor's arguments as JSON, where it has any. If one of them is set on the layer
  later, the next step is recorded again.

A saved network keeps the class's name, and `gpunn.load(…, custom={name: class})` brings it back.

``t`` holds the plan's buffers for this layer; a parameter NAME is ``t.NAME``, its gradient ``t.dNAME``. ``ops`` is a
`gpunn.recording.Recorder`: ``ops.matmul(a, b, out=c)``, ``ops(kernel, …, out=…)``, or
``ops.call_python(function, …, reason=…)`` for Python on the arrays themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from .. import activations
from ..activations import Activation
from ..initializers import Initializer
from ..recording import Array, Recorder
from ..validation import boolean, complete

_LAYERS: dict[str, type[Layer]] = {}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a layer. `penalized` ones are weights (E9, E10), the others intercepts and their like.

    `l2` and `l1` are λ of E9 and of its l1 form, `max_norm` the longest a column may be after an update.
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
    """A running statistic: it moves with training, but no optimiser touches it."""

    name: str
    shape: tuple[int, ...]
    initial_value: float


class Buffers(SimpleNamespace):
    """A layer's buffers in one plan: a_prev, z, a, grad_a, delta, grad_prev, its parameters and their gradients."""


class Layer:
    """A map from (n, n_in) to (n, n_out). `trainable = False` freezes its parameters from the next step on."""

    n_in: int | None = None
    n_out: int | None = None
    activation: Activation = activations.Identity()
    owned = False  # whether a network has it; two networks cannot share one

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        known = _LAYERS.get(cls.__name__)
        if known is not None and known.__module__.startswith(__package__):
            raise TypeError(f"gpunn has a layer {cls.__name__} already: give yours another name, files keep it")
        _LAYERS[cls.__name__] = cls

    def __getstate__(self) -> dict[str, Any]:
        """A copy is in no network."""
        return {k: v for k, v in vars(self).items() if k != "owned"}

    @property
    def trainable(self) -> bool:
        """True if steps change the layer's parameters."""
        found: bool = self.__dict__.get("trainable", True)
        return found

    @trainable.setter
    def trainable(self, value: bool) -> None:
        vars(self)["trainable"] = boolean("trainable", value)

    @property
    def can_fuse_backward(self) -> bool:
        """Whether ∂C/∂a_prev is one product, which may apply the f′ of a layer below that says so too."""
        return False

    @property
    def supports_bf16(self) -> bool:
        """Whether z, a and their derivatives may be held in less than float32 between two products."""
        return False

    def build(self, n_in: int) -> int:
        """Learn the number of inputs; returns the number of outputs. The default has as many outputs as inputs."""
        self.n_in = self.n_out = n_in
        return n_in

    def parameters(self) -> list[Parameter]:
        """The parameters, in the order of `get_weights`."""
        return []

    def running(self) -> list[RunningStat]:
        """The running statistics."""
        return []

    def is_identity(self, training: bool) -> bool:
        """Whether a is a_prev, unchanged, so that nothing need be computed or stored."""
        return False

    def allocate(self, t: Buffers, new: Callable[[tuple[int, ...]], Array], n: int, keep: bool) -> None:
        """Give `t` its buffers z and a, and whatever else the layer writes. Without an activation z is a."""
        t.z = t.a = new((n, self.n_out or 0))

    def forward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record a from a_prev. (E1, E2)"""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, ops, t, training)")

    def forward_to_z(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record z alone: the loss is merged with the activation and gives a and δ from z. (E4)"""
        raise NotImplementedError(f"{type(self).__name__} has no activation that a loss could merge with")

    def backward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record ∂C/∂a_prev and the parameters' gradients from ∂C/∂a. (E5 to E7)"""
        raise NotImplementedError(f"{type(self).__name__} must define backward(self, ops, t, training)")

    def after_update(self, ops: Recorder, t: Buffers) -> None:
        """Record what follows the optimiser's update: a constraint, a running statistic."""

    def plan_key(self) -> Any:
        """The values that a plan records from the layer's attributes. A plan is recorded again if they change."""
        return self.trainable, repr(self.get_config())

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom: dict[str, Any]) -> Layer:
        """The inverse of `get_config`."""
        return cls(**config)

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.get_config().items() if v is not None and not isinstance(v, dict)}
        arguments = ", ".join(f"{k}={v!r}" for k, v in shown.items())
        return f"{type(self).__name__}({arguments})"


def to_config(layer: Layer) -> dict[str, Any]:
    """The layer as JSON: its class, its arguments, and whether it is frozen."""
    trainable = boolean("trainable", layer.trainable)
    return {"class": type(layer).__name__, "trainable": trainable, "config": complete(layer, layer.get_config())}


def from_config(config: dict[str, Any], custom: dict[str, Any]) -> Layer:
    """The inverse of `to_config`; `custom` maps names of the user's own classes and functions to them."""
    name = config["class"]
    found = custom.get(name) or _LAYERS.get(name)
    if found is None:
        raise ValueError(f"layer {name!r} is not built in: pass custom={{{name!r}: its class}}")
    layer = found.from_config(config["config"], custom)
    if not isinstance(config["trainable"], bool):
        raise TypeError(f"trainable must be true or false, got {config['trainable']!r}")
    layer.trainable = config["trainable"]
    return layer
