"""Values of the kernels that read tables, compute metrics and store rows, compared with hand calculations."""

import numpy as np
import pytest
from helpers.kernel_cases import Arena, state_array

from gpunn.kernels._compiler.signature import C_TYPES

DTYPES = ["float32", "float64"]

# --- mini-batches ---------------------------------------------------------------------------------------------------


def _table(name, rows, columns):
    rng = np.random.default_rng(7)
    if name.startswith("float"):
        return rng.normal(size=(rows, columns)).astype(name)
    limits = np.iinfo(name) if name != "bool" else np.iinfo("uint8")
    table = rng.integers(limits.min, limits.max, size=(rows, columns), dtype=limits.dtype, endpoint=True)
    return table > 100 if name == "bool" else table


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", C_TYPES)
def test_gather_and_copy_rows(kind, dtype, implementation):
    """Rows of any table from the offset on, in shuffled or original order, converted to the network's type."""
    table = _table(kind, 23, 5)
    order, offset, n = np.random.default_rng(8).permutation(23), 4, 9
    for layout in ("C", "F", "strided", "reversed") if implementation.xp is np else ("C",):
        source = Arena(table, layout).array
        steps = dict(zip(("row_step", "column_step"), (s // source.itemsize for s in source.strides), strict=True))
        x = np.empty((n, 5), dtype)
        implementation("gather", source, order, state_array(OFFSET=offset), out=x, **steps)
        np.testing.assert_array_equal(x, table[order[offset : offset + n]].astype(dtype))
        implementation("copy_rows", source, state_array(OFFSET=offset), out=x, **steps)
        np.testing.assert_array_equal(x, table[offset : offset + n].astype(dtype))


def test_gather_and_copy_labels(implementation):
    labels, order = np.arange(23, dtype=np.int32) * 3, np.random.default_rng(9).permutation(23)
    y = np.empty(9, np.int32)
    implementation("gather_labels", labels, order, state_array(OFFSET=4), out=y)
    np.testing.assert_array_equal(y, 3 * order[4:13])
    implementation("copy_labels", labels, state_array(OFFSET=4), out=y)
    np.testing.assert_array_equal(y, 3 * np.arange(4, 13))


# --- metrics --------------------------------------------------------------------------------------------------------


def test_metrics(implementation):
    """The weighted term of a row. The first of equal outputs counts, and NaN is no label."""
    a = np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4], [0.1, np.nan, 0.9], [0.6, 0.1, 0.3]])
    w = np.array([1.0, 2.0, 4.0, 8.0])
    labels = np.array([1, 2, 2, 0], np.int32)
    term = np.empty(4)
    np.testing.assert_array_equal(implementation("sparse_accuracy", a, labels, w, out=term), [1, 0, 0, 8])
    np.testing.assert_array_equal(
        implementation("categorical_accuracy", a, np.eye(3)[labels], w, out=term), [1, 0, 0, 8]
    )
    y = np.array([[0.0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0]])
    hits = implementation("binary_accuracy", a, y, w, out=term, threshold=0.3)
    # correct: 2 of 3, (no, yes, yes), (yes, yes, yes) since NaN is not above, (no, yes, yes) since 0.3 is not above 0.3
    np.testing.assert_array_equal(hits, np.array([2, 2, 3, 2]) * w)
    a[2, 1] = 0.5
    np.testing.assert_allclose(
        implementation("absolute_error", a, y, w, out=term), w * np.abs(a - y).mean(axis=1), rtol=1e-15
    )
    np.testing.assert_allclose(
        implementation("squared_error", a, y, w, out=term), w * ((a - y) ** 2).mean(axis=1), rtol=1e-15
    )


