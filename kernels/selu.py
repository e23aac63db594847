"""The scaled exponential linear unit."""

import numpy as np

from ._compiler.activation import activation

# the fixed point of mean 0 and variance 1 (Klambauer et al. 2017): λ, and λα with α = 1.6732632423543772
SCALE = 1.0507009873554805
LIMIT = 1.7580993408473766


@activation(
    value=f"a = z > (T)0 ? (T){SCALE} * z : (T){LIMIT} * expm1(z);",
    derivative=f"d = a > (T)0 ? (T){SCALE} : a + (T){LIMIT};",
    stored="a",
    column_sums=True,
)
class selu:
    """f(z) = λz for z > 0, otherwise λα(eᶻ − 1); f′ = λ or λαeᶻ = a + λα. (E2)"""

    def f(z):
        return np.where(z > 0, SCALE * z, LIMIT * np.expm1(np.minimum(z, 0)))

    def derivative(a):
        return np.where(a > 0, SCALE, a + LIMIT)
