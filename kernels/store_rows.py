"""Storage of the outputs, targets and weights of all rows, for metrics that need all rows, such as ROC AUC.

A batch is stored from row OFFSET of the state array on.
"""

from ._compiler.registry import by_row
from .state import StateEntry


@by_row(
    "rows[m] T x, raw float64 state -> raw T stored",
    "for (long long k = LANE; k < m; k += LANES) stored[((long long)state[OFFSET] + i) * m + k] = x[k];",
    reads=(StateEntry.OFFSET,),
    independent_rows=True,
)
def store_rows(i, m, x, state, stored):
    """stored[offset + i] = xᵢ."""
    stored.reshape(-1, m)[int(state[StateEntry.OFFSET]) + i] = x


@by_row(
    "int32 y, raw float64 state -> raw int32 stored",
    "stored[(long long)state[OFFSET] + i] = y;",
    reads=(StateEntry.OFFSET,),
    independent_rows=True,
)
def store_labels(i, y, state, stored):
    """stored[offset + i] = yᵢ."""
    stored[int(state[StateEntry.OFFSET]) + i] = y


@by_row(
    "T w, raw float64 state -> raw float64 stored",
    "stored[(long long)state[OFFSET] + i] = (double)w;",
    reads=(StateEntry.OFFSET,),
    independent_rows=True,
)
def store_weights(i, w, state, stored):
    """stored[offset + i] = wᵢ."""
    stored[int(state[StateEntry.OFFSET]) + i] = w
