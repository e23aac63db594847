"""The Gaussian error linear unit in its tanh approximation."""

import numpy as np

from ._compiler.activation import activation

C = 0.7978845608028654  # √(2/π)
K = 0.044715


@activation(
    value=f"a = (T)0.5 * z * ((T)1 + tanh((T){C} * (z + (T){K} * z * z * z)));",
    derivative=f"""const T t = tanh((T){C} * (z + (T){K} * z * z * z));
              d = (T)0.5 * ((T)1 + t) + (T)0.5 * z * ((T)1 - t * t) * (T){C} * ((T)1 + (T)3 * (T){K} * z * z);""",
    stored="z",
    column_sums=True,
    ulp=8,
)
class gelu:
    """f(z) = ½z(1 + t), t = tanh(√(2/π)(z + 0.044715 z³)). This approximates z Φ(z); NumPy has no erf, and cuBLASLt's
    epilogue uses the same form. f′ = ½(1 + t) + ½z(1 − t²)√(2/π)(1 + 3·0.044715 z²). (E2)"""

    def f(z):
        return 0.5 * z * (1 + np.tanh(C * (z + K * z * z * z)))

    def derivative(z):
        t = np.tanh(C * (z + K * z * z * z))
        return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * C * (1 + 3 * K * z * z)
