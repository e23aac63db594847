"""Keeping what a network said of every row, for numbers that only the whole set gives: the area under a curve, say.

The rows of a batch go where it begins, which the state's OFFSET tells.
"""

from ._compiler.registry import by_row
from .state import Slot


@by_row(
    "rows[m] T x, raw float64 state -> raw T kept",
    "for (long long k = LANE; k < m; k += LANES) kept[((long long)state[OFFSET] + i) * m + k] = x[k];",
    independent_rows=True,
)
def store_rows(i, m, x, state, kept):
    """Row offset + i of the table `kept` is xᵢ."""
    kept.reshape(-1, m)[int(state[Slot.OFFSET]) + i] = x


@by_row(
    "int32 y, raw float64 state -> raw int32 kept", "kept[(long long)state[OFFSET] + i] = y;", independent_rows=True
)
def store_labels(i, y, state, kept):
    """Entry offset + i of `kept` is yᵢ."""
    kept[int(state[Slot.OFFSET]) + i] = y


@by_row(
    "T w, raw float64 state -> raw float64 kept",
    "kept[(long long)state[OFFSET] + i] = (double)w;",
    independent_rows=True,
)
def store_weights(i, w, state, kept):
    """Entry offset + i of `kept` is wᵢ."""
    kept[int(state[Slot.OFFSET]) + i] = w
