"""The sigmoid-weighted linear unit (swish)."""

import numpy as np

from ._compiler.activation import activation


@activation(
    value="const T e = exp(-fabs(z)); a = z * ((z >= (T)0 ? (T)1 : e) / ((T)1 + e));",
    derivative="""const T e = exp(-fabs(z)); const T s = (z >= (T)0 ? (T)1 : e) / ((T)1 + e);
             const T c = (z >= (T)0 ? e : (T)1) / ((T)1 + e); d = s + z * s * c;""",
    stored="z",
    column_sums=True,
)
class silu:
    """f(z) = z σ(z), f′ = σ(z) + z σ(z) (1 − σ(z)), where 1 − σ(z) is computed as σ(−z). (E2)"""

    def f(z):
        e = np.exp(-np.abs(z))
        return z * (np.where(z >= 0, 1, e) / (1 + e))

    def derivative(z):
        e = np.exp(-np.abs(z))
        s = np.where(z >= 0, 1, e) / (1 + e)
        c = np.where(z >= 0, e, 1) / (1 + e)
        return s + z * s * c
