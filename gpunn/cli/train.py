"""`gpunn train`: train a network on a table."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend, optimizers
from ..layers import Dense, Dropout, Layer
from ..model import Sequential
from ..tabular import TableEncoder, TableModel
from ..tabular.cells import Cells, Frame
from ..tabular.targets import ClassTarget, NumericTarget, Target, drop_missing_targets, infer_target
from ..training import DivergenceError, History
from ..training.callbacks import Callback, EarlyStopping, EpochLogger, ModelCheckpoint, ProgressBar
from ..training.callbacks.base import Logs
from ..training.files import remove, write_bytes
from . import curves, train_ensemble
from .arguments import (
    UsageError,
    dropout_rate,
    learning_rate,
    n_processes,
    names,
    positive_integer,
    positive_integers,
    positive_number,
    process_rank,
    seed,
)
from .output_files import OutputFiles, description_tag, output_files
from .precompile import precompiling
from .training_table import BUNDLED, HELD_OUT, TrainingTable, hold_out, load_table, task_line

LARGE_TABLE_ROWS = 20_000  # training rows from which the default batch is larger
CHECKPOINT_SECONDS = 1.0  # between two checkpoints
TARGET_SAMPLES = 60_000  # training rows times epochs, approximately, if --epochs is not given

SINGLE_DEFAULTS: dict[str, Any] = {
    "hidden": (128, 64),
    "activation": "relu",
    "dropout": 0.2,
    "epochs": None,
    "batch_size": None,
    "optimizer": "adam",
    "lr": None,
    "precision": None,
    "resume": False,
}
ENSEMBLE_OPTIONS = "networks time_limit metric test drop categorical date decimal class_weight".split()

HELP = "train a network on a table"
DESCRIPTION = """\
Train an ensemble of networks on a table. It is measured on test rows, one row
in five, which no network has seen; then it is trained again on all rows. The
command reports scores by label, the score of the most frequent label, and the
importance of the columns.

--hidden N,N trains a single network instead, as for digits. It keeps the epoch
of the smallest loss on validation rows, one row in five, which also measure it.

DATA is a CSV file whose first line names the columns, or one of scikit-learn's
bundled data sets, which need no download: digits, breast_cancer, wine,
diabetes. The file is in UTF-8 and may be compressed by gzip; - is stdin.

Numbers are scaled, and missing cells take the median and are marked. Categories
become one input each, dates become days, year, month, weekday and hour. Columns
of identifiers are left out. All of this is saved with the networks, so that
`gpunn predict` returns your own labels and units.

Numbers may have a decimal comma, thousands separators, a currency sign or a
percent sign (37% is 37), if a column can be read in one way only. "1,234" may
be 1234 or 1.234: such a column is text, which is reported. Lines may be
separated into cells by commas, semicolons, tabs or bars.

A cell is missing if it is empty or "?". In a column whose other cells are all
numbers, or all true or false, "-", NA, NaN, null, None and similar words are
missing too; in other columns they are text.

