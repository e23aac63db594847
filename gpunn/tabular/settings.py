"""Settings of the networks of an ensemble: sampled, not tuned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..layers import Dense, Dropout, Layer
from ..losses import Loss
from ..model import Sequential
from ..optimizers import AdamW
from ..schedules import CosineDecay

N_NETWORKS = 40
EPOCHS = (5, 10, 20, 40)  # used in turn by the networks of a fold
MIN_STEPS = (125, 250, 500, 1000)  # small tables get more epochs, up to MAX_EPOCHS
MAX_EPOCHS = 200
WIDTHS = (64, 128, 256)
ACTIVATIONS = ("silu", "relu", "gelu")
MAX_DEPTH = 3
NO_DROPOUT_SHARE, MAX_DROPOUT = 0.3, 0.5
LEARNING_RATES = (-3.1, -1.8)  # exponents of 10
WEIGHT_DECAYS = (-3.0, 0.0)  # exponents of 10
BETA_2 = 0.95


@dataclass(frozen=True)
class Settings:
    """The settings of one network.

    learning_rate  η at the first step, which falls to 0 along a cosine
    weight_decay   λ of AdamW
    dropout        the rate after each hidden layer, 0 for none
    depth, width   the number of hidden layers, and units in each
    activation     of the hidden layers
    epochs         the number of epochs of the schedule; the network keeps its best one
    seed           of weights, order and dropout
    """

    learning_rate: float
    weight_decay: float
    dropout: float
    depth: int
    width: int
    activation: str
    epochs: int
    seed: int

    def network(self, n_in: int, n_out: int, *, loss: Loss, steps: int, device: str) -> Sequential:
        """A compiled network, whose output is a logit of each class, or a standardized value."""
        layers: list[Layer] = []
        for _ in range(self.depth):
            layers.append(Dense(self.width, activation=self.activation))
            if self.dropout:
                layers.append(Dropout(self.dropout))
        layers.append(Dense(n_out))
        net = Sequential(layers, input_shape=n_in, seed=self.seed)
        schedule = CosineDecay(self.learning_rate, steps)
        return net.compile(AdamW(schedule, self.weight_decay, beta_2=BETA_2), loss, device=device)


def batch_size(n_rows: int) -> int:
    """Rows per step: few for small tables, whose epochs would have too few steps."""
    return 32 if n_rows < 2500 else 64 if n_rows < 5000 else 128


def sample(count: int, n_folds: int, steps_per_epoch: int, generator: np.random.Generator) -> list[Settings]:
    """Draw the settings of `count` networks, network i for fold i mod `n_folds`."""
    found = []
    for k in range(count):
        length = k // n_folds % len(EPOCHS)
        epochs = max(EPOCHS[length], min(MAX_EPOCHS, round(MIN_STEPS[length] / steps_per_epoch)))
        dropout = generator.uniform(-NO_DROPOUT_SHARE, 1 - NO_DROPOUT_SHARE) / (1 - NO_DROPOUT_SHARE)
        found.append(
            Settings(
                learning_rate=float(10 ** generator.uniform(*LEARNING_RATES)),
                weight_decay=float(10 ** generator.uniform(*WEIGHT_DECAYS)),
                dropout=float(MAX_DROPOUT * max(0.0, dropout)),
                depth=int(generator.integers(1, MAX_DEPTH + 1)),
                width=int(generator.choice(WIDTHS)),
                activation=str(generator.choice(ACTIVATIONS)),
                epochs=epochs,
                seed=int(generator.integers(2**31)),
            )
        )
    return found
