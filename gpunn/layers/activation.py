"""The layer that applies an activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import activations
from ..recording import Array, Recorder
from ..validation import Checked
from .base import Buffers, Layer


class Activation(Layer):
    """Apply an activation, a = f(z) with z = a_prev; n_out = n_in. (E2)

    Parameters
    ----------
    activation : str or Activation
        f, such as "relu".
    """

    activation = Checked(lambda _, value: activations.get(value))

    def __init__(self, activation: str | activations.Activation) -> None:
        self.activation = activation

    def allocate(self, t: Buffers, new: Callable[..., Array], n: int, trace: bool) -> None:
        t.a = new((n, self.n_out or 0))
        t.z = t.a_prev

    def forward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record a = f(z). (E2)"""
        self.activation.record(ops, t.z, t.a)

    def forward_to_z(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record nothing, since z is a_prev."""

    def backward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record δ = f′(z) ⊙ ∂C/∂a (E4, E5). ∂C/∂a_prev = δ, since z is a_prev."""
        if not t.delta_is_known:
            self.activation.record_backward(ops, t.z, t.a, t.grad_a, t.delta)
        if t.grad_prev is not None:
            ops.copy(t.delta, out=t.grad_prev)

    def get_config(self) -> dict[str, Any]:
        return {"activation": activations.to_config(self.activation)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom: dict[str, Any]) -> Activation:
        return cls(activations.from_config(config["activation"], custom))

    def __repr__(self) -> str:
        return f"Activation({self.activation.name!r})"
