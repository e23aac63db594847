"""Files of estimators: parameters and fitted attributes as JSON, the network as arrays, without pickle.

Callbacks, the strategy, the state of a generator given as `random_state` and the optimizer's state are not saved.
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
    """Return the arrays and the JSON metadata of a fitted estimator's file."""
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
    """Serialize parameters and fitted attributes as a JSON string of its own, which may contain NaN and infinities."""
    parameters = estimator.get_params(False) | {"callbacks": None, "strategy": None}
    attributes = {"dict": [[name, _to_plain(name, value)] for name, value in fitted.items()]}
    return json.dumps({"parameters": {k: _to_plain(k, v) for k, v in parameters.items()}, "fitted": attributes})


def from_json(cls: Any, text: str, custom: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """Return an estimator and its fitted attributes. Raise CheckpointError for parameters that `cls` refuses."""
    content = json.loads(text)
    estimator = cls(**{name: _from_plain(value, custom or {}) for name, value in content["parameters"].items()})
    try:
        estimator._validate_params()
    except ValueError as error:
        raise CheckpointError(f"its parameters are invalid for {cls.__name__}: {error}") from None
    return estimator, _from_plain(content["fitted"], custom or {})


def from_tensors(
    cls: Any, tensors: dict[str, np.ndarray], metadata: dict[str, Any], custom: dict[str, Any] | None, device: str
) -> Any:
    """Make an estimator from the arrays and metadata of `to_tensors`. Raise CheckpointError if they do not match."""
    estimator, fitted = from_json(cls, metadata["estimator"], custom)
    classes, targets = fitted.pop("classes_", None), fitted.pop("targets", None)
    unknown = set(fitted) - {*FITTED, "feature_names_in_"}
    if unknown:
        raise CheckpointError(f"it contains attributes that an estimator does not have: {sorted(unknown)}")
    vars(estimator).update(fitted)
    if "feature_names_in_" in fitted:
        estimator.feature_names_in_ = np.array(fitted["feature_names_in_"], dtype=object)
    if classes is not None:
        estimator.classes_ = np.array(classes["values"], dtype=classes["dtype"])
        estimator._label_binarizer = label_binarizer(estimator.classes_, targets)
    model = Sequential.from_tensors(tensors, metadata["net"], custom=custom, device=device)
    # not the parameters, which may have been changed after the fit, as on any estimator
    dense = [layer for layer in model.layers if isinstance(layer, Dense)]
    expected = {
        "n_features_in_": model._net.n_in,
        "n_outputs_": model._net.n_out,
        "n_layers_": len(dense) + 1,
        "out_activation_": sklearn_name(dense[-1].activation) if dense else "",
    }
    for name, value in expected.items():
        if getattr(estimator, name) != value:
            raise CheckpointError(f"its {name} is {getattr(estimator, name)!r}, but its network has {value!r}")
    return attach_network(estimator, model, device)


def attach_network(estimator: Any, model: Sequential, device: str) -> Any:
    """Compile a network for the estimator, with a new optimizer, and export its weights; return the estimator."""
    estimator._compile(model, device, explicit=False)
    estimator.net_ = model
    estimator._export_weights()
    estimator._no_improvement_count = 0
    estimator._best_coefs = [np.array(c) for c in estimator.coefs_]
    estimator._best_intercepts = [np.array(b) for b in estimator.intercepts_]
    return estimator


def sklearn_name(activation: Activation) -> str:
    """scikit-learn's name of an activation if it has its own, else gpunn's."""
    return {"sigmoid": "logistic", "exponential": "exp"}.get(activation.name, activation.name)


def label_binarizer(classes: np.ndarray, targets: str) -> LabelBinarizer:
    """Make the fitted label encoder; `targets` is scikit-learn's name of the type of target."""
    if targets == "multilabel-indicator":
        return LabelBinarizer().fit(np.eye(len(classes), dtype=int))
    fitted = LabelBinarizer().fit(classes)
    if fitted.y_type_ != targets:
        raise CheckpointError(f"its classes are {fitted.y_type_}, but its target type is {targets!r}")
    return fitted


def _to_plain(name: str, value: Any) -> Any:
    """Convert a parameter or a fitted attribute to JSON. Raise TypeError if that is impossible."""
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
    raise TypeError(f"{name} cannot be saved: got {value!r}")


def _from_plain(value: Any, custom: dict[str, Any]) -> Any:
    """Convert the JSON of `_to_plain` back."""
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise CheckpointError(f"a value must be a dict with one entry, got {len(value)}: {', '.join(map(str, value))}")
    ((kind, content),) = value.items()
    if kind == "list":
        return [_from_plain(v, custom) for v in content]
    if kind == "tuple":
        return tuple(_from_plain(v, custom) for v in content)
    if kind == "dict":
        return {_from_plain(k, custom): _from_plain(v, custom) for k, v in content}
    made = REGISTRIES[kind].from_config(content, custom)
    return made.function if isinstance(made, FunctionLoss) else made
