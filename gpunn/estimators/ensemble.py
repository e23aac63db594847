"""An estimator of several nets: `n_models=E` trains E of them side by side, and predicts their mean and spread."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from .. import backend as backends
from ..backend.concurrency import EpochCoroutine
from ..training import fused_epochs
from ..training.checkpoint import CheckpointError
from . import saving

SHARED_ATTRIBUTES = ("n_features_in_", "feature_names_in_", "n_layers_", "n_outputs_", "out_activation_", "classes_",
        "_label_binarizer")  # fmt: skip
# what a fit leaves in an estimator beside the attributes whose names end with _
FITTED_STATE = ("_best_coefs", "_best_intercepts", "_initial_generator_state", "_label_binarizer", "_net_dtype",
         "_network_key",
        "_no_improvement_count", "_optimizer", "_random_state", "_exported")  # fmt: skip


def fit(ensemble: Any, X: Any, y: Any, sample_weight: Any, validation_data: Any, resume: Any) -> Any:
    """Fit E clones with n_models=1, whose seeds are drawn from the ensemble's `random_state`, to the same rows.

    Each is, to rounding, what it would be by itself. ValueError where the ensemble asks for what one net alone can do.
    """
    if resume is not None:
        raise ValueError("resume goes on with one net: leave n_models at 1")
    if ensemble.warm_start:
        raise ValueError("warm_start=True goes on with one net: leave n_models at 1, or warm_start at False")
    if ensemble.strategy is not None:
        raise ValueError("strategy shares one net's batches among processes: leave n_models at 1, or strategy at None")
    ensemble._validate_params()
    backend = backends.get(ensemble.device)
    generator = check_random_state(ensemble.random_state)
    seeds = generator.randint(2**31 - 1, size=ensemble.n_models)
    nets = [clone(ensemble).set_params(n_models=1, random_state=int(seed)) for seed in seeds]

    def course(net: Any) -> EpochCoroutine:
        net.fit(X, y, sample_weight, validation_data=validation_data)
        return
        yield

    fused_epochs.run_concurrently(backend, [course(net) for net in nets])
    reset(ensemble)
    return combine(ensemble, nets)


def combine(ensemble: Any, nets: list[Any]) -> Any:
    """An ensemble of fitted estimators of one shape, which have learned the same targets."""
    for name in SHARED_ATTRIBUTES:
        if hasattr(nets[0], name):
            setattr(ensemble, name, getattr(nets[0], name))
    ensemble.estimators_ = nets
    ensemble.coefs_ = [np.stack(each) for each in zip(*(net.coefs_ for net in nets), strict=True)]
    ensemble.intercepts_ = [np.stack(each) for each in zip(*(net.intercepts_ for net in nets), strict=True)]
    ensemble.n_iter_ = max(net.n_iter_ for net in nets)
    ensemble.t_ = max(net.t_ for net in nets)
    ensemble.loss_ = float(np.mean([net.loss_ for net in nets]))
    if all(hasattr(net, "loss_curve_") for net in nets):
        ensemble.loss_curve_ = list(_means([net.loss_curve_ for net in nets]))
    return ensemble


def reset(estimator: Any) -> None:
    """Take away what an earlier fit, of one net or of several, has left."""
    for name in [name for name in vars(estimator) if name.endswith("_") or name in FITTED_STATE]:
        delattr(estimator, name)


def to_tensors(ensemble: Any, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the JSON metadata that a file of an ensemble holds: those of its nets, one after another."""
    parts = [net.to_tensors() for net in ensemble.estimators_]
    tensors = {f"nets.{k}/{name}": a for k, (arrays, _) in enumerate(parts) for name, a in arrays.items()}
    content = {"estimator": saving.to_json(ensemble, {}), "nets": [metadata for _, metadata in parts]}
    return tensors, {"kind": "estimator", "class": kind, "ensemble": content}


def from_tensors(
    cls: Any, tensors: dict[str, np.ndarray], content: dict[str, Any], custom: dict[str, Any] | None, device: str
) -> Any:
    """The inverse of `to_tensors`. CheckpointError where the nets do not fit each other, or are none."""
    nets = []
    for k, metadata in enumerate(content["nets"]):
        mine = {n.removeprefix(f"nets.{k}/"): a for n, a in tensors.items() if n.startswith(f"nets.{k}/")}
        net = cls.from_tensors(mine, metadata, custom=custom, device=device)
        if hasattr(net, "estimators_"):
            raise CheckpointError("it holds an ensemble of ensembles")
        nets.append(net)
    if not nets or len(tensors) != sum(len(net.coefs_) + len(net.intercepts_) for net in nets):
        raise CheckpointError(f"it holds {len(tensors)} arrays for {len(nets)} nets")
    facts = [([c.shape for c in net.coefs_], list(getattr(net, "classes_", ()))) for net in nets]
    if any(other != facts[0] for other in facts):
        raise CheckpointError("its nets have different shapes or classes")
    ensemble, _ = saving.from_json(cls, content["estimator"], custom)
    return combine(ensemble, nets)


def outputs(ensemble: Any, X: Any) -> np.ndarray:
    """aᴸ (E, n, n_outputs) of every net, for X that was checked."""
    return np.stack([net._forward_pass_fast(X, check_input=False) for net in ensemble.estimators_])


def _means(curves: list[list[float]]) -> Iterator[float]:
    """The mean loss after each epoch, over those nets that trained then."""
    for losses in zip_longest(*curves):
        yield float(np.mean([loss for loss in losses if loss is not None]))
