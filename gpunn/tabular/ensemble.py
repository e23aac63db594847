"""Train an ensemble: networks with sampled settings, each validated on rows that it was not trained on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..losses import Loss
from ..model import Sequential
from ..multi_fit import fit_many
from ..training import DivergenceError
from ..training.callbacks import Callback
from ..training.callbacks.base import CallbackModel, Logs
from . import settings as sampled
from .criteria import Criterion
from .selection import select
from .settings import Settings

Targets = np.ndarray  # class indices (n,), or standardized values (n, 1)

HOLD_OUT = 5  # one row in five is held out if there are no folds
GROUP = 4

_log = logging.getLogger("gpunn")


@dataclass(frozen=True)
class TrainingSet:
    """Encoded training rows.

    X  (n, n_in) float32
    y  (n,) class indices, or (n, 1) standardized values
    w  (n,) sample weights, or None
    n_out  outputs of a network
    """

    X: np.ndarray
    y: Targets
    w: np.ndarray | None
    n_out: int

    @property
    def classes(self) -> bool:
        """True for class indices."""
        return self.y.ndim == 1

    def take(self, rows: np.ndarray) -> TrainingSet:
        """Some of the rows."""
        return TrainingSet(self.X[rows], self.y[rows], None if self.w is None else self.w[rows], self.n_out)


@dataclass(eq=False)
class TrainedNetwork:
    """A network with the facts of its training.

    settings  of its training
    fold      the part of the rows that validated it
    rows      these rows
    net       with the parameters of its best epoch
    outputs   (n_validation, n_out) predictions of the validation rows at that epoch
    loss      their mean loss
    epoch     the number of epochs after which the loss was smallest
    seconds   of training, with those trained concurrently
    weight    in the average prediction
    metric    of `outputs`
    """

    settings: Settings
    fold: int
    rows: np.ndarray
    net: Sequential
    outputs: np.ndarray
    loss: float
    epoch: int
    seconds: float
    weight: float = 0.0
    metric: float = 0.0


def softmax(z: np.ndarray) -> np.ndarray:
    """a = eᶻ / Σ eᶻ of the last axis, in float64, so that a row's rounding does not depend on the other rows. (E2)"""
    e = np.exp(z - z.max(axis=-1, keepdims=True), dtype=np.float64)
    a: np.ndarray = e / e.sum(axis=-1, keepdims=True)
    return a


def predict(net: CallbackModel | Sequential, X: np.ndarray, *, classes: bool) -> np.ndarray:
    """Probabilities or standardized values (n, n_out) of a network, float64."""
    outputs = np.asarray(net.predict(X), dtype=np.float64)
    return softmax(outputs) if classes else outputs


