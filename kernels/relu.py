"""The rectified linear unit."""

import numpy as np

from ._compiler.activation import activation


@activation(
    value="a = z < (T)0 ? (T)0 : z;",  # mutate: E2 relu
    derivative="d = a > (T)0 ? (T)1 : (a <= (T)0 ? (T)0 : a);",
    stored="a",
    column_sums=True,
    ulp=0,
)
class relu:
    """f(z) = max(0, z), f′(z) = 1 for z > 0, otherwise 0 (0 at z = 0). NaN passes through both. (E2)"""

    def f(z):
        return np.where(z < 0, 0, z)

    def derivative(a):
        return np.where(a > 0, 1, np.where(a <= 0, 0, a))
