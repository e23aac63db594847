"""The exponential function: positive outputs for counts and rates."""

import numpy as np

from ._compiler.activation import activation


@activation(value="a = exp(z);", derivative="d = a;", stored="a", column_sums=True)
class exp:
    """f(z) = eᶻ, f′ = a. (E2)"""

    def f(z):
        return np.exp(z)

    def derivative(a):
        return a
