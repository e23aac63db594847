"""Mini-batches from a table in compressed sparse rows (CSR), which stores the nonzero values row by row.

Row r contains `values[k]` in column `columns[k]` for k = starts[r] … starts[r + 1] − 1. Duplicate entries are added.

The batch is a dense matrix x, or is read by the two products of the first layer, whose terms with xᵢₖ = 0 are left out:

    zᵢ  = Σₖ xᵢₖ Wₖ  (E1)        dWₖ = Σᵢ xᵢₖ δᵢ  (E6)

Each sum is computed in the order of i and of the stored entries, so its bits do not depend on the number of threads.
"""

import numpy as np

from ._compiler.registry import by_row
from .state import StateEntry

TABLE = "raw S values, raw int32 columns, raw int64 starts"
ORDERED, IN_ORDER = f"{TABLE}, raw int64 order, raw float64 state", f"{TABLE}, raw float64 state"
ORDERED_ROW, ROW = "order[(long long)state[OFFSET] + {i}]", "(long long)state[OFFSET] + {i}"


def _rows(rows, values, columns, starts, m, dtype):
    x = np.zeros((len(rows), m), dtype)
    for i, (k, xk) in enumerate(_entries(rows, values, columns, starts, dtype)):
        np.add.at(x[i], k, xk)
    return x


def _entries(rows, values, columns, starts, dtype):
    """Yield the columns and the values of each row."""
    for r in rows:
        stored = slice(int(starts[r]), int(starts[r + 1]))
        yield columns[stored], values[stored].astype(dtype)


# --- dense rows -------------------------------------------------------------------------------------------------------


def _dense_source(row):
    return f"""
const long long r = {row.format(i="i")};
for (long long k = LANE; k < m; k += LANES) x[k] = (T)0;
// each column belongs to one lane, so duplicates are added in order
for (long long k = starts[r]; k < starts[r + 1]; ++k) if (columns[k] % LANES == LANE) x[columns[k]] += (T)values[k];
"""


@by_row(f"{ORDERED} -> inout rows[m] T x", _dense_source(ORDERED_ROW), reads=(StateEntry.OFFSET,))
def gather_csr(i, values, columns, starts, order, state, m, x):
    """xᵢ = row order[offset + i] of the table as a dense row. (step 1 of the procedure)"""
    return _rows(order[int(state[StateEntry.OFFSET]) + i], values, columns, starts, m, x.dtype)


@by_row(f"{IN_ORDER} -> inout rows[m] T x", _dense_source(ROW), reads=(StateEntry.OFFSET,))
def copy_csr(i, values, columns, starts, state, m, x):
    """xᵢ = row offset + i of the table as a dense row: consecutive rows, for prediction and evaluation."""
    return _rows(int(state[StateEntry.OFFSET]) + i, values, columns, starts, m, x.dtype)


# --- E1 ---------------------------------------------------------------------------------------------------------------


def _product_source(row):
    return f"""
const long long r = {row.format(i="i")};
sum_rows<LANES>(values + starts[r], columns + starts[r], starts[r + 1] - starts[r], W, m, z);
"""


def _product(rows, values, columns, starts, W):
    return np.stack([xk @ W[k] for k, xk in _entries(rows, values, columns, starts, W.dtype)])


@by_row(f"{ORDERED}, raw[:m] T W -> rows[m] T z", _product_source(ORDERED_ROW), reads=(StateEntry.OFFSET,))
def gather_csr_product(i, values, columns, starts, order, state, W):
    """zᵢ = Σₖ xᵢₖ Wₖ, where xᵢ is row order[offset + i] of the table. (E1)"""
    return _product(order[int(state[StateEntry.OFFSET]) + i], values, columns, starts, W)


@by_row(f"{IN_ORDER}, raw[:m] T W -> rows[m] T z", _product_source(ROW), reads=(StateEntry.OFFSET,))
def copy_csr_product(i, values, columns, starts, state, W):
    """zᵢ = Σₖ xᵢₖ Wₖ, where xᵢ is row offset + i of the table. (E1)"""
    return _product(int(state[StateEntry.OFFSET]) + i, values, columns, starts, W)


# --- E6 ---------------------------------------------------------------------------------------------------------------


def _gradient_source(row):
    # a thread adds the entries of its columns, the rows i … end − 1 of dW, and skips the others
    return f"""
for (long long c = i; c < end; ++c)
  for (long long j = LANE; j < m; j += LANES) dW[(c - i) * dW_step + j] = (T)0;
for (long long b = 0; b < rows; ++b) {{
  const long long r = {row.format(i="b")};
  const T* d = delta + b * m;
  for (long long k = starts[r]; k < starts[r + 1]; ++k) {{
    const long long c = columns[k];
    if (c < i || c >= end) continue;
    const T x = (T)values[k];
    add_scaled_row<LANES>(x, d, dW + (c - i) * dW_step, m);
  }}
}}
"""


def _gradient(i, rows, values, columns, starts, delta):
    dW = np.zeros((len(i), delta.shape[1]), delta.dtype)
    for b, (k, xk) in enumerate(_entries(rows, values, columns, starts, delta.dtype)):
        inside = (k >= i[0]) & (k <= i[-1])
        np.add.at(dW, k[inside] - i[0], np.outer(xk[inside], delta[b]))
    return dW


@by_row(
    f"{ORDERED}, raw[:m] T delta, scalar int64 rows -> rows[m] T dW",
    _gradient_source(ORDERED_ROW),
    reads=(StateEntry.OFFSET,),
    ranges=True,
)
def gather_csr_gradient(i, values, columns, starts, order, state, delta, rows):
    """dWₖ = Σᵢ xᵢₖ δᵢ, where xᵢ is row order[offset + i] of the table, for a batch of `rows` rows. (E6)"""
    first = int(state[StateEntry.OFFSET])
    return _gradient(i, order[first : first + int(rows)], values, columns, starts, delta)


@by_row(
    f"{IN_ORDER}, raw[:m] T delta, scalar int64 rows -> rows[m] T dW",
    _gradient_source(ROW),
    reads=(StateEntry.OFFSET,),
    ranges=True,
)
def copy_csr_gradient(i, values, columns, starts, state, delta, rows):
    """dWₖ = Σᵢ xᵢₖ δᵢ, where xᵢ is row offset + i of the table, for a batch of `rows` rows. (E6)"""
    first = int(state[StateEntry.OFFSET])
    return _gradient(i, range(first, first + int(rows)), values, columns, starts, delta)
