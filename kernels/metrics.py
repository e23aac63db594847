"""The metrics that are weighted means over rows: each kernel gives one row's term, its number times its weight w.

Terms are float64 and w is the row's own weight, 1 without sample weights. A count of rows is therefore exact, and a
metric does not depend on how a data set is cut into batches. A metric with several means (precision has three for each
class) has as many terms per row.
"""

import numpy as np

from ._compiler.registry import by_row
from ._compiler.warp_lanes import row_sum
from .step import IF_UPDATING


@by_row(
    "rows[m] T a, int32 y, T w -> float64 term",
    """
const long long best = row_argmax<LANES>(a, m);
term = best == y ? (double)w : 0.0;
""",
)
def sparse_accuracy(a, y, w):
    """w where the largest output is the label's, else 0; of equal ones the first counts, and NaN for the largest."""
    return np.where(a.argmax(axis=1) == y, w, 0)


@by_row(
    "rows[m] T a, rows[m] T y, T w -> float64 term",
    """
const long long best = row_argmax<LANES>(a, m), wanted = row_argmax<LANES>(y, m);
term = best == wanted ? (double)w : 0.0;
""",
)
def categorical_accuracy(a, y, w):
    """w where the largest output and the largest target stand in the same column, else 0; NaN as above."""
    return np.where(a.argmax(axis=1) == y.argmax(axis=1), w, 0)


@by_row(
    "rows[m] T a, rows[m] T y, T w, scalar T threshold -> float64 term",
    """
long long hits = 0;
for (long long k = LANE; k < m; k += LANES) hits += (a[k] > threshold) == (y[k] > (T)0.5);
term = (double)w * (double)sum_lanes<LANES>(hits);
""",
)
def binary_accuracy(a, y, w, threshold):
    """w times the number of outputs on the right side of the threshold: 0.5 for probabilities, 0 for logits."""
    return w.astype(np.float64) * ((a > threshold) == (y > 0.5)).sum(axis=1)


@by_row(
    "rows[m] T a, rows[m] T y, T w -> float64 term",
    row_sum("sum += fabs((double)a[k] - (double)y[k]);", "term = (double)w * (sum / (double)m);", of="double"),
)
def absolute_error(a, y, w):
    """w times the mean absolute error over the row's outputs."""
    return w.astype(np.float64) * np.abs(a.astype(np.float64) - y).mean(axis=1)


@by_row(
    "rows[m] T a, rows[m] T y, T w -> float64 term",
    row_sum(
        "const double e = (double)a[k] - (double)y[k]; sum += e * e;",
        "term = (double)w * (sum / (double)m);",
        of="double",
    ),
)
def squared_error(a, y, w):
    """w times the mean squared error over the row's outputs."""
    e = a.astype(np.float64) - y
    return w.astype(np.float64) * (e * e).mean(axis=1)


_TOP_K = """
const T right = a[wanted];
const bool lost = right != right;
long long before = 0;
for (long long k = LANE; k < m; k += LANES)
  before += a[k] != a[k] ? !lost || k < wanted : !lost && (a[k] > right || (a[k] == right && k < wanted));
term = sum_lanes<LANES>(before) < top ? (double)w : 0.0;
"""


@by_row(
    "rows[m] T a, int32 y, T w, scalar int64 top -> float64 term",
    f"const long long wanted = y;{_TOP_K}",
)
def sparse_top_k(a, y, w, top):
    """w where the label's output is among the `top` largest, else 0; of equal ones the first count, and NaN for the
    largest."""
    return np.where(_before(a, y) < top, w, 0)


@by_row(
    "rows[m] T a, rows[m] T y, T w, scalar int64 top -> float64 term",
    f"const long long wanted = row_argmax<LANES>(y, m);{_TOP_K}",
)
def categorical_top_k(a, y, w, top):
    """w where the output of the largest target's column is among the `top` largest, else 0; the rest as above."""
    return np.where(_before(a, y.argmax(axis=1)) < top, w, 0)


def _before(a, wanted):
    """How many outputs of the row stand before the wanted one: larger ones, equal ones to its left, NaN first."""
    columns, wanted = np.arange(a.shape[1]), wanted[:, None]
    right = np.take_along_axis(a, wanted, axis=1)
    lost, left = np.isnan(right), columns < wanted
    ahead = ~lost & ((a > right) | ((a == right) & left))
    return np.where(np.isnan(a), ~lost | left, ahead).sum(axis=1)


_BEST = "const long long best = row_argmax<LANES>(a, m);"
_COUNTS = "rows[m] float64 right, rows[m] float64 said, rows[m] float64 wanted"


