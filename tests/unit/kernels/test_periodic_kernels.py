"""The kernels of the periodic embedding, by hand."""

import math

import numpy as np
import pytest


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_periodic_embedding(dtype, any_implementation):
    """¼, ½, ⅜ and 2½ periods, δ = (3, 4, 5, 6): d = −2π (1, 0, √½, 0) ⊙ δ."""
    a_prev, x, g = (np.array([row], dtype) for row in ([1, 8, 2], [1, 2], [1, 9, 2, 3, 4, 5, 6]))
    w, b = np.array([[0.25, 0.5], [0.125, 1]], dtype), np.array([[0, 0], [0.125, 0.5]], dtype)
    root, u = math.sqrt(0.5), np.finfo(dtype).eps
    a, (d, x_d) = np.empty((1, 7), dtype), np.empty((2, 1, 4), dtype)
    any_implementation("periodic_embed", a_prev, x, w, b, out=a, width_total=7)
    np.testing.assert_allclose(a, [[1, 8, 2, 0, -1, -root, -1]], rtol=0, atol=u)
    any_implementation("periodic_embed_backward", x, g, w, b, out=(d, x_d), width_embedded=4)
    np.testing.assert_allclose(d, [[-6 * math.pi, 0, -10 * math.pi * root, 0]], rtol=0, atol=32 * u)
    np.testing.assert_array_equal(x_d, d * np.array([1, 1, 2, 2], dtype))
    # the gradient of the second column alone, then of both
    grad = np.array([[1, 9, 2]], dtype)
    any_implementation("add_periodic_gradient", d, w, out=grad, first=1, width=1, start=2)
    np.testing.assert_allclose(grad, [[1, 9, 2 - 1.25 * math.pi * root]], rtol=0, atol=16 * u)
    any_implementation("add_periodic_gradient", d, w, out=grad, first=0, width=2, start=1)
    wanted = [[1, 9 - 1.5 * math.pi, 2 - 2.5 * math.pi * root]]
    np.testing.assert_allclose(grad, wanted, rtol=0, atol=32 * u)


@pytest.mark.parametrize("y", [2.0**-20, 1 / 3, 0.75, 2.25, 1e5 + 0.125, 2.0**23 + 1, 1e30])
def test_periods_are_subtracted_exactly(y, any_implementation):
    """cos πy and sin πy of a float32 y, to rounding."""
    y = np.float32(y)
    x, one, zero = np.array([[y / 2]], "f4"), np.ones((1, 1), "f4"), np.zeros((1, 1), "f4")
    a, d, x_d = np.empty((1, 2), "f4"), zero.copy(), zero.copy()
    any_implementation("periodic_embed", x, x, one, zero, out=a, width_total=2)
    g = np.array([[0, 1]], "f4")
    any_implementation("periodic_embed_backward", x, g, one, zero, out=(d, x_d), width_embedded=1)
    turns = math.pi * math.fmod(float(y), 2)
    assert float(a[0, 1]) == pytest.approx(math.cos(turns), rel=3e-7, abs=1e-15)
    assert float(d[0, 0]) == pytest.approx(-2 * math.pi * math.sin(turns), rel=5e-7, abs=1e-14)


def test_reshape_like(any_implementation):
    x, y = np.arange(6.0), np.empty((2, 3))
    any_implementation("reshape_like", np.zeros((2, 3)), x, out=y)
    np.testing.assert_array_equal(y, [[0, 1, 2], [3, 4, 5]])
