"""Embeddings: integer codes in columns of a matrix x are replaced by rows of matrices V, one matrix per column.

A code is rounded to the nearest integer c. The embedding of a code outside of 0 … levels − 1, or of NaN, is NaN.

The gradient of a row of V is a sum over the batch in the order of its rows, so its bits do not depend on the number of
threads.
"""

import numpy as np

from ._compiler.registry import by_row


@by_row(
    "rows[n_in] T x, scalar int64 width_m -> rows[m] T a",
    "for (long long k = LANE; k < m; k += LANES) a[k] = (T)0;",
)
def zero_columns(x, width_m):
    """A matrix of zeros with the rows of x and `width_m` columns."""
    return np.zeros((len(x), int(width_m)), x.dtype)


@by_row(
    "rows[n_in] T x, scalar int64 first, scalar int64 width, scalar int64 start -> inout rows[m] T a",
    "for (long long k = LANE; k < width; k += LANES) a[start + k] = x[first + k];",
)
def copy_columns(x, first, width, start, a):
    """a = x in `width` columns: from column `first` of x to column `start` of a."""
    first, width, start = int(first), int(width), int(start)
    a[:, start : start + width] = x[:, first : first + width]
    return a


def _codes(x, column, begin, end):
    """The codes in a column, and which of them are in begin … end − 1."""
    codes = np.floor(x[:, int(column)] + x.dtype.type(0.5))
    return codes, (codes >= begin) & (codes < end)


@by_row(
    "rows[n_in] T x, raw[:d] T V, scalar int64 column, scalar int64 levels, scalar int64 start -> inout rows[m] T a",
    """
const T code = floor(x[column] + (T)0.5);
const bool known = code >= (T)0 && code < (T)levels;
const T* v = V + (known ? (long long)code : 0) * d;
const T unknown = sqrt((T)-1);
for (long long k = LANE; k < d; k += LANES) a[start + k] = known ? v[k] : unknown;
""",
)
def embed(x, V, column, levels, start, a):
    """aᵢ = V[cᵢ] in the columns of a from `start` on, with the codes c in `column` of x. (E1)"""
    codes, known = _codes(x, column, 0, levels)
    start, rows = int(start), np.where(known, codes, 0).astype(np.int64)
    a[:, start : start + V.shape[1]] = np.where(known[:, None], V[rows], np.nan)
    return a


@by_row(
    """rows[d] T V, raw[:n_in] T x, raw[:m] T delta, scalar int64 column, scalar int64 start, scalar int64 rows
       -> rows[d] T dV""",
    """
// a thread adds the rows with its codes, i … end - 1, and skips the others
for (long long c = i; c < end; ++c)
  for (long long k = LANE; k < d; k += LANES) dV[(c - i) * dV_step + k] = (T)0;
for (long long b = 0; b < rows; ++b) {
  const T code = floor(x[b * n_in + column] + (T)0.5);
  if (!(code >= (T)i && code < (T)end)) continue;
  add_scaled_row<LANES>((T)1, delta + b * m + start, dV + ((long long)code - i) * dV_step, d);
}
""",
    ranges=True,
)
def embedding_gradient(i, V, x, delta, column, start, rows):
    """dV[c] = Σ δᵢ over the rows i with code c, δ in the columns from `start` on; dV has the shape of V. (E6)"""
    start, first = int(start), int(i[0])
    codes, known = _codes(x[: int(rows)], column, first, first + len(i))
    dV = np.zeros_like(V)
    np.add.at(dV, codes[known].astype(np.int64) - first, delta[: int(rows)][known, start : start + V.shape[1]])
    return dV
