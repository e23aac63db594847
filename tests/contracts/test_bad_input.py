"""Invalid input raises ValueError or TypeError that names the argument, before anything changes.

Each case gives the input and the required parts of the message: the argument, the value, the requirement.
"""

import copy
import datetime
import re
from decimal import Decimal

import numpy as np
import pytest
from helpers.messages import naming
from helpers.snapshots import assert_unchanged, bits, state_of

import gpunn
from gpunn import losses

NAN, INF = float("nan"), float("inf")
RNG = np.random.default_rng(8)
ROWS, COLUMNS = 12, 4
X = RNG.normal(size=(ROWS, COLUMNS))
LABELS = np.arange(ROWS) % 3
VALUES = RNG.normal(size=(ROWS, 1))


def _net(loss="sparse_categorical_crossentropy", n_in=COLUMNS, dtype="float32"):
    last = {"binary_crossentropy": (1, "sigmoid"), "half_squared_error": (1, None), "poisson": (1, "softplus")}
    outputs, activation = last.get(loss, (3, "softmax"))
    layers = [gpunn.Dense(5, "relu"), gpunn.BatchNormalization(), gpunn.Dense(outputs, activation)]
    net = gpunn.Sequential(layers, input_shape=n_in, seed=1, dtype=dtype)
    return net.compile(gpunn.Adam(0.01), loss)


def _targets(loss):
    one_hot = np.eye(3)[LABELS]
    return {"sparse_categorical_crossentropy": LABELS, "categorical_crossentropy": one_hot}.get(loss, abs(VALUES) % 1)


def _with(array, place, value):
    changed = np.array(array, dtype=np.result_type(array, float))
    changed[place] = value
    return changed


