"""The command line: `gpunn train`, `gpunn predict`, `gpunn doctor`. `python -m gpunn` is the same."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from . import __version__, backend, kernels, optimizers
from .device_comparison import DeviceReport, compare_devices
from .io import load
from .kernels._compiler import host as kernel_compiler
from .layers import Dense, Dropout, Layer
from .model import Sequential
from .parallel import DataParallel, mpi_rank_and_size
from .tables import (
    ClassTarget,
    Frame,
    NumericTarget,
    TableEncoder,
    TableModel,
    as_floats,
    drop_missing_targets,
    infer_target,
    read_column,
    read_csv,
)
from .training import DivergenceError, History, checkpoint
from .training.callbacks import ModelCheckpoint
from .training.resume import model_tensors

BUNDLED = ("digits", "breast_cancer", "wine", "diabetes")
HELD_OUT = 5  # one row in five
LARGE = 20_000  # rows from which batches are larger
SEEN = 60_000  # rows times epochs, about, where --epochs is not given

TRAIN = """\
Train a network on a table and measure it on rows held out, one in five.

DATA is a CSV file whose first line names the columns, or one of scikit-learn's
bundled sets, which need no download: digits, breast_cancer, wine, diabetes.

Columns of numbers are standardised, and missing cells take the median; columns
of words become one input for each category. All of this is saved with the
network, so that `gpunn predict` answers in your own labels and units.

A cell is missing where it is empty or "?". In a column whose other cells are
all numbers, or all true or false, NA, NaN, null, None and the like are missing
too; elsewhere they are words.

Two files are written when training has ended: the model and a picture of its
training and validation curves. A file that exists is not overwritten."""

EXAMPLES = """\
examples:
  gpunn train digits
  mpiexec -n 4 gpunn train digits
  gpunn train houses.csv --target price --hidden 64,64 --epochs 200
  gpunn train pupils.csv --target grade --task regression --out grades"""

PREDICT = """\
Predict the target for every row of a CSV file, in the labels and units of the
table that the model was trained on. Columns are found by their names.

The answers are written as CSV, one line a row below a line with the target's
name. What could not be understood is counted on stderr."""


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why, in one line."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse prints the whole usage first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for a user's error (one line on stderr), or 130 after Ctrl-C."""
    with contextlib.ExitStack() as quiet:
        if _rank():
            # of the processes of one mpiexec the first one speaks; what it does not know ends the others aloud
            nowhere = quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))
            quiet.enter_context(contextlib.redirect_stdout(nowhere))
            quiet.enter_context(contextlib.redirect_stderr(nowhere))
        return _run(_parser().parse_args(arguments))


def _rank() -> int:
    """This process's number among those that one mpiexec started; 0 without one."""
    started = mpi_rank_and_size()
    return 0 if started is None else started[0]


def _run(options: argparse.Namespace) -> int:
    if _rank() and options.command != "train":
        # what cannot be shared the first process does
        return 0
    try:
        options.strategy = _strategy(options)
        with options.strategy.start().collective() if options.strategy is not None else contextlib.nullcontext():
            return int(options.run(options))
    except (ValueError, OSError, ImportError, MemoryError, backend.DeviceError, DivergenceError) as error:
        if isinstance(error, BrokenPipeError):
            # whoever read the answers has seen enough; Python would complain once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print(f"gpunn {options.command}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumable = getattr(options, "resume", False)
        what = "the same command goes on after the last whole epoch" if resumable else "nothing was written"
        print(f"gpunn {options.command}: interrupted, {what}", file=sys.stderr)
        return 130


def _strategy(options: argparse.Namespace) -> DataParallel | None:
    """How several processes of one mpiexec train together; None for one, and for other commands."""
    started = mpi_rank_and_size()
    return DataParallel() if options.command == "train" and started is not None and started[1] > 1 else None


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


