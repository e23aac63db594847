"""Steps that are not finite: the error, with its cause and a remedy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..kernels.state import StateEntry
from ..network import Network

OVERFLOW = 3
CAUSES = {
    1: "the loss is not finite",
    2: "a gradient or a parameter is not finite",
    OVERFLOW: "an update would overflow",
}


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
    raise DivergenceError(
        f"training diverged{where} (update {update}, learning rate {lr:.3g}): {CAUSES[cause]}. "
        f"{_advice(update, cause)} The weights are those before that step."
    )


def _advice(update: int, cause: int) -> str:
    """Return a remedy. The first loss and gradient do not depend on the learning rate; the first update does."""
    if update == 0 and cause != OVERFLOW:
        return (
            "No update was taken yet, so the likely cause is in the first outputs: inputs or targets that are not "
            "scaled, or outputs that the loss is not defined for (for example a ≤ 0 for poisson)."
        )
    return (
        "The likely cause is a learning rate that is too large, or inputs that are not scaled: try a tenth of the "
        "rate, clipnorm=1.0, or standardized inputs."
    )
