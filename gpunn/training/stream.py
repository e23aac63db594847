"""Training on a stream: batches that somebody makes one after another, of which no more than one is held.

A stream is an object with `__iter__` that is no array, list or table, or a function that returns one. It gives (x, y)
or (x, y, sample_weight), whose sizes may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any

from ..kernels import Launch
from ..network import Network
from .history import History
from .loop import DeviceDataset, FitContext, RepeatedStep, batch_step, train, training_plan

ARRAYS = ("__array__", "__dlpack__", "__cuda_array_interface__", "to_numpy", "tocsr", "detach")


def is_stream(X: Any) -> bool:
    """Whether X gives batches, rather than being an array or something that makes one."""
    if isinstance(X, (Sequence, Mapping, Set)) or any(hasattr(X, name) for name in ARRAYS):
        return False
    return hasattr(X, "__iter__") or callable(X)


class Stream:
    """The batches of X, epoch after epoch, as X gives them.

    X      an object that can be walked through again and again, or a function that gives such an object or an iterator:
           every epoch begins anew. Or an iterator, a generator say: an epoch goes on where the last one ended
    steps  the number of batches of an epoch; None is all that X gives

    TypeError where X gives no iterator, ValueError where an epoch has fewer batches than `steps`, or none.
    """

    def __init__(self, X: Any, steps: int | None = None) -> None:
        self.steps = steps
        self._X = X
        self._pending: Iterator[Any] | None = None
        self.single_pass = not callable(X) and iter(X) is X

    def peek(self) -> Any:
        """The first batch, which the next epoch begins with all the same."""
        batches = self._begin()
        try:
            first = next(batches)
        except StopIteration:
            raise ValueError(f"X gives no batch: {self._hint()}") from None
        self._pending = chain([first], batches)
        return first

    def epoch(self) -> Iterator[Any]:
        """The batches of the next epoch."""
        batches = self._begin()
        if self.single_pass:
            self._pending = batches
        taken = 0
        while self.steps is None or taken < self.steps:
            try:
                batch = next(batches)
            except StopIteration:
                if self.steps is not None or taken == 0:
                    wanted = "at least one is needed" if self.steps is None else f"steps_per_epoch={self.steps}"
                    raise ValueError(
                        f"X ended after {taken} batches of an epoch, but {wanted}: {self._hint()}"
                    ) from None
                return
            taken += 1
            yield batch

    def _begin(self) -> Iterator[Any]:
        if self._pending is not None:
            begun, self._pending = self._pending, None
            return begun
        if self.single_pass:
            return iter(self._X)
        made = self._X() if not hasattr(self._X, "__iter__") else self._X
        if not isinstance(made, Iterable):
            raise TypeError(f"X() must return an iterator of batches, got {type(made).__name__}")
        return iter(made)

    def _hint(self) -> str:
        if self.single_pass:
            return "an iterator gives its batches once; pass a function that makes a new one for every epoch"
        return "it must give batches anew in every epoch"


def fit(
    net: Network, stream: Stream, check: Callable[[Any, int], DeviceDataset], context: FitContext, **run: Any
) -> History:
    """Train on the batches of a stream, as `loop.fit` does on a set; `check(batch, number)` brings them to the device.

    `run` holds epochs, first_epoch and done, as there.
    """

    def step(data: DeviceDataset, plans: ExitStack) -> list[Launch]:
        plan = plans.enter_context(training_plan(net, data.n, weighted=data.w is not None))
        return batch_step(plan, data)

    def steps_of(epoch: int) -> Iterator[RepeatedStep]:
        for number, batch in enumerate(stream.epoch()):
            data = check(batch, number)
            with ExitStack() as plans:
                yield RepeatedStep(partial(step, data, plans))

    return train(net, steps_of, context, **run)
