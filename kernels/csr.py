"""Mini-batches from a table in compressed sparse rows (CSR), which stores the nonzero values row by row.

Row r contains `values[k]` in column `columns[k]` for k = starts[r] … starts[r + 1] − 1. Duplicate entries are added.
"""

import numpy as np

from ._compiler.registry import by_row
from .state import StateEntry

_ROW = """
for (long long k = LANE; k < m; k += LANES) x[k] = (T)0;
// each column belongs to one lane, so duplicates are added in order
for (long long k = starts[r]; k < starts[r + 1]; ++k) if (columns[k] % LANES == LANE) x[columns[k]] += (T)values[k];
"""


def _rows(rows, values, columns, starts, m, dtype):
    x = np.zeros((len(rows), m), dtype)
    for i, r in enumerate(rows):
        stored = slice(int(starts[r]), int(starts[r + 1]))
        np.add.at(x[i], columns[stored], values[stored].astype(dtype))
    return x


@by_row(
    "raw S values, raw int32 columns, raw int64 starts, raw int64 order, raw float64 state -> inout rows[m] T x",
    f"const long long r = order[(long long)state[OFFSET] + i];{_ROW}",
    reads=(StateEntry.OFFSET,),
)
def gather_csr(i, values, columns, starts, order, state, m, x):
    """xᵢ = row order[offset + i] of the table as a dense row. (step 1 of the procedure)"""
    return _rows(order[int(state[StateEntry.OFFSET]) + i], values, columns, starts, m, x.dtype)


@by_row(
    "raw S values, raw int32 columns, raw int64 starts, raw float64 state -> inout rows[m] T x",
    f"const long long r = (long long)state[OFFSET] + i;{_ROW}",
    reads=(StateEntry.OFFSET,),
)
def copy_csr(i, values, columns, starts, state, m, x):
    """xᵢ = row offset + i of the table as a dense row: consecutive rows, for prediction and evaluation."""
    return _rows(int(state[StateEntry.OFFSET]) + i, values, columns, starts, m, x.dtype)
