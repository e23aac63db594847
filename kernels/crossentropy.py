"""Cross-entropy fused with sigmoid, the cross-entropies of probabilities, and smoothed targets."""

import numpy as np

from ._compiler.registry import by_row
from ._compiler.warp_lanes import row_sum

# a = σ(z), δ = w(a − y), and the term of one output in ℓ
SIGMOID = """
  const T x = z[k], t = y[k];
  const T e = exp(-fabs(x));
  const T s = (x >= (T)0 ? (T)1 : e) / ((T)1 + e);  // mutate: E2 sigmoid
  const T term = (x > (T)0 ? x - x * t : -(x * t)) + log1p(e);
  a[k] = s;
  delta[k] = w * (s - t);  // mutate: E4 sigmoid crossentropy
"""


def sigmoid_terms(z, y, w):
    """NumPy reference of SIGMOID: a, δ and the terms of ℓ, shapes (n, m)."""
    e = np.exp(-np.abs(z))
    a = np.where(z >= 0, 1, e) / (1 + e)
    return a, w[:, None] * (a - y), np.where(z > 0, z - z * y, -(z * y)) + np.log1p(e)


@by_row(
    "rows[m] T z, rows[m] T y, T w -> rows[m] T a, rows[m] T delta, T loss",
    row_sum(f"{SIGMOID} sum += term;", "loss = w * sum;"),
    in_place={"a": ("z",), "delta": ("z",)},
)
def sigmoid_crossentropy(z, y, w):
    """a = σ(z), δ = w(a − y) and wℓ, ℓ = −Σ y log a + (1 − y) log(1 − a) = Σ max(z, 0) − zy + log(1 + e^−|z|).
    (E3, E4)"""
    a, delta, terms = sigmoid_terms(z, y, w)
    return a, delta, w * terms.sum(axis=1)


@by_row(
    "rows[m] T a, rows[m] T y, T w -> rows[m] T g, T loss",
    row_sum(
        """
  const T t = y[k], p = a[k];
  sum += (t == (T)0 ? (T)0 : t * log(p)) + (t == (T)1 ? (T)0 : ((T)1 - t) * log1p(-p));
  g[k] = w * ((t == (T)1 ? (T)0 : ((T)1 - t) / ((T)1 - p)) - (t == (T)0 ? (T)0 : t / p));
""",
        "loss = -w * sum;",
    ),
)
def binary_crossentropy(a, y, w):
    """wℓ with ℓ = −Σ y log a + (1 − y) log(1 − a), and g = ∂(wℓ)/∂a = w((1−y)/(1−a) − y/a), 0 log 0 = 0. (E3)"""
    loss = np.where(y == 0, 0, y * np.log(a)) + np.where(y == 1, 0, (1 - y) * np.log1p(-a))
    g = np.where(y == 1, 0, (1 - y) / (1 - a)) - np.where(y == 0, 0, y / a)
    return w[:, None] * g, -w * loss.sum(axis=1)


@by_row(
    "rows[m] T a, rows[m] T y, T w -> rows[m] T g, T loss",
    row_sum(
        """
  const T t = y[k];
  sum += t == (T)0 ? (T)0 : t * log(a[k]);
  g[k] = t == (T)0 ? (T)0 : -w * t / a[k];
""",
        "loss = -w * sum;",
    ),
)
def categorical_crossentropy(a, y, w):
    """wℓ with ℓ = −Σ yₖ log aₖ, and g = ∂(wℓ)/∂a = −w y/a, 0 log 0 = 0. (E3)"""
    loss = np.where(y == 0, 0, y * np.log(a))
    return np.where(y == 0, 0, -w[:, None] * y / a), -w * loss.sum(axis=1)


@by_row(
    "rows[m] T a, int32 y, T w -> rows[m] T g, T loss",
    """
const T picked = a[y];
sync_lanes<LANES>();
for (long long k = LANE; k < m; k += LANES) g[k] = k == y ? -w / picked : (T)0;
loss = -w * log(picked);
""",
)
def sparse_categorical_crossentropy(a, y, w):
    """wℓ with ℓ = −log a_y, and g = ∂(wℓ)/∂a: −w/a_y at the label, 0 elsewhere. (E3)"""
    rows = np.arange(len(y))
    picked = a[rows, y]
    g = np.zeros_like(a)
    g[rows, y] = -w / picked
    return g, -w * np.log(picked)


# y ← (1 − s)y + s/m, m outputs
_SMOOTHING = "const T keep = (T)(1.0 - smoothing), share = (T)(smoothing / (double)m);"


@by_row(
    "rows[m] T y, scalar float64 smoothing -> rows[m] T smoothed",
    f"""{_SMOOTHING}
// mutate: E3 smoothing
for (long long k = LANE; k < m; k += LANES) smoothed[k] = keep * y[k] + share;
""",
    in_place={"smoothed": ("y",)},
)
def smooth_targets(y, smoothing):
    """(1 − s)y + s/m for rows y of m probabilities: with probability s the class is drawn from all m ones. (E3)"""
    return (1 - smoothing) * y + smoothing / y.shape[1]


@by_row(
    "rows[m] T a, int32 y, scalar float64 smoothing -> rows[m] T smoothed",
    f"""{_SMOOTHING}
for (long long k = LANE; k < m; k += LANES) smoothed[k] = k == y ? keep + share : share;
""",
)
def smooth_labels(a, y, smoothing):
    """As smooth_targets, for labels y. Only the shape of a is used. (E3)"""
    return (1 - smoothing) * np.eye(a.shape[1])[y] + smoothing / a.shape[1]
