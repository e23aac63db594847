"""Invalid X and y raise ValueError or TypeError that names the argument, before anything changes.

Each case gives the input and the required parts of the message: the argument, the value, the requirement.
"""

import datetime
from decimal import Decimal

import numpy as np
import pytest
from helpers.bad_input import (
    COLUMNS,
    INF,
    LABELS,
    NAN,
    ROWS,
    VALUES,
    X,
    array_bits,
    assert_rejected,
    make_net,
    targets_of,
    with_value,
)
from helpers.messages import naming
from helpers.snapshots import assert_unchanged, state_of

import gpunn

# --- X ---------------------------------------------------------------------------------------------------------------

BAD_X = {
    "NaN": (with_value(X, (7, 2), NAN), ValueError, naming("NaN", "row 7", "column 2")),
    "infinity": (with_value(X, (0, 3), INF), ValueError, naming("infinity", "row 0", "column 3")),
    "−infinity": (with_value(X, (11, 0), -INF), ValueError, naming("infinity", "row 11", "column 0")),
    "NaN in float16": (with_value(X, (1, 1), NAN).astype("f2"), ValueError, naming("NaN", "row 1", "column 1")),
    "NaN among objects": (with_value(X, (1, 1), NAN).astype(object), ValueError, naming("NaN", "row 1")),
    "too large for float32": (
        with_value(X, (3, 3), 1e39),
        ValueError,
        naming("float32", "'float64'", "too large"),
    ),
    "an integer too large": ([[10**40] * 4] * ROWS, ValueError, naming("float32", "too large")),
    "an integer too large for all": ([[10**400] * 4] * ROWS, ValueError, naming("float64", "too large")),
    "too large for float64": (np.full((ROWS, 4), np.longdouble("1e400")), ValueError, "{x} .*too large for float64"),
    "one row, flat": (
        X[0],
        ValueError,
        r"{x} must have shape \(rows, columns\), got shape \(4,\); [xX].reshape\(-1, 1\)",
    ),
    "a number": (5.0, ValueError, r"{x} must have shape \(rows, columns\), got shape \(\)"),
    "three axes": (X[:, :, None], ValueError, r"{x} must have shape \(rows, columns\), got shape \(12, 4, 1\)"),
    "no rows": (X[:0], ValueError, naming("(0, 4)", "at least one row")),
    "no columns": (X[:, :0], ValueError, naming("(12, 0)", "at least one row")),
    "an empty list": ([], ValueError, r"{x} must have shape \(rows, columns\), got shape \(0,\)"),
    "a list of empty lists": ([[]], ValueError, naming("at least one row")),
    "a column too few": (X[:, :3], ValueError, naming(3, 4)),
    "a column too many": (np.hstack([X, X]), ValueError, naming(8, 4)),
    "text": (X.astype(str), TypeError, naming("text")),
    "bytes": (X.astype(bytes), TypeError, naming("text")),
    "a word": ("digits", TypeError, naming("str")),
    "words among numbers": ([[1, 2, 3, "four"]] * ROWS, TypeError, naming("text")),
    "an object of text": (np.array([[1, 2, 3, "four"]] * ROWS, object), TypeError, "{x} must .*got str 'four'"),
    "dates": (np.full((ROWS, 4), np.datetime64("2024-01-01")), TypeError, naming("dates")),
    "Python dates": ([[datetime.date(2024, 1, 1)] * 4] * ROWS, TypeError, naming("date")),
    "time differences": (np.ones((ROWS, 4), "m8[s]"), TypeError, naming("time differences")),
    "a time difference among numbers": (
        np.array([[1.5, 2, 3, np.timedelta64(4, "D")]] * ROWS, object),
        TypeError,
        naming("timedelta64"),
    ),
    "complex": (X + 1j, TypeError, naming("complex numbers")),
    "complex objects": ((X + 1j).astype(object), TypeError, naming("complex")),
    "decimals": ([[Decimal(1)] * 4] * ROWS, TypeError, naming("Decimal")),
    "ragged": ([[1, 2, 3, 4], [1, 2]], ValueError, naming("rectangular")),
    "ragged arrays": ([X[0], X[0, :2]], ValueError, "{x} must be rectangular"),
    "None": (None, TypeError, naming("NoneType")),
    "None among numbers": ([[1, 2, 3, None]] * ROWS, TypeError, naming("NoneType None")),
    "a dict": ({"a": [1, 2]}, TypeError, naming("dict")),
    "a set": ({1, 2}, TypeError, naming("set")),
    "a generator": ((row for row in X), TypeError, naming("generator")),
    "masked": (np.ma.masked_less(X, 0), TypeError, naming("masked")),
    "records": (np.zeros((ROWS, 4), [("a", "f4")]), TypeError, naming("real numbers")),
    "a function": (np.sin, TypeError, naming("ufunc")),
}