def _counting(said: str, wanted: str, first: str = "") -> str:
    """The text that puts w in column k where these conditions hold, and where both do; `first` comes before them."""
    return f"""{first}
for (long long k = LANE; k < m; k += LANES) {{
  said[k] = {said} ? (double)w : 0.0;
  wanted[k] = {wanted} ? (double)w : 0.0;
  right[k] = {said} && {wanted} ? (double)w : 0.0;
}}
"""


@by_row(
    f"rows[m] T a, int32 y, T w -> {_COUNTS}",
    _counting("k == best", "k == y", _BEST),
)
def count_labels(a, y, w):
    """w in the column of the answer (said), of the label (wanted), and where they are the same one (right); 0
    elsewhere. The answer is the largest output, as in `sparse_accuracy`."""
    return _counted(np.arange(a.shape[1]) == a.argmax(axis=1)[:, None], np.arange(a.shape[1]) == y[:, None], w)


@by_row(
    f"rows[m] T a, rows[m] T y, T w -> {_COUNTS}",
    _counting(
        "k == best",
        "k == label",
        "const long long best = row_argmax<LANES>(a, m), label = row_argmax<LANES>(y, m);",
    ),
)
def count_one_hot(a, y, w):
    """The same where the label is the column of the largest target."""
    columns = np.arange(a.shape[1])
    return _counted(columns == a.argmax(axis=1)[:, None], columns == y.argmax(axis=1)[:, None], w)


@by_row(
    f"rows[m] T a, rows[m] T y, T w, scalar T threshold -> {_COUNTS}",
    _counting("a[k] > threshold", "y[k] > (T)0.5"),
)
def count_positives(a, y, w, threshold):
    """w in every column that the output says yes to (said), that the target does (wanted), and that both do."""
    return _counted(a > threshold, y > 0.5, w)


def _counted(said, wanted, w):
    w = w.astype(np.float64)[:, None]
    return np.where(said & wanted, w, 0), np.where(said, w, 0), np.where(wanted, w, 0)


@by_row(
    "rows[m] T a, rows[m] T y, raw[m] T first, T w "
    "-> rows[m] float64 error, rows[m] float64 away, rows[m] float64 square, rows[m] float64 weight",
    """
for (long long k = LANE; k < m; k += LANES) {
  const double e = (double)a[k] - (double)y[k], d = (double)y[k] - (double)first[k], v = (double)w;
  error[k] = v * (e * e); away[k] = v * d; square[k] = v * (d * d); weight[k] = v;
}
""",
)
def variance_terms(a, y, first, w):
    """w(a − y)², w(y − y₀), w(y − y₀)² and w, y₀ the batch's first row: near the mean, so that nothing cancels."""
    a, y, v = a.astype(np.float64), y.astype(np.float64), w.astype(np.float64)[:, None]
    e, d = a - y, y - first
    return v * (e * e), v * d, v * (d * d), np.broadcast_to(v, d.shape)


@by_row(
    "raw float64 batch, raw T first, raw float64 state, scalar int64 columns -> raw float64 spread",
    """
const double w = batch[3 * columns + i], before = spread[3 * columns + i];
if (before == 0.0) spread[4 * columns + i] = (double)first[i];
const double away = batch[columns + i] / w, total = before + w;
const double apart = ((double)first[i] - spread[4 * columns + i]) + away - spread[columns + i];
spread[i] += batch[i];
spread[columns + i] += apart * (w / total);
spread[2 * columns + i] += (batch[2 * columns + i] - away * away * w) + apart * apart * (before * (w / total));
spread[3 * columns + i] = total;
""",
    guard=IF_UPDATING,
)
def accumulate_variance(i, batch, first, state, columns, spread):
    """Σw(a − y)², the mean of y − c, Σw(y − mean)², Σw and c of the batches so far, column by column. `batch` holds
    the sums of `variance_terms` over one batch; c is the first batch's y₀, again near the mean.
    (Chan, Golub and LeVeque 1983: two parts' sums about their own means)"""
    m = int(columns)
    error, away, square, w = batch[: 4 * m].reshape(4, m)[:, i]
    sums = spread[: 5 * m].reshape(5, m)
    before = sums[3, i]
    sums[4, i] = np.where(before == 0, first[i], sums[4, i])
    away, total = away / w, before + w
    apart = (first[i] - sums[4, i]) + away - sums[1, i]
    sums[0, i] += error
    sums[1, i] += apart * (w / total)
    sums[2, i] += (square - away * away * w) + apart * apart * (before * (w / total))
    sums[3, i] = total