Two files are written after training: the model, and a picture of predictions or
training curves. Existing files are not overwritten. After Ctrl-C, an ensemble
keeps the networks that are trained so far. The training of a single network is
continued by the same command with --resume, from its last checkpoint; one is
written about every second, after a complete epoch."""

EXAMPLES = """\
examples:
  gpunn train digits
  mpiexec -n 4 gpunn train digits
  gpunn train houses.csv --target price --drop id --categorical zip
  gpunn train churn.csv --target left --class-weight balanced --time-limit 60
  gpunn train houses.csv --target price --hidden 64,64 --epochs 200
  gpunn train pupils.csv --target grade --task regression --out grades"""


@dataclass(frozen=True)
class _Problem:
    """A table as arrays: inputs X, encoded targets y, and the indices of training and validation rows."""

    encoder: TableEncoder
    X: np.ndarray
    y: np.ndarray
    training: np.ndarray
    validation: np.ndarray
    validation_cells: Cells
    description: str
    n_without_target: int

    @property
    def target(self) -> Target:
        """The target."""
        return self.encoder.target

    @property
    def is_classification(self) -> bool:
        """True for classes, False for numbers."""
        return isinstance(self.target, ClassTarget)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "data", metavar="DATA", help="a CSV file, - for stdin, or digits, breast_cancer, wine, diabetes"
    )
    parser.add_argument("--target", metavar="COLUMN", help="the column to predict (required for a CSV file)")
    parser.add_argument(
        "--task",
        choices=["auto", "regression", "classification"],
        default="auto",
        help="auto: text, true/false, or integers with at most 20 distinct values are classes",
    )
    _add_table_arguments(parser.add_argument_group("table"))
    _add_ensemble_arguments(parser.add_argument_group("ensemble, the default"))
    _add_network_arguments(parser.add_argument_group("a single network, trained with --hidden"))
    both = parser.add_argument_group("training")
    both.add_argument("--seed", type=seed, default=0, metavar="N", help="of weights, split and order (default: 0)")
    both.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 (default: auto)")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--out",
        metavar="FILE",
        help="the model, NAME or NAME.safetensors (default: the name of DATA); its picture is NAME.png",
    )
    files.add_argument("--force", action="store_true", help="overwrite existing files")
    files.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted training of a single network from NAME.checkpoint.safetensors, which is written "
        "during training and removed after it",
    )


def _add_table_arguments(group: Any) -> None:
    group.add_argument("--drop", type=names, default=(), metavar="COLUMNS", help="columns that are not used: A,B")
    group.add_argument(
        "--categorical", type=names, default=(), metavar="COLUMNS", help="columns of categories, for example zip codes"
    )
    group.add_argument("--date", type=names, default=(), metavar="COLUMNS", help="columns of dates, such as 2026-01-31")
    group.add_argument("--sep", metavar="CHARACTER", help="between two cells (default: found in the first line)")
    group.add_argument(
        "--decimal", choices=[".", ","], metavar="MARK", help="the decimal mark of numbers that may be read in two ways"
    )
    group.add_argument("--encoding", metavar="NAME", help="of the file, for example cp1252 (default: UTF-8)")
    group.add_argument("--test", metavar="FILE", help="a CSV file of test rows (default: one row in five)")


def _add_ensemble_arguments(group: Any) -> None:
    group.add_argument("--networks", type=positive_integer, metavar="N", help="networks to train (default: 40)")
    group.add_argument("--time-limit", type=positive_number, metavar="SECONDS", help="for both trainings together")
    group.add_argument(
        "--metric",
        metavar="NAME",
        help="what predictions are measured by: log_loss (default), accuracy, balanced_accuracy, roc_auc for classes; "
        "squared_error (default) or absolute_error for numbers",
    )
    group.add_argument(
        "--class-weight", metavar="WEIGHTS", help="balanced, or a JSON object of weights by label: '{\"yes\": 5}'"
    )


def _add_network_arguments(group: Any) -> None:
    group.add_argument("--hidden", type=positive_integers, metavar="N,N", help="hidden layers, for example 128,64")
    group.add_argument("--activation", metavar="NAME", help="of the hidden layers (default: relu)")
    group.add_argument("--dropout", type=dropout_rate, metavar="P", help="after each hidden layer (default: 0.2)")
    group.add_argument(
        "--epochs",
        type=positive_integer,
        metavar="N",
        help="passes over the table (default: 5 to 100, fewer for larger tables)",
    )
    group.add_argument(
        "--batch-size",
        type=positive_integer,
        metavar="N",
        help=f"rows per step (default: 32; 128 from {LARGE_TABLE_ROWS} training rows)",
    )
    group.add_argument("--optimizer", metavar="NAME", help="sgd, momentum, …, adam, adamw (default: adam)")
    group.add_argument("--lr", type=learning_rate, metavar="RATE", help="learning rate (default: the optimizer's)")
    group.add_argument("--precision", choices=["tf32", "bf16"], help="of matrix products on a GPU (default: float32)")


def run(options: argparse.Namespace) -> int:
    """Train, and write the model and its picture."""
    if _trains_ensemble(options):
        return train_ensemble.run(options)
    return _run_single(options)


def _trains_ensemble(options: argparse.Namespace) -> bool:
    """True if the command trains an ensemble. Otherwise the defaults of a single network are filled in."""
    single = options.hidden is not None or options.data == "digits"
    given = [name for name in SINGLE_DEFAULTS if getattr(options, name) not in (None, False)]
    if n_processes() > 1 and not single:
        raise UsageError("an ensemble is trained by one process: --hidden N,N trains one network on several processes")
    if given and not single:
        raise UsageError(f"--{given[0].replace('_', '-')} is for a single network, which --hidden N,N trains")
    ensemble_only = [name for name in ENSEMBLE_OPTIONS if getattr(options, name) not in (None, ())]
    if ensemble_only and single:
        raise UsageError(f"--{ensemble_only[0].replace('_', '-')} is for an ensemble: leave out --hidden")
    if single:
        vars(options).update({name: value for name, value in SINGLE_DEFAULTS.items() if getattr(options, name) is None})
    return not single


def _run_single(options: argparse.Namespace) -> int:
    """Train one network."""
    # a CSV file may be invalid, which is reported before anything is compiled
    with precompiling() if options.data in BUNDLED else contextlib.nullcontext():
        table = load_table(options)
        files = output_files(options, table)
        options.checkpoint = files.checkpoint
        figure = curves.new_figure() if process_rank() == 0 else None
        problem = _encode(table, options)
        net = _compile(problem, options)
        _report(problem, table)  # before the kernels are compiled
    n_training = len(problem.training)
    batch_size = options.batch_size or (32 if n_training < LARGE_TABLE_ROWS else 128)
    epochs = options.epochs or min(100, max(5, TARGET_SAMPLES // n_training))
    print(net.summary(batch_size), flush=True)
    best = EarlyStopping(patience=epochs)  # it ends no fit, and restores the epoch of the smallest validation loss
    history = _fit(net, problem, options, batch_size, epochs, best)
    if figure is not None:  # the process of rank 0
        if best.best_epoch is not None:
            print(f"best epoch: {best.best_epoch + 1} of {epochs}, validation loss {best.best:.4g}")
        score = _score(net, problem)
        curves.draw(figure, history, problem.target, f"{table.name}: {score}", has_dropout=bool(options.dropout))
        _write(TableModel(net, problem.encoder, table.source), figure, files)
        print(f"{score}\nmodel:   {files.model}\npicture: {files.picture}")
    return 0


def _encode(table: TrainingTable, options: argparse.Namespace) -> _Problem:
    """Split the rows, learn the encoding from the training rows, and encode the table."""
    frame, n_without_target = drop_missing_targets(table.frame, table.target)
    target, description = infer_target(frame[table.target], options.task)
    training, validation = _split(frame, target, options.seed)
    encoder = TableEncoder.from_training_rows(frame, target, training)
    X, _ = encoder.encode(frame)
    cells = frame[table.target]
    y = target.encode(cells)
    return _Problem(encoder, X, y, training, validation, cells.iloc[validation], description, n_without_target)


def _split(frame: Frame, target: Target, random_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices of training and validation rows, stratified by class."""
    n = len(frame)
    if n < HELD_OUT:
        raise UsageError(f"the table must have at least {HELD_OUT} rows with a value in {target.name!r}, got {n} rows")
    classes = target.encode(frame[target.name]) if isinstance(target, ClassTarget) else None
    return hold_out(classes, n, random_seed)


