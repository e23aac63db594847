"""The dropout layer."""

from __future__ import annotations

from typing import Any

from ..kernels import get as kernel
from ..program import Array
from ..validation import Checked, half_open_unit_interval, one_of
from .base import Layer, Quantities


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

    def forward(self, t: Quantities) -> None:
        t.a = self._scale(t, t.a_prev)  # E11

    def backward(self, t: Quantities) -> None:
        t.grad_prev = self._scale(t, t.grad_a)  # mutate: E11 backward

    def _scale(self, t: Quantities, x: Array) -> Array:
        """x ⊙ k/(1 − p) in training, with the mask k of this layer and step; x itself if nothing changes."""
        if self.rate == 0 or (self.form == "inverted" and not t.training):
            return x
        n, width = x.shape
        keep_probability = 1 - self.rate
        # a threshold of 0 drops no element, so that a prediction only scales
        threshold, factor = 0, keep_probability
        if t.training:
            threshold = min(round(self.rate * 2**32), 2**32 - 1)
            factor = 1 / keep_probability if self.form == "inverted" else 1.0  # mutate: E11 scale
        return kernel("dropout")(
            x,
            t.state,
            count=n * width // 4 + 2,
            threshold=threshold,
            factor=factor,
            layer=t.index,
            width=width,
            elements=n * width,
        )

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "form": self.form}
