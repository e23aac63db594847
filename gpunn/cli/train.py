"""`gpunn train`: train an ensemble, or a single network, on a table."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend, optimizers
from ..layers import Dense, Dropout, Layer
from ..model import Sequential
from ..tabular import criteria
from ..tabular.ensemble import HOLD_OUT, TrainingSet, predict
from ..tabular.saving import FittedModel, labels_to_config
from ..tabular.settings import N_NETWORKS
from ..tabular.table import Table
from ..tabular.target_scale import TargetScale
from ..tabular.targets import ClassTarget
from ..training import DivergenceError, History
from ..training.callbacks import Callback, EarlyStopping, EpochLogger, ModelCheckpoint, ProgressBar
from ..training.callbacks.base import Logs
from ..training.files import remove, write_bytes
from . import curves, scores, train_ensemble
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
from .output_files import description_tag, output_files
from .precompile import precompiling
from .problem import Problem, read_problem
from .training_table import BUNDLED, load_table

LARGE_TABLE_ROWS = 20_000  # training rows from which the default batch is larger
MIN_ROWS = HOLD_OUT  # of which one is a validation row
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
ENSEMBLE_OPTIONS = ("networks", "time_limit", "metric", "test")

HELP = "train an ensemble, or a single network, on a table"
DESCRIPTION = """\
Train an ensemble of networks on a table. It is measured on test rows, one row
in five, which no network has seen; then it is trained again on all rows. With
--test FILE, the rows of that file are the test rows, and it is trained once.
The command reports scores by label and the score of the most frequent label, or
R² and errors of numbers, and the importance of the columns.

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
training curves. Existing files are not overwritten. Ctrl-C ends the training of
an ensemble with the networks that are trained so far. The training of a single
network is continued by the same command with --resume, from its last
checkpoint; one is written about every second, after a complete epoch."""

EXAMPLES = """\
examples:
  gpunn train digits
  mpiexec -n 4 gpunn train digits
  gpunn train houses.csv --target price --drop id --categorical zip
  gpunn train churn.csv --target left --class-weight balanced --time-limit 60
  gpunn train houses.csv --target price --hidden 64,64 --epochs 200
  gpunn train pupils.csv --target grade --task regression --out grades"""


@dataclass(frozen=True)
class _Encoded:
    """A problem as arrays: training and validation rows, and the scale of numeric targets, None for classes."""

    training: TrainingSet
    validation: TrainingSet
    scale: TargetScale | None

    @property
    def unit(self) -> float | None:
        """The unit of standardized targets, None for classes."""
        return None if self.scale is None else self.scale.deviation


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
        default=None,
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
    group.add_argument(
        "--class-weight", metavar="WEIGHTS", help="balanced, or a JSON object of weights by label: '{\"yes\": 5}'"
    )


def _add_ensemble_arguments(group: Any) -> None:
    group.add_argument(
        "--networks", type=positive_integer, metavar="N", help=f"networks to train (default: {N_NETWORKS})"
    )
    group.add_argument("--time-limit", type=positive_number, metavar="SECONDS", help="for all trainings together")
    group.add_argument(
        "--metric",
        metavar="NAME",
        help=f"the measure of the predictions: {_with_default(criteria.OF_CLASSES)} for classes, "
        f"{_with_default(criteria.OF_NUMBERS)} for numbers",
    )
    group.add_argument("--test", metavar="FILE", help="a CSV file of test rows (default: one row in five)")


def _with_default(names: Iterable[str]) -> str:
    """The names, of which the first is the default."""
    first, *others = names
    return ", ".join([f"{first} (default)", *others])


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
    single = options.hidden is not None or options.data == "digits"
    _check_kind(options, single=single)
    if not single:
        return train_ensemble.run(options)
    vars(options).update({name: value for name, value in SINGLE_DEFAULTS.items() if getattr(options, name) is None})
    return _run_single(options)


def _check_kind(options: argparse.Namespace, *, single: bool) -> None:
    """Raise UsageError for an option that is not for a single network, or for an ensemble."""
    given = [name for name in SINGLE_DEFAULTS if getattr(options, name) is not None]
    if n_processes() > 1 and not single:
        raise UsageError("an ensemble is trained by one process: --hidden N,N trains one network on several processes")
    if given and not single:
        raise UsageError(f"--{given[0].replace('_', '-')} is for a single network, which --hidden N,N trains")
    ensemble_only = [name for name in ENSEMBLE_OPTIONS if getattr(options, name) not in (None, ())]
    if ensemble_only and single:
        raise UsageError(f"--{ensemble_only[0].replace('_', '-')} is for an ensemble: leave out --hidden")


def _run_single(options: argparse.Namespace) -> int:
    """Train one network."""
    # a CSV file may be invalid, which is reported before anything is compiled
    with precompiling() if options.data in BUNDLED else contextlib.nullcontext():
        data = load_table(options)
        files = output_files(options, data)
        options.checkpoint = files.checkpoint  # which the message after Ctrl-C names
        figure = curves.new_figure() if process_rank() == 0 else None
        problem = read_problem(data, options, MIN_ROWS)
        encoded = _encode(problem)
        net = _compile(encoded.training, options)
        problem.report("validation")  # before the kernels are compiled
    n_training = len(problem.training)
    batch_size = options.batch_size or (32 if n_training < LARGE_TABLE_ROWS else 128)
    epochs = options.epochs or min(100, max(5, TARGET_SAMPLES // n_training))
    print(net.summary(batch_size), flush=True)
    best = EarlyStopping(patience=epochs)  # it ends no fit, and restores the epoch of the smallest validation loss
    begun = time.monotonic()
    history = _fit(net, encoded, options, batch_size, epochs, best)
    if figure is not None:  # the process of rank 0
        settings = {
            "best_epoch": None if best.best_epoch is None else best.best_epoch + 1,
            "seconds": time.monotonic() - begun,
            **{name: getattr(options, name) for name in ("hidden", "activation", "dropout", "optimizer", "seed")},
            "batch_size": batch_size,
            "epochs": epochs,
        }
        if best.best_epoch is not None:
            print(f"best epoch: {best.best_epoch + 1} of {epochs}, validation loss {best.best:.4g}")
        model, lines = _as_model(net, problem, encoded, settings, options)
        title = f"{data.name}: validation {lines[0]}"
        curves.draw(figure, history, data.target, encoded.unit, title, has_dropout=bool(options.dropout))
        picture = curves.as_png(figure, description_tag(data.source))
        model.save(files.model)
        write_bytes(files.picture, picture)
        remove(files.checkpoint)
        print("validation " + "\n".join(lines))
        print(f"model:   {files.model}\npicture: {files.picture}")
    return 0


def _encode(problem: Problem) -> _Encoded:
    """Encode inputs and targets. Numbers are standardized with the scale of the training rows."""
    y = problem.y[problem.training]
    scale = None if problem.is_classification else TargetScale.fit(y)
    training = _encode_rows(problem, problem.table.take(problem.training), y, scale)
    return _Encoded(training, _encode_rows(problem, problem.test, problem.y_test, scale), scale)


def _encode_rows(problem: Problem, table: Table, y: np.ndarray, scale: TargetScale | None) -> TrainingSet:
    """Inputs, targets and weights of some rows as arrays."""
    X, w = problem.encoder.encode(table)[0], problem.sample_weight(y)
    if isinstance(problem.target, ClassTarget):
        labels = np.array(problem.target.labels)
        return TrainingSet(X, np.searchsorted(labels, y).astype(np.int32), w, len(labels))
    assert scale is not None
    return TrainingSet(X, scale.standardize(y), w, 1)


def _compile(data: TrainingSet, options: argparse.Namespace) -> Sequential:
    """The network that the options describe, ready for training. Its outputs are logits or standardized values."""
    layers: list[Layer] = []
    for units in options.hidden:
        layers.append(Dense(units, activation=options.activation))
        if options.dropout:
            layers.append(Dropout(options.dropout))
    layers.append(Dense(data.n_out))
    net = Sequential(layers, input_shape=data.X.shape[1], seed=options.seed)
    optimizer = optimizers.get(options.optimizer)
    with warnings.catch_warnings():
        # the summary reports the device and the reason for it
        warnings.simplefilter("ignore", backend.DeviceFallbackWarning)
        return net.compile(
            optimizer if options.lr is None else type(optimizer)(options.lr),
            "sparse_categorical_crossentropy" if data.classes else "half_squared_error",
            ["accuracy" if data.classes else "mean_absolute_error"],
            device=options.device,
            precision=options.precision,
            strategy=options.strategy,
        )


def _fit(
    net: Sequential, encoded: _Encoded, options: argparse.Namespace, batch_size: int, epochs: int, best: EarlyStopping
) -> History:
    """Train, from the checkpoint if there is one to resume from."""
    if options.resume and options.checkpoint.exists():
        print(f"resuming from {options.checkpoint}")
    if not options.resume and process_rank() == 0:
        remove(options.checkpoint)  # --force
    training, validation = encoded.training, encoded.validation
    try:
        return net.fit(
            training.X,
            training.y,
            sample_weight=training.w,
            batch_size=batch_size,
            epochs=epochs,
            validation_data=(validation.X, validation.y, validation.w)[: 2 if validation.w is None else 3],
            callbacks=[best, _progress(encoded.unit), _Checkpoint(options.checkpoint)],
            resume=options.checkpoint if options.resume else None,
            verbose=0,
        )
    except DivergenceError:
        if not options.resume and process_rank() == 0:
            remove(options.checkpoint)  # the same command would diverge again
        raise


def _as_model(
    net: Sequential, problem: Problem, encoded: _Encoded, settings: dict[str, Any], options: argparse.Namespace
) -> tuple[FittedModel, list[str]]:
    """The model with one network, and its validation scores as lines."""
    validation, scale = encoded.validation, encoded.scale
    outputs = predict(net, validation.X, classes=validation.classes)
    criterion = criteria.get(None, classes=validation.classes)
    loss = float(criterion.loss(outputs, validation.y, validation.w))
    target: dict[str, Any]
    if isinstance(problem.target, ClassTarget):
        labels = np.array(problem.target.labels)
        target = {"classes": labels_to_config(labels)}
        lines = scores.of_classes(labels, problem.y_test, outputs, problem.y[problem.training])
    else:
        assert scale is not None
        target = scale.get_config() | {"residual_std": scale.deviation * math.sqrt(loss)}
        lines = scores.of_numbers(problem.y_test, scale.restore(outputs[:, 0]))
    parameters = {
        "n_networks": 1,
        "categorical": options.categorical,
        "dates": options.date,
        "random_state": options.seed,
        "device": options.device,
    }
    row = {"network": 0, "weight": 1.0, "validation_loss": loss, "validation_metric": loss, "fold": 0, **settings}
    class_name = "TabularClassifier" if validation.classes else "TabularRegressor"
    model = FittedModel(
        class_name, parameters, problem.encoder, [net], [1.0], target, [row], table_file=problem.table_file
    )
    return model, lines


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


def _progress(unit: float | None) -> Callback:
    """A progress bar in a terminal if tqdm is installed, else one line per epoch; errors in the user's units."""
    scales = {} if unit is None else {"mean_absolute_error": unit}
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            return ProgressBar(scales)
    return EpochLogger(scales)
