"""Batch and layer normalization."""

import numpy as np

from ._compiler.registry import by_row, elementwise


@elementwise(
    "T x, row T mean, row T variance, row T gamma, row T beta, scalar T epsilon -> T x_hat, T z",
    "x_hat = (x - mean) / sqrt(variance + epsilon) + (variance - variance); z = gamma * x_hat + beta;",
)
def batch_normalize(x, mean, variance, gamma, beta, epsilon):
    """x̂ = (x − μ)/√(σ² + ε), z = γx̂ + β, μ and σ² one number per column. If σ² overflows, x̂ is NaN, not 0."""
    x_hat = (x - mean) / np.sqrt(variance + epsilon) + (variance - variance)
    return x_hat, gamma * x_hat + beta


@elementwise(
    """T g, T x_hat, row T variance, row T gamma, row T d_gamma, row T d_beta, scalar T factor, scalar T epsilon
       -> T grad""",
    "grad = gamma / sqrt(variance + epsilon) * (g - factor * (d_beta + x_hat * d_gamma));",
)
def batch_normalize_backward(g, x_hat, variance, gamma, d_gamma, d_beta, factor, epsilon):
    """∂C/∂x = γ/√(σ² + ε) · (g − (Σg + x̂ Σ g x̂)/n): μ and σ² are functions of x. factor = 1/n. (E5)"""
    return gamma / np.sqrt(variance + epsilon) * (g - factor * (d_beta + x_hat * d_gamma))


@elementwise(
    "T g, row T variance, row T gamma, scalar T epsilon -> T grad",
    "grad = gamma / sqrt(variance + epsilon) * g;",
)
def batch_normalize_backward_fixed(g, variance, gamma, epsilon):
    """∂C/∂x = γ/√(σ² + ε) · g: here μ and σ² are running values, which do not depend on x. (E5)"""
    return gamma / np.sqrt(variance + epsilon) * g


@by_row(
    "rows[m] T x, raw[m] T gamma, raw[m] T beta, scalar T epsilon -> rows[m] T x_hat, rows[m] T z, T scale",
    """
T mean = (T)0, variance = (T)0;
for (long long k = LANE; k < m; k += LANES) mean += x[k];
mean = sum_lanes<LANES>(mean) / (T)m;
for (long long k = LANE; k < m; k += LANES) { const T c = x[k] - mean; variance += c * c; }
variance = sum_lanes<LANES>(variance);
scale = (T)1 / sqrt(variance / (T)m + epsilon) + (variance - variance);
for (long long k = LANE; k < m; k += LANES) {
  const T u = (x[k] - mean) * scale;
  x_hat[k] = u; z[k] = gamma[k] * u + beta[k];
}
""",
    in_place={"x_hat": ("x",), "z": ("x",)},
)
def layer_normalize(x, gamma, beta, epsilon):
    """x̂ = (x − μ)/√(σ² + ε), z = γx̂ + β, μ and σ² over the columns of a row; scale = 1/√(σ² + ε). If σ²
    overflows, x̂ is NaN, not 0."""
    c = x - x.mean(axis=1, keepdims=True)
    variance = (c * c).mean(axis=1)
    scale = 1 / np.sqrt(variance + epsilon) + (variance - variance)
    x_hat = c * scale[:, None]
    return x_hat, gamma * x_hat + beta, scale


@by_row(
    "rows[m] T g, rows[m] T x_hat, T scale, raw[m] T gamma -> rows[m] T grad",
    """
T first = (T)0, second = (T)0;
for (long long k = LANE; k < m; k += LANES) { const T u = gamma[k] * g[k]; first += u; second += u * x_hat[k]; }
first = sum_lanes<LANES>(first) / (T)m;
second = sum_lanes<LANES>(second) / (T)m;
for (long long k = LANE; k < m; k += LANES) grad[k] = scale * (gamma[k] * g[k] - first - x_hat[k] * second);
""",
    in_place={"grad": ("g", "x_hat")},
)
def layer_normalize_backward(g, x_hat, scale, gamma):
    """∂C/∂x = (u − ū − x̂ · mean(u x̂))/√(σ² + ε), u = γ ⊙ g, means over the columns of a row. (E5)"""
    u = gamma * g
    first = u.mean(axis=1, keepdims=True)
    second = (u * x_hat).mean(axis=1, keepdims=True)
    return scale[:, None] * (u - first - x_hat * second)