CALLS = {
    "fit": lambda net, x: net.fit(x, LABELS, epochs=2, verbose=0),
    "validation": lambda net, x: net.fit(X, LABELS, validation_data=(x, LABELS), verbose=0),
    "evaluate": lambda net, x: net.evaluate(x, LABELS),
    "train_on_batch": lambda net, x: net.train_on_batch(x, LABELS),
    "loss_and_gradients": lambda net, x: net.loss_and_gradients(x, LABELS),
    "input_gradient": lambda net, x: net.input_gradient(x, LABELS),
    "predict": lambda net, x: net.predict(x),
    "predict_proba": lambda net, x: net.predict_proba(x),
    "predict_classes": lambda net, x: net.predict_classes(x),
    "trace": lambda net, x: net.trace(x),
    "trace with y": lambda net, x: net.trace(x, LABELS),
}
NAMES = {"validation": "validation X"} | dict.fromkeys(["fit", "evaluate", *[c for c in CALLS if "predict" in c]], "X")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("x", "error", "message"), BAD_X.values(), ids=BAD_X)
def test_x(classifier, call, x, error, message):
    name = NAMES.get(call, "x")
    before = array_bits({"x": x})
    with assert_unchanged(classifier, X):
        assert_rejected(lambda: CALLS[call](classifier, x), error, naming(name) + message.replace("{x}", name))
    assert array_bits({"x": x}) == before


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [100, 1024, 5000])
@pytest.mark.parametrize("ask", ["predict", "predict_proba", "predict_classes"])
def test_an_invalid_number_in_any_block_of_a_prediction(classifier, ask, batch_size, kind):
    """The first and the last row of a full block of 1024 rows, and of the shorter last block, are checked."""
    for row in (0, 1023, 1024, 2047, 2048, 2499):
        for value, what in ((NAN, "NaN"), (INF, "infinity"), (-INF, "infinity")):
            x = with_value(np.resize(X, (2500, COLUMNS)), (row, 2), value).astype(kind)
            with assert_unchanged(classifier):
                assert_rejected(
                    lambda x=x: getattr(classifier, ask)(x, batch_size=batch_size),
                    ValueError,
                    f"^X contains {what}, first in row {row}, column 2",
                )


@pytest.mark.parametrize("case", [c for c in BAD_X if "column" not in c])
def test_a_rejected_x_builds_nothing(case):
    x, error, _ = BAD_X[case]
    net = gpunn.Sequential([gpunn.Dense(3, "softmax")], seed=1)
    before = state_of(net)
    with pytest.raises(error):
        net.predict(x)
    net.compile("adam", "sparse_categorical_crossentropy")
    compiled = state_of(net)
    for call in CALLS.values():
        with pytest.raises(error):
            call(net, x) if call is not CALLS["validation"] else net.fit(x, LABELS, verbose=0)
    assert before | {"compiled": 0} == state_of(net) | {"compiled": 0} and compiled == state_of(net)
    with pytest.raises(RuntimeError, match="no weights yet"):
        net.get_weights()


def test_values_too_large_for_float32_fit_into_float64():
    net = make_net(dtype="float64")
    assert np.isfinite(net.predict(with_value(X, (3, 3), 1e39))).all()
    top = float(np.finfo(np.float32).max)
    assert np.isfinite(gpunn.Sequential([gpunn.Dropout(0.5)]).predict([[top, -top]])).all()


