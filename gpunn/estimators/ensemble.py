"""Ensembles: `n_models=E` trains E networks concurrently, and predicts their mean and standard deviation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from .. import backend as backends
from ..training.checkpoint import CheckpointError
from ..training.interrupts import run_concurrently
from . import saving

# equal in all members
SHARED_ATTRIBUTES = ("n_features_in_", "feature_names_in_", "n_layers_", "n_outputs_", "out_activation_", "classes_",
                     "_label_binarizer")  # fmt: skip
# attributes that a fit sets, in addition to those whose names end with _
FITTED_STATE = ("_best_coefs", "_best_intercepts", "_exported", "_initial_generator_state", "_label_binarizer",
                "_net_dtype", "_network_key", "_no_improvement_count", "_optimizer", "_random_state")  # fmt: skip


def fit(ensemble: Any, X: Any, y: Any, sample_weight: Any, validation_data: Any, resume: Any) -> Any:
    """Fit E clones with n_models=1 to the same rows; their seeds are drawn from the ensemble's `random_state`.

    Each clone equals one that is fitted alone, to rounding. Raise ValueError for parameters that need one network.
    """
    if resume is not None:
        raise ValueError("resume needs a single network: leave n_models at 1")
    if ensemble.warm_start:
        raise ValueError("warm_start=True needs a single network: leave n_models at 1, or warm_start at False")
    if ensemble.strategy is not None:
        raise ValueError("strategy needs a single network: leave n_models at 1, or strategy at None")
    ensemble._validate_params()
    backend = backends.get(ensemble.device)
    generator = check_random_state(ensemble.random_state)
    seeds = generator.randint(2**31 - 1, size=ensemble.n_models)
    members = [clone(ensemble).set_params(n_models=1, random_state=int(seed)) for seed in seeds]

    fits = [partial(m.fit, X, y, sample_weight, validation_data=validation_data) for m in members]
    run_concurrently(backend, fits)
    reset(ensemble)
    return combine(ensemble, members)


def combine(ensemble: Any, members: list[Any]) -> Any:
    """Set the fitted attributes of an ensemble. Its members have equal shapes and targets."""
    first = members[0]
    for name in SHARED_ATTRIBUTES:
        if hasattr(first, name):
            setattr(ensemble, name, getattr(first, name))
    ensemble.estimators_ = members
    ensemble.coefs_ = [np.stack(layer) for layer in zip(*(m.coefs_ for m in members), strict=True)]
    ensemble.intercepts_ = [np.stack(layer) for layer in zip(*(m.intercepts_ for m in members), strict=True)]
    ensemble.n_iter_ = max(m.n_iter_ for m in members)
    ensemble.t_ = max(m.t_ for m in members)
    ensemble.loss_ = float(np.mean([m.loss_ for m in members]))
    if all(hasattr(m, "loss_curve_") for m in members):
        ensemble.loss_curve_ = list(_mean_curve([m.loss_curve_ for m in members]))
    return ensemble


def reset(estimator: Any) -> None:
    """Delete all attributes that an earlier fit has set, of one network or of an ensemble."""
    for name in [name for name in vars(estimator) if name.endswith("_") or name in FITTED_STATE]:
        delattr(estimator, name)


def to_tensors(ensemble: Any, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the JSON metadata of an ensemble's file: those of its members, one after another."""
    parts = [member.to_tensors() for member in ensemble.estimators_]
    tensors = {f"nets.{k}/{name}": a for k, (arrays, _) in enumerate(parts) for name, a in arrays.items()}
    content = {"estimator": saving.to_json(ensemble, {}), "nets": [metadata for _, metadata in parts]}
    return tensors, {"kind": "estimator", "class": kind, "ensemble": content}


def from_tensors(
    cls: Any, tensors: dict[str, np.ndarray], content: dict[str, Any], custom: dict[str, Any] | None, device: str
) -> Any:
    """Make an ensemble from the arrays and metadata of `to_tensors`. Raise CheckpointError if they do not match."""
    members = []
    for k, metadata in enumerate(content["nets"]):
        prefix = f"nets.{k}/"
        arrays = {name.removeprefix(prefix): a for name, a in tensors.items() if name.startswith(prefix)}
        member = cls.from_tensors(arrays, metadata, custom=custom, device=device)
        if hasattr(member, "estimators_"):
            raise CheckpointError("it contains an ensemble of ensembles")
        members.append(member)
    if not members or len(tensors) != sum(len(m.coefs_) + len(m.intercepts_) for m in members):
        raise CheckpointError(f"it contains {len(tensors)} arrays for {len(members)} networks")
    structures = [([c.shape for c in m.coefs_], list(getattr(m, "classes_", ()))) for m in members]
    if any(other != structures[0] for other in structures):
        raise CheckpointError("its networks have different shapes or classes")
    ensemble, _ = saving.from_json(cls, content["estimator"], custom)
    return combine(ensemble, members)


def outputs(ensemble: Any, X: Any) -> np.ndarray:
    """aᴸ (E, n, n_outputs) of every member, for validated X."""
    return np.stack([member._forward_pass_fast(X, check_input=False) for member in ensemble.estimators_])


def _mean_curve(curves: list[list[float]]) -> Iterator[float]:
    """The mean loss after each epoch, over the members that ran it."""
    for losses in zip_longest(*curves):
        yield float(np.mean([loss for loss in losses if loss is not None]))
