"""Softplus, a smooth form of ReLU."""

import numpy as np

from ._compiler.activation import activation


@activation(
    value="a = (z > (T)0 ? z : (z <= (T)0 ? (T)0 : z)) + log1p(exp(-fabs(z)));",
    derivative="d = -expm1(-a);",
    stored="a",
    column_sums=True,
)
class softplus:
    """f(z) = log(1 + eᶻ) = max(0, z) + log(1 + e^−|z|), f′ = σ(z) = 1 − e⁻ᵃ. (E2)"""

    def f(z):
        return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))

    def derivative(a):
        return -np.expm1(-a)
