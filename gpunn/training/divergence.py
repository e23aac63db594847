"""Steps that are not finite: the error, with its cause and a remedy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..kernels.state import StateEntry
from ..layers import Embedding
from ..network import Network
from ..user_warnings import warn_user
from .history import History

OVERFLOW = 3
CAUSES = {
    1: "the loss is not finite",
    2: "a gradient or a parameter is not finite",
    OVERFLOW: "an update would overflow",
}


LARGE_RATE = (
    "The likely cause is a learning rate that is too large, or inputs that are not scaled: try a tenth of the rate, "
    "clipnorm=1.0, or standardized inputs."
)
UNKNOWN_CODE = " A code that an Embedding has no row for has this effect too: compare its columns of X with n_levels."
MAX_RISE = 1e6  # of the loss over a fit


class DivergenceError(ArithmeticError):
    """A non-finite loss, gradient or update. The weights are those before that step."""


def raise_if_diverged(net: Network, state: NDArray[np.float64], epoch: int | None = None) -> None:
    """Raise DivergenceError if the non-finite flag is set in a state on the host.

    The flag is cleared, so that training can continue with other settings.
    """
    if not state[StateEntry.NONFINITE_STEP]:
        return
    update, lr = int(state[StateEntry.NONFINITE_STEP]) - 1, state[StateEntry.NONFINITE_LR]
    cause, step = int(state[StateEntry.NONFINITE_CAUSE]), int(state[StateEntry.NONFINITE_BATCH]) + 1
    where = "" if epoch is None else f" in epoch {epoch + 1}, step {step}"
    net.state[StateEntry.NONFINITE_STEP] = 0
    net.state[StateEntry.NONFINITE_CAUSE] = 0
    codes = UNKNOWN_CODE if any(isinstance(layer, Embedding) for layer in net.layers) else ""
    raise DivergenceError(
        f"training diverged{where} (update {update}, learning rate {lr:.3g}): {CAUSES[cause]}. "
        f"{_advice(update, cause)}{codes} The weights are those before that step."
    )


def warn_if_loss_rose(history: History) -> None:
    """Warn if the last loss is so much larger than the first one that training diverged, though it is finite."""
    losses = history.history.get("loss", [math.nan])
    first, last = losses[0], losses[-1]
    # a loss that starts near 0 may rise by rounding
    if last > MAX_RISE * max(first, 1.0):
        warn_user(f"training diverged: the loss rose from {first:.3g} to {last:.3g}. {LARGE_RATE}")


def _advice(update: int, cause: int) -> str:
    """Return a remedy. The first loss and gradient do not depend on the learning rate; the first update does."""
    if update == 0 and cause != OVERFLOW:
        return (
            "No update was taken yet, so the likely cause is in the first outputs: inputs or targets that are not "
            "scaled, or outputs that the loss is not defined for (for example a ≤ 0 for poisson)."
        )
    return LARGE_RATE
