"""Cross-validated scores against scikit-learn's networks with equal epochs: 5 folds × 3 seeds on four datasets.

In float64 the fits are equal (test_sklearn_same_fit.py); here ours computes in float32, which is faster.
"""

import numpy as np
import pytest
from helpers.oracles import oracle

import gpunn

oracle("sklearn")
from sklearn import datasets, neural_network  # noqa: E402
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]
FOLDS, SEEDS, EPOCHS = 5, 3, 60
SETS = {"digits": "Classifier", "breast_cancer": "Classifier", "wine": "Classifier", "diabetes": "Regressor"}


def scores(module, kind, X, y, more):
    """The mean scores over the folds, one per seed."""
    found = []
    for seed in range(SEEDS):
        folds = (StratifiedKFold if kind == "Classifier" else KFold)(FOLDS, shuffle=True, random_state=seed)
        net = getattr(module, f"MLP{kind}")(max_iter=EPOCHS, random_state=seed, learning_rate_init=0.01, **more)
        found.append(cross_val_score(make_pipeline(StandardScaler(), net), X, y, cv=folds).mean())
    return np.array(found)


def test_float32_scores_are_not_below_scikit_learn():
    differences = {"Classifier": [], "Regressor": []}
    for name, kind in SETS.items():
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        theirs = scores(neural_network, kind, X, y, {})
        ours = scores(gpunn, kind, X, y, {"dtype": "float32"})
        print(f"{name}: scikit-learn {theirs.mean():.4f}, gpunn {ours.mean():.4f}")
        differences[kind].append((ours - theirs).mean())
    assert np.mean(differences["Classifier"]) >= -0.005
    assert np.mean(differences["Regressor"]) >= -0.01