class KeepBestEpoch(Callback):
    """Evaluate the validation rows after every epoch, and restore the parameters of the best epoch at the end.

    After half of its epochs, rounded up, the training ends if its smallest loss exceeds the median of `earlier_losses`,
    the smallest losses of networks that were trained before. Such a network is unlikely to be selected. This simplifies
    the median stopping rule of Golovin et al. 2017. The training also ends with the epoch in which `deadline` passes, a
    value of `time.monotonic`.
    """

    def __init__(
        self,
        rows: TrainingSet,
        criterion: Criterion,
        epochs: int,
        earlier_losses: Sequence[float],
        deadline: float | None,
    ) -> None:
        self._rows, self._criterion, self._deadline = rows, criterion, deadline
        self._halfway = -(-epochs // 2)
        self._limit = float(np.median(earlier_losses)) if earlier_losses else np.inf
        self.loss, self.epoch = np.inf, 0
        self.outputs: np.ndarray | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        X, y, w = self._rows.X, self._rows.y, self._rows.w
        outputs = predict(self.model, X, classes=self._rows.classes)
        loss = float(self._criterion.loss(outputs, y, w))
        if loss < self.loss:
            self.loss, self.epoch, self.outputs = loss, epoch + 1, outputs
            self._weights = self.model.get_weights()
        worse = epoch + 1 == self._halfway and self.loss > self._limit
        if worse or (self._deadline is not None and time.monotonic() >= self._deadline):
            self.model.stop_training = True

    def on_divergence(self, error: ArithmeticError) -> None:
        self.model.stop_training = True  # the best epoch so far is kept

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.outputs is not None:
            self.model.set_weights(self._weights)


def folds(y: Targets, count: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Disjoint validation rows of `count` folds, stratified by class or by value. One fold has one row in HOLD_OUT."""
    order = generator.permutation(len(y))
    # classes, or neighboring values, are dealt out in turn
    order = order[np.argsort(y.reshape(len(y))[order], kind="stable")]
    parts = min(max(count, HOLD_OUT), len(y)) if count == 1 else count
    return [np.sort(order[k::parts]) for k in range(count)]


def train(
    data: TrainingSet,
    n_networks: int,
    n_folds: int,
    generator: np.random.Generator,
    *,
    criterion: Criterion,
    device: str,
    deadline: float | None = None,
    report: Callable[[list[TrainedNetwork]], None] = lambda members: None,
) -> tuple[list[TrainedNetwork], bool]:
    """Train the networks, network i validated on fold i mod `n_folds`, and weight them by `select` in each fold.

    The weights of the folds are averaged, so that the prediction is the mean over folds of their selected averages.

    Parameters
    ----------
    data : TrainingSet
    n_networks, n_folds : int
        Their numbers, with n_networks ≥ n_folds.
    generator : numpy Generator
        Draws folds, settings and seeds.
    criterion : Criterion
        Its loss trains the networks and chooses their epochs, its metric selects them.
    device : str
        The device of the networks.
    deadline : float or None
        A value of `time.monotonic`, after which no further group of networks is started. The networks of the current
        group end with their current epoch, or with their first.
    report : callable
        Called after each group of networks with the members so far.

    Returns
    -------
    members : list of TrainedNetwork
        In the order of training, without networks that diverged in their first epoch.
    interrupted : bool
        True if Ctrl-C ended the training.

    Raises
    ------
    DivergenceError
        All networks diverged.
    KeyboardInterrupt
        On Ctrl-C before the first group is complete. Later, the networks of complete groups are used.
    """
    rows = folds(data.y, n_folds, generator)
    validation = [data.take(each) for each in rows]
    n_training = len(data.y) - len(rows[0])
    size = sampled.batch_size(n_training)
    planned = sampled.sample(n_networks, n_folds, -(-n_training // size), generator)
    task = _Task(data, rows, validation, size, criterion, device, deadline)
    members: list[TrainedNetwork] = []
    late = interrupted = False
    try:
        for group in _groups(n_networks, n_folds):
            if late and members:
                break
            plan = [(k % n_folds, planned[k]) for k in group]
            members += _train_group(task, plan, members)
            report(members)
            late = deadline is not None and time.monotonic() >= deadline
    except KeyboardInterrupt:
        if not members:
            raise
        interrupted = True
    if late or interrupted:
        reason = "interrupted" if interrupted else "time_limit"
        _log.warning(f"{reason}: the training ended with {len(members)} of {n_networks} networks")
    if not members:
        raise DivergenceError("all networks diverged in their first epoch: remove extreme numbers from the table")
    _set_weights(members, validation, criterion)
    return members, interrupted


def _set_weights(members: list[TrainedNetwork], validation: list[TrainingSet], criterion: Criterion) -> None:
    """Select the networks of each fold, and set weights, whose sum is equal in all folds, and metrics."""
    used_folds = {member.fold for member in members}
    for fold in used_folds:
        of_fold = [member for member in members if member.fold == fold]
        y, w = validation[fold].y, validation[fold].w
        weights = select(criterion, np.stack([member.outputs for member in of_fold]), y, w)
        for member, weight in zip(of_fold, weights, strict=True):
            member.weight = float(weight) / len(used_folds)
            member.metric = float(criterion.metric(member.outputs, y, w))


def _groups(n_networks: int, n_folds: int) -> Iterator[range]:
    """Networks that are trained concurrently: one per fold, or GROUP networks of a single fold."""
    size = n_folds if n_folds > 1 else GROUP
    for first in range(0, n_networks, size):
        yield range(first, min(first + size, n_networks))


@dataclass(frozen=True)
class _Task:
    """The common part of all groups of networks.

    rows        the validation rows of each fold
    validation  their inputs, targets and weights
    size        rows per step
    """

    data: TrainingSet
    rows: list[np.ndarray]
    validation: list[TrainingSet]
    size: int
    criterion: Criterion
    device: str
    deadline: float | None


def _train_group(
    task: _Task, group: Sequence[tuple[int, Settings]], earlier: list[TrainedNetwork]
) -> list[TrainedNetwork]:
    """Train networks concurrently, each on the rows outside its fold. Losses of `earlier` ones decide which stop."""
    begun = time.monotonic()
    data = task.data
    n, n_in = data.X.shape
    candidates = []
    keepers = []
    for fold, settings in group:
        losses = [member.loss for member in earlier if member.fold == fold]
        keeper = KeepBestEpoch(task.validation[fold], task.criterion, settings.epochs, losses, task.deadline)
        keepers.append(keeper)
        training = np.delete(np.arange(n), task.rows[fold])
        steps = settings.epochs * -(-len(training) // task.size)
        candidates.append(
            {"settings": settings, "steps": steps, "rows": training, "epochs": settings.epochs, "callbacks": [keeper]}
        )
    build = partial(_build, n_in=n_in, n_out=data.n_out, loss=task.criterion.training_loss, device=task.device)
    try:
        fitted = fit_many(build, data.X, data.y, candidates, batch_size=task.size, sample_weight=data.w)
    except DivergenceError as error:
        fitted = error.fitted  # type: ignore[attr-defined]
    seconds = time.monotonic() - begun
    return [
        TrainedNetwork(settings, fold, task.rows[fold], each.net, keeper.outputs, keeper.loss, keeper.epoch, seconds)
        for (fold, settings), each, keeper in zip(group, fitted, keepers, strict=True)
        if keeper.outputs is not None
    ]


def _build(settings: Settings, steps: int, *, n_in: int, n_out: int, loss: Loss, device: str) -> Sequential:
    return settings.network(n_in, n_out, loss=loss, steps=steps, device=device)
