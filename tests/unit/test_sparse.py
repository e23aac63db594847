"""Sparse matrices: the same numbers as the dense matrix, and validated contents."""

import numpy as np
import pytest
from helpers.messages import naming
from helpers.networks import network_builder
from helpers.oracles import oracle

import gpunn

oracle("scipy")
from scipy import sparse  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.normal(size=(41, 13)) * (RNG.random((41, 13)) < 0.3)
Y = RNG.integers(0, 3, 41)
W = RNG.uniform(0.1, 2, 41)


net = network_builder(gpunn.Dense(6, "tanh"), gpunn.Dense(3), seed=0, metrics=["accuracy"])


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "coo_array", "csr_array", "lil_matrix"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fit_equals_that_of_the_dense_matrix_bit_for_bit(kind, dtype):
    results = []
    for table in (X, getattr(sparse, kind)(X)):
        made = net(dtype=dtype)
        history = made.fit(table, Y, epochs=3, batch_size=8, validation_split=0.2, sample_weight=W, verbose=0)
        numbers = [*made.get_weights(), made.predict(table), *made.evaluate(table, Y).values()]
        trace = made.trace(table[:5] if kind != "coo_array" else X[:5], Y[:5])
        results.append([*numbers, *history.history["val_loss"], trace[0].z, trace[-1].delta])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float32"])
def test_all_number_types(dtype):
    table = np.abs(X * 100).astype(dtype)
    stored = sparse.csr_matrix(table.astype("float32")) if dtype == "float16" else sparse.csr_matrix(table)
    np.testing.assert_array_equal(net().predict(stored), net().predict(table.astype("float32")))


def test_duplicate_entries_are_added_in_any_order():
    stored = sparse.csr_matrix(([1.0, 2.0, 4.0, 8.0], [3, 0, 3, 1], [0, 3, 4]), shape=(2, 13))
    dense = np.zeros((2, 13))
    dense[0, 3], dense[0, 0], dense[1, 1] = 5, 2, 8
    np.testing.assert_array_equal(net().predict(stored), net().predict(dense))


def test_empty_rows_and_an_empty_matrix():
    made = net()
    np.testing.assert_array_equal(made.predict(sparse.csr_matrix((4, 13))), made.predict(np.zeros((4, 13))))
    with pytest.raises(ValueError, match="at least one row"):
        made.predict(sparse.csr_matrix((0, 13)))


def test_the_matrix_is_not_changed():
    table = sparse.csr_matrix(X)
    before = [part.copy() for part in (table.data, table.indices, table.indptr)]
    net().fit(table, Y, epochs=1, verbose=0)
    for part, was in zip((table.data, table.indices, table.indptr), before, strict=True):
        np.testing.assert_array_equal(part, was)


def _tampered(**parts):
    table = sparse.csr_matrix(X)
    for name, change in parts.items():
        change(getattr(table, name))
    return table


def _set_entry(place, value):
    def change(array):
        array[place] = value

    return change


INVALID = {
    "NaN": (lambda: _tampered(data=_set_entry(5, np.nan)), ValueError, "X contains .*nan.* in row"),
    "too large": (lambda: _tampered(data=_set_entry(0, 1e39)), ValueError, naming("float32", "finite")),
    "a column that is not there": (
        lambda: _tampered(indices=_set_entry(3, 13)),
        ValueError,
        naming("X", "sparse matrix"),
    ),
    "a negative column": (lambda: _tampered(indices=_set_entry(3, -1)), ValueError, naming("X", "sparse matrix")),
    "rows that run backwards": (lambda: _tampered(indptr=_set_entry(7, 0)), ValueError, naming("X", "sparse matrix")),
    "more than is stored": (lambda: _tampered(indptr=_set_entry(-1, 10_000)), ValueError, naming("X", "sparse matrix")),
    "complex": (lambda: sparse.csr_matrix(X + 1j), TypeError, "complex numbers"),
    "other columns": (lambda: sparse.csr_matrix(X[:, :5]), ValueError, naming("X", 5, 13)),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_matrices_raise(case):
    make, error, said = INVALID[case]
    made = net()
    made.build(13)
    before = made.predict(X)
    for call in (lambda t: made.predict(t), lambda t: made.fit(t, Y, verbose=0), lambda t: made.evaluate(t, Y)):
        with pytest.raises(error, match=said):
            call(make())
    np.testing.assert_array_equal(made.predict(X), before)


def test_the_message_gives_row_and_column_of_an_infinite_value():
    table = sparse.csr_matrix(([1.0, np.inf], [2, 7], [0, 0, 1, 1, 2]), shape=(4, 13))
    with pytest.raises(ValueError, match="in row 3, column 7"):
        net().predict(table)


def test_sparse_targets_raise():
    with pytest.raises(TypeError, match=naming("y", "y.toarray()")):
        net().fit(X, sparse.csr_matrix(np.eye(41, 3)), verbose=0)
