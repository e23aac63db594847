"""Plain arrays, whose checks are gpunn's own, are fitted as lists are, whose checks are scikit-learn's."""

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from sklearn.utils._param_validation import InvalidParameterError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X = np.random.default_rng(5).normal(size=(30, 4))
K = np.arange(30) % 3
LABELS = {
    "three classes": K,
    "three classes with gaps": np.array([-7, 0, 40], np.int16)[K],
    "three classes as numbers": K.astype(np.float32),
    "two classes": K > 0,
    "two classes as unsigned integers": np.array([200, 3], np.uint8)[K % 2],
    "one class": np.full(30, 4),
}


def fitted(kind, X, y):
    return getattr(gpunn, kind)((5,) if kind == "MLPClassifier" else "squared_error", max_iter=3, random_state=0).fit(
        X, y
    )


@pytest.mark.parametrize("y", LABELS.values(), ids=LABELS)
def test_labels(y):
    plain, listed = fitted("MLPClassifier", X, y), fitted("MLPClassifier", X.tolist(), y.tolist())
    assert plain.loss_curve_ == listed.loss_curve_
    assert plain.classes_.tolist() == listed.classes_.tolist()
    assert plain.classes_.dtype == y.dtype
    assert (plain.n_outputs_, plain.out_activation_) == (listed.n_outputs_, listed.out_activation_)
    assert plain.predict(X).tolist() == listed.predict(X).tolist()


@pytest.mark.parametrize("y", [X[:, 0], K, K > 0], ids=["floats", "integers", "booleans"])
def test_values(y):
    plain, listed = fitted("MLPRegressor", X, y), fitted("MLPRegressor", X.tolist(), y.tolist())
    assert plain.loss_curve_ == listed.loss_curve_
    assert plain.n_features_in_ == 4


def test_names_of_columns_are_forgotten():
    pandas = pytest.importorskip("pandas")
    model = fitted("MLPClassifier", pandas.DataFrame(X, columns=list("abcd")), K)
    assert model.feature_names_in_.tolist() == list("abcd")
    assert not hasattr(model.fit(X, K), "feature_names_in_")


def test_an_equal_value_of_another_type_is_validated_again():
    model = gpunn.MLPRegressor(max_iter=1, shuffle=True, callbacks=())
    model.fit(X, X[:, 0])
    with pytest.raises(InvalidParameterError, match="'shuffle'"):
        model.set_params(shuffle=1).fit(X, X[:, 0])
    with pytest.raises(InvalidParameterError, match="'max_iter'"):
        model.set_params(shuffle=True, max_iter=1.0).fit(X, X[:, 0])