# --- options ---


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="gpunn", description="Multi-layer perceptrons on NumPy and CuPy.")
    parser.add_argument("--version", action="version", version=f"gpunn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train", help="train a network on a table", description=TRAIN, epilog=EXAMPLES, formatter_class=layout
    )
    train.set_defaults(run=_train)
    train.add_argument("data", metavar="DATA", help="a CSV file, or digits, breast_cancer, wine, diabetes")
    train.add_argument("--target", metavar="COLUMN", help="the column to predict; a CSV file needs it")
    train.add_argument(
        "--task",
        choices=["auto", "regression", "classification"],
        default="auto",
        help="auto: text, true/false, or integers with at most 20 distinct values are classes",
    )
    net = train.add_argument_group("the network and its training")
    net.add_argument("--hidden", type=_sizes, default=(128, 64), metavar="N,N", help="hidden layers (default: 128,64)")
    net.add_argument("--activation", default="relu", metavar="NAME", help="of the hidden layers (default: relu)")
    net.add_argument(
        "--dropout", type=_fraction, default=0.2, metavar="P", help="after each hidden layer (default: 0.2)"
    )
    net.add_argument(
        "--epochs", type=_count, metavar="N", help="passes over the table (default: 5 to 100, fewer for larger tables)"
    )
    net.add_argument(
        "--batch-size", type=_count, metavar="N", help=f"rows a step (default: 32; 128 from {LARGE} rows on)"
    )
    net.add_argument(
        "--optimizer", default="adam", metavar="NAME", help="sgd, momentum, …, adam, adamw (default: adam)"
    )
    net.add_argument("--lr", type=_rate, metavar="RATE", help="learning rate (default: the optimizer's own)")
    net.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights, split and order (default: 0)")
    net.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 (default: auto)")
    net.add_argument("--precision", choices=["tf32", "bf16"], help="of products on a GPU (default: float32)")
    files = train.add_argument_group("files")
    files.add_argument("--out", metavar="FILE", help="the model (default: NAME.safetensors; the picture: NAME.png)")
    files.add_argument("--force", action="store_true", help="overwrite files that exist")
    files.add_argument(
        "--resume",
        action="store_true",
        help="keep a checkpoint beside the model (NAME.checkpoint.safetensors) while training, and go on from the one "
        "that an interrupted run of the same command left; it is removed when training has ended",
    )

    predict = commands.add_parser(
        "predict", help="predict the target of a table's rows", description=PREDICT, formatter_class=layout
    )
    predict.set_defaults(run=_predict)
    predict.add_argument("model", metavar="MODEL", help="what `gpunn train` wrote")
    predict.add_argument("data", metavar="FILE.csv", help="the rows to answer for")
    predict.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 (default: auto)")
    predict.add_argument("--out", metavar="FILE", help="where the answers go (default: stdout)")
    predict.add_argument("--force", action="store_true", help="overwrite a file that exists")

    doctor = commands.add_parser(
        "doctor", help="say what works on this machine", description="Say what works on this machine, and what to mend."
    )
    doctor.add_argument(
        "--compare",
        action="store_true",
        help="also train a small network on two devices and show how far they part: the GPU against the CPU where one "
        "works, else the kernels' compiled texts against their NumPy bodies",
    )
    doctor.set_defaults(run=_doctor)
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return value


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _fraction(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to below 1")
    return value


def _rate(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


# --- gpunn train ---


@dataclass(frozen=True)
class _Set:
    """A table to learn from: its rows, the column to predict, its name, and where it came from, in words.

    missing  what is written in the cells that lack a target, for the user
    """

    frame: Frame
    target: str
    name: str
    source: str
    missing: str = ""


# what nearly every training runs: a kernel of each text that is compiled, and its types
_SINGLE = {"T": "float32"}
USUAL = (
    *((name, _SINGLE) for name in ("identity", "relu", "dropout", "softmax", "sum_all", "adam", "sparse_accuracy")),
    *((name, {}) for name in ("check_finite", "adam_bias_correction", "gather_labels")),
    ("gather", {"T": "float32", "S": "float32"}),
    ("sum_all", {"T": "float64"}),
)


@contextlib.contextmanager
def _compiling_meanwhile() -> Iterator[None]:
    """Compile the usual kernels, where the cache lacks them, while pandas, scikit-learn and matplotlib are imported."""
    units = [kernel_compiler.unit_of(kernels.get(name), types) for name, types in USUAL]
    threads = [
        threading.Thread(target=kernel_compiler.precompile, args=(units,)),
        threading.Thread(target=backend.preload),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


def _train(options: argparse.Namespace) -> int:
    # a table may hold a mistake, which is answered at once, before anything is compiled
    with _compiling_meanwhile() if options.data in BUNDLED else contextlib.nullcontext():
        data = _bundled(options) if options.data in BUNDLED else _table(options)
        model_file, picture_file = _destinations(options, data)
        figure = _figure() if _rank() == 0 else None
    frame, dropped = drop_missing_targets(data.frame, data.target)
    target, seen = infer_target(frame[data.target], options.task)
    training, held_out = _split(frame, target, options.seed)
    encoding = TableEncoder.from_training_rows(frame, target, training)
    X, _ = encoding.encode(frame)
    y = target.encode(frame[data.target])

    is_class = isinstance(target, ClassTarget)
    metric = "accuracy" if is_class else "mean_absolute_error"
    net = Sequential(_layers(options, target), input_shape=X.shape[1], seed=options.seed)
    loss = "sparse_categorical_crossentropy" if is_class else "half_squared_error"
    with warnings.catch_warnings():
        # the summary says which device was taken and why
        warnings.simplefilter("ignore", backend.DeviceFallbackWarning)
        net.compile(
            _optimizer(options),
            loss,
            [metric],
            device=options.device,
            precision=options.precision,
            strategy=options.strategy,
        )
    batch_size = options.batch_size or (32 if len(training) < LARGE else 128)
    epochs = options.epochs or min(100, max(5, SEEN // len(training)))

    print(f"task: {_task(target)} of {data.target!r} ({seen}); change it with --task {_other(target)}")
    print(f"data: {data.source}, {len(training)} rows to learn from, {len(held_out)} held out, {X.shape[1]} inputs")
    print(net.summary(batch_size), flush=True)
    if dropped:
        print(f"{dropped} rows without a value in {data.target!r} are not used{data.missing}", file=sys.stderr)
    for note in encoding.notes:
        print(note, file=sys.stderr)
    kept = _checkpoint_file(model_file) if options.resume else None
    if kept is not None and kept.exists():
        print(f"going on from {kept}")
    history = net.fit(
        X[training],
        y[training],
        batch_size=batch_size,
        epochs=epochs,
        validation_data=(X[held_out], y[held_out]),
        callbacks=[] if kept is None else [ModelCheckpoint(kept)],
        resume=kept,
    )
    if _rank():
        return 0
    model = TableModel(net, encoding, data.source)
    score = _score(model, X[held_out], frame[data.target].iloc[held_out])
    _draw(figure, history, target, f"{data.name}: {score}", "training, with dropout" if options.dropout else "training")
    picture = _png(figure, data.source)
    model.save(model_file)
    checkpoint.write_bytes(picture_file, picture)
    if kept is not None:
        checkpoint.remove(kept)
    print(f"{score}\nmodel:   {model_file}\npicture: {picture_file}")
    return 0


def _bundled(options: argparse.Namespace) -> _Set:
    if options.target is not None:
        raise UsageError(f"--target is for CSV files; the bundled set {options.data} has its own")
    try:
        from sklearn import datasets
    except ImportError:
        raise ImportError(f'the set {options.data} comes with scikit-learn: pip install "gpunn[sklearn]"') from None
    more = {"scaled": False} if options.data == "diabetes" else {}
    bunch = getattr(datasets, f"load_{options.data}")(as_frame=True, **more)
    frame = bunch.frame
    if options.data in ("breast_cancer", "wine"):
        frame = frame.assign(target=[str(bunch.target_names[k]) for k in bunch.target])
    return _Set(frame, "target", options.data, f"scikit-learn's {options.data}")


def _table(options: argparse.Namespace) -> _Set:
    path = Path(options.data)
    if not path.exists():
        sets = f", and no bundled set has that name ({', '.join(BUNDLED)})" if not path.suffix else ""
        raise UsageError(f"there is no file {options.data}{sets}")
    frame = read_csv(path)
    if options.target is None:
        raise UsageError(f"--target COLUMN is missing: which column is to be predicted? {_names(frame)}")
    if options.target not in frame.columns:
        raise UsageError(f"{path} has no column {options.target!r}; {_names(frame)}")
    written, missing = read_column(path, options.target), frame[options.target].isna()
    spellings = set(written[~missing].str.strip())
    # 01 and 1 are two labels: a whole number with a leading zero is a word
    codes = any(re.fullmatch(r"[+-]?0\d+", spelling) for spelling in spellings)
    # missing cells make floats of integers, which hold no more than 15 digits for certain
    if frame[options.target].dtype.kind == "f" and all(re.fullmatch(r"[+-]?\d+", spelling) for spelling in spellings):
        codes = codes or max(map(len, spellings), default=0) > 15
    # the answers are True and False unless TRUE and FALSE are words
    truths = options.task != "regression" and spellings in ({"TRUE", "FALSE"}, {"true", "false"})
    if codes or truths:
        frame = frame.copy()
        frame[options.target] = written.mask(missing)
    return _Set(frame, options.target, path.stem, str(path), _counted(written[missing]))


def _counted(cells: Any) -> str:
    """The missing cells of a target as they are written, "" where all are empty."""
    counts = cells.str.strip().value_counts()
    if set(counts.index) <= {""}:
        return ""
    return ": " + ", ".join(f"{count} {word!r}" if word else f"{count} empty" for word, count in counts.items())


def _names(frame: Frame) -> str:
    names = [str(name) for name in frame.columns]
    return "there are: " + ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _layers(options: argparse.Namespace, target: ClassTarget | NumericTarget) -> list[Layer]:
    layers: list[Layer] = []
    for units in options.hidden:
        layers.append(Dense(units, activation=options.activation))
        if options.dropout:
            layers.append(Dropout(options.dropout))
    return [*layers, Dense(target.n_out, activation="softmax" if isinstance(target, ClassTarget) else "identity")]


def _optimizer(options: argparse.Namespace) -> optimizers.Optimizer:
    rule = optimizers.get(options.optimizer)
    return rule if options.lr is None else type(rule)(options.lr)


def _split(frame: Frame, target: ClassTarget | NumericTarget, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows to learn from and those held out: one in five, of every class alike."""
    n = len(frame)
    if n < HELD_OUT:
        raise UsageError(
            f"the table has {n} rows with a value in {target.name!r}; {HELD_OUT} are the least to learn from"
        )
    order = np.random.default_rng(seed).permutation(n)
    if isinstance(target, ClassTarget):
        order = order[np.argsort(target.encode(frame[target.name])[order], kind="stable")]
    held_out = np.arange(n) % HELD_OUT == HELD_OUT - 1
    return np.sort(order[~held_out]), np.sort(order[held_out])


def _task(target: ClassTarget | NumericTarget) -> str:
    return "classification" if isinstance(target, ClassTarget) else "regression"


def _other(target: ClassTarget | NumericTarget) -> str:
    return "regression" if isinstance(target, ClassTarget) else "classification"


def _score(model: TableModel, X: np.ndarray, cells: Any) -> str:
    """How good the answers for held-out rows are, in words and in the user's units."""
    target = model.encoder.target
    outputs = target.outputs(model.net, X)
    answers = target.decode(outputs)
    if isinstance(target, ClassTarget):
        right = int((np.array(target.labels)[target.encode(cells)] == answers).sum())
        return f"held-out accuracy {right / len(X):.4f} ({right} of {len(X)} rows right)"
    y = target.encode(cells)  # standardised, so that no square overflows or vanishes
    error, spread = float(((y - outputs) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    r2 = f"{1 - error / spread:.4f}" if spread else "undefined, all rows being equal"
    return f"held-out R² {r2} (mean absolute error {np.abs(as_floats(cells) - answers).mean():.4g} in {len(X)} rows)"


# --- files ---


def _destinations(options: argparse.Namespace, data: _Set) -> tuple[Path, Path]:
    """Where model and picture will go. UsageError where a file stands there, or none can be written."""
    bundled = options.data in BUNDLED
    model = Path(options.out or f"{data.name}.safetensors")
    picture = model.with_suffix(".png")
    if model == picture:
        raise UsageError(
            f"--out {options.out} names the model, and its picture takes the same name: choose another ending"
        )
    for path in (model, picture):
        _writable(path, not bundled and Path(options.data))
    there = [path for path in (model, picture) if os.path.lexists(path)]
    replaceable = bundled and options.out is None and all(_own(path, data.source) for path in there)
    if options.resume and _is_result_of(_checkpoint_file(model), model):
        replaceable = replaceable or picture not in there or _own(picture, data.source)
    if there and not options.force and not replaceable:
        raise UsageError(f"{there[0]} exists: --force overwrites it, --out FILE takes another name")
    return model, picture


def _writable(path: Path, *sources: Any) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is a device, a pipe or a socket, which is never replaced: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write {path.name} in")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"the folder {path.parent} cannot be written")
    for source in sources:
        if source and path.exists() and path.samefile(source):
            raise UsageError(f"{path} is read from, and would be overwritten: --out FILE takes another name")


def _checkpoint_file(model: Path) -> Path:
    """The checkpoint of `--resume` for a model file."""
    return model.with_suffix(".checkpoint.safetensors")


def _is_result_of(kept: Path, model: Path) -> bool:
    """True if the model has the weights of the checkpoint: a run was killed after it wrote the model and before it
    removed the checkpoint."""
    try:
        written = checkpoint.read(model)[0]
        last = model_tensors(*checkpoint.read(kept))
    except (OSError, ValueError):
        return False
    return written.keys() == last.keys() and all(np.array_equal(written[name], last[name]) for name in last)


def _own(path: Path, source: str) -> bool:
    """Whether a file is what an earlier run on the same bundled set wrote."""
    if path.suffix == ".png":
        return _comment(source).encode() in path.read_bytes()[:4096]
    try:
        return bool(checkpoint.read(path)[1]["table"]["source"] == source)
    except (ValueError, KeyError, TypeError):
        return False


def _comment(source: str) -> str:
    return f"gpunn train: {source}"


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('the picture of the curves needs matplotlib: pip install "gpunn[plot]"') from None
    return Figure(figsize=(9, 3.6), layout="constrained")


def _draw(figure: Any, history: History, target: ClassTarget | NumericTarget, title: str, training: str) -> None:
    """The loss and the metric over the epochs, in training and on the rows held out."""
    metric, scales, labels = "accuracy", {}, {"loss": "cross-entropy"}
    if isinstance(target, NumericTarget):
        metric = "mean_absolute_error"
        labels = {"loss": "half squared error, standardised", metric: _plain(f"mean absolute error of {target.name}")}
        scales = {metric: target.scale}
    history.plot(
        ["loss", metric], axes=figure.subplots(1, 2), labels=labels, scales=scales, names=(training, "held out")
    )
    figure.suptitle(_plain(title))


def _plain(text: str) -> str:
    """Text in which Matplotlib finds no formula."""
    return text.replace("$", r"\$")


def _png(figure: Any, source: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Description": _comment(source)})
    return file.getvalue()


# --- gpunn predict, gpunn doctor ---


def _predict(options: argparse.Namespace) -> int:
    if options.out is not None:
        out = Path(options.out)
        _writable(out, options.model, options.data)
        if os.path.lexists(out) and not options.force:
            raise UsageError(f"{out} exists: --force overwrites it, --out FILE takes another name")
    model = load(options.model, device=options.device)
    if not isinstance(model, TableModel):
        raise UsageError(
            f"{options.model} holds a network without the columns of a table: only `gpunn train` keeps them"
        )
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([model.target])
    write = str if isinstance(model.encoder.target, ClassTarget) else "{:.7g}".format  # the digits of float32
    lines.writerows([[write(answer)] for answer in model.predict(options.data)])
    if options.out is None:
        sys.stdout.write(text.getvalue())
        sys.stdout.flush()
    else:
        checkpoint.write_bytes(out, text.getvalue().encode())
    return 0


def _doctor(options: argparse.Namespace) -> int:
    report = backend.doctor()
    print(report)
    well = report.ok
    if options.compare:
        try:
            found = _small_comparison()
        except (backend.DeviceError, ValueError) as error:
            print(f"\nnothing to compare: {error}")
            return 1
        print(f"\n{found}")
        well = well and found.ok
    return 0 if well else 1


def _small_comparison() -> DeviceReport:
    """A network with a rectifier, dropout, tanh and a softmax on numbers drawn for it."""
    draws = np.random.default_rng(0)
    layers = [Dense(64, "relu"), Dropout(0.2), Dense(32, "tanh"), Dense(5, "softmax")]
    net = Sequential(layers, seed=0).compile("adam", "sparse_categorical_crossentropy")
    return compare_devices(net, draws.standard_normal((256, 20), dtype=np.float32), draws.integers(0, 5, 256))
