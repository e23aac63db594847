"""The equations of the metrics on NumPy arrays: rows, sums of batches, and their accumulation."""

import numpy as np
import pytest

from gpunn import losses, metrics
from gpunn.kernels.state import SIZE, StateEntry

RNG = np.random.default_rng(7)
N, M = 23, 3
A, Y, W = RNG.normal(size=(N, M)), RNG.normal(size=(N, M)), RNG.uniform(0.1, 2, N)
LABELS = RNG.integers(0, M, N).astype(np.int32)


def resolved(metric, loss="mse", n_out=M):
    metric = metrics.get(metric)
    metric.resolve(losses.get(loss), n_out)
    return metric


def accumulated(metric, sizes, state=None):
    """The sums over batches of these sizes of A, Y and W, as an epoch accumulates them."""
    sums, start = np.zeros(metric.n_sums(M)), 0
    state = np.zeros(SIZE) if state is None else state
    for n in sizes:
        rows = slice(start, start + n)
        batch = np.concatenate(metric.batch_sums(A[rows], Y[rows], W[rows]))
        sums = metric.accumulate(batch, Y[rows], sums, state)
        start += n
    return sums


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mae", lambda: np.abs(A - Y).mean(axis=1)),
        ("mse", lambda: ((A - Y) ** 2).mean(axis=1)),
        ("rmse", lambda: ((A - Y) ** 2).mean(axis=1)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_errors(name, wanted, dtype):
    rows = resolved(name).rows(A.astype(dtype), Y.astype(dtype), W.astype(dtype))
    assert rows.dtype == np.float64
    np.testing.assert_allclose(rows, W * wanted(), rtol=1e-12 if dtype == "float64" else 1e-5)


def test_rows_of_an_accuracy():
    rows = resolved("accuracy", "sparse_categorical_crossentropy").rows(A, LABELS, W)
    np.testing.assert_array_equal(rows, W * (A.argmax(axis=1) == LABELS))
    top = resolved(metrics.TopKCategoricalAccuracy(2), "sparse_categorical_crossentropy")
    ranks = (A[np.arange(N), LABELS][:, None] < A).sum(axis=1)
    np.testing.assert_array_equal(top.rows(A, LABELS, W), W * (ranks < 2))


def test_rows_of_classes_are_three_matrices():
    metric = resolved("precision", "sparse_categorical_crossentropy")
    predicted, actual = np.eye(M)[A.argmax(axis=1)], np.eye(M)[LABELS]
    wanted = [W[:, None] * x for x in (predicted * actual, predicted, actual)]
    found = metric.rows(A, LABELS, W)
    for got, right in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, right)
    sums = metric.batch_sums(A, LABELS, W)
    assert [x.shape for x in sums] == [(M,)] * 3 and metric.n_sums(M) == 3 * M
    np.testing.assert_allclose(np.concatenate(sums), np.concatenate([x.sum(axis=0) for x in wanted]), rtol=1e-13)


@pytest.mark.parametrize("sizes", [[23], [5, 5, 5, 8], [1] * 23])
def test_sums_of_batches_add_up(sizes):
    metric = resolved("mae")
    sums = accumulated(metric, sizes)
    wanted = (W * np.abs(A - Y).mean(axis=1)).sum() / W.sum()
    assert metric.value(sums, W.sum(), M) == pytest.approx(wanted, rel=1e-13)


@pytest.mark.parametrize("sizes", [[23], [5, 5, 5, 8], [1] * 23])
def test_r2_merges_the_means_of_batches(sizes):
    metric = resolved("r2")
    mean = (W[:, None] * Y).sum(axis=0) / W.sum()
    errors, variances = ((W[:, None] * x**2).sum(axis=0) for x in (A - Y, Y - mean))
    found = metric.value(accumulated(metric, sizes), W.sum(), M)
    assert found == pytest.approx((1 - errors / variances).mean(), rel=1e-12)
    # far from 0 the variance is as exact
    parts = [accumulated(metric, [n]) for n in (23, 23)]
    assert metric.value(metric.merge(parts), 2 * W.sum(), M) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("name", ["mae", "r2"])
@pytest.mark.parametrize("entry", [StateEntry.EMPTY_BATCH, StateEntry.NONFINITE_STEP])
def test_a_batch_that_changes_nothing_is_not_counted(name, entry):
    state = np.zeros(SIZE)
    state[entry] = 1
    assert not accumulated(resolved(name), [23], state).any()


def test_sums_are_not_changed_in_place():
    metric, sums = resolved("mae"), np.ones(1)
    after = metric.accumulate(np.ones(1), Y, sums, np.zeros(SIZE))
    assert after == [2] and sums == [1]


def test_metrics_of_all_rows_have_no_sums():
    metric = resolved("auc", "sparse_categorical_crossentropy")
    assert metric.batch_sums(A, LABELS, W) == [] and metric.n_sums(M) == 0


# --- custom metrics --------------------------------------------------------------------------------------------------


class Spread(metrics.Metric):
    """The weights and the largest and smallest output of each row, as Python code."""

    opaque = True

    def n_sums(self, n_out):
        return 2

    def rows(self, a, y, w):
        return w[:, None] * np.stack([a.max(axis=1), a.min(axis=1)], axis=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_custom_metric_of_several_sums(dtype):
    (sums,) = Spread().batch_sums(A.astype(dtype), Y.astype(dtype), W.astype(dtype))
    assert sums.dtype == np.float64
    np.testing.assert_allclose(sums, [W @ A.max(axis=1), W @ A.min(axis=1)], rtol=1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize(
    ("result", "got"), [(lambda w: w, r"\(23,\)"), (lambda w: w[:, None], r"\(23, 1\)"), (lambda w: 1.0, "1.0")]
)
def test_rows_of_another_shape_are_reported(result, got):
    class Wrong(Spread):
        def rows(self, a, y, w):
            return result(w)

    with pytest.raises(ValueError, match=rf"Wrong.rows must return an array of shape \(23, 2\), got {got}"):
        Wrong().batch_sums(A, Y, W)


def test_a_metric_must_define_its_rows():
    class Empty(metrics.Metric):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty must define rows\(self, a, y, w\)"):
        Empty().batch_sums(A, Y, W)
