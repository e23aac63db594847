"""The layer that applies an activation."""

from __future__ import annotations

from typing import Any

from .. import activations
from ..validation import Checked
from .base import Layer, Quantities


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

    def forward(self, t: Quantities) -> None:
        t.z = t.a_prev
        t.a = self.activation.forward(t.z)  # E2

    def backward(self, t: Quantities) -> None:
        t.delta = self.activation.backward(t.z, t.a, t.grad_a)  # E4, E5
        t.grad_prev = t.delta  # z is a_prev

    def get_config(self) -> dict[str, Any]:
        return {"activation": activations.to_config(self.activation)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom: dict[str, Any]) -> Activation:
        return cls(activations.from_config(config["activation"], custom))