def test_pandas_tables_with_other_objects():
    pandas = pytest.importorskip("pandas")
    net = make_net()
    table = pandas.DataFrame(X, columns=list("abcd"))
    for column, error, message in (
        (["x"] * ROWS, TypeError, naming("X", "str 'x'")),
        (pandas.date_range("2024", periods=ROWS), TypeError, naming("X", "real numbers")),
        (pandas.array([1, None] * 6, dtype="Int64"), TypeError, naming("X", "NAType <NA>")),
        ([NAN, 1] * 6, ValueError, naming("X", "NaN", "row 0", "column 1")),
    ):
        with assert_unchanged(net, X):
            assert_rejected(lambda column=column: net.predict(table.assign(b=column)), error, message)


# --- y ---------------------------------------------------------------------------------------------------------------

SPARSE, ONE_HOT, BINARY, SQUARED = (
    "sparse_categorical_crossentropy",
    "categorical_crossentropy",
    "binary_crossentropy",
    "half_squared_error",
)
BAD_Y = {
    # shapes: never broadcast
    "(n,) against (n, 1)": (
        SQUARED,
        VALUES[:, 0],
        ValueError,
        r"y must have shape \(12, 1\) .*got shape \(12,\); y.resh",
    ),
    "(n,) against (n, 1), yes or no": (BINARY, LABELS > 0, ValueError, r"\(12, 1\) .*got shape \(12,\); y.reshape"),
    "(1, n)": (
        SQUARED,
        VALUES.T,
        ValueError,
        r"y must have shape \(12, 1\) for loss 'half_squared_error', got .*\(1, 12\)",
    ),
    "(n, 2)": (SQUARED, np.hstack([VALUES, VALUES]), ValueError, r"y must have shape \(12, 1\) .*got shape \(12, 2\)"),
    "(n, 1, 1)": (SQUARED, VALUES[:, :, None], ValueError, r"y must have shape \(12, 1\) .*got shape \(12, 1, 1\)"),
    "a number": (SQUARED, 1.0, ValueError, r"y must have shape \(12, 1\) .*got shape \(\)"),
    "one row": (SQUARED, VALUES[:1], ValueError, r"y must have shape \(12, 1\) .*got shape \(1, 1\)"),
    "a row too few": (SQUARED, VALUES[1:], ValueError, r"y must have shape \(12, 1\) .*got shape \(11, 1\)"),
    "no rows": (SQUARED, VALUES[:0], ValueError, r"y must have shape \(12, 1\) .*got shape \(0, 1\)"),
    "labels, a row too few": (SPARSE, LABELS[1:], ValueError, "y has 11 rows, but X has 12"),
    "no labels": (SPARSE, LABELS[:0], ValueError, "y has 0 rows, but X has 12"),
    "labels as a column": (
        SPARSE,
        LABELS[:, None],
        ValueError,
        naming("y", "(12, 1)", "y.ravel()"),
    ),
    "labels one-hot": (SPARSE, np.eye(3)[LABELS], ValueError, naming("one-hot", "categorical_crossentropy")),
    "one-hot as labels": (ONE_HOT, LABELS, ValueError, naming("integer labels", "sparse_categorical_crossentropy")),
    "a class too many": (ONE_HOT, np.eye(4)[LABELS], ValueError, r"y must have shape \(12, 3\) .*got shape \(12, 4\)"),
    # values
    "NaN": (SQUARED, with_value(VALUES, 5, NAN), ValueError, naming("y", "NaN", "row 5", "column 0")),
    "infinity": (SQUARED, with_value(VALUES, 5, INF), ValueError, naming("y", "infinity", "row 5", "column 0")),
    "too large": (SQUARED, with_value(VALUES, 5, -1e39), ValueError, naming("y", "float32", "too large")),
    "labels with NaN": (SPARSE, with_value(LABELS, 5, NAN), ValueError, "y contains NaN"),
    "labels with infinity": (SPARSE, with_value(LABELS, 5, INF), ValueError, naming("y", "NaN", "infinity")),
    "a label too large": (
        SPARSE,
        with_value(LABELS, 5, 3),
        ValueError,
        "y holds label 3, but the network has 3 outputs: .*0 … 2",
    ),
    "a negative label": (
        SPARSE,
        with_value(LABELS, 5, -1),
        ValueError,
        "y holds label -1, but the network has 3 outputs",
    ),
    "a huge label": (
        SPARSE,
        with_value(LABELS, 5, 1e300),
        ValueError,
        r"y holds label 1e\+300, but the network has 3 outputs",
    ),
    "half a label": (SPARSE, with_value(LABELS, 5, 0.5), ValueError, naming("y", 0.5)),
    "labels as words": (
        SPARSE,
        ["cat"] * ROWS,
        TypeError,
        naming("y", "text"),
    ),
    "labels as numerals": (SPARSE, LABELS.astype(str), TypeError, naming("y", "text")),
    "dates": (SQUARED, np.full((ROWS, 1), np.datetime64("2024")), TypeError, naming("y", "dates")),
    "complex": (SQUARED, VALUES + 1j, TypeError, naming("y", "complex numbers")),
    "complex labels": (SPARSE, LABELS + 0j, TypeError, naming("y", "complex numbers")),
    "ragged": (SQUARED, [[1], [2, 3]], ValueError, "y must be rectangular"),
    "None": (SQUARED, None, TypeError, naming("y", "NoneType")),
    "None among values": (SQUARED, [[None]] * ROWS, TypeError, naming("y", "NoneType None")),
    "a word": (SPARSE, "target", TypeError, naming("y", "str")),
    "more than yes": (
        BINARY,
        with_value(VALUES * 0, 5, 1.5),
        ValueError,
        r"y holds values outside \[0, 1\]; binary_cross",
    ),
    "less than no": (BINARY, with_value(VALUES * 0, 5, -0.5), ValueError, r"y holds values outside \[0, 1\]"),
    "two classes in a row": (
        ONE_HOT,
        np.ones((ROWS, 3)),
        ValueError,
        naming("y", "probabilities"),
    ),
    "no class": (ONE_HOT, np.zeros((ROWS, 3)), ValueError, naming("y", "probabilities")),
    "a negative probability": (ONE_HOT, np.tile([2, -1, 0], (ROWS, 1)), ValueError, naming("y", "probabilities")),
    "negative counts": (
        "poisson",
        with_value(abs(VALUES), 5, -1),
        ValueError,
        naming("y", "negative", "poisson"),
    ),
}
Y_CALLS = {
    "fit": lambda net, y: net.fit(X, y, epochs=2, verbose=0),
    "validation": lambda net, y: net.fit(X, targets_of(net.loss.name), validation_data=(X, y), verbose=0),
    "evaluate": lambda net, y: net.evaluate(X, y),
    "train_on_batch": lambda net, y: net.train_on_batch(X, y),
    "loss_and_gradients": lambda net, y: net.loss_and_gradients(X, y),
    "trace": lambda net, y: net.trace(X, y),
}


