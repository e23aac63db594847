"""The learning rate of the next steps: the override if there is one, otherwise by the optimizer's schedule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..kernels.state import StateEntry
from ..network import Network

MAX_RATES = 4096  # learning rates that are computed ahead of a schedule that changes with every step


def learning_rate(net: Network, epoch: int) -> float:
    """η of the next step."""
    if net.learning_rate_override is not None:
        return net.learning_rate_override
    schedule = net.optimizer.schedule
    if schedule.per == "epoch":
        return float(schedule(epoch))
    # reading the step count from the device would block
    return float(schedule(0 if schedule.is_constant or not net.is_built else int(net.state[StateEntry.STEP])))


def granularity(net: Network) -> str | None:
    """Return "step" or "epoch" if the schedule changes η with every step or epoch. None if η is constant."""
    schedule = net.optimizer.schedule
    return None if schedule.is_constant or net.learning_rate_override is not None else schedule.per


def rates_ahead(net: Network, steps: int) -> NDArray[np.float64]:
    """η of each of the next `steps` steps by the schedule, but of no more than MAX_RATES."""
    first = int(net.backend.to_host(net.state)[StateEntry.STEP])
    return np.array([float(net.optimizer.schedule(first + t)) for t in range(min(steps, MAX_RATES))])
