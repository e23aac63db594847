"""Recorded epochs that pass from net to net: of many nets of one shape, few record their steps.

While somebody trains many nets (`kept`), the recording of a fit that is over waits for the next net of that shape and
is given its arrays, where the device can do so (`Backend.make_rebindable`). The steps are the same, and so is the fit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..backend.epoch_runner import BufferRebinder, EpochRunner
from ..network import CompressedRows, Network
from ..recording import Array

MAX_ENTRIES = 16  # kinds of recordings, and drawings, that wait at most
HASHABLE = (type(None), bool, int, float, str, type)
# what of a layer no step depends on, and its λ, which is set anew
IGNORED_FIELDS = ("kernel_initializer", "bias_initializer", "owned", "l2")


@dataclass
class Recording:
    """Epochs as they were recorded for one net, with what belongs to them.

    order    (rows of the epochs,), the rows in their order
    record   (epochs, 2 + sums), what each epoch came to
    set_l2   sets the λ of every penalty, in their order
    movable  gives them the arrays of another net; None where that cannot be
    """

    runner: EpochRunner
    order: Array
    epoch_log: Array
    set_l2: Callable[[list[float]], None]
    movable: BufferRebinder | None = None


class _Cache:
    """Recordings that wait, by what they are of."""

    def __init__(self) -> None:
        self.users = 0
        self.lock = threading.Lock()
        self.recordings: dict[Any, list[Recording]] = {}
        self.draws: dict[Any, Any] = {}


_cache = _Cache()


@contextmanager
def reuse() -> Iterator[None]:
    """Meanwhile recordings wait for other nets, in all of this process; afterwards their memory is given back."""
    with _cache.lock:
        _cache.users += 1
    try:
        yield
    finally:
        with _cache.lock:
            _cache.users -= 1
            if not _cache.users:
                _cache.recordings.clear()
                _cache.draws.clear()


def memoize_draw(key: Any, draw: Callable[[], Any]) -> Any:
    """What `draw` draws, which is the same for the same key: while many nets are trained, it is drawn once for those
    that begin alike, the candidates of one fold say."""
    if not _cache.users:
        return draw()
    with _cache.lock:
        found = _cache.draws.get(key)
    if found is None:
        found = draw()
        with _cache.lock:
            _cache.draws[key] = found
            while len(_cache.draws) > MAX_ENTRIES:
                _cache.draws.pop(next(iter(_cache.draws)))
    return found


@contextmanager
def acquire(net: Network, data: Any, shape_key: Any, make: Callable[[], Recording]) -> Iterator[Recording]:
    """A recording for that net and set: one that waits, or else what `make` makes. `extent` is what else it depends on:
    sizes of batches, epochs at once; None keeps it from waiting."""
    key = None if shape_key is None or not _cache.users else _key_for(net, data, shape_key)
    if key is None:
        yield make()
        return
    with _cache.lock:
        waiting = _cache.recordings.get(key)
        found = waiting.pop() if waiting else None
    if found is None:
        found = make()
        found.movable = net.backend.make_rebindable(found.runner, _arrays(net, data))
    elif found.movable is not None:
        found.movable.rebind(_arrays(net, data))
        # no step writes the gradient of a frozen layer, but clipping and the non-finite check read it
        net.gradient.fill(0)
        found.runner.state = net.state
        found.set_l2([p.l2 for p in net.penalties()])
    yield found
    if found.movable is not None:
        with _cache.lock:
            if _cache.users:
                _cache.recordings.setdefault(key, []).append(found)
                while len(_cache.recordings) > MAX_ENTRIES:
                    _cache.recordings.pop(next(iter(_cache.recordings)))


def _arrays(net: Network, data: Any) -> list[Array]:
    """What a step reads and writes of a net and of its set."""
    own = [net.theta, net.gradient, net.state, net.metric_sums, net.running]
    given = [data.X, data.y, *([] if data.w is None else [data.w])]
    return [*own, *(net.slots[name] for name in sorted(net.slots)), *given]


class _NotCacheable(Exception):
    """Something of the user's, of which nobody knows what it depends on."""


def _key_for(net: Network, data: Any, shape_key: Any) -> Any:
    """What recorded launches depend on beside the arrays' places and λ; None where it is not known."""
    if isinstance(data.X, CompressedRows):
        return None
    try:
        return (
            shape_key,
            net.backend,
            net.dtype,
            net.precision,
            net.n_in,
            tuple(_key(layer, IGNORED_FIELDS) for layer in net.layers),
            _key(net.optimizer, ("schedule",)),
            _key(net.loss),
            tuple(map(_key, net.metrics)),
            net.loss_convention,
            tuple((p.start, p.stop, p.l1) for p in net.penalties()),
            tuple((p.start, p.stop) for p in net.penalties(trainable_only=True)),
            *((a.dtype, a.strides) for a in (data.X, data.y)),
            ("weighted", data.w is not None),
        )
    except _NotCacheable:
        return None


def _key(thing: Any, ignored: tuple[str, ...] = ()) -> Any:
    """An object of gpunn's own as something that can be compared."""
    if isinstance(thing, HASHABLE):
        return thing
    if isinstance(thing, (list, tuple)):
        return tuple(map(_key, thing))
    if isinstance(thing, dict):
        return tuple((k, _key(v)) for k, v in sorted(thing.items()))
    if not type(thing).__module__.startswith("gpunn."):
        raise _NotCacheable
    return type(thing), tuple((k, _key(v)) for k, v in sorted(vars(thing).items()) if k not in ignored)
