"""Metrics that are weighted means over rows. A kernel computes the terms of each row, multiplied by its weight w.

Terms are float64, and w is the sample weight, 1 by default. A count of rows is therefore exact, and a metric does not
depend on the batch size. A metric with several means (precision has three per class) has several terms per row.
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
    """w if the label's output is the largest, otherwise 0. The first of equal outputs counts; NaN is the largest."""
    return np.where(a.argmax(axis=1) == y, w, 0)


@by_row(
    "rows[m] T a, rows[m] T y, T w -> float64 term",
    """
const long long best = row_argmax<LANES>(a, m), label = row_argmax<LANES>(y, m);
term = best == label ? (double)w : 0.0;
""",
)
def categorical_accuracy(a, y, w):
    """w if the largest output and the largest target are in the same column, otherwise 0, as in sparse_accuracy."""
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
    """w times the number of outputs on the correct side of the threshold: 0.5 for probabilities, 0 for logits."""
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
const T score = a[label];
const bool score_is_nan = score != score;
long long rank = 0;
for (long long k = LANE; k < m; k += LANES)
  rank += a[k] != a[k] ? !score_is_nan || k < label
                       : !score_is_nan && (a[k] > score || (a[k] == score && k < label));
term = sum_lanes<LANES>(rank) < top ? (double)w : 0.0;
"""


@by_row(
    "rows[m] T a, int32 y, T w, scalar int64 top -> float64 term",
    f"const long long label = y;{_TOP_K}",
)
def sparse_top_k(a, y, w, top):
    """w if the label's output is among the `top` largest, otherwise 0. The first of equal outputs count; NaN is the
    largest."""
    return np.where(_rank(a, y) < top, w, 0)


@by_row(
    "rows[m] T a, rows[m] T y, T w, scalar int64 top -> float64 term",
    f"const long long label = row_argmax<LANES>(y, m);{_TOP_K}",
)
def categorical_top_k(a, y, w, top):
    """w if the output of the largest target's column is among the `top` largest, otherwise 0."""
    return np.where(_rank(a, y.argmax(axis=1)) < top, w, 0)


def _rank(a, label):
    """The number of outputs in the row that rank above the label's: NaN, larger ones, and equal ones to its left."""
    label = label[:, None]
    score = np.take_along_axis(a, label, axis=1)
    score_is_nan, left = np.isnan(score), np.arange(a.shape[1]) < label
    above = ~score_is_nan & ((a > score) | ((a == score) & left))
    return np.where(np.isnan(a), ~score_is_nan | left, above).sum(axis=1)


_BEST = "const long long best = row_argmax<LANES>(a, m);"
_COUNTS = "rows[m] float64 true_positive, rows[m] float64 predicted, rows[m] float64 actual"


def _count_source(predicted: str, actual: str, first: str = "") -> str:
    """The source that writes w to column k if these conditions, or both, hold; `first` precedes the loop."""
    return f"""{first}
for (long long k = LANE; k < m; k += LANES) {{
  predicted[k] = {predicted} ? (double)w : 0.0;
  actual[k] = {actual} ? (double)w : 0.0;
  true_positive[k] = {predicted} && {actual} ? (double)w : 0.0;
}}
"""


@by_row(
    f"rows[m] T a, int32 y, T w -> {_COUNTS}",
    _count_source("k == best", "k == y", _BEST),
)
def count_labels(a, y, w):
    """Count w in the columns of the largest output and of the label.

    `predicted` is w at the largest output, `actual` at the label, and `true_positive` at both if they are equal. All
    other elements are 0. Ties and NaN are treated as in sparse_accuracy.
    """
    return _counted(np.arange(a.shape[1]) == a.argmax(axis=1)[:, None], np.arange(a.shape[1]) == y[:, None], w)


@by_row(
    f"rows[m] T a, rows[m] T y, T w -> {_COUNTS}",
    _count_source(
        "k == best",
        "k == label",
        "const long long best = row_argmax<LANES>(a, m), label = row_argmax<LANES>(y, m);",
    ),
)
def count_one_hot(a, y, w):
    """As count_labels; the label is the column of the largest target."""
    columns = np.arange(a.shape[1])
    return _counted(columns == a.argmax(axis=1)[:, None], columns == y.argmax(axis=1)[:, None], w)


@by_row(
    f"rows[m] T a, rows[m] T y, T w, scalar T threshold -> {_COUNTS}",
    _count_source("a[k] > threshold", "y[k] > (T)0.5"),
)
def count_positives(a, y, w, threshold):
    """w in every column with a positive output (predicted), a positive target (actual), or both (true_positive)."""
    return _counted(a > threshold, y > 0.5, w)


def _counted(predicted, actual, w):
    w = w.astype(np.float64)[:, None]
    return np.where(predicted & actual, w, 0), np.where(predicted, w, 0), np.where(actual, w, 0)


@by_row(
    "rows[m] T a, rows[m] T y, raw[m] T first, T w "
    "-> rows[m] float64 error, rows[m] float64 deviation, rows[m] float64 square, rows[m] float64 weight",
    """
for (long long k = LANE; k < m; k += LANES) {
  const double e = (double)a[k] - (double)y[k], d = (double)y[k] - (double)first[k], v = (double)w;
  error[k] = v * (e * e); deviation[k] = v * d; square[k] = v * (d * d); weight[k] = v;
}
""",
)
def variance_terms(a, y, first, w):
    """w(a − y)², w(y − y₀), w(y − y₀)² and w. y₀, the batch's first row, is near the mean and avoids cancellation."""
    a, y, v = a.astype(np.float64), y.astype(np.float64), w.astype(np.float64)[:, None]
    e, d = a - y, y - first
    return v * (e * e), v * d, v * (d * d), np.broadcast_to(v, d.shape)


@by_row(
    "raw float64 batch, raw T first, raw float64 state, scalar int64 columns -> raw float64 variance_sums",
    """
const double w = batch[3 * columns + i], previous = variance_sums[3 * columns + i];
if (previous == 0.0) variance_sums[4 * columns + i] = (double)first[i];
const double deviation = batch[columns + i] / w, total = previous + w;
const double delta_mean = ((double)first[i] - variance_sums[4 * columns + i]) + deviation - variance_sums[columns + i];
variance_sums[i] += batch[i];
variance_sums[columns + i] += delta_mean * (w / total);
variance_sums[2 * columns + i] +=
  (batch[2 * columns + i] - deviation * deviation * w) + delta_mean * delta_mean * (previous * (w / total));
variance_sums[3 * columns + i] = total;
""",
    guard=IF_UPDATING,
    reads=(),
)
def accumulate_variance(i, batch, first, state, columns, variance_sums):
    """Σw(a − y)², the mean of y − c, Σw(y − mean)², Σw and c of all batches so far, per column.

    `batch` contains the sums of variance_terms over one batch; c is y₀ of the first batch, which is near the mean.
    Source: Chan, Golub and LeVeque (1983), who combine the sums of two sets about their own means.
    """
    m = int(columns)
    error, deviation, square, w = batch[: 4 * m].reshape(4, m)[:, i]
    sums = variance_sums[: 5 * m].reshape(5, m)
    previous = sums[3, i]
    sums[4, i] = np.where(previous == 0, first[i], sums[4, i])
    deviation, total = deviation / w, previous + w
    delta_mean = (first[i] - sums[4, i]) + deviation - sums[1, i]
    sums[0, i] += error
    sums[1, i] += delta_mean * (w / total)
    sums[2, i] += (square - deviation * deviation * w) + delta_mean * delta_mean * (previous * (w / total))
    sums[3, i] = total
