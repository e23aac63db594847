"""The nets that are compared: sizes, batch, rule and loss, as data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

# the rate of nets so wide, or batches so small, that at 1e-3 rounding alone moves the losses of the first 20 steps by
# more than the 1e-5 in which they must agree: Adam's first steps are signs, and rectifiers have kinks
CALM = 1e-5
PREDICTION_ROWS = 1024  # rows that a prediction handles at once, where the contestant lets it be chosen


@dataclass(frozen=True)
class Net:
    """A multi-layer perceptron with ReLU hidden layers and the way it is trained.

    sizes  inputs, hidden widths, outputs
    batch  rows of a step
    rows   rows of the set: at least 20 steps an epoch, no shorter last batch, a multiple of PREDICTION_ROWS
    rule   "adam" or "sgd", of that learning rate
    loss   "half_squared_error", or "crossentropy" of a softmax
    """

    name: str
    sizes: tuple[int, ...]
    batch: int
    rows: int
    rule: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    loss: Literal["half_squared_error", "crossentropy"] = "crossentropy"

    def __post_init__(self) -> None:
        if self.rows % self.batch or self.rows % PREDICTION_ROWS or self.steps < 20:
            raise ValueError(f"{self.name}: {self.rows} rows do not make 20 or more whole batches of {self.batch}")

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.rows // self.batch

    @property
    def parameters(self) -> int:
        """How many weights and intercepts there are."""
        return sum((n_in + 1) * n_out for n_in, n_out in pairwise(self.sizes))


NETS = {
    net.name: net
    for net in (
        Net("seed", (8, 16, 1), 1, 4096, "sgd", 1e-2, "half_squared_error"),
        Net("tabular", (16, 64, 64, 1), 32, 8192, loss="half_squared_error"),
        Net("digits", (64, 100, 10), 200, 25600),
        Net("mnist", (784, 512, 256, 10), 128, 8192),
        Net("wide", (1024, 1024, 1024, 1024, 10), 512, 10240, learning_rate=CALM),
    )
}

# where a contestant's cost starts to rise: one net as its batch grows, and one batch as the net's width grows
SWEEPS = {
    "batch": {
        b: Net(f"batch-{b}", (128, 256, 256, 10), b, -(-20 * b // 1024) * 1024, learning_rate=CALM)
        for b in (1, 8, 64, 512, 4096)
    },
    "width": {
        w: Net(f"width-{w}", (128, w, w, 10), 128, 3072, learning_rate=CALM) for w in (16, 64, 256, 512, 1024, 2048)
    },
}
