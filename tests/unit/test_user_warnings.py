"""A warning of a fit names the line of the user's code that started it, also through scikit-learn."""

import warnings

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn
from gpunn.user_warnings import warn_user

oracle("sklearn")
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

X, LABELS = np.random.default_rng(1).normal(size=(30, 3)), np.arange(30) % 2


def _classifier(**options):
    return gpunn.MLPClassifier(hidden_layer_sizes=(3,), max_iter=2, random_state=0, **options)


FITS = {
    "an estimator": lambda: _classifier().fit(X, LABELS),
    "a batch that is too large": lambda: _classifier(batch_size=99).fit(X, LABELS),
    "a pipeline": lambda: make_pipeline(StandardScaler(), _classifier()).fit(X, LABELS),
    "a search": lambda: GridSearchCV(_classifier(), {"alpha": [0.1, 1.0]}, cv=2).fit(X, LABELS),
}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_a_warning_of_a_fit_names_the_line_of_the_user(fit):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit()
    assert found and {(w.filename, w.lineno) for w in found} == {(__file__, fit.__code__.co_firstlineno)}


def test_a_warning_without_a_line_of_the_user_names_the_caller():
    names = {"__name__": "gpunn.nothing", "warn_user": warn_user}
    code = compile("def called(): warn_user('words')\nimport threading", "<gpunn>", "exec")
    exec(code, names)
    thread = names["threading"].Thread(target=names["called"])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        thread.start()
        thread.join()
    assert [(w.filename, w.category) for w in found] == [("<gpunn>", UserWarning)]
