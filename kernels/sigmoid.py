"""The logistic sigmoid."""

import numpy as np

from ._compiler.activation import activation


@activation(
    value="const T e = exp(-fabs(z)); a = (z >= (T)0 ? (T)1 : e) / ((T)1 + e);",
    derivative="d = a * ((T)1 - a);",
    stored="a",
    column_sums=True,
)
class sigmoid:
    """f(z) = 1/(1 + e⁻ᶻ), f′ = a(1 − a). With e = e^−|z|, f = 1/(1 + e) or e/(1 + e), which never overflows. (E2)"""

    def f(z):
        e = np.exp(-np.abs(z))
        return np.where(z >= 0, 1, e) / (1 + e)

    def derivative(a):
        return a * (1 - a)
