"""The kernels of embeddings by hand."""

import numpy as np


def test_embeddings_in_columns_of_wider_matrices(any_implementation):
    """Also of codes that are no integers, and of codes that V has no row for."""
    nan = np.nan
    x = np.array([[9.0, 1.0, 8.0], [9.0, 0.4, 8.0], [9.0, 1.5, 8.0], [9.0, -1.0, 8.0], [9.0, nan, 8.0], [9, np.inf, 8]])
    V, a = np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((6, 4))
    any_implementation("embed", x, V, out=a, column=1, levels=2, start=1)
    known, unknown = [[0, 3, 4, 0], [0, 1, 2, 0]], [[0, nan, nan, 0]] * 4
    np.testing.assert_array_equal(a, known + unknown)
    delta = np.arange(24.0).reshape(6, 4)
    dV = np.full((2, 2), 77.0)
    any_implementation("embedding_gradient", V, x, delta, out=dV, column=1, start=1, rows=6)
    np.testing.assert_array_equal(dV, [[5, 6], [1, 2]])
    into = np.zeros((6, 5))
    any_implementation("copy_columns", x[:, ::-1].copy(), out=into, first=0, width=1, start=3)
    np.testing.assert_array_equal(into, [[0, 0, 0, 8, 0]] * 6)
    any_implementation("zero_columns", x, out=into, width_m=5)
    assert not into.any()
