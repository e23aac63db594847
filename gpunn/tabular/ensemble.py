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
from .selection import select, softmax
from .settings import Settings

Targets = np.ndarray  # class indices (n,), or standardized values (n, 1)

HOLD_OUT = 5  # one row in five validates the networks of a single fold
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


def predict(net: CallbackModel | Sequential, X: np.ndarray, *, classes: bool) -> np.ndarray:
    """Probabilities or standardized values (n, n_out) of a network, float64."""
    outputs = np.asarray(net.predict(X), dtype=np.float64)
    return softmax(outputs) if classes else outputs


class KeepBestEpoch(Callback):
    """Evaluate the validation rows after every epoch, and restore the parameters of the best epoch at the end.

    Halfway through its epochs, the training ends if the smallest loss so far is above the median of `rivals`, the final
    losses of other networks: such a network is unlikely to be selected (Golovin et al. 2017, median stopping rule). It
    also ends with the epoch in which `deadline` passes, a value of `time.monotonic`.
    """

    def __init__(
        self, rows: TrainingSet, criterion: Criterion, epochs: int, rivals: Sequence[float], deadline: float | None
    ) -> None:
        self._rows, self._criterion, self._deadline = rows, criterion, deadline
        self._halfway = -(-epochs // 2)
        self._limit = float(np.median(rivals)) if rivals else np.inf
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
    # classes, or neighbouring values, are dealt out in turn
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
) -> list[TrainedNetwork]:
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
        A value of `time.monotonic`, after which networks end with their current epoch, and no further ones are started.
        Those of the first group always are.
    report : callable
        Called after each group of networks with the members so far.

    Returns
    -------
    list of TrainedNetwork
        In the order of training; those of a network that diverged in its first epoch are left out.

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
    try:
        for group in _groups(n_networks, n_folds):
            if members and deadline is not None and time.monotonic() >= deadline:
                _log.warning(f"time_limit: {group[0]} of {n_networks} networks are trained and used")
                break
            plan = [(k % n_folds, planned[k]) for k in group]
            members += _train_group(task, plan, members)
            report(members)
    except KeyboardInterrupt:
        if not members:
            raise
        _log.warning(f"interrupted: {len(members)} of {n_networks} networks are trained and used")
    if not members:
        raise DivergenceError("all networks diverged in their first epoch: remove extreme numbers from the table")
    for fold in {member.fold for member in members}:
        of_fold = [member for member in members if member.fold == fold]
        y, w = validation[fold].y, validation[fold].w
        weights = select(criterion, np.stack([member.outputs for member in of_fold]), y, w)
        for member, weight in zip(of_fold, weights, strict=True):
            member.weight = float(weight) / len({each.fold for each in members})
            member.metric = float(criterion.metric(member.outputs, y, w))
    return members


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
    """Train networks concurrently, each on the rows outside its fold. Those trained `earlier` are their rivals."""
    begun = time.monotonic()
    data = task.data
    n, n_in = data.X.shape
    candidates = []
    keepers = []
    for fold, settings in group:
        rivals = [member.loss for member in earlier if member.fold == fold]
        keeper = KeepBestEpoch(task.validation[fold], task.criterion, settings.epochs, rivals, task.deadline)
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
