"""Files of `TabularClassifier` and `TabularRegressor`: networks as arrays, everything else as JSON, without pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model import Sequential
from ..training import checkpoint
from ..training.checkpoint import CheckpointError
from .feature_encoder import FeatureEncoder

LABEL_KINDS = "biufU"  # NumPy's kinds of labels that a file can contain


@dataclass(frozen=True)
class FittedModel:
    """A fitted `TabularClassifier` or `TabularRegressor`, without the class: `gpunn train` imports no scikit-learn.

    class_name   of the estimator
    parameters   of the estimator, as JSON data
    encoder      of the columns
    networks     the networks with a weight
    weights      (k,) of the networks, which sum to 1
    target       the fitted facts of the target, as JSON data
    leaderboard  all trained networks
    interrupted  True if Ctrl-C ended the training
    named        True if the training table has names
    table_file   of `gpunn train`: the target's name, and how its file is read
    """

    class_name: str
    parameters: Mapping[str, Any]
    encoder: FeatureEncoder
    networks: Sequence[Sequential]
    weights: Sequence[float]
    target: Mapping[str, Any]
    leaderboard: list[dict[str, Any]]
    interrupted: bool = False
    named: bool = True
    table_file: dict[str, Any] | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file, atomically."""
        tensors: dict[str, np.ndarray] = {}
        members = []
        for k, (net, weight) in enumerate(zip(self.networks, self.weights, strict=True)):
            arrays, description = net.to_tensors()
            tensors |= {f"{k}.{name}": array for name, array in arrays.items()}
            members.append({"net": description | {"compiled": None}, "weight": float(weight)})
        metadata = {
            "kind": "tabular",
            "class": self.class_name,
            "parameters": dict(self.parameters),
            "fitted": dict(self.target),
            "named": self.named,
            "encoder": self.encoder.get_config(),
            "leaderboard": self.leaderboard,
            "interrupted": self.interrupted,
            "table_file": self.table_file,
            "members": members,
        }
        checkpoint.write(path, tensors, metadata)


def networks(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any], width: int, n_out: int, device: str
) -> tuple[list[Sequential], np.ndarray]:
    """The networks of a file and their weights. CheckpointError unless they have `width` inputs and `n_out` outputs."""
    found = []
    for k, member in enumerate(metadata["members"]):
        prefix = f"{k}."
        own = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        net = Sequential.from_tensors(own, member["net"], device=device)
        if (net._net.n_in, net._net.n_out) != (width, n_out):
            raise CheckpointError(
                f"network {k} has {net._net.n_in} inputs and {net._net.n_out} outputs, but its table makes {width} "
                f"inputs and {n_out} outputs"
            )
        found.append(net)
    weights = np.array([float(member["weight"]) for member in metadata["members"]])
    if not found or not np.isclose(weights.sum(), 1) or (weights <= 0).any():
        raise CheckpointError(f"the weights of its networks must be positive and sum to 1, got {weights.tolist()}")
    return found, weights


def labels_to_config(classes: np.ndarray) -> dict[str, Any]:
    """Labels as JSON data. TypeError for labels that a file cannot contain."""
    if classes.dtype.kind not in LABEL_KINDS:
        raise TypeError(f"a file can contain labels that are texts, numbers or booleans, got {classes.dtype}")
    return {"values": classes.tolist(), "dtype": "U" if classes.dtype.kind == "U" else classes.dtype.str}


def labels_from_config(config: Mapping[str, Any]) -> np.ndarray:
    """The inverse of `labels_to_config`. CheckpointError if the data is invalid."""
    dtype = np.dtype(config["dtype"])
    if dtype.kind not in LABEL_KINDS:
        raise CheckpointError(f"its labels must be texts, numbers or booleans, got {dtype}")
    labels = np.array(config["values"], dtype="U" if dtype.kind == "U" else dtype)
    if labels.ndim != 1 or len(np.unique(labels)) != len(labels) or len(labels) < 2:
        raise CheckpointError(f"its labels must be at least two different ones, got {config['values']!r}")
    return labels
