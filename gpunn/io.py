"""Load a model from any file that gpunn wrote; the metadata names its kind."""

from __future__ import annotations

import os
from typing import Any

from . import estimators, tabular
from .model import Sequential
from .training import checkpoint
from .training.checkpoint import CheckpointError
from .training.resume import model_tensors


def load(path: str | os.PathLike[str], *, custom: dict[str, Any] | None = None, device: str = "cpu") -> Any:
    """Load a model from a file.

    Parameters
    ----------
    path : path
        A file of `Sequential.save`, an estimator's `save`, `gpunn train`, or a checkpoint of `ModelCheckpoint`.
    custom : dict, optional
        User-defined layers, activations, losses and metrics by name.
    device : str
        The device of the model.

    Returns
    -------
    Sequential, estimator, TabularClassifier or TabularRegressor
        The model; of a checkpoint, the model at that epoch. The optimizer's state is not restored. A file of `gpunn
        train` contains one of the last two.

    Raises
    ------
    OSError
        If the file cannot be read.
    CheckpointError
        If the file is damaged or not written by gpunn; a ValueError.
    ValueError
        If `custom` lacks a name.
    """
    tensors, metadata = checkpoint.read(path)
    tensors = model_tensors(tensors, metadata)
    kind = metadata.get("kind")
    try:
        if kind == "tabular":
            tabular_classes: dict[object, Any] = {name: getattr(tabular, name) for name in tabular.__all__}
            return tabular_classes[metadata["class"]].from_tensors(tensors, metadata, device=device)
        if kind == "table":
            raise CheckpointError(f"{path} is of an earlier version of `gpunn train`: train the model again")
        if kind == "estimator":
            estimator_classes: dict[object, Any] = {name: getattr(estimators, name) for name in estimators.__all__}
            return estimator_classes[metadata["class"]].from_tensors(tensors, metadata, custom=custom, device=device)
        return Sequential.from_tensors(tensors, metadata, custom=custom, device=device)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata does not describe a {kind!r}: {error!r}") from error