def _assert_rejected(call, error, message):
    """Check that the call raises the error with that message."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert type(caught.value) is error, caught.value
    assert re.search(message, str(caught.value)), caught.value


def _array_bits(given):
    """Return the bits of all arrays among the values, so that a test can check that they did not change."""
    return {k: bits(v) for k, v in given.items() if isinstance(v, np.ndarray) and v.dtype != object}


# --- X ---------------------------------------------------------------------------------------------------------------

BAD_X = {
    "NaN": (_with(X, (7, 2), NAN), ValueError, naming("NaN", "row 7", "column 2")),
    "infinity": (_with(X, (0, 3), INF), ValueError, naming("infinity", "row 0", "column 3")),
    "−infinity": (_with(X, (11, 0), -INF), ValueError, naming("infinity", "row 11", "column 0")),
    "NaN in float16": (_with(X, (1, 1), NAN).astype("f2"), ValueError, naming("NaN", "row 1", "column 1")),
    "NaN among objects": (_with(X, (1, 1), NAN).astype(object), ValueError, naming("NaN", "row 1")),
    "too large for float32": (
        _with(X, (3, 3), 1e39),
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


@pytest.fixture(scope="module")
def classifier():
    """Return one network for all tests. Each test checks that it did not change."""
    net = _net()
    net.fit(X, LABELS, epochs=2, batch_size=5, verbose=0)
    return net


@pytest.fixture(scope="module")
def regressor():
    net = _net("half_squared_error")
    net.fit(X, VALUES, epochs=2, batch_size=5, verbose=0)
    return net


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("x", "error", "message"), BAD_X.values(), ids=BAD_X)
def test_x(classifier, call, x, error, message):
    name = NAMES.get(call, "x")
    before = _array_bits({"x": x})
    with assert_unchanged(classifier, X):
        _assert_rejected(lambda: CALLS[call](classifier, x), error, naming(name) + message.replace("{x}", name))
    assert _array_bits({"x": x}) == before


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [100, 1024, 5000])
@pytest.mark.parametrize("ask", ["predict", "predict_proba", "predict_classes"])
def test_an_invalid_number_in_any_block_of_a_prediction(classifier, ask, batch_size, kind):
    """In the first and the last row of a full block of 1024 rows, and of the shorter last block."""
    for row in (0, 1023, 1024, 2047, 2048, 2499):
        for value, what in ((NAN, "NaN"), (INF, "infinity"), (-INF, "infinity")):
            x = _with(np.resize(X, (2500, COLUMNS)), (row, 2), value).astype(kind)
            with assert_unchanged(classifier):
                _assert_rejected(
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
    net = _net(dtype="float64")
    assert np.isfinite(net.predict(_with(X, (3, 3), 1e39))).all()
    top = float(np.finfo(np.float32).max)
    assert np.isfinite(gpunn.Sequential([gpunn.Dropout(0.5)]).predict([[top, -top]])).all()


def test_pandas_tables_with_other_objects():
    pandas = pytest.importorskip("pandas")
    net = _net()
    table = pandas.DataFrame(X, columns=list("abcd"))
    for column, error, message in (
        (["x"] * ROWS, TypeError, naming("X", "str 'x'")),
        (pandas.date_range("2024", periods=ROWS), TypeError, naming("X", "real numbers")),
        (pandas.array([1, None] * 6, dtype="Int64"), TypeError, naming("X", "NAType <NA>")),
        ([NAN, 1] * 6, ValueError, naming("X", "NaN", "row 0", "column 1")),
    ):
        with assert_unchanged(net, X):
            _assert_rejected(lambda column=column: net.predict(table.assign(b=column)), error, message)


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
    "NaN": (SQUARED, _with(VALUES, 5, NAN), ValueError, naming("y", "NaN", "row 5", "column 0")),
    "infinity": (SQUARED, _with(VALUES, 5, INF), ValueError, naming("y", "infinity", "row 5", "column 0")),
    "too large": (SQUARED, _with(VALUES, 5, -1e39), ValueError, naming("y", "float32", "too large")),
    "labels with NaN": (SPARSE, _with(LABELS, 5, NAN), ValueError, "y contains NaN"),
    "labels with infinity": (SPARSE, _with(LABELS, 5, INF), ValueError, naming("y", "NaN", "infinity")),
    "a label too large": (
        SPARSE,
        _with(LABELS, 5, 3),
        ValueError,
        "y holds label 3, but the network has 3 outputs: .*0 … 2",
    ),
    "a negative label": (SPARSE, _with(LABELS, 5, -1), ValueError, "y holds label -1, but the network has 3 outputs"),
    "a huge label": (
        SPARSE,
        _with(LABELS, 5, 1e300),
        ValueError,
        r"y holds label 1e\+300, but the network has 3 outputs",
    ),
    "half a label": (SPARSE, _with(LABELS, 5, 0.5), ValueError, naming("y", 0.5)),
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
    "more than yes": (BINARY, _with(VALUES * 0, 5, 1.5), ValueError, r"y holds values outside \[0, 1\]; binary_cross"),
    "less than no": (BINARY, _with(VALUES * 0, 5, -0.5), ValueError, r"y holds values outside \[0, 1\]"),
    "two classes at once": (
        ONE_HOT,
        np.ones((ROWS, 3)),
        ValueError,
        naming("y", "probabilities"),
    ),
    "no class": (ONE_HOT, np.zeros((ROWS, 3)), ValueError, naming("y", "probabilities")),
    "a negative probability": (ONE_HOT, np.tile([2, -1, 0], (ROWS, 1)), ValueError, naming("y", "probabilities")),
    "negative counts": (
        "poisson",
        _with(abs(VALUES), 5, -1),
        ValueError,
        naming("y", "negative", "poisson"),
    ),
}
Y_CALLS = {
    "fit": lambda net, y: net.fit(X, y, epochs=2, verbose=0),
    "validation": lambda net, y: net.fit(X, _targets(net.loss.name), validation_data=(X, y), verbose=0),
    "evaluate": lambda net, y: net.evaluate(X, y),
    "train_on_batch": lambda net, y: net.train_on_batch(X, y),
    "loss_and_gradients": lambda net, y: net.loss_and_gradients(X, y),
    "trace": lambda net, y: net.trace(X, y),
}


@pytest.fixture(scope="module")
def by_loss():
    nets = {loss: _net(loss) for loss in {case[0] for case in BAD_Y.values()}}
    for loss, net in nets.items():
        net.fit(X, _targets(loss), epochs=2, batch_size=5, verbose=0)
    return nets


@pytest.mark.parametrize("call", Y_CALLS)
@pytest.mark.parametrize(("loss", "y", "error", "message"), BAD_Y.values(), ids=BAD_Y)
def test_y(by_loss, call, loss, y, error, message):
    if call == "trace" and y is None:
        return  # trace without y is the forward pass
    net = by_loss[loss]
    before = _array_bits({"y": y})
    with assert_unchanged(net, X):
        _assert_rejected(lambda: Y_CALLS[call](net, y), error, message)
    assert _array_bits({"y": y}) == before


@pytest.mark.parametrize("case", BAD_Y)
def test_a_rejected_y_builds_nothing(case):
    loss, y, error, message = BAD_Y[case]
    net = _net(loss, n_in=None)
    before = state_of(net)
    for call in ("fit", "evaluate", "train_on_batch", "loss_and_gradients"):
        _assert_rejected(lambda call=call: Y_CALLS[call](net, y), error, message)
    assert state_of(net) == before
    with pytest.raises(RuntimeError, match="no weights yet"):
        net.get_weights()


# --- other arguments of fit ------------------------------------------------------------------------------------------

ONES = np.ones(ROWS)
BAD_FIT = {
    "batch_size=0": ({"batch_size": 0}, ValueError, naming("batch_size", 0)),
    "batch_size=-1": ({"batch_size": -1}, ValueError, naming("batch_size", -1)),
    "batch_size=2.5": ({"batch_size": 2.5}, TypeError, naming("batch_size", 2.5)),
    "batch_size=True": ({"batch_size": True}, TypeError, naming("batch_size", True)),
    "batch_size='32'": ({"batch_size": "32"}, TypeError, naming("batch_size", "'32'")),
    "batch_size=None": ({"batch_size": None}, TypeError, naming("batch_size", None)),
    "epochs=0": ({"epochs": 0}, ValueError, naming("epochs", 0)),
    "epochs=-3": ({"epochs": -3}, ValueError, naming("epochs", -3)),
    "epochs=1.5": ({"epochs": 1.5}, TypeError, naming("epochs", 1.5)),
    "epochs=nan": ({"epochs": NAN}, TypeError, naming("epochs", "nan")),
    "epochs='10'": ({"epochs": "10"}, TypeError, naming("epochs", "'10'")),
    "verbose=3": ({"verbose": 3}, ValueError, "verbose must be 0, 1 or 2, got 3"),
    "verbose='yes'": ({"verbose": "yes"}, ValueError, "verbose must be 0, 1 or 2, got 'yes'"),
    "shuffle='batch'": ({"shuffle": "batch"}, ValueError, naming("shuffle", "'batch'")),
    "validation_split=1": (
        {"validation_split": 1},
        ValueError,
        naming("validation_split", "got 1"),
    ),
    "validation_split=-0.1": ({"validation_split": -0.1}, ValueError, r"validation_split must be .*got -0\.1"),
    "validation_split=nan": ({"validation_split": NAN}, ValueError, "validation_split must be .*got nan"),
    "validation_split=True": ({"validation_split": True}, ValueError, "validation_split must be .*got True"),
    "validation_split='half'": ({"validation_split": "half"}, ValueError, "validation_split must be .*got 'half'"),
    "validation_split=1e-17": (
        {"validation_split": 1e-17},
        ValueError,
        "validation_split=1e-17 of 12 rows leaves one side",
    ),
    "validation_split=0.99": (
        {"validation_split": 0.99},
        ValueError,
        "validation_split=0.99 of 12 rows leaves one side",
    ),
    "validation twice": (
        {"validation_split": 0.5, "validation_data": (X, LABELS)},
        ValueError,
        naming("validation_data", "validation_split"),
    ),
    "validation_data=X": (
        {"validation_data": X},
        ValueError,
        r"validation_data must be \(X, y\) or \(X, y, sample_weight\)",
    ),
    "validation_data=(X,)": ({"validation_data": (X,)}, ValueError, "validation_data must be"),
    "validation_data of four": ({"validation_data": (X, LABELS, ONES, 1)}, ValueError, "validation_data must be"),
    "validation weights too few": (
        {"validation_data": (X, LABELS, ONES[1:])},
        ValueError,
        naming("validation sample_weight", "(12,)", "(11,)"),
    ),
    "validation rows differ": (
        {"validation_data": (X, LABELS[1:])},
        ValueError,
        "validation y has 11 rows, but X has 12",
    ),
    "callbacks=None": ({"callbacks": None}, TypeError, naming("callbacks", "gpunn.Callback", None)),
    "callbacks=one": ({"callbacks": gpunn.Callback()}, TypeError, naming("callbacks", "gpunn.Callback")),
    "callbacks='x'": ({"callbacks": ["x"]}, TypeError, "callbacks must be gpunn.Callback objects, got 'x'"),
    "callbacks=[class]": (
        {"callbacks": [gpunn.Callback]},
        TypeError,
        "callbacks must be gpunn.Callback objects, got <class",
    ),
    "a good callback and a bad one": ({"callbacks": [gpunn.Callback(), 5]}, TypeError, "callbacks must be .*got 5"),
    # weights of rows
    "weights negative": (
        {"sample_weight": _with(ONES, 3, -1)},
        ValueError,
        naming("sample_weight", "negative"),
    ),
    "weights all zero": ({"sample_weight": 0 * ONES}, ValueError, naming("sample_weight", "zero")),
    "weights that vanish in float32": (
        {"sample_weight": 1e-60 * ONES},
        ValueError,
        naming("sample_weight", "zero"),
    ),
    "weights that are subnormal in float32": (
        {"sample_weight": 1e-40 * ONES},
        ValueError,
        "sample_weight is zero in every row; .* below 1.18e-38 count as 0 in float32",
    ),
    "weights too few": (
        {"sample_weight": ONES[1:]},
        ValueError,
        r"sample_weight must have shape \(12,\), .*got shape \(11,\)",
    ),
    "weights as a column": ({"sample_weight": ONES[:, None]}, ValueError, r"sample_weight must have .*\(12, 1\)"),
    "one weight": ({"sample_weight": 2.0}, ValueError, r"sample_weight must have shape \(12,\), .*got shape \(\)"),
    "no weights": ({"sample_weight": []}, ValueError, r"sample_weight must have shape \(12,\), .*got shape \(0,\)"),
    "weights with NaN": (
        {"sample_weight": _with(ONES, 3, NAN)},
        ValueError,
        naming("sample_weight", "NaN", "row 3"),
    ),
    "weights with infinity": ({"sample_weight": _with(ONES, 3, INF)}, ValueError, "sample_weight contains infinity"),
    "weights too large": (
        {"sample_weight": 1e39 * ONES},
        ValueError,
        naming("sample_weight", "float32", "too large"),
    ),
    "weights as words": ({"sample_weight": ["a"] * ROWS}, TypeError, naming("sample_weight", "text")),
    "weights complex": ({"sample_weight": ONES + 1j}, TypeError, naming("sample_weight", "complex")),
    "weights by class": ({"sample_weight": {0: 1.0}}, TypeError, naming("sample_weight", "dict")),
    "zero weights on one side": (
        {"sample_weight": np.r_[np.ones(6), np.zeros(6)], "validation_split": 0.5},
        ValueError,
        naming("validation_split", "sample_weight", "zero"),
    ),
    # weights of classes
    "class_weight='balance'": ({"class_weight": "balance"}, TypeError, naming("class_weight", "'balance'")),
    "class_weight=[1, 2, 3]": ({"class_weight": [1, 2, 3]}, TypeError, naming("class_weight", "list")),
    "a class that does not exist": (
        {"class_weight": {3: 1.0}},
        ValueError,
        "class_weight names class 3, but the classes are 0 … 2",
    ),
    "a class -1": ({"class_weight": {-1: 1.0}}, ValueError, "class_weight names class -1, but the classes are 0 … 2"),
    "a class by name": ({"class_weight": {"cat": 1.0}}, ValueError, "class_weight names class 'cat'"),
    "half a class": ({"class_weight": {0.5: 1.0}}, ValueError, "class_weight names class 0.5"),
    "class None": ({"class_weight": {None: 1.0}}, ValueError, "class_weight names class None"),
    "a negative class weight": (
        {"class_weight": {0: -1}},
        ValueError,
        naming("class_weight[0]", -1),
    ),
    "a class weight NaN": (
        {"class_weight": {0: NAN}},
        ValueError,
        naming("class_weight[0]", "nan"),
    ),
    "a class weight of infinity": ({"class_weight": {1: INF}}, ValueError, r"class_weight\[1\] must be .*got inf"),
    "a class weight as text": ({"class_weight": {1: "2"}}, ValueError, r"class_weight\[1\] must be .*got '2'"),
    "a class weight True": ({"class_weight": {1: True}}, ValueError, r"class_weight\[1\] must be .*got True"),
    "class weights all zero": ({"class_weight": {0: 0, 1: 0, 2: 0}}, ValueError, naming("class_weight", "zero")),
    "class weights too large": (
        {"class_weight": {0: 1e39}},
        ValueError,
        naming("class_weight", "float32", "too large"),
    ),
    "together all zero": (
        {"class_weight": {0: 0}, "sample_weight": (LABELS == 0) * 1.0},
        ValueError,
        naming("sample_weight", "class_weight", "zero"),
    ),
    "together too large": (
        {"class_weight": {0: 1e30}, "sample_weight": 1e30 * ONES},
        ValueError,
        naming("sample_weight", "class_weight", "too large"),
    ),
}


@pytest.mark.parametrize(("given", "error", "message"), BAD_FIT.values(), ids=BAD_FIT)
def test_fit(classifier, given, error, message):
    before = _array_bits(given)
    options = {"verbose": 0} | given
    with assert_unchanged(classifier, X):
        _assert_rejected(lambda: classifier.fit(X, LABELS, **options), error, message)
    assert _array_bits(given) == before
    fresh = _net(n_in=None)
    standing = state_of(fresh)
    _assert_rejected(lambda: fresh.fit(X, LABELS, **options), error, message)
    assert state_of(fresh) == standing


# a batch may have no weight (E3), a data set may not
BATCHES_WITHOUT_WEIGHT = (
    "weights all zero",
    "weights that vanish in float32",
    "weights that are subnormal in float32",
    "class weights all zero",
)


@pytest.mark.parametrize("case", BATCHES_WITHOUT_WEIGHT)
def test_a_data_set_without_weight(classifier, case):
    given, error, message = BAD_FIT[case]
    classifier.train_on_batch(X, LABELS, **given)
    if "class_weight" not in given:
        with assert_unchanged(classifier, X):
            _assert_rejected(lambda: classifier.evaluate(X, LABELS, **given), error, message)


@pytest.mark.parametrize(
    "case",
    [
        c
        for c in BAD_FIT
        if "weight" in c and "validation" not in c and "side" not in c and c not in BATCHES_WITHOUT_WEIGHT
    ],
)
def test_weights_in_other_calls(classifier, case):
    given, error, message = BAD_FIT[case]
    calls = [classifier.train_on_batch]
    if "class_weight" not in given:
        calls += [classifier.evaluate, classifier.loss_and_gradients, classifier.trace]
    with assert_unchanged(classifier, X):
        for call in calls:
            _assert_rejected(lambda call=call: call(X, LABELS, **given), error, message)


def test_class_weights_without_classes(regressor):
    with assert_unchanged(regressor, X):
        for call in (
            lambda **o: regressor.fit(X, VALUES, verbose=0, **o),
            lambda **o: regressor.train_on_batch(X, VALUES, **o),
        ):
            _assert_rejected(
                lambda call=call: call(class_weight={0: 1}),
                ValueError,
                naming("class_weight", "'half_squared_error'"),
            )


@pytest.mark.parametrize("ask", ["evaluate", "predict", "predict_proba", "predict_classes"])
@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError), ("8", TypeError)]
)
def test_batch_sizes_of_prediction(classifier, ask, value, error):
    arguments = (X, LABELS) if ask == "evaluate" else (X,)
    with assert_unchanged(classifier, X):
        _assert_rejected(
            lambda: getattr(classifier, ask)(*arguments, batch_size=value), error, r"^batch_size must be .*got"
        )
        _assert_rejected(lambda: classifier.summary(value), error, r"^batch_size must be .*got")


# --- set_weights -----------------------------------------------------------------------------------------------------

GOOD = [w.copy() for w in _net().get_weights()]
BAD_WEIGHTS = {
    "None": (None, TypeError, naming("weights", None)),
    "a number": (5, TypeError, naming("weights", 5)),
    "text": ("weights", TypeError, naming("weights", "'weights'")),
    "too few": (GOOD[:-1], ValueError, "weights must hold 6 arrays, got 5"),
    "too many": ([*GOOD, GOOD[0]], ValueError, "weights must hold 6 arrays, got 7"),
    "transposed": ([GOOD[0].T, *GOOD[1:]], ValueError, r"weights\[0\] must have shape \(4, 5\), got \(5, 4\)"),
    "a scalar": ([*GOOD[:-1], 0.0], ValueError, r"weights\[5\] must have shape \(3,\), got \(\)"),
    "a row for a vector": (
        [*GOOD[:-1], GOOD[-1][None]],
        ValueError,
        r"weights\[5\] must have shape \(3,\), got \(1, 3\)",
    ),
    "NaN in the last": (
        [*GOOD[:-1], _with(GOOD[-1], 1, NAN)],
        ValueError,
        naming("weights[5]", "NaN"),
    ),
    "infinity": ([_with(GOOD[0], (1, 1), INF), *GOOD[1:]], ValueError, r"weights\[0\] holds NaN, infinity"),
    "too large": ([_with(GOOD[0], (1, 1), 1e39), *GOOD[1:]], ValueError, r"weights\[0\] .*too large for float32"),
    "complex": ([GOOD[0] + 1j, *GOOD[1:]], TypeError, naming("weights[0]", "complex")),
    "words": ([GOOD[0].astype(str), *GOOD[1:]], TypeError, naming("weights[0]", "text")),
    "ragged": ([[[1, 2], [3]], *GOOD[1:]], ValueError, r"weights\[0\] must be rectangular"),
    "None inside": ([*GOOD[:-1], None], TypeError, naming("weights[5]", "NoneType")),
}


@pytest.mark.parametrize(("weights", "error", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_set_weights(classifier, weights, error, message):
    with assert_unchanged(classifier, X):
        _assert_rejected(lambda: classifier.set_weights(weights), error, message)


# --- building --------------------------------------------------------------------------------------------------------

INTEGERS = {
    "0": (0, ValueError, "an integer ≥ 1, got 0"),
    "-1": (-1, ValueError, "an integer ≥ 1, got -1"),
    "2.5": (2.5, TypeError, "an integer, got 2.5"),
    "2.0": (2.0, TypeError, "an integer, got 2.0"),
    "True": (True, TypeError, "an integer, got True"),
    "'10'": ("10", TypeError, "an integer, got '10'"),
    "nan": (NAN, TypeError, "an integer, got nan"),
    "[3]": ([3], TypeError, r"an integer, got \[3\]"),
    "array([3])": (np.array([3]), TypeError, r"an integer, got array\(\[3\]\)"),
}


@pytest.mark.parametrize(("value", "error", "message"), INTEGERS.values(), ids=INTEGERS)
def test_counts(value, error, message):
    _assert_rejected(lambda: gpunn.Dense(value), error, naming("units") + ".*" + message)
    net = gpunn.Sequential([gpunn.Dense(2)])
    _assert_rejected(lambda: net.build(value), error, naming("n_in") + ".*" + message)
    if value != [3]:
        _assert_rejected(
            lambda: gpunn.Sequential([gpunn.Dense(2)], input_shape=value), error, naming("input_shape") + ".*" + message
        )
        _assert_rejected(lambda: net.compile("sgd", "mse", threads=value), error, naming("threads") + ".*" + message)
    with pytest.raises(RuntimeError, match="no weights yet"):
        net.get_weights()


BAD_MAKING = {
    # layers
    "units=None": (lambda: gpunn.Dense(None), TypeError, naming("units", None)),
    "an unknown activation": (
        lambda: gpunn.Dense(2, "rellu"),
        ValueError,
        naming("activation", "'rellu'", "leaky_relu"),
    ),
    "an activation that is a function": (
        lambda: gpunn.Dense(2, np.tanh),
        TypeError,
        naming("activation", "subclass"),
    ),
    "activation=5": (lambda: gpunn.Activation(5), TypeError, naming("activation", "gpunn.activations")),
    "an unknown initializer": (
        lambda: gpunn.Dense(2, kernel_initializer="xavier"),
        ValueError,
        naming("initializer", "'xavier'", "glorot_normal", "he_normal"),
    ),
    "kernel_initializer=5": (lambda: gpunn.Dense(2, kernel_initializer=5), TypeError, "initializer"),
    "use_bias='no'": (lambda: gpunn.Dense(2, use_bias="no"), ValueError, naming("use_bias", "'no'")),
    "l2=-1": (lambda: gpunn.Dense(2, l2=-1), ValueError, naming("l2", -1)),
    "l2=nan": (lambda: gpunn.Dense(2, l2=NAN), ValueError, naming("l2", "nan")),
    "l1='0.1'": (lambda: gpunn.Dense(2, l1="0.1"), ValueError, naming("l1", "'0.1'")),
    "l1=inf": (lambda: gpunn.Dense(2, l1=INF), ValueError, naming("l1", "inf")),
    "l1=True": (lambda: gpunn.Dense(2, l1=True), ValueError, naming("l1", True)),
    "max_norm=0": (lambda: gpunn.Dense(2, max_norm=0), ValueError, naming("max_norm", "got 0", "> 0", "None")),
    "max_norm=-1": (lambda: gpunn.Dense(2, max_norm=-1), ValueError, naming("max_norm", -1)),
    "rate=1": (lambda: gpunn.Dropout(1), ValueError, naming("rate", "got 1")),
    "rate=-0.1": (lambda: gpunn.Dropout(-0.1), ValueError, naming("rate", -0.1)),
    "form='other'": (
        lambda: gpunn.Dropout(0.5, form="other"),
        ValueError,
        "form must be 'inverted' or 'textbook', got",
    ),
    "momentum=2": (lambda: gpunn.BatchNormalization(2), ValueError, naming("momentum", 2)),
    "epsilon=0": (lambda: gpunn.LayerNormalization(0), ValueError, naming("epsilon", "got 0")),
    # the network
    "no layers": (lambda: gpunn.Sequential([]), ValueError, naming("layers", "empty")),
    "layers=None": (lambda: gpunn.Sequential(None), TypeError, naming("layers", None)),
    "layers=one": (lambda: gpunn.Sequential(gpunn.Dense(2)), TypeError, naming("layers", "Dense(2)")),
    "layers=['Dense']": (lambda: gpunn.Sequential(["Dense"]), TypeError, naming("layers[0]", "str")),
    "layers=[class]": (
        lambda: gpunn.Sequential([gpunn.Dense]),
        TypeError,
        naming("layers[0]", "type"),
    ),
    "an optimizer as a layer": (
        lambda: gpunn.Sequential([gpunn.Dense(2), gpunn.SGD()]),
        TypeError,
        r"layers\[1\] .*got SGD",
    ),
    "input_shape=(2, 3)": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], input_shape=(2, 3)),
        ValueError,
        naming("input_shape", "(inputs,)", "(2, 3)"),
    ),
    "input_shape=()": (lambda: gpunn.Sequential([gpunn.Dense(2)], input_shape=()), ValueError, "input_shape must be"),
    "input_shape=(0,)": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], input_shape=(0,)),
        ValueError,
        "input_shape .*got 0",
    ),
    "seed=-1": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], seed=-1),
        ValueError,
        r"seed must lie in \[0, 2⁶⁴\), got -1",
    ),
    "seed=2**64": (lambda: gpunn.Sequential([gpunn.Dense(2)], seed=2**64), ValueError, "seed must lie in"),
    "seed=1.0": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], seed=1.0),
        TypeError,
        naming("seed", 1.0),
    ),
    "seed=True": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], seed=True),
        TypeError,
        naming("seed", True),
    ),
    "seed='0'": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], seed="0"),
        TypeError,
        naming("seed", "'0'"),
    ),
    "seed=generator": (
        lambda: gpunn.Sequential([gpunn.Dense(2)], seed=RNG),
        TypeError,
        naming("seed", "Generator"),
    ),
    **{
        f"dtype={d!r}": (
            lambda d=d: gpunn.Sequential([gpunn.Dense(2)], dtype=d),
            ValueError,
            "dtype must be 'float32' or 'float64', got",
        )
        for d in ("float16", "int32", None, 5, "complex64", ">f4")
    },
    # losses and optimizers
    "Huber(0)": (lambda: losses.Huber(0), ValueError, naming("delta", "got 0")),
    "Huber(nan)": (lambda: losses.Huber(NAN), ValueError, naming("delta", "nan")),
    "Huber('1')": (lambda: losses.Huber("1"), ValueError, naming("delta", "'1'")),
    "from_logits='yes'": (
        lambda: losses.BinaryCrossentropy("yes"),
        ValueError,
        naming("from_logits", "'yes'"),
    ),
    **{
        f"{cls.__name__}({rate!r})": (lambda cls=cls, rate=rate: cls(rate), error, "learning_rate must be ")
        for cls in (gpunn.SGD, gpunn.Adam)
        for rate, error in (
            (0, ValueError),
            (-1, ValueError),
            (NAN, ValueError),
            (INF, ValueError),
            ("0.1", TypeError),
            (True, TypeError),
            (None, TypeError),
            ([0.1], TypeError),
        )
    },
    "momentum=1": (
        lambda: gpunn.Momentum(0.1, momentum=1),
        ValueError,
        naming("momentum", "got 1"),
    ),
    "beta_1=1": (lambda: gpunn.Adam(beta_1=1), ValueError, naming("beta_1", "got 1")),
    "clipnorm=0": (lambda: gpunn.SGD(clipnorm=0), ValueError, naming("clipnorm", "got 0")),
    "clipvalue=-1": (lambda: gpunn.SGD(clipvalue=-1), ValueError, naming("clipvalue", -1)),
    "weight_decay=-1": (
        lambda: gpunn.AdamW(weight_decay=-1),
        ValueError,
        naming("weight_decay", -1),
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD_MAKING.values(), ids=BAD_MAKING)
def test_constructors(make, error, message):
    _assert_rejected(make, error, message)


# --- compiling -------------------------------------------------------------------------------------------------------

KNOWN_LOSSES = "binary_crossentropy, categorical_crossentropy, half_squared_error, huber, log_cosh"
BAD_COMPILE = {
    "an unknown optimizer": (
        {"optimizer": "sdg"},
        ValueError,
        naming("optimizer", "'sdg'", "adam", "momentum"),
    ),
    "optimizer=None": (
        {"optimizer": None},
        TypeError,
        naming("optimizer", "gpunn.optimizers.Optimizer", "NoneType"),
    ),
    "optimizer=0.1": ({"optimizer": 0.1}, TypeError, naming("optimizer", "float")),
    "an unknown loss": (
        {"loss": "crossentropy"},
        ValueError,
        f"loss 'crossentropy' is unknown; there are {KNOWN_LOSSES}",
    ),
    "loss=None": ({"loss": None}, TypeError, naming("loss", "missing")),
    "loss=5": ({"loss": 5}, TypeError, naming("loss", "gpunn.losses.Loss", "int")),
    "an unknown metric": (
        {"metrics": ["accurate"]},
        ValueError,
        naming("metric", "'accurate'", "accuracy"),
    ),
    "metrics as text": ({"metrics": "accuracy"}, TypeError, naming("metrics", "metrics=['accuracy']")),
    "metrics=None": ({"metrics": None}, TypeError, naming("metrics", None)),
    "metrics=[5]": ({"metrics": [5]}, TypeError, naming("metrics", "gpunn.metrics.Metric", "int")),
    "a metric twice": ({"metrics": ["accuracy", "accuracy"]}, ValueError, naming("metrics", "different names")),
    "a metric called loss": (
        {"metrics": [gpunn.metrics.Accuracy(name="loss")]},
        ValueError,
        naming("metrics", "'loss'", "different names"),
    ),
    "a metric of values for labels": (
        {"metrics": ["mae"]},
        ValueError,
        naming("metric", "'mae'", "'sparse_categorical_crossentropy'"),
    ),
    "accuracy of one value": (
        {"loss": "mse", "metrics": ["accuracy"], "outputs": 1, "last": None},
        ValueError,
        naming("'accuracy'", "'mean_squared_error'", "one output"),
    ),
    "a loss that does not fit": (
        {"last": "relu"},
        ValueError,
        naming("softmax", "got relu"),
    ),
    "sigmoid before softmax's loss": ({"last": "sigmoid"}, ValueError, "needs softmax .*got sigmoid"),
    "softmax before sigmoid's loss": ({"loss": "binary_crossentropy"}, ValueError, "needs sigmoid .*got softmax"),
    "from_logits=True after softmax": (
        {"loss": losses.SparseCategoricalCrossentropy(from_logits=True)},
        ValueError,
        naming("from_logits=True", "softmax", "probabilities"),
    ),
    "from_logits=False after no activation": (
        {"loss": losses.SparseCategoricalCrossentropy(from_logits=False), "last": None},
        ValueError,
        "from_logits=",
    ),
    "precision='tf32' on a CPU": (
        {"precision": "tf32", "device": "cpu"},
        ValueError,
        naming("precision='tf32'", "GPUs", "leave precision out"),
    ),
    "precision='bf16' on a CPU": ({"precision": "bf16", "device": "cpu"}, ValueError, "precision='bf16' is for GPUs"),
    "precision='half'": ({"precision": "half"}, ValueError, "precision must be None, 'tf32' or 'bf16', got 'half'"),
    "precision='float64' of a float32 net": (
        {"precision": "float64"},
        ValueError,
        naming("precision='float64'", "float32", "dtype='float64'"),
    ),
    "an unknown device": ({"device": "gpu"}, ValueError, "device.*'gpu'"),
    "device=0": ({"device": 0}, TypeError, "device"),
}


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(("given", "error", "message"), BAD_COMPILE.values(), ids=BAD_COMPILE)
def test_compile(given, error, message, built):
    given = dict(given)
    layers = [gpunn.Dense(5, "relu"), gpunn.Dense(given.pop("outputs", 3), given.pop("last", "softmax"))]
    net = gpunn.Sequential(layers, input_shape=COLUMNS if built else None, seed=1)
    arguments = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy"} | given
    before = state_of(net)
    _assert_rejected(lambda: net.compile(**arguments), error, message)
    assert state_of(net) == before
    with pytest.raises(RuntimeError, match="compile"):
        net.evaluate(X, LABELS)


@pytest.mark.parametrize("case", [c for c in BAD_COMPILE if not {"outputs", "last"} & set(BAD_COMPILE[c][0])])
def test_a_rejected_compile_changes_nothing(case):
    given, error, message = BAD_COMPILE[case]
    net = _net()
    net.fit(X, LABELS, verbose=0)
    optimizer, loss = net.optimizer, net.loss
    twin = copy.deepcopy(net)
    with assert_unchanged(net, X):
        _assert_rejected(lambda: net.compile(**{"optimizer": "sgd", "loss": loss} | given), error, message)
    assert net.optimizer is optimizer and net.loss is loss
    if net.device == "cpu":
        assert net.fit(X, LABELS, verbose=0).history == twin.fit(X, LABELS, verbose=0).history


def test_there_are_many_cases():
    assert sum(map(len, (BAD_X, BAD_Y, BAD_FIT, BAD_WEIGHTS, INTEGERS, BAD_MAKING, BAD_COMPILE))) >= 200