def test_counts_of_classes(implementation):
    """Three rows of weights 1, 2 and 4: a correct prediction, a wrong one, and NaN, which counts as the largest."""
    a = np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4], [0.1, np.nan, 0.9]])
    w, labels = np.array([1.0, 2, 4]), np.array([1, 2, 1], np.int32)
    true_positive, predicted, actual = out = tuple(np.full((3, 3), 7.0) for _ in range(3))
    for name, y in (("count_labels", labels), ("count_one_hot", np.eye(3)[labels])):
        implementation(name, a, y, w, out=out)
        np.testing.assert_array_equal(predicted, [[0, 1, 0], [2, 0, 0], [0, 4, 0]])
        np.testing.assert_array_equal(actual, [[0, 1, 0], [0, 0, 2], [0, 4, 0]])
        np.testing.assert_array_equal(true_positive, [[0, 1, 0], [0, 0, 0], [0, 4, 0]])
    y = np.array([[0.0, 1, 1], [1, 0, 1], [0, 1, 1]])
    implementation("count_positives", a, y, w, out=out, threshold=0.4)
    np.testing.assert_array_equal(predicted, [[0, 1, 0], [0, 0, 0], [0, 0, 4]])
    np.testing.assert_array_equal(actual, [[0, 1, 1], [2, 0, 2], [0, 4, 4]])
    np.testing.assert_array_equal(true_positive, [[0, 1, 0], [0, 0, 0], [0, 0, 4]])


@pytest.mark.parametrize("top", [1, 2, 3])
def test_top_k(top, implementation):
    """The rank of the label's output counts larger outputs and equal ones to its left. NaN is the largest."""
    nan = np.nan
    a = np.array([[1, 2, 2, 0], [1, 2, 2, 0], [0, 0, 0, 0], [nan, 1, 2, nan], [nan, 1, 2, nan], [5, 4, nan, 2.0]])
    w, labels, rank = np.arange(1.0, 7), np.array([1, 2, 2, 0, 3, 0], np.int32), np.array([0, 1, 2, 0, 1, 1])
    term = np.empty(6)
    for name, y in (("sparse_top_k", labels), ("categorical_top_k", np.eye(4)[labels])):
        np.testing.assert_array_equal(implementation(name, a, y, w, out=term, top=top), np.where(rank < top, w, 0))


def test_accumulate_variance(implementation):
    """Two batches of values far from 0: Σw(a − y)², the mean, Σw(y − mean)² and Σw, per column."""
    far = 2.0**30
    y = np.array([[0.0, far], [4, far + 4], [2, far], [2, far + 8], [8, far]])
    a, w = y + np.array([1.0, 2]), np.array([1.0, 3, 2, 1, 1])
    found = np.zeros(10)
    for rows in (slice(0, 2), slice(2, 5)):
        table = np.empty((len(w[rows]), 8))
        implementation("variance_terms", a[rows], y[rows], y[rows][0], w[rows], out=tuple(np.split(table, 4, axis=1)))
        sums, first = table.sum(axis=0), y[rows][0].copy()
        implementation("accumulate_variance", sums, first, state_array(), out=found, count=2, columns=2)
    # Σw = 8, Σw·1² and Σw·2²; means 26/8 and `far` + 20/8
    np.testing.assert_allclose(found[:2], [8, 32], rtol=1e-15)
    np.testing.assert_allclose(found[2:4] + found[8:], [26 / 8, far + 20 / 8], rtol=1e-15)
    squares = [w @ (y[:, 0] - 26 / 8) ** 2, w @ (y[:, 1] - far - 20 / 8) ** 2]
    np.testing.assert_allclose(found[4:6], squares, rtol=1e-14)
    np.testing.assert_allclose(found[6:8], 8, rtol=1e-15)
    # a batch without weight, or after a non-finite step, changes nothing
    before = found.copy()
    for state in (state_array(EMPTY_BATCH=1), state_array(NONFINITE_STEP=1)):
        implementation("accumulate_variance", table.sum(axis=0), y[0].copy(), state, out=found, count=2, columns=2)
    np.testing.assert_array_equal(found, before)


def test_stored_rows(implementation):
    """Rows, labels and weights are stored from the offset of the batch on."""
    x, state = np.arange(6.0).reshape(3, 2), state_array(OFFSET=4, WEIGHT=8)
    stored = np.zeros((8, 2))
    implementation("store_rows", x, state, out=stored)
    np.testing.assert_array_equal(stored, [[0, 0]] * 4 + [[0, 1], [2, 3], [4, 5]] + [[0, 0]])
    labels, stored_labels = np.array([5, 6, 7], np.int32), np.zeros(8, np.int32)
    implementation("store_labels", labels, state, out=stored_labels)
    np.testing.assert_array_equal(stored_labels, [0, 0, 0, 0, 5, 6, 7, 0])
    weights = np.zeros(8)
    implementation("store_weights", np.array([0.25, 0.5, 0.25], np.float32), state, out=weights)
    np.testing.assert_array_equal(weights, [0, 0, 0, 0, 0.25, 0.5, 0.25, 0])
