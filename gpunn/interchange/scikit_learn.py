"""scikit-learn's networks as gpunn's estimators, and back: the same weights, classes, curves and optimiser's state."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np

from .. import estimators
from ..kernels.state import Slot

# what a fitted network of scikit-learn knows beside its weights and its optimiser
FITTED_ATTRIBUTES = (
    "n_features_in_", "feature_names_in_", "classes_", "_label_binarizer", "n_layers_", "n_outputs_",
    "out_activation_", "n_iter_", "t_", "loss_", "best_loss_", "loss_curve_", "validation_scores_",
    "best_validation_score_", "_no_improvement_count", "_best_coefs", "_best_intercepts", "_random_state",
)  # fmt: skip
SLOTS = {"ms": "m", "vs": "v", "velocities": "v"}
ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic", "identity": "identity"}


def from_sklearn(fitted: Any, **parameters: Any) -> Any:
    """A fitted scikit-learn `MLPClassifier` or `MLPRegressor` as gpunn's: it predicts the same, and `partial_fit` goes
    on where it stopped.

    `parameters` are gpunn's own for what follows (dropout, callbacks, device, …). TypeError where `fitted` is no such
    network, NotFittedError where it is not fitted; `fitted` itself is left as it is.
    """
    from sklearn import neural_network
    from sklearn.utils.validation import check_is_fitted

    kinds = {"MLPClassifier": neural_network.MLPClassifier, "MLPRegressor": neural_network.MLPRegressor}
    kind = next((name for name, cls in kinds.items() if isinstance(fitted, cls)), None)
    if kind is None:
        raise TypeError(f"from_sklearn takes scikit-learn's MLPClassifier or MLPRegressor, got {type(fitted).__name__}")
    check_is_fitted(fitted)
    made = getattr(estimators, kind)(**fitted.get_params(deep=False) | parameters)
    made._validate_params()
    _copy_fitted(made, fitted)
    made._build_from_weights()
    if hasattr(fitted, "_optimizer"):
        _import_optimizer(made, fitted._optimizer)
    return made


def _copy_fitted(made: Any, fitted: Any) -> None:
    """Copies of what the one has learned for the other."""
    for name in FITTED_ATTRIBUTES:
        if hasattr(fitted, name):
            setattr(made, name, copy.deepcopy(getattr(fitted, name)))
    made.coefs_ = [np.array(c) for c in fitted.coefs_]
    made.intercepts_ = [np.array(b) for b in fitted.intercepts_]


def to_sklearn(estimator: Any) -> Any:
    """A fitted estimator of gpunn as scikit-learn's own: it predicts the same without gpunn, and `partial_fit` goes on
    by scikit-learn's rules.

    What only training knows (dropout, class weights, callbacks, clipping) stays behind. ValueError where the network
    predicts what scikit-learn's cannot: another activation, or one for each layer; NotFittedError before `fit`.
    """
    from sklearn import neural_network
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(estimator)
    cls = getattr(neural_network, estimator._kind)
    names = inspect.signature(cls).parameters
    parameters = {k: v for k, v in estimator.get_params(deep=False).items() if k in names}
    parameters["activation"] = _activation(estimator)
    if estimator.verbose == "bar":
        parameters["verbose"] = True
    if "loss" in parameters and parameters["loss"] not in ("squared_error", "poisson"):
        parameters["loss"] = "poisson" if estimator.out_activation_ == "exp" else "squared_error"
    made = cls(**copy.deepcopy(parameters))
    if estimator.out_activation_ not in ("softmax", "logistic", *(("identity", "exp") if "loss" in names else ())):
        raise ValueError(
            f"scikit-learn's {estimator._kind} cannot have {estimator.out_activation_!r} outputs; save() keeps them"
        )
    estimator._sync_weights()
    _copy_fitted(made, estimator)
    if estimator.optimizer is None and hasattr(estimator, "_optimizer"):
        made._optimizer = _export_optimizer(estimator, made)
    return made


def _activation(estimator: Any) -> str:
    """scikit-learn's name for the activation of all hidden layers."""
    hidden = {activation.name for activation in estimator._hidden_activations()} or {"relu"}
    if len(hidden) > 1 or not hidden <= {*ACTIVATIONS}:
        raise ValueError(
            f"scikit-learn's networks have one activation, {', '.join(sorted(ACTIVATIONS.values()))}, in all hidden "
            f"layers; this one has {', '.join(sorted(hidden))}"
        )
    return ACTIVATIONS[hidden.pop()]


def _import_optimizer(made: Any, theirs: Any) -> None:
    """Go on with the moments and the learning rate of scikit-learn's optimiser."""
    slots = {SLOTS[k]: v for k, v in vars(theirs).items() if k in SLOTS}
    net = made.net_._net
    if made.optimizer is not None or {*slots} != {*net.optimizer.slots}:
        return
    net.prepare_training()
    for name, arrays in slots.items():
        # all coefs, then all intercepts: the order of the network's own buffer
        flat = np.concatenate([np.ravel(a) for a in arrays])
        net.slots[name][...] = net.backend.asarray(flat.astype(net.dtype))
    net.state[Slot.STEP] = float(getattr(theirs, "t", 0))
    made._optimizer = made._sklearn_optimizer()
    if made.solver == "sgd":
        made._optimizer.learning_rate = theirs.learning_rate
        net.learning_rate_override = float(theirs.learning_rate)


def _export_optimizer(estimator: Any, made: Any) -> Any:
    """scikit-learn's optimiser with the moments and the learning rate of the network's."""
    optimizer = copy.deepcopy(estimator._optimizer)
    net = estimator.net_._net
    shapes = [a.shape for a in (*made.coefs_, *made.intercepts_)]
    for theirs, ours in SLOTS.items():
        if theirs in vars(optimizer) and ours in net.slots:
            parts = np.split(net.backend.to_host(net.slots[ours]), np.cumsum([np.prod(s, dtype=int) for s in shapes]))
            setattr(optimizer, theirs, [np.array(part).reshape(s) for part, s in zip(parts, shapes, strict=False)])
    if hasattr(optimizer, "t"):
        optimizer.t = int(net.state[Slot.STEP])
    return optimizer
