"""Periodic embeddings: cos z, zⱼₖ = 2π(wⱼₖxⱼ + bⱼₖ), of the m columns x of a matrix, for k = 1 … dim.

With t = wx + b, cos z = cospi(2t) subtracts the nearest even integer from 2t before the multiplication by π. The
difference is exact, so the result is as accurate for large t as for small t. The derivatives are

    ∂ cos z/∂b = −2π sin z        ∂ cos z/∂w = −2π sin z · x        ∂ cos z/∂x = −2π sin z · w
"""

import numpy as np

from ._compiler.registry import by_row

MINUS_TWO_PI = -6.283185307179586  # mutate: E5 periodic derivative


def _half_turns(y):
    """y minus the nearest even integer, in [−1, 1]."""
    return y - 2 * np.rint(y / 2)


def _cospi(y):
    """cos πu = sin π(½ − |u|), accurate near its zeros."""
    return np.sin(np.pi * (0.5 - np.abs(_half_turns(y))))


def _sinpi(y):
    """sin πu = sin π(±1 − u), accurate near its zeros."""
    u = _half_turns(y)
    return np.sin(np.pi * np.where(np.abs(u) > 0.5, np.copysign(1, u) - u, u))


def _arguments(x, frequency, phase):
    """2(wx + b) of each element, (n, m, dim)."""
    return 2 * (x[:, :, None] * frequency + phase)


def _twice_t(each):
    """C++ that executes `each` for every element c = j·dim + k of a row, with twice_t = 2(wⱼₖxⱼ + bⱼₖ).

    Lane c mod LANES executes it, as in a loop over c from LANE in steps of LANES, so that both can use one buffer.
    """
    return f"""
for (long long j = 0; j < m; ++j) {{
  const T xj = x[j];
VECTOR_LOOP
  for (long long k = (LANE - j * dim) & (LANES - 1); k < dim; k += LANES) {{
    const long long c = j * dim + k;
    const T twice_t = (T)2 * (xj * frequency[c] + phase[c]);
    {each}
  }}
}}"""


@by_row(
    "rows[n_in] T a_prev, rows[m] T x, raw[:dim] T frequency, raw[:dim] T phase, scalar int64 width_total"
    " -> rows[total] T a",
    f"""
T* cosine = a + n_in;
for (long long k = LANE; k < n_in; k += LANES) a[k] = a_prev[k];
{_twice_t("cosine[c] = twice_t;")}
VECTOR_LOOP
for (long long c = LANE; c < m * dim; c += LANES) cosine[c] = cospi(cosine[c]);
""",
)
def periodic_embed(a_prev, x, frequency, phase, width_total):
    """a = [a_prev, cos z]: the columns of a_prev, then dim columns for each column of x. (E2)"""
    cosines = _cospi(_arguments(x, frequency, phase))
    return np.concatenate([a_prev, cosines.reshape(len(x), -1)], axis=1)


@by_row(
    "rows[m] T x, rows[total] T g, raw[:dim] T frequency, raw[:dim] T phase, scalar int64 width_embedded"
    " -> rows[embedded] T d, rows[embedded] T x_d",
    f"""
const T* delta = g + (total - embedded);
{_twice_t("d[c] = twice_t; x_d[c] = xj;")}
VECTOR_LOOP
for (long long c = LANE; c < embedded; c += LANES) {{
  const T u = (T){MINUS_TWO_PI} * sinpi(d[c]) * delta[c];
  d[c] = u;
  x_d[c] *= u;
}}
""",
)
def periodic_embed_backward(x, g, frequency, phase, width_embedded):
    """d = −2π sin z ⊙ δ and x d, whose sums over rows are ∂C/∂b and ∂C/∂w; δ are the last columns of g = ∂C/∂a."""
    s = _sinpi(_arguments(x, frequency, phase))
    d = MINUS_TWO_PI * s * g[:, -int(width_embedded) :].reshape(s.shape)
    return d.reshape(len(x), -1), (x[:, :, None] * d).reshape(len(x), -1)


@by_row(
    "rows[embedded] T d, raw[:dim] T frequency, scalar int64 first, scalar int64 width, scalar int64 start"
    " -> inout rows[n_in] T grad",
    """
for (long long j = LANE; j < width; j += LANES) {
  T sum = (T)0;
  for (long long c = (first + j) * dim; c < (first + j + 1) * dim; ++c) sum += frequency[c] * d[c];
  grad[start + j] += sum;
}
""",
)
def add_periodic_gradient(d, frequency, first, width, start, grad):
    """Add Σₖ wⱼₖ dⱼₖ of `width` columns x, from the one at `first`, to the columns of grad from `start`. (E5)"""
    first, width, start = int(first), int(width), int(start)
    terms = (d.reshape(len(d), *frequency.shape) * frequency)[:, first : first + width]
    grad[:, start : start + width] += terms.sum(axis=2)
    return grad


@by_row(
    "rows[m] T like, raw T x -> rows[m] T y",
    "for (long long k = LANE; k < m; k += LANES) y[k] = x[i * m + k];",
)
def reshape_like(i, like, x):
    """y = x in the shape of another matrix."""
    return x.reshape(-1, like.shape[1])[i]
