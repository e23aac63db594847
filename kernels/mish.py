"""Mish, a smooth form of ReLU."""

import numpy as np

from ._compiler.activation import activation

# e = e^−|z|, and tanh(log(1 + eᶻ)) = p/(p + q)
TERMS = """const T e = exp(-fabs(z)); const T p = z >= (T)0 ? (T)1 + (T)2 * e : e * (e + (T)2);
           const T q = z >= (T)0 ? (T)2 * e * e : (T)2;"""


@activation(
    value=f"{TERMS} a = z * (p / (p + q));",
    derivative=f"""{TERMS} const T r = (T)1 / (p + q);
             d = r * (p + z * ((T)4 * (z >= (T)0 ? e * e : e) * ((T)1 + e)) * r);""",
    stored="z",
    column_sums=True,
)
class mish:
    """f(z) = z t, t = tanh(log(1 + eᶻ)), and f′ = t + z (1 − t²) σ(z). (E2)

    tanh(log u) = (u² − 1)/(u² + 1), so t = (e²ᶻ + 2eᶻ)/(e²ᶻ + 2eᶻ + 2) = p/(p + q). With e = e^−|z| ≤ 1 nothing
    overflows: p = 1 + 2e and q = 2e² for z ≥ 0, after a division by e²ᶻ; p = e² + 2e and q = 2 for z < 0.
    In both cases 2p + q = 2(1 + e)², so 1 − t² = q(2p + q)/(p + q)² = 2q(1 + e)²/(p + q)². Times σ(z), which is
    1/(1 + e) or e/(1 + e), it is 4c(1 + e)/(p + q)² with c = e² for z ≥ 0 and c = e for z < 0.
    """

    def f(z):
        _, p, q = _terms(z)
        return z * (p / (p + q))

    def derivative(z):
        e, p, q = _terms(z)
        r = 1 / (p + q)
        return r * (p + z * (4 * np.where(z >= 0, e * e, e) * (1 + e)) * r)


def _terms(z):
    e = np.exp(-np.abs(z))
    return e, np.where(z >= 0, 1 + 2 * e, e * (e + 2)), np.where(z >= 0, 2 * e * e, 2)
