"""The dropout layer."""

from __future__ import annotations

from typing import Any

from ..kernels import get as kernel
from ..recording import Array, Recorder
from ..validation import Checked, half_open_unit_interval, one_of
from .base import Buffers, Layer


class Dropout(Layer):
    """Dropout: in training a = a_prev ⊙ k/(1 − p), with k ~ Bernoulli(1 − p) per element; else a = a_prev. (E11)

    The mask is a function of (seed, step, layer, element). The backward pass draws it again instead of storing it.

    Parameters
    ----------
    rate : float
        p, in [0, 1).
    form : {"inverted", "textbook"}
        "inverted" is the formula above. "textbook" does not divide in training, and predicts with a = (1 − p) a_prev.
        In both forms the expectation in training equals the value in prediction.
    """

    rate = Checked(half_open_unit_interval)
    form = Checked(one_of("inverted", "textbook"))

    def __init__(self, rate: float, *, form: str = "inverted") -> None:
        self.form = form
        self.rate = rate

    def is_identity(self, training: bool) -> bool:
        return self.rate == 0 or (self.form == "inverted" and not training)

    def forward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record a = a_prev ⊙ k/(1 − p). (E11)"""
        self._scale(ops, t, t.a_prev, t.a, training)

    def backward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record ∂C/∂a_prev = ∂C/∂a ⊙ k/(1 − p), with the same mask and scale. (E11)"""
        if t.grad_prev is not None:
            self._scale(ops, t, t.grad_a, t.grad_prev, training)  # mutate: E11 backward

    def _scale(self, ops: Recorder, t: Buffers, x: Array, y: Array, training: bool) -> None:
        n, width = x.shape
        keep_probability = 1 - self.rate
        # a threshold of 0 drops no element, so that a prediction only scales
        threshold, factor = 0, keep_probability
        if training:
            threshold = min(round(self.rate * 2**32), 2**32 - 1)
            factor = 1 / keep_probability if self.form == "inverted" else 1.0  # mutate: E11 scale
        ops(
            kernel("dropout"),
            x,
            t.state,
            out=y,
            count=n * width // 4 + 2,
            threshold=threshold,
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
