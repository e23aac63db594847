"""Regression losses: wℓ of a row and its gradient g = ∂(wℓ)/∂a in one pass. w = wᵢ/Σw, or 1/n without weights.

Half squared error is a sum over the outputs of a row, as in E3. The others are means, as in Keras and PyTorch.
"""

import numpy as np

from ._compiler.registry import by_row
from ._compiler.warp_lanes import row_sum

SIGNATURE = "rows[m] T a, rows[m] T y, T w -> rows[m] T g, T loss"


def _mean_source(each: str, c: str = "w / (T)m") -> str:
    """The source of a loss that is the mean of m terms, which `each` adds to `sum`; c is the factor of g, w/m."""
    return row_sum(each, "loss = w * (sum / (T)m);", first=f"const T c = {c};")


@by_row(
    SIGNATURE,
    # mutate: E3 half squared error
    row_sum("const T e = a[k] - y[k]; sum += e * e; g[k] = w * e;", "loss = w * ((T)0.5 * sum);"),
)
def half_squared_error(a, y, w):
    """ℓ = ½ Σ (a − y)², g = w(a − y). (E3)"""
    e = a - y
    return w[:, None] * e, w * (0.5 * (e * e).sum(axis=1))


@by_row(
    SIGNATURE,
    _mean_source("const T e = a[k] - y[k]; sum += e * e; g[k] = c * e;", "w * ((T)2 / (T)m)"),
)
def mean_squared_error(a, y, w):
    """ℓ = (1/m) Σ (a − y)², g = 2w(a − y)/m, m outputs. (E3)"""
    e = a - y
    return (w * e.dtype.type(2 / e.shape[1]))[:, None] * e, w * (e * e).mean(axis=1)


@by_row(
    SIGNATURE,
    _mean_source("""
  const T e = a[k] - y[k];
  sum += fabs(e);
  g[k] = e > (T)0 ? c : (e < (T)0 ? -c : (T)0 * e);
"""),
)
def mean_absolute_error(a, y, w):
    """ℓ = (1/m) Σ |a − y|, g = w sign(a − y)/m, 0 where a = y. (E3)"""
    e = a - y
    return (w / e.dtype.type(e.shape[1]))[:, None] * np.sign(e), w * np.abs(e).mean(axis=1)


@by_row(
    "rows[m] T a, rows[m] T y, T w, scalar T threshold -> rows[m] T g, T loss",
    _mean_source("""
  const T e = a[k] - y[k], u = fabs(e);
  sum += u <= threshold ? (T)0.5 * e * e : threshold * (u - (T)0.5 * threshold);
  g[k] = c * (u <= threshold ? e : (e > (T)0 ? threshold : (e < (T)0 ? -threshold : e)));
"""),
)
def huber(a, y, w, threshold):
    """ℓ = (1/m) Σ h(a − y), h(e) = ½e² for |e| ≤ κ, otherwise κ(|e| − ½κ); g = w h′/m, h′ = e clipped to ±κ. (E3)"""
    e = a - y
    u = np.abs(e)
    h = np.where(u <= threshold, 0.5 * e * e, threshold * (u - 0.5 * threshold))
    return (w / e.dtype.type(e.shape[1]))[:, None] * np.clip(e, -threshold, threshold), w * h.mean(axis=1)


@by_row(
    SIGNATURE,
    _mean_source("""
  const T t = y[k], p = a[k];
  sum += t == (T)0 ? p : p - t * log(p);
  g[k] = c * (t == (T)0 ? (T)1 : (T)1 - t / p);
"""),
)
def poisson(a, y, w):
    """ℓ = (1/m) Σ a − y log a, half the Poisson deviance up to a constant; g = w(1 − y/a)/m. (E3)"""
    loss = np.where(y == 0, a, a - y * np.log(a))
    g = np.where(y == 0, 1, 1 - y / a)
    return (w / a.dtype.type(a.shape[1]))[:, None] * g, w * loss.mean(axis=1)


@by_row(
    SIGNATURE,
    _mean_source("""
  const T e = a[k] - y[k], u = fabs(e);
  sum += u + log1p(exp((T)-2 * u)) - (T)0.6931471805599453;
  g[k] = c * tanh(e);
"""),
)
def log_cosh(a, y, w):
    """ℓ = (1/m) Σ log cosh(a − y) = (1/m) Σ |e| + log(1 + e^−2|e|) − log 2; g = w tanh(a − y)/m. (E3)"""
    e = a - y
    u = np.abs(e)
    loss = u + np.log1p(np.exp(-2 * u)) - 0.6931471805599453
    return (w / e.dtype.type(e.shape[1]))[:, None] * np.tanh(e), w * loss.mean(axis=1)
