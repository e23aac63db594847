"""Opening any file that gpunn wrote: the kind in its metadata says what comes out."""

from __future__ import annotations

import os
from typing import Any

from . import estimators
from .model import Sequential
from .tabular import TableModel
from .training import checkpoint
from .training.checkpoint import CheckpointError
from .training.resume import model_tensors


def load(path: str | os.PathLike[str], *, custom: dict[str, Any] | None = None, device: str = "cpu") -> Any:
    """The model in a file: a `Sequential`, an estimator, or what `gpunn train` saved, with `predict(table)` and `.net`;
    of a checkpoint the model at that epoch.

    `custom` maps the names of the user's own layers, activations, losses and metrics to them. The optimiser's state
    begins anew. OSError where the file cannot be read, CheckpointError (a ValueError) where it is damaged or not
    gpunn's, ValueError where `custom` lacks a name.
    """
    tensors, metadata = checkpoint.read(path)
    tensors = model_tensors(tensors, metadata)
    kind = metadata.get("kind")
    try:
        if kind == "table":
            return TableModel.from_tensors(tensors, metadata, custom=custom, device=device)
        if kind == "estimator":
            cls = {name: getattr(estimators, name) for name in estimators.__all__}[metadata["class"]]
            return cls.from_tensors(tensors, metadata, custom=custom, device=device)
        return Sequential.from_tensors(tensors, metadata, custom=custom, device=device)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata does not describe a {kind!r}: {error!r}") from error
