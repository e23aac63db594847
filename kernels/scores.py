"""The metrics of a batch that are means over rows: one text gives the row's term, times its weight w = wᵢ/Σw."""

import numpy as np

from ._registry import by_row


@by_row(
    "rows[m] T a, int32 y, T w -> T term",
    """
long long best = 0;
for (long long k = 1; k < m; ++k) best = a[best] == a[best] && !(a[k] <= a[best]) ? k : best;
term = best == y ? w : (T)0;
""",
)
def sparse_accuracy(a, y, w):
    """w where the largest output is the label's, else 0; of equal ones the first counts, and NaN for the largest."""
    return np.where(a.argmax(axis=1) == y, w, 0)


@by_row(
    "rows[m] T a, rows[m] T y, T w -> T term",
    """
long long best = 0, wanted = 0;
for (long long k = 1; k < m; ++k) {
  best = a[best] == a[best] && !(a[k] <= a[best]) ? k : best;
  wanted = y[wanted] == y[wanted] && !(y[k] <= y[wanted]) ? k : wanted;
}
term = best == wanted ? w : (T)0;
""",
)
def categorical_accuracy(a, y, w):
    """w where the largest output and the largest target stand in the same column, else 0; NaN as above."""
    return np.where(a.argmax(axis=1) == y.argmax(axis=1), w, 0)


@by_row(
    "rows[m] T a, rows[m] T y, T w, scalar T threshold -> T term",
    """
long long hits = 0;
for (long long k = 0; k < m; ++k) hits += (a[k] > threshold) == (y[k] > (T)0.5);
term = w * ((T)hits / (T)m);
""",
)
def binary_accuracy(a, y, w, threshold):
    """w times the share of outputs on the right side of the threshold: 0.5 for probabilities, 0 for logits."""
    return w * ((a > threshold) == (y > 0.5)).mean(axis=1, dtype=a.dtype)


@by_row(
    "rows[m] T a, rows[m] T y, T w -> T term",
    "T sum = (T)0; for (long long k = 0; k < m; ++k) sum += fabs(a[k] - y[k]); term = w * (sum / (T)m);",
)
def absolute_error(a, y, w):
    """w times the mean absolute error over the row's outputs."""
    return w * np.abs(a - y).mean(axis=1)


@by_row(
    "rows[m] T a, rows[m] T y, T w -> T term",
    """
T sum = (T)0;
for (long long k = 0; k < m; ++k) { const T e = a[k] - y[k]; sum += e * e; }
term = w * (sum / (T)m);
""",
)
def squared_error(a, y, w):
    """w times the mean squared error over the row's outputs."""
    e = a - y
    return w * (e * e).mean(axis=1)
