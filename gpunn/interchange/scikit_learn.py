"""Conversion between scikit-learn's MLP estimators and gpunn's: weights, classes, curves and the optimizer's state."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np

from ..kernels.state import StateEntry

# fitted attributes, except weights and the optimizer
FITTED_ATTRIBUTES = (
    "n_features_in_", "feature_names_in_", "classes_", "_label_binarizer", "n_layers_", "n_outputs_",
    "out_activation_", "n_iter_", "t_", "loss_", "best_loss_", "loss_curve_", "validation_scores_",
    "best_validation_score_", "_no_improvement_count", "_best_coefs", "_best_intercepts", "_random_state",
)  # fmt: skip
SLOTS = {"ms": "m", "vs": "v", "velocities": "v"}  # scikit-learn's names of optimizer slots, and gpunn's
ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic", "identity": "identity"}


def from_sklearn(fitted: Any, **parameters: Any) -> Any:
    """Convert a fitted estimator of scikit-learn to gpunn's.

    It predicts the same, and `partial_fit` continues where the original stopped. The original is unchanged.

    Parameters
    ----------
    fitted : sklearn.neural_network.MLPClassifier or MLPRegressor
        The fitted estimator.
    **parameters
        gpunn's own parameters for later training and prediction (dropout, callbacks, device, …).

    Returns
    -------
    gpunn.MLPClassifier or gpunn.MLPRegressor
        The converted estimator.

    Raises
    ------
    TypeError
        If `fitted` is another object.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    from sklearn import neural_network
    from sklearn.utils.validation import check_is_fitted

    # the estimators import this module, so their classes are looked up in the facade
    from .. import MLPClassifier, MLPRegressor

    classes = {neural_network.MLPClassifier: MLPClassifier, neural_network.MLPRegressor: MLPRegressor}
    cls: Any = next((ours for theirs, ours in classes.items() if isinstance(fitted, theirs)), None)
    if cls is None:
        raise TypeError(f"fitted must be scikit-learn's MLPClassifier or MLPRegressor, got {type(fitted).__name__}")
    check_is_fitted(fitted)
    made = cls(**fitted.get_params(deep=False) | parameters)
    made._validate_params()
    _copy_fitted(made, fitted)
    made._build_from_weights()
    if hasattr(fitted, "_optimizer"):
        _import_optimizer(made, fitted._optimizer)
    return made


def to_sklearn(estimator: Any) -> Any:
    """Convert a fitted estimator of gpunn to scikit-learn's.

    It predicts the same without gpunn, and `partial_fit` continues by scikit-learn's rules. Parameters that only
    training uses (dropout, class weights, callbacks, clipping) are lost.

    Parameters
    ----------
    estimator : gpunn.MLPClassifier or gpunn.MLPRegressor
        The fitted estimator.

    Returns
    -------
    sklearn.neural_network.MLPClassifier or MLPRegressor
        The converted estimator.

    Raises
    ------
    ValueError
        If scikit-learn lacks the network's activations, or has only one for all hidden layers.
    sklearn.exceptions.NotFittedError
        Before `fit`.
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
    allowed = {"softmax", "logistic", "identity", "exp"} if "loss" in names else {"softmax", "logistic"}
    if estimator.out_activation_ not in allowed:
        raise ValueError(
            f"out_activation must be one of {', '.join(sorted(allowed))} for scikit-learn's {estimator._kind}, got "
            f"{estimator.out_activation_!r}; save() keeps it"
        )
    estimator._sync_weights()
    _copy_fitted(made, estimator)
    if estimator.optimizer is None and hasattr(estimator, "_optimizer"):
        made._optimizer = _export_optimizer(estimator, made)
    return made


def _copy_fitted(made: Any, fitted: Any) -> None:
    """Copy the fitted attributes and weights of `fitted` to `made`."""
    for name in FITTED_ATTRIBUTES:
        if hasattr(fitted, name):
            setattr(made, name, copy.deepcopy(getattr(fitted, name)))
    made.coefs_ = [np.array(c) for c in fitted.coefs_]
    made.intercepts_ = [np.array(b) for b in fitted.intercepts_]


def _activation(estimator: Any) -> str:
    """scikit-learn's name for the activation of all hidden layers."""
    hidden = {activation.name for activation in estimator._hidden_activations()} or {"relu"}
    if len(hidden) > 1 or not hidden <= {*ACTIVATIONS}:
        raise ValueError(
            f"activation must be one of {', '.join(sorted(ACTIVATIONS.values()))} in all hidden layers for "
            f"scikit-learn, got {', '.join(sorted(hidden))}"
        )
    return ACTIVATIONS[hidden.pop()]


def _import_optimizer(made: Any, theirs: Any) -> None:
    """Copy the slots and the learning rate of scikit-learn's optimizer to the network."""
    slots = {SLOTS[k]: v for k, v in vars(theirs).items() if k in SLOTS}
    net = made.net_._net
    if made.optimizer is not None or {*slots} != {*net.optimizer.slots}:
        return
    net.prepare_training()
    for name, arrays in slots.items():
        # all coefs, then all intercepts: the order of the network's flat buffer
        flat = np.concatenate([np.ravel(a) for a in arrays])
        net.slots[name][...] = net.backend.asarray(flat.astype(net.dtype))
    net.state[StateEntry.STEP] = float(getattr(theirs, "t", 0))
    made._optimizer = made._sklearn_optimizer()
    if made.solver == "sgd":
        made._optimizer.learning_rate = theirs.learning_rate
        net.learning_rate_override = float(theirs.learning_rate)


def _export_optimizer(estimator: Any, made: Any) -> Any:
    """Make scikit-learn's optimizer with the slots and the learning rate of the network's."""
    optimizer = copy.deepcopy(estimator._optimizer)
    net = estimator.net_._net
    shapes = [a.shape for a in (*made.coefs_, *made.intercepts_)]
    bounds = np.cumsum([np.prod(s, dtype=int) for s in shapes])
    for theirs, ours in SLOTS.items():
        if theirs in vars(optimizer) and ours in net.slots:
            parts = np.split(net.backend.to_host(net.slots[ours]), bounds)
            setattr(optimizer, theirs, [np.array(part).reshape(s) for part, s in zip(parts, shapes, strict=False)])
    if hasattr(optimizer, "t"):
        optimizer.t = int(net.state[StateEntry.STEP])
    return optimizer
