"""The files that the commands write: their names, and checks made before any work begins."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..tabular.csv_file import STDIN
from ..training import checkpoint
from ..training.resume import read_callback_state
from .arguments import UsageError
from .training_table import TrainingTable

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class OutputFiles:
    """The files of one training."""

    model: Path

    @property
    def picture(self) -> Path:
        """The picture of the training curves, or of an ensemble's predictions."""
        return self.model.with_suffix(".png")

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that `--resume` continues from."""
        return self.model.with_suffix(".checkpoint.safetensors")


def output_files(options: argparse.Namespace, table: TrainingTable) -> OutputFiles:
    """Choose the files that a training will write. UsageError if one exists or cannot be written."""
    files = OutputFiles(_model_path(options.out or f"{table.name}{SUFFIX}"))
    for path in (files.model, files.picture, files.checkpoint):
        check_writable(path, *([] if table.bundled else [options.data]))
    existing = [path for path in (files.model, files.picture) if os.path.lexists(path)]
    if existing and not options.force and not _may_replace(existing, files, options, table):
        raise UsageError(f"{existing[0]} exists: --force overwrites it, --out FILE takes another name")
    if files.checkpoint.exists() and not (options.resume or options.force):
        raise UsageError(
            f"{files.checkpoint} exists, from an interrupted run: --resume continues it, --force starts a new one"
        )
    return files


def _model_path(name: str) -> Path:
    """The model's file, with the suffix added if the name has none. UsageError if it has another one."""
    path = Path(name)
    if path.suffix not in ("", SUFFIX):
        raise UsageError(
            f"--out must end in {SUFFIX} or have no ending, got {name}: write --out {path.with_suffix(SUFFIX)}"
        )
    return path if path.suffix or path.is_dir() else path.with_suffix(SUFFIX)


def check_writable(path: Path, *inputs: str) -> None:
    """Raise UsageError if a file cannot be written, or is one of the files that are read."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is a device, a pipe or a socket, which is never replaced: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write {path.name} in")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"the folder {path.parent} is not writable")
    for name in inputs:
        if name != STDIN and path.exists() and path.samefile(name):
            raise UsageError(f"{path} is read from and would be overwritten: --out FILE takes another name")


def description_tag(source: str) -> str:
    """The text in a picture's metadata by which a later run recognizes it."""
    return f"gpunn train: {source}"


def _may_replace(existing: list[Path], files: OutputFiles, options: argparse.Namespace, table: TrainingTable) -> bool:
    """True if an earlier run of the same command wrote the files."""
    if table.bundled and options.out is None and all(_was_written_for(path, table.source) for path in existing):
        return True
    if not options.resume or not _has_weights_of(files.model, files.checkpoint):
        return False
    return files.picture not in existing or _was_written_for(files.picture, table.source)


def _was_written_for(path: Path, source: str) -> bool:
    """True if an earlier run on the same data set wrote this model or picture."""
    if path.suffix == ".png":
        return description_tag(source).encode() in path.read_bytes()[:4096]
    try:
        metadata: dict[str, Any] = checkpoint.read(path)[1]
        return bool(metadata["table_file"]["source"] == source)
    except (ValueError, KeyError, TypeError):
        return False


def _has_weights_of(model: Path, saved: Path) -> bool:
    """True if the model has the best weights of the checkpoint: a run was killed before it removed the checkpoint."""
    try:
        arrays = checkpoint.read(model)[0].values()
        best = (read_callback_state(saved, "EarlyStopping") or {})["best_theta"]
        weights = np.concatenate([array.ravel() for array in arrays])
    except (OSError, ValueError, KeyError):
        return False
    return np.array_equal(np.sort(weights), np.sort(np.asarray(best)))  # the model's arrays have another order
