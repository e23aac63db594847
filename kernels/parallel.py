"""A batch whose rows are shared among processes: where a process's part begins, and weights over the weight of all."""

import numpy as np

from ._registry import by_row
from .state import Slot


@by_row("scalar float64 first -> raw float64 state", "state[FIRST_ROW] = first;")
def begin_part(first, state):
    """Row i of this process is row first + i of the batch: dropout masks are those of one process alone. (E11)"""
    state[Slot.FIRST_ROW] = first


@by_row(
    "scalar int64 rows -> raw T w, raw float64 state",
    """
const double sum = state[WEIGHT];
state[SKIP] = sum > 0.0 ? 0.0 : 1.0;
state[PENALTY] = 0.0;
if (sum > 0.0) for (long long k = LANE; k < rows; k += LANES) w[k] = (T)((double)w[k] / sum);
""",
)
def weigh_part(rows, w, state):
    """wᵢ ← wᵢ/Σw, as `weigh_batch`, Σw over all processes, which the state holds already. (E3)"""
    total = state[Slot.WEIGHT]
    state[Slot.SKIP] = 0 if total > 0 else 1
    state[Slot.PENALTY] = 0
    if total > 0:
        np.divide(w, total, out=w, casting="unsafe")