def _compile(problem: _Problem, options: argparse.Namespace) -> Sequential:
    """The network that the options describe, ready for training."""
    layers: list[Layer] = []
    for units in options.hidden:
        layers.append(Dense(units, activation=options.activation))
        if options.dropout:
            layers.append(Dropout(options.dropout))
    layers.append(Dense(problem.target.n_out, activation="softmax" if problem.is_classification else "identity"))
    net = Sequential(layers, input_shape=problem.X.shape[1], seed=options.seed)
    optimizer = optimizers.get(options.optimizer)
    with warnings.catch_warnings():
        # the summary reports the device and the reason for it
        warnings.simplefilter("ignore", backend.DeviceFallbackWarning)
        return net.compile(
            optimizer if options.lr is None else type(optimizer)(options.lr),
            "sparse_categorical_crossentropy" if problem.is_classification else "half_squared_error",
            ["accuracy" if problem.is_classification else "mean_absolute_error"],
            device=options.device,
            precision=options.precision,
            strategy=options.strategy,
        )


def _report(problem: _Problem, table: TrainingTable) -> None:
    """Print the task and the table, and on stderr the rows and columns that are not used."""
    print(task_line(table.target, problem.description, is_classification=problem.is_classification))
    print(
        f"data: {table.source}, {len(problem.training)} training rows, {len(problem.validation)} validation rows, "
        f"{problem.X.shape[1]} inputs",
        flush=True,
    )
    if problem.n_without_target:
        print(
            f"{problem.n_without_target} rows without a value in {table.target!r} are not used{table.missing_targets}",
            file=sys.stderr,
        )
    for note in problem.encoder.notes:
        print(note, file=sys.stderr)


