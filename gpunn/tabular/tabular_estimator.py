"""The part of `TabularClassifier` and `TabularRegressor` that does not depend on the kind of target."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..interchange.onnx_graph import Graph
from ..model import Sequential
from ..training.checkpoint import CheckpointError
from ..training.fit import thread_limit
from ..training.interrupts import run_concurrently
from ..validation import positive, positive_integer, scalar
from . import criteria, ensemble, onnx_export, saving
from .csv_columns import CsvColumns
from .ensemble import TrainedNetwork, TrainingSet
from .feature_encoder import FeatureEncoder, encoder_of
from .progress import Progress
from .settings import N_NETWORKS
from .sklearn_bases import BaseEstimator, NotFittedError
from .table import Table, read_table
from .target_checks import check_names, generator_from

MAX_ROWS_FOR_FOLDS = 10_000  # larger tables have one part of validation rows
N_FOLDS = 5
MAX_ENCODED_CELLS = 2e9  # encoded cells times networks
MIN_NETWORKS = 4
PREDICTION_ROWS = 1 << 16  # rows that are encoded together
BLOCK = 64  # rows

_log = logging.getLogger("gpunn")


class Importance(NamedTuple):
    """The importance of a column: the mean increase of the loss over permutations, and its standard error."""

    mean: float
    standard_error: float


class TabularEstimator(BaseEstimator):
    """The methods of `TabularClassifier` and `TabularRegressor` that do not depend on the kind of target."""

    _is_classifier: ClassVar[bool]
    n_features_in_: int
    feature_names_in_: np.ndarray
    leaderboard_: list[dict[str, Any]]
    columns_: dict[str, str]
    interrupted_: bool
    table_file: dict[str, Any] | None = None  # of `gpunn train`: the target's name, and how its file is read
    _encoder: FeatureEncoder
    _networks: list[Sequential]
    _weights: np.ndarray

    def __init__(
        self,
        n_networks: int = N_NETWORKS,
        *,
        time_limit: float | None = None,
        metric: str | None = None,
        categorical: Sequence[str] = (),
        dates: Sequence[str] = (),
        random_state: Any = 0,
        n_jobs: int | None = None,
        device: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.n_networks = n_networks
        self.time_limit = time_limit
        self.metric = metric
        self.categorical = categorical
        self.dates = dates
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.device = device
        self.verbose = verbose

    # --- training ---

    def _train(
        self, table: Table, y: np.ndarray, n_out: int, w: np.ndarray | None
    ) -> tuple[list[TrainedNetwork], TrainingSet]:
        """Encode the table, train, and set the fitted attributes."""
        begun = time.monotonic()
        n_networks = positive_integer("n_networks", self.n_networks)
        deadline = None if self.time_limit is None else begun + positive("time_limit", self.time_limit)
        criterion = criteria.get(self.metric, classes=self._is_classifier)
        if table.n_rows < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 samples of positive weight, one to train and one to validate, "
                f"got n_samples = {table.n_rows}"
            )
        encoder = encoder_of(table, categorical=self.categorical, dates=self.dates)
        encoded, _ = encoder.encode(table)
        n_networks = _within_limit(n_networks, encoded)
        n_folds = min(N_FOLDS, n_networks, table.n_rows) if table.n_rows <= MAX_ROWS_FOR_FOLDS else 1
        data = TrainingSet(encoded, y, w, n_out)
        threads = None if self.n_jobs in (None, -1) else positive_integer("n_jobs", self.n_jobs)
        progress_bar = Progress(n_networks, deadline, visible=bool(self.verbose))
        with thread_limit(threads, "n_jobs"), progress_bar as progress:
            members, interrupted = ensemble.train(
                data, n_networks, n_folds, generator_from(self.random_state), criterion=criterion, device=self.device,
                deadline=deadline, report=progress,
            )  # fmt: skip
        for note in encoder.notes:
            _log.info(note)
        selected = [member for member in members if member.weight]
        self._encoder, self._networks = encoder, [member.net for member in selected]
        self.interrupted_ = interrupted
        self._weights = np.array([member.weight for member in selected])
        self._set_columns(list(table.columns), named=table.named)
        self.leaderboard_ = [_described(k, member) for k, member in enumerate(members)]
        return members, data

    # --- prediction ---

    def _outputs(self, X: Any) -> np.ndarray:
        """The outputs (k, n, n_out) of the members for the rows of a table."""
        self._require_fitted()
        table = X if isinstance(X, Table) else self._as_trained(read_table(X))
        if table.n_rows == 0:
            raise ValueError("X must have at least one row, got an empty table (0 samples)")
        parts = []
        for first in range(0, table.n_rows, PREDICTION_ROWS):
            rows = np.arange(first, min(first + PREDICTION_ROWS, table.n_rows))
            parts.append(self._outputs_of(self._encode(table if len(rows) == table.n_rows else table.take(rows))))
            finite_rows = np.isfinite(parts[-1]).all(axis=(0, 2))
            if not finite_rows.all():
                raise ValueError(
                    f"the output for row {rows[finite_rows.argmin()]} of X is not finite: its numbers are too far from "
                    "those of the training rows"
                )
        return np.concatenate(parts, axis=1)

    def _encode(self, table: Table) -> np.ndarray:
        """The inputs (n, n_in) of a table with the columns of training."""
        encoded, notes = self._encoder.encode(table)
        for note in notes:
            _log.warning(note)
        return encoded

    def _outputs_of(self, encoded: np.ndarray) -> np.ndarray:
        """The outputs (k, n, n_out) of the members for encoded rows."""
        n, n_in = encoded.shape
        # with full blocks, the rounding of a row depends less on the number of rows
        padded = np.concatenate([encoded, np.zeros((-n % BLOCK, n_in), np.float32)]) if n % BLOCK else encoded
        outputs: list[np.ndarray] = [padded] * len(self._networks)

        def predict(k: int) -> None:
            outputs[k] = ensemble.predict(self._networks[k], padded, classes=self._is_classifier)[:n]

        # each in one thread, so that the bits do not depend on the number of threads
        tasks = [partial(predict, k) for k in range(len(outputs))]
        backend = self._networks[0]._net.backend
        if min(backend.max_concurrent_fits(), len(tasks)) > 1:
            run_concurrently(backend, tasks)
        else:
            with backend.single_threaded():
                for task in tasks:
                    task()
        return np.stack(outputs)

    def permutation_importance(
        self, X: Any, y: Any, n_repeats: int = 5, random_state: Any = 0
    ) -> dict[str, Importance]:
        """The importance of each column: the increase of the mean loss if its cells are permuted among the rows.

        The loss is −log of the probability of the label, or the squared error in units of the target's variance; with
        the metric "absolute_error" it is the absolute error in units of its standard deviation. (E3)

        Parameters
        ----------
        X, y : table and array-like (n,)
            Rows and targets, best those that were not used in training.
        n_repeats : int
            The number of permutations per column.
        random_state : int, Generator, RandomState or None
            Of the permutations.

        Returns
        -------
        dict of Importance
            Mean increase and its standard error by column, in decreasing order; 0 for a column that was left out.

        Raises
        ------
        ValueError, TypeError
            As for predictions, or a target that training did not see.

        References
        ----------
        Breiman 2001; Fisher, Rudin and Dominici 2019.
        """
        self._require_fitted()
        n_repeats = positive_integer("n_repeats", n_repeats)
        table = X if isinstance(X, Table) else self._as_trained(read_table(X))
        targets = self._encode_targets(y, table.n_rows)
        encoded, _ = self._encoder.encode(table)
        generator = generator_from(random_state)
        criterion = criteria.get(self.metric, classes=self._is_classifier)

        def loss(inputs: np.ndarray) -> float:
            return float(criterion.loss(np.tensordot(self._weights, self._outputs_of(inputs), 1), targets, None))

        before, left = loss(encoded), 0
        found = dict.fromkeys(self._encoder.names, Importance(0.0, 0.0))
        for column in self._encoder.columns:
            permuted, own = encoded.copy(), slice(left, left + column.width)
            increases = np.empty(n_repeats)
            for k in range(n_repeats):
                permuted[:, own] = encoded[generator.permutation(len(encoded)), own]
                increases[k] = loss(permuted) - before
            error = increases.std(ddof=1) / np.sqrt(n_repeats) if n_repeats > 1 else np.nan
            found[column.name] = Importance(float(increases.mean()), float(error))
            left += column.width
        return dict(sorted(found.items(), key=lambda item: -item[1].mean))

    def _encode_targets(self, y: Any, n: int) -> np.ndarray:
        """Targets as the networks are trained on them."""
        raise NotImplementedError

    def _as_trained(self, table: Table) -> Table:
        """A table with the columns of the training table. ValueError if they differ."""
        given, expected = list(table.columns), list(self._encoder.names)
        if table.named and hasattr(self, "feature_names_in_"):
            check_names(given, expected)
        if len(given) != len(expected):
            raise ValueError(
                f"X has {len(given)} features, but {type(self).__name__} is expecting {len(expected)} features as input"
            )
        return table if given == expected else table.renamed(expected)

    # --- files ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file, atomically. `gpunn.load` opens it.

        Parameters
        ----------
        path : str or path
            An existing file stays unchanged if writing fails.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            For a `random_state` that is neither an integer nor None.
        OSError
            If the file cannot be written.
        """
        self._require_fitted()
        parameters = {name: scalar(value) for name, value in self.get_params().items()}
        if not isinstance(parameters["random_state"], (int, type(None))):
            raise TypeError(
                f"random_state must be an integer or None to be saved, got {parameters['random_state']!r}: "
                "set_params(random_state=None) does not change the fitted model"
            )
        saving.FittedModel(
            type(self).__name__,
            parameters,
            self._encoder,
            self._networks,
            self._weights.tolist(),
            self._fitted_config(),
            self.leaderboard_,
            interrupted=self.interrupted_,
            named=hasattr(self, "feature_names_in_"),
            table_file=self.table_file,
        ).save(path)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the encoding of the table and the networks as one ONNX graph, atomically.

        The graph has one input (N, 1) per column that is used, by name: float64 for numbers, NaN if missing; text for
        categories, the empty text if missing; float64 days since 1970-01-01 for dates. A classifier has the outputs
        "label" (N,) and "probabilities" (N, number of labels), a regressor "variable" (N,), float64.

        Parameters
        ----------
        path : str or path
            An existing file stays unchanged if writing fails.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ImportError
            If onnx is not installed (extra `onnx`).
        OSError
            If the file cannot be written.
        """
        self._require_fitted()
        onnx_export.write(path, self._encoder.columns, self._networks, self._weights, self._add_onnx_outputs)

    def _add_onnx_outputs(self, graph: Graph, outputs: list[str], weights: np.ndarray) -> None:
        raise NotImplementedError

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], metadata: dict[str, Any], *, device: str = "cpu") -> Any:
        """The inverse of `save`. CheckpointError if the file's parts do not fit one another."""
        lists = {name: tuple(value) for name, value in metadata["parameters"].items() if isinstance(value, list)}
        model = cls(**(metadata["parameters"] | lists))
        try:
            encoder = FeatureEncoder.from_config(metadata["encoder"])
            n_out = model._restore(metadata["fitted"])
            if metadata["table_file"] is not None:
                CsvColumns.from_config(metadata["table_file"]["csv"])
            model._networks, model._weights = saving.networks(tensors, metadata, encoder.width, n_out, device)
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"the encoding of the table's columns or the target is invalid: {error}") from error
        model._encoder = encoder
        model._set_columns(list(encoder.names), named=bool(metadata["named"]))
        model.leaderboard_ = metadata["leaderboard"]
        model.interrupted_ = bool(metadata["interrupted"])
        if metadata["table_file"] is not None:
            model.table_file = metadata["table_file"]
        return model

    def _fitted_config(self) -> dict[str, Any]:
        """The fitted facts of the target, as JSON data."""
        raise NotImplementedError

    def _restore(self, fitted: dict[str, Any]) -> int:
        """Set the fitted facts of the target, and return the number of outputs."""
        raise NotImplementedError

    def _set_columns(self, names: list[str], *, named: bool) -> None:
        """Set the attributes that describe the columns."""
        self.n_features_in_ = len(names)
        self.__dict__.pop("feature_names_in_", None)
        if named:
            self.feature_names_in_ = np.array(names, dtype=object)
        self.columns_ = self._encoder.describe()

    def _require_fitted(self) -> None:
        if not hasattr(self, "_networks"):
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments first."
            )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_networks")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.non_deterministic = self.random_state is None or self.time_limit is not None
        return tags


def _described(number: int, member: TrainedNetwork) -> dict[str, Any]:
    """A row of the leaderboard."""
    return {
        "network": number,
        "weight": member.weight,
        "validation_loss": member.loss,
        "validation_metric": member.metric,
        "fold": member.fold,
        "best_epoch": member.epoch,
        "seconds": member.seconds,
        **vars(member.settings),
    }


def _within_limit(n_networks: int, encoded: np.ndarray) -> int:
    """The number of networks, fewer for very large tables, with a warning."""
    most = max(MIN_NETWORKS, int(MAX_ENCODED_CELLS // encoded.size))
    if n_networks <= most:
        return n_networks
    warnings.warn(
        f"the table has {encoded.shape[0]} rows × {encoded.shape[1]} encoded inputs: {most} networks are trained "
        f"instead of n_networks={n_networks}",
        stacklevel=4,
    )
    return most
