"""The cases of the golden values, as plain data: `benchmarks/adapter.py` builds and trains them by public names.

{"new": name, "args": […], argument: value, …} is an object of gpunn, {"own": name} an object that the adapter defines.
Arrays are functions of a case's name, so cases do not depend on one another. Networks have at most a few hundred
parameters and take few steps: rounding must not grow beyond the tolerance.
"""

from __future__ import annotations

from typing import Any

from . import network_cases
from .builders import (
    BATCH_NORMALIZATION,
    LABELS,
    SGD,
    VALUES,
    Case,
    dense,
    estimator,
    fit,
    loss,
    network,
    new,
)

SOLVER_SGD: Case = {"solver": "sgd", "learning_rate_init": 0.0625}
EARLY_STOPPING: Case = {"early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 2, "max_iter": 4}
SOLVER_LBFGS: Case = {"solver": "lbfgs", "max_iter": 4, "activation": "tanh", "alpha": 0.125}


def _classifier(name: str, targets: str, **options: Any) -> Case:
    return estimator(f"classifier-{name}", "MLPClassifier", targets, **options)


def _regressor(name: str, targets: str, **options: Any) -> Case:
    return estimator(f"regressor-{name}", "MLPRegressor", targets, **options)


def _classifiers() -> list[Case]:
    return [
        _classifier("adam", "labels 3"),
        _classifier("adam-two-classes", "labels 2", activation="logistic", alpha=0.0625),
        _classifier("adam-multilabel", "binary 3", activation="tanh"),
        _classifier("sgd", "labels 3", **SOLVER_SGD),
        _classifier("sgd-invscaling", "labels 3", learning_rate="invscaling", nesterovs_momentum=False, **SOLVER_SGD),
        _classifier("sgd-adaptive", "labels 2", learning_rate="adaptive", tol=10.0, n_iter_no_change=1, **SOLVER_SGD),
        _classifier("lbfgs", "labels 3", **SOLVER_LBFGS),
        _classifier("lbfgs-two-classes-weighted", "labels 2", sample_weight=True, **SOLVER_LBFGS),
        _classifier("early-stopping", "labels 3", **EARLY_STOPPING),
        _classifier("weights", "labels 3", sample_weight=True, class_weight="balanced"),
        _classifier("validation", "labels 3", validation=12),
        _classifier("partial", "labels 3", partial=2),
        _classifier("sparse", "labels 3", input="sparse"),
        _classifier("n-models", "labels 3", n_models=3),
        _classifier(
            "own-parameters",
            "labels 3",
            hidden_layer_sizes=[5, 4],
            activation=["gelu", "silu"],
            dropout=[0.25, 0.0],
            kernel_initializer="he_normal",
            optimizer=new("AdamW", 0.015625),
            loss="categorical_crossentropy",
        ),
        _classifier("clipped", "labels 3", clipnorm=0.125, dropout=0.25),
        _classifier("sigmoid-of-classes", "labels 3", out_activation="logistic", loss="binary_crossentropy"),
    ]


def _regressors() -> list[Case]:
    return [
        _regressor("adam", "values 1"),
        _regressor("adam-two-outputs", "values 2", activation="tanh", hidden_layer_sizes=[5, 4]),
        _regressor("sgd", "values 1", momentum=0.5, **SOLVER_SGD),
        _regressor("sgd-plain", "values 2", momentum=0.0, nesterovs_momentum=False, shuffle=False, **SOLVER_SGD),
        _regressor("lbfgs", "values 2", **SOLVER_LBFGS),
        _regressor("poisson", "counts 1", loss="poisson", activation="tanh"),
        _regressor("lbfgs-poisson", "counts 1", loss="poisson", sample_weight=True, **SOLVER_LBFGS),
        _regressor("early-stopping", "values 1", **EARLY_STOPPING),
        _regressor("huber", "values 1", loss="huber", sample_weight=True),
        _regressor("mean-absolute-error", "values 2", loss="mean_absolute_error", activation="softplus"),
        _regressor("log-cosh", "values 1", loss=loss("LogCosh"), out_activation="tanh"),
        _regressor("n-models", "values 2", n_models=2, validation=9),
    ]


# what is stored
CASES: dict[str, Case] = {
    case["name"]: case
    for case in (
        *network_cases.hidden_activations(),
        *network_cases.optimizers(),
        *network_cases.schedules(),
        *network_cases.regression_losses(),
        *network_cases.cross_entropies(),
        *network_cases.smoothed_cross_entropies(),
        *network_cases.layers(),
        *network_cases.normalization(),
        *network_cases.layer_arguments(),
        *network_cases.combined(),
        *network_cases.initial_weights(),
        *network_cases.frozen_and_changed(),
        *network_cases.data(),
        *network_cases.streams_and_sparse_inputs(),
        *network_cases.sizes_and_callbacks(),
        *_classifiers(),
        *_regressors(),
    )
}

# compared between commits and not stored: sizes at which a step uses several threads and epochs have many steps
LARGE: dict[str, Case] = {
    case["name"]: case
    for case in (
        network(
            "large-digits",
            [dense(100, "relu"), dense(10, "softmax")],
            "labels 10",
            LABELS,
            new("Adam", 1e-3),
            fit(3, 200, shuffle=True, validation=500),
            rows=2001,
            n_in=64,
            metrics=["accuracy", "auc"],
        ),
        network(
            "large-mnist",
            [dense(512, "relu"), dense(256, "gelu"), dense(10)],
            "labels 10",
            LABELS,
            new("Adam", 1e-3, clipnorm=1.0),
            fit(1, 128, shuffle=True),
            rows=1300,
            n_in=784,
            sample_weight=True,
        ),
        network(
            "large-regularized",
            [
                dense(128, "tanh", l2=1e-3, use_bias=False),
                BATCH_NORMALIZATION,
                new("Dropout", 0.25),
                dense(128, "silu", l1=1e-4),
                new("LayerNormalization"),
                dense(8),
            ],
            "values 8",
            "huber",
            new("AdamW", 1e-3),
            fit(2, 256, shuffle=True, validation_split=0.125),
            rows=3000,
            n_in=40,
            metrics=["mae", "r2"],
        ),
        network(
            "large-single-rows", [dense(16, "tanh"), dense(1)], "values 1", VALUES, SGD, fit(2, 1), rows=3000, n_in=8
        ),
        estimator(
            "large-classifier",
            "MLPClassifier",
            "labels 10",
            rows=1500,
            hidden_layer_sizes=[64, 32],
            batch_size=200,
            early_stopping=True,
        ),
    )
}
