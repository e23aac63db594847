"""The hyperbolic tangent."""

import numpy as np

from ._compiler.activation import activation
from ._compiler.summed import summed


@activation(value="a = tanh(z);", derivative="d = (T)1 - a * a;", stored="a")
class tanh:
    """f(z) = tanh z, f′ = 1 − a². (E2)"""

    def f(z):
        return np.tanh(z)

    def derivative(a):
        return 1 - a * a


summed(tanh.backward)
