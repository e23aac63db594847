"""Invalid arguments of `fit` and of other calls raise an error that names the argument, before anything changes.

Each case gives the input and the required parts of the message: the argument, the value, the requirement.
"""

import numpy as np
import pytest
from helpers.bad_input import (
    INF,
    LABELS,
    NAN,
    ROWS,
    VALUES,
    X,
    array_bits,
    assert_rejected,
    make_net,
    trained_regressor,
    with_value,
)
from helpers.messages import naming
from helpers.snapshots import assert_unchanged, state_of

import gpunn


@pytest.fixture(scope="module")
def regressor():
    return trained_regressor()


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
        {"sample_weight": with_value(ONES, 3, -1)},
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
        {"sample_weight": with_value(ONES, 3, NAN)},
        ValueError,
        naming("sample_weight", "NaN", "row 3"),
    ),
    "weights with infinity": (
        {"sample_weight": with_value(ONES, 3, INF)},
        ValueError,
        "sample_weight contains infinity",
    ),
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
    before = array_bits(given)
    options = {"verbose": 0} | given
    with assert_unchanged(classifier, X):
        assert_rejected(lambda: classifier.fit(X, LABELS, **options), error, message)
    assert array_bits(given) == before
    fresh = make_net(input_shape=None)
    standing = state_of(fresh)
    assert_rejected(lambda: fresh.fit(X, LABELS, **options), error, message)
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
            assert_rejected(lambda: classifier.evaluate(X, LABELS, **given), error, message)


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
            assert_rejected(lambda call=call: call(X, LABELS, **given), error, message)


def test_class_weights_without_classes(regressor):
    with assert_unchanged(regressor, X):
        for call in (
            lambda **o: regressor.fit(X, VALUES, verbose=0, **o),
            lambda **o: regressor.train_on_batch(X, VALUES, **o),
        ):
            assert_rejected(
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
        assert_rejected(
            lambda: getattr(classifier, ask)(*arguments, batch_size=value), error, r"^batch_size must be .*got"
        )
        assert_rejected(lambda: classifier.summary(value), error, r"^batch_size must be .*got")


# --- set_weights -----------------------------------------------------------------------------------------------------

GOOD = [w.copy() for w in make_net().get_weights()]
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
        [*GOOD[:-1], with_value(GOOD[-1], 1, NAN)],
        ValueError,
        naming("weights[5]", "NaN"),
    ),
    "infinity": ([with_value(GOOD[0], (1, 1), INF), *GOOD[1:]], ValueError, r"weights\[0\] holds NaN, infinity"),
    "too large": ([with_value(GOOD[0], (1, 1), 1e39), *GOOD[1:]], ValueError, r"weights\[0\] .*too large for float32"),
    "complex": ([GOOD[0] + 1j, *GOOD[1:]], TypeError, naming("weights[0]", "complex")),
    "words": ([GOOD[0].astype(str), *GOOD[1:]], TypeError, naming("weights[0]", "text")),
    "ragged": ([[[1, 2], [3]], *GOOD[1:]], ValueError, r"weights\[0\] must be rectangular"),
    "None inside": ([*GOOD[:-1], None], TypeError, naming("weights[5]", "NoneType")),
}


@pytest.mark.parametrize(("weights", "error", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_set_weights(classifier, weights, error, message):
    with assert_unchanged(classifier, X):
        assert_rejected(lambda: classifier.set_weights(weights), error, message)


def test_there_are_many_cases():
    assert len(BAD_FIT) + len(BAD_WEIGHTS) >= 60
