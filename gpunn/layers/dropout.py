"""Dropout."""

from __future__ import annotations

from typing import Any

from ..kernels import get as kernel
from ..recording import Array, Recorder
from ..validation import Checked, half_open_unit_interval
from .base import Buffers, Layer


def _form(name: str, value: Any) -> str:
    """A form of dropout."""
    if value not in ("inverted", "textbook"):
        raise ValueError(f'{name} must be "inverted" or "textbook", got {value!r}')
    return str(value)


class Dropout(Layer):
    """In training a = a_prev ⊙ k/(1 − p), k ~ Bernoulli(1 − p) per element; at prediction a = a_prev. (E11)

    rate  p, in [0, 1)
    form  "inverted" as above, or "textbook": no division in training, a = (1 − p) a_prev at prediction. In each form
          the expectation in training equals the value at prediction.

    The mask is a function of (seed, step, layer, element), drawn again in the backward pass instead of being stored.
    """

    rate = Checked(half_open_unit_interval)
    form = Checked(_form)

    def __init__(self, rate: float, *, form: str = "inverted") -> None:
        self.form = form
        self.rate = rate

    def is_identity(self, training: bool) -> bool:
        return self.rate == 0 or (self.form == "inverted" and not training)

    def forward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """a = a_prev ⊙ k/(1 − p) (E11)"""
        self._scale(ops, t, t.a_prev, t.a, training)

    def backward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """∂C/∂a_prev = ∂C/∂a ⊙ k/(1 − p), the same mask and scale (E11)"""
        if t.grad_prev is not None:
            self._scale(ops, t, t.grad_a, t.grad_prev, training)  # mutate: E11 backward

    def _scale(self, ops: Recorder, t: Buffers, x: Array, y: Array, training: bool) -> None:
        n, width = x.shape
        # at prediction nothing is dropped: a threshold of 0 keeps every element, and only the factor acts
        kept = 1 - self.rate
        factor = kept if not training else 1 / kept if self.form == "inverted" else 1.0  # mutate: E11 scale
        ops(
            kernel("dropout"),
            x,
            t.state,
            out=y,
            count=n * width // 4 + 2,
            threshold=min(round(self.rate * 2**32), 2**32 - 1) if training else 0,
            factor=factor,
            layer=t.index,
            width=width,
            elements=n * width,
        )

    def plan_key(self) -> Any:
        return self.trainable, self.get_config()

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "form": self.form}

    def __repr__(self) -> str:
        return f"Dropout({self.rate:g})" if self.form == "inverted" else f"Dropout({self.rate:g}, form={self.form!r})"
