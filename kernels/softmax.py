"""Softmax, and softmax fused with cross-entropy."""

import numpy as np

from ._compiler.registry import by_row

# The largest entry is subtracted before exp, so that nothing overflows; NaN and +inf give NaN. Maximum and sum have
# four partial results, so that no iteration depends on the previous one. a may be z, so the lanes are synchronized
# between reading z and writing a, and between writing a and reading it.
_TOP = """
T t0 = z[0], t1 = t0, t2 = t0, t3 = t0;
long long k = 4 * LANE;
for (; k + 4 <= m; k += 4 * LANES) {
  t0 = z[k] > t0 ? z[k] : t0; t1 = z[k + 1] > t1 ? z[k + 1] : t1;
  t2 = z[k + 2] > t2 ? z[k + 2] : t2; t3 = z[k + 3] > t3 ? z[k + 3] : t3;
}
for (k = m / 4 * 4 + LANE; k < m; k += LANES) t0 = z[k] > t0 ? z[k] : t0;
t0 = t1 > t0 ? t1 : t0; t2 = t3 > t2 ? t3 : t2;
const T top = max_lanes<LANES>(t2 > t0 ? t2 : t0);
"""
_EXP_AND_SUM = """
sync_lanes<LANES>();
VECTOR_LOOP
for (k = LANE; k < m; k += LANES) a[k] = exp(z[k] - top);
sync_lanes<LANES>();
T s0 = (T)0, s1 = (T)0, s2 = (T)0, s3 = (T)0;
for (k = 4 * LANE; k + 4 <= m; k += 4 * LANES) { s0 += a[k]; s1 += a[k + 1]; s2 += a[k + 2]; s3 += a[k + 3]; }
for (k = m / 4 * 4 + LANE; k < m; k += LANES) s0 += a[k];
const T sum = sum_lanes<LANES>((s0 + s1) + (s2 + s3));
"""
_SOFTMAX = f"""{_TOP}{_EXP_AND_SUM}
for (k = LANE; k < m; k += LANES) a[k] = a[k] / sum;
"""


def _softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    total = e.sum(axis=1, keepdims=True)
    return e / total, total[:, 0]


@by_row("rows[m] T z -> rows[m] T a", _SOFTMAX, in_place={"a": ("z",)})
def softmax(z):
    """aₖ = e^zₖ / Σⱼ e^zⱼ, by row. (E2)"""
    return _softmax(z)[0]


@by_row(
    "rows[m] T a, rows[m] T g -> rows[m] T delta",
    """
T inner = (T)0;
for (long long k = LANE; k < m; k += LANES) inner += a[k] * g[k];
inner = sum_lanes<LANES>(inner);
// mutate: E4 softmax
for (long long k = LANE; k < m; k += LANES) delta[k] = a[k] * (g[k] - inner);
""",
    in_place={"delta": ("a", "g")},
)
def softmax_backward(a, g):
    """δ = a ⊙ (g − Σₖ aₖgₖ), the transposed Jacobian of softmax times g = ∂C/∂a, by row. (E4)"""
    return a * (g - (a * g).sum(axis=1, keepdims=True))


@by_row(
    "rows[m] T z, int32 y, T w -> rows[m] T a, rows[m] T delta, T loss",
    # (log) in parentheses is the C library's function on a CPU too, which is faster for one number
    f"""{_TOP}
const T picked = z[y] - top;
{_EXP_AND_SUM}
VECTOR_LOOP
for (k = LANE; k < m; k += LANES) {{ const T p = a[k] / sum; a[k] = p; delta[k] = w * p; }}
if (y % LANES == LANE) delta[y] = w * (a[y] - (T)1);
loss = w * ((log)(sum) - picked);
""",
    in_place={"a": ("z",), "delta": ("z",)},
)
def softmax_crossentropy(z, y, w):
    """Probabilities a, δ = w(a − y) and wℓ, ℓ = −log a_y = log Σ e^(zₖ−top) − (z_y − top), y the label. (E3, E4)

    w is the row's weight wᵢ/Σw, 1/n without sample weights. δ is written after all of z has been read, so δ may be z.
    """
    rows = np.arange(len(y))
    picked = z[rows, y] - z.max(axis=1)
    a, total = _softmax(z)
    delta = a.copy()
    delta[rows, y] -= 1
    return a, w[:, None] * delta, w * (np.log(total) - picked)


@by_row(
    "rows[m] T z, rows[m] T y, T w -> rows[m] T a, rows[m] T delta, T loss",
    f"""{_TOP}
T mass = (T)0, picked = (T)0;
for (k = LANE; k < m; k += LANES) {{ mass += y[k]; picked += y[k] == (T)0 ? (T)0 : y[k] * (z[k] - top); }}
mass = sum_lanes<LANES>(mass); picked = sum_lanes<LANES>(picked);
{_EXP_AND_SUM}
VECTOR_LOOP
for (k = LANE; k < m; k += LANES) {{
  const T p = a[k] / sum;
  a[k] = p;
  delta[k] = w * (mass * p - y[k]);  // mutate: E4 softmax crossentropy
}}
loss = w * (mass * (log)(sum) - picked);
""",
    in_place={"a": ("z",), "delta": ("z",)},
)
def softmax_crossentropy_dense(z, y, w):
    """As softmax_crossentropy, for a row y of probabilities: ℓ = −Σ yₖ log aₖ, δ = w(a Σy − y). (E3, E4)"""
    shifted = z - z.max(axis=1, keepdims=True)
    picked = np.where(y == 0, 0, y * shifted).sum(axis=1)
    mass = y.sum(axis=1)
    a, total = _softmax(z)
    return a, w[:, None] * (mass[:, None] * a - y), w * (mass * np.log(total) - picked)
