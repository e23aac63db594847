"""The compared nets: sizes, batch, optimizer and loss, as data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

# learning rate of wide nets and small batches: at 1e-3 rounding errors alone change the losses of the first 20 steps by
# more than the tolerance of 1e-5, because Adam's first steps are signs and ReLU has a kink
SMALL_RATE = 1e-5
PREDICTION_ROWS = 1024  # rows per block of a prediction, if the contestant has such a parameter


@dataclass(frozen=True)
class Net:
    """A multi-layer perceptron with ReLU hidden layers and its training parameters.

    sizes  inputs, hidden widths, outputs
    batch  rows per step
    rows   rows of the data: at least 20 steps per epoch, no shorter last batch, a multiple of `block`
    rule   "adam" or "sgd"
    loss   "half_squared_error", or "crossentropy" of a softmax
    block  rows per block of a prediction, if the contestant has such a parameter
    orders number of row orders, drawn in advance and used in turn; 0 means that every epoch draws its own
    """

    name: str
    sizes: tuple[int, ...]
    batch: int
    rows: int
    rule: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    loss: Literal["half_squared_error", "crossentropy"] = "crossentropy"
    block: int = PREDICTION_ROWS
    orders: int = 0

    def __post_init__(self) -> None:
        if self.rows % self.batch or self.rows % self.block or self.steps < 20:
            raise ValueError(f"rows of {self.name} must be at least 20 full batches of {self.batch}, got {self.rows}")

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.rows // self.batch

    @property
    def parameters(self) -> int:
        """Number of weights and intercepts."""
        return sum((n_in + 1) * n_out for n_in, n_out in pairwise(self.sizes))

    def bytes_of_step(self, precision: str) -> int:
        """The bytes that a training step must move through a GPU's memory if no equations are fused: every matrix is
        read once by each equation that uses it and written once by the equation that computes it.

        With s the bytes of an activation (2 in bf16, else 4), n rows, w the widths and P the parameters:

        gather   n·w₀ read in float32, n·w₀·s written
        E1, E2   aˡ⁻¹ read, aˡ written
        E4       zᴸ read, δᴸ written
        E5       δˡ and aˡ⁻¹ read, δˡ⁻¹ written, for l > 1
        E6, E7   aˡ⁻¹ and δˡ read
        E8       g, m, v, θ read, m, v, θ written, in float32; in bf16 also a bf16 copy of θ

        Weights, labels and state are left out: they are small in the nets that use this floor.
        """
        s, n, P = 2 if precision == "bf16" else 4, self.batch, self.parameters
        moved = n * self.sizes[0] * (4 + s) + 2 * n * self.sizes[-1] * s
        for layer, (w_in, w_out) in enumerate(pairwise(self.sizes)):
            moved += n * (w_in + w_out) * s  # E1, E2
            moved += n * (w_in + w_out) * s  # E6, E7
            moved += n * (w_out + 2 * w_in) * s if layer else 0  # E5
        return moved + 28 * P + (2 * P if precision == "bf16" else 0)


NETS = {
    net.name: net
    for net in (
        Net("seed", (8, 16, 1), 1, 4096, "sgd", 1e-2, "half_squared_error"),
        Net("tabular", (16, 64, 64, 1), 32, 8192, loss="half_squared_error"),
        Net("digits", (64, 100, 10), 200, 25600),
        Net("mnist", (784, 512, 256, 10), 128, 8192),
        Net("wide", (1024, 1024, 1024, 1024, 10), 512, 10240, learning_rate=SMALL_RATE),
    )
}

# cost by batch size of one net, and by width at one batch size
SWEEPS = {
    "batch": {
        b: Net(f"batch-{b}", (128, 256, 256, 10), b, -(-20 * b // 1024) * 1024, learning_rate=SMALL_RATE)
        for b in (1, 8, 64, 512, 4096)
    },
    "width": {
        w: Net(f"width-{w}", (128, w, w, 10), 128, 3072, learning_rate=SMALL_RATE)
        for w in (16, 64, 256, 512, 1024, 2048)
    },
}

# on a GPU: the orders give at least 64 different batches and are drawn in advance, because a host needs longer to draw
# one than a GPU to train on it; the data is in the GPU's memory and larger than its caches
GPU_NETS = {
    net.name: net
    for net in (
        Net("small", (784, 512, 512, 10), 128, 128 * 256, learning_rate=SMALL_RATE, orders=2),
        Net("mid", (*[1024] * 4, 10), 4096, 4096 * 64, learning_rate=SMALL_RATE, block=4096, orders=2),
        Net("large", (*[4096] * 6, 10), 8192, 8192 * 20, learning_rate=SMALL_RATE, block=8192, orders=4),
        Net("narrow", (*[64] * 4, 10), 1 << 18, 20 << 18, learning_rate=SMALL_RATE, block=1 << 18, orders=4),
    )
}