def _fit(
    net: Sequential, problem: _Problem, options: argparse.Namespace, batch_size: int, epochs: int, best: EarlyStopping
) -> History:
    """Train, from the checkpoint if there is one to resume from."""
    if options.resume and options.checkpoint.exists():
        print(f"resuming from {options.checkpoint}")
    if not options.resume and process_rank() == 0:
        remove(options.checkpoint)  # --force
    try:
        return net.fit(
            problem.X[problem.training],
            problem.y[problem.training],
            batch_size=batch_size,
            epochs=epochs,
            validation_data=(problem.X[problem.validation], problem.y[problem.validation]),
            callbacks=[best, _progress(problem.target), _Checkpoint(options.checkpoint)],
            resume=options.checkpoint if options.resume else None,
            verbose=0,
        )
    except DivergenceError:
        if not options.resume and process_rank() == 0:
            remove(options.checkpoint)  # the same command would diverge again
        raise


class _Checkpoint(ModelCheckpoint):
    """Write a checkpoint after the last epoch, and after another one if a second has passed since the last writing."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._written_at = time.monotonic()

    def on_epoch_complete(self, epoch: int, logs: Logs | None = None) -> None:
        is_last = epoch + 1 == self.params["epochs"]
        # a file per epoch would slow down short epochs
        if is_last or time.monotonic() - self._written_at >= CHECKPOINT_SECONDS:
            super().on_epoch_complete(epoch, logs)
            self._written_at = time.monotonic()


def _progress(target: Target) -> Callback:
    """A progress bar in a terminal if tqdm is installed, else one line per epoch; errors in the user's units."""
    scales = {"mean_absolute_error": target.scale} if isinstance(target, NumericTarget) else {}
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            return ProgressBar(scales)
    return EpochLogger(scales)


def _score(net: Sequential, problem: _Problem) -> str:
    """The validation accuracy, or R² and the mean absolute error in the user's units."""
    target, cells = problem.target, problem.validation_cells
    outputs = target.outputs(net, problem.X[problem.validation])
    predictions = target.decode(outputs)
    n = len(predictions)
    if isinstance(target, ClassTarget):
        n_correct = int((np.array(target.labels)[target.encode(cells)] == predictions).sum())
        return f"validation accuracy {n_correct / n:.4f} ({n_correct} of {n} rows correct)"
    y = target.encode(cells)  # standardized, so that no square overflows or underflows
    squared_error, variance = float(((y - outputs) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    r2 = f"{1 - squared_error / variance:.4f}" if variance else "undefined because all rows are equal"
    error = np.abs(y - outputs).mean() * target.scale
    return f"validation R² {r2} (mean absolute error {error:.4g} in {n} rows)"


def _write(model: TableModel, figure: Any, files: OutputFiles) -> None:
    """Write the model and the picture, then remove the checkpoint."""
    picture = curves.as_png(figure, description_tag(model.source))
    model.save(files.model)
    write_bytes(files.picture, picture)
    remove(files.checkpoint)
