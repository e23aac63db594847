"""The exponential linear unit."""

import numpy as np

from ._compiler.activation import activation


@activation(
    value="a = z > (T)0 ? z : alpha * expm1(z);",
    derivative="d = a > (T)0 ? (T)1 : a + alpha;",
    stored="a",
    column_sums=True,
    constants=("alpha",),
)
class elu:
    """f(z) = z for z > 0, otherwise α(eᶻ − 1); f′ = 1 or αeᶻ = a + α. (E2)"""

    def f(z, alpha):
        return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))

    def derivative(a, alpha):
        return np.where(a > 0, 1, a + alpha)