@pytest.fixture(scope="module")
def by_loss():
    nets = {loss: make_net(loss) for loss in {case[0] for case in BAD_Y.values()}}
    for loss, net in nets.items():
        net.fit(X, targets_of(loss), epochs=2, batch_size=5, verbose=0)
    return nets


@pytest.mark.parametrize("call", Y_CALLS)
@pytest.mark.parametrize(("loss", "y", "error", "message"), BAD_Y.values(), ids=BAD_Y)
def test_y(by_loss, call, loss, y, error, message):
    if call == "trace" and y is None:
        return  # trace without y is the forward pass
    net = by_loss[loss]
    before = array_bits({"y": y})
    with assert_unchanged(net, X):
        assert_rejected(lambda: Y_CALLS[call](net, y), error, message)
    assert array_bits({"y": y}) == before


@pytest.mark.parametrize("case", BAD_Y)
def test_a_rejected_y_builds_nothing(case):
    loss, y, error, message = BAD_Y[case]
    net = make_net(loss, input_shape=None)
    before = state_of(net)
    for call in ("fit", "evaluate", "train_on_batch", "loss_and_gradients"):
        assert_rejected(lambda call=call: Y_CALLS[call](net, y), error, message)
    assert state_of(net) == before
    with pytest.raises(RuntimeError, match="no weights yet"):
        net.get_weights()


def test_there_are_many_cases():
    assert len(BAD_X) + len(BAD_Y) >= 65
