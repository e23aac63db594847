"""An estimator as a file: its parameters and what it has learned as JSON, its network as arrays. No pickle.

Callbacks and the strategy are not kept, nor is the state of a generator given as `random_state`; the optimiser's
state begins anew.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from sklearn.preprocessing import LabelBinarizer

from .. import activations, initializers, losses, optimizers
from ..activations import Activation
from ..initializers import Initializer
from ..layers import Dense
from ..losses import FunctionLoss, Loss
from ..model import Sequential
from ..optimizers import Optimizer
from ..training.checkpoint import CheckpointError

FITTED = (
    "n_features_in_", "n_layers_", "n_outputs_", "out_activation_", "n_iter_", "t_", "loss_", "best_loss_",
    "loss_curve_", "validation_scores_", "best_validation_score_", "validation_loss_curve_",
)  # fmt: skip
BASE_CLASSES = {"activation": Activation, "loss": Loss, "optimizer": Optimizer, "initializer": Initializer}
REGISTRIES = {"activation": activations, "loss": losses, "optimizer": optimizers, "initializer": initializers}


def to_tensors(estimator: Any, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the JSON metadata that a file of a fitted estimator holds."""
    tensors, net = estimator.net_.to_tensors()
    fitted = {name: getattr(estimator, name) for name in FITTED if hasattr(estimator, name)}
    if hasattr(estimator, "feature_names_in_"):
        fitted["feature_names_in_"] = estimator.feature_names_in_.tolist()
    if hasattr(estimator, "classes_"):
        fitted["classes_"] = {"values": estimator.classes_.tolist(), "dtype": estimator.classes_.dtype.str}
        fitted["targets"] = estimator._label_binarizer.y_type_
    text = to_json(estimator, fitted)
    return tensors, {"kind": "estimator", "class": kind, "estimator": text, "net": net | {"compiled": None}}


def to_json(estimator: Any, fitted: dict[str, Any]) -> str:
    """An estimator's parameters, and what it has learned, as text of its own, which may hold NaN and infinities."""
    parameters = estimator.get_params(False) | {"callbacks": None, "strategy": None}
    learned = {"dict": [[name, _to_plain(name, value)] for name, value in fitted.items()]}
    return json.dumps({"parameters": {k: _to_plain(k, v) for k, v in parameters.items()}, "fitted": learned})


def from_json(cls: Any, text: str, custom: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """The inverse of `to_json`. CheckpointError where the parameters are none of that class."""
    found = json.loads(text)
    estimator = cls(**{name: _from_plain(value, custom or {}) for name, value in found["parameters"].items()})
    try:
        estimator._validate_params()
    except ValueError as error:
        raise CheckpointError(f"its parameters are none of {cls.__name__}: {error}") from None
    return estimator, _from_plain(found["fitted"], custom or {})


def from_tensors(
    cls: Any, tensors: dict[str, np.ndarray], metadata: dict[str, Any], custom: dict[str, Any] | None, device: str
) -> Any:
    """The inverse of `to_tensors`. CheckpointError where the parts do not fit each other."""
    estimator, fitted = from_json(cls, metadata["estimator"], custom)
    classes, targets = fitted.pop("classes_", None), fitted.pop("targets", None)
    if not set(fitted) <= {*FITTED, "feature_names_in_"}:
        raise CheckpointError(f"it holds more than an estimator learns: {sorted(set(fitted) - {*FITTED})}")
    vars(estimator).update(fitted)
    if "feature_names_in_" in fitted:
        estimator.feature_names_in_ = np.array(fitted["feature_names_in_"], dtype=object)
    if classes is not None:
        estimator.classes_ = np.array(classes["values"], dtype=classes["dtype"])
        estimator._label_binarizer = label_binarizer(estimator.classes_, targets)
    model = Sequential.from_tensors(tensors, metadata["net"], custom=custom, device=device)
    # parameters may have been set anew since the fit, as on any estimator: what was fitted is what must agree
    dense = [layer for layer in model.layers if isinstance(layer, Dense)]
    fits = {
        "n_features_in_": model._net.n_in,
        "n_outputs_": model._net.n_out,
        "n_layers_": len(dense) + 1,
        "out_activation_": sklearn_name(dense[-1].activation) if dense else "",
    }
    for name, found in fits.items():
        if getattr(estimator, name) != found:
            raise CheckpointError(f"its {name} is {getattr(estimator, name)!r}, but its network has {found!r}")
    return attach_network(estimator, model, device)


def attach_network(estimator: Any, model: Sequential, device: str) -> Any:
    """The estimator with that network, whose weights it shows; its optimiser begins anew."""
    estimator._compile(model, device, asked=False)
    estimator.net_ = model
    estimator._export_weights()
    estimator._no_improvement_count = 0
    estimator._best_coefs = [np.array(c) for c in estimator.coefs_]
    estimator._best_intercepts = [np.array(b) for b in estimator.intercepts_]
    return estimator


def sklearn_name(activation: Activation) -> str:
    """The name that scikit-learn has for an activation, where it has one of its own."""
    return {"sigmoid": "logistic", "exponential": "exp"}.get(activation.name, activation.name)


def label_binarizer(classes: np.ndarray, targets: str) -> LabelBinarizer:
    """scikit-learn's encoder of labels as it was fitted: `targets` is its word for their kind."""
    if targets == "multilabel-indicator":
        return LabelBinarizer().fit(np.eye(len(classes), dtype=int))
    fitted = LabelBinarizer().fit(classes)
    if fitted.y_type_ != targets:
        raise CheckpointError(f"its classes are {fitted.y_type_}, but it says {targets!r}")
    return fitted


def _to_plain(name: str, value: Any) -> Any:
    """A parameter or a fitted attribute as JSON. TypeError names the one that no file can hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, np.ndarray)):
        return {"list": [_to_plain(name, v) for v in value]}
    if isinstance(value, tuple):
        return {"tuple": [_to_plain(name, v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[_to_plain(name, k), _to_plain(name, v)] for k, v in value.items()]}
    if isinstance(value, np.random.RandomState):
        return None
    for kind, cls in BASE_CLASSES.items():
        if isinstance(value, cls):
            return {kind: REGISTRIES[kind].to_config(value)}
    if isinstance(value, (type, np.dtype)):
        return np.dtype(value).name
    if callable(value):
        return {"loss": losses.to_config(FunctionLoss(value))}
    raise TypeError(f"{name} cannot be kept in a file: it holds {value!r}")


def _from_plain(value: Any, custom: dict[str, Any]) -> Any:
    """The inverse of `_to_plain`."""
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise CheckpointError(f"it holds {len(value)} things where one is due: {', '.join(map(str, value))}")
    ((kind, held),) = value.items()
    if kind == "list":
        return [_from_plain(v, custom) for v in held]
    if kind == "tuple":
        return tuple(_from_plain(v, custom) for v in held)
    if kind == "dict":
        return {_from_plain(k, custom): _from_plain(v, custom) for k, v in held}
    found = REGISTRIES[kind].from_config(held, custom)
    return found.function if isinstance(found, FunctionLoss) else found
