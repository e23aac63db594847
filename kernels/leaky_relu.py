"""The leaky rectified linear unit."""

import numpy as np

from ._compiler.activation import activation


@activation(
    value="a = z < (T)0 ? alpha * z : z;",
    derivative="d = a > (T)0 ? (T)1 : (a <= (T)0 ? alpha : a);",
    stored="a",
    constants=("alpha",),
    ulp=0,
    column_sums=True,
)
class leaky_relu:
    """f(z) = z for z > 0, otherwise αz; f′ = 1 or α (α at z = 0). Requires α ≥ 0, so that a has z's sign. (E2)"""

    def f(z, alpha):
        return np.where(z < 0, alpha * z, z)

    def derivative(a, alpha):
        return np.where(a > 0, 1, np.where(a <= 0, alpha, a)).astype(a.dtype)
