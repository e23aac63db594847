"""A cache of recorded epochs, reused by networks of the same architecture.

While several networks are trained (`reuse`), the recording of a completed fit is cached for the next network of the
same structure and rebound to its arrays, if the device supports it (`Backend.make_rebindable`). Results do not change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..backend.epoch_runner import BufferRebinder, EpochRunner
from ..network import CompressedRows, Network
from ..program import Array

MAX_ENTRIES = 16  # keys of cached recordings, and of cached draws
HASHABLE = (type(None), bool, int, float, str, type)
# layer attributes that no step depends on, and λ, which is set after rebinding
IGNORED_FIELDS = ("kernel_initializer", "bias_initializer", "owned", "l2")


@dataclass
class CompiledEpochs:
    """Epochs recorded for one network, and their arrays.

    order      (rows of all epochs,), the order of rows
    epoch_log  (epochs, 2 + metric sums), the results of each epoch
    set_l2     sets λ of every penalty, in their order
    rebinder   rebinds the epochs to the arrays of another network, None if that is not possible
    """

    runner: EpochRunner
    order: Array
    epoch_log: Array
    set_l2: Callable[[list[float]], None]
    rebinder: BufferRebinder | None = None


class _Cache:
    """Cached recordings by key, and the number of callers that use the cache."""

    def __init__(self) -> None:
        self.users = 0
        self.lock = threading.Lock()
        self.recordings: dict[Any, list[CompiledEpochs]] = {}
        self.draws: dict[Any, Any] = {}


_cache = _Cache()


@contextmanager
def reuse() -> Iterator[None]:
    """Enable the cache of this process within the body, and clear it afterwards."""
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
    """Return `draw()`, cached by its key while the cache is enabled.

    Candidates of one fold draw the same permutations, for example.
    """
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
def acquire(net: Network, data: Any, shape_key: Any, make: Callable[[], CompiledEpochs]) -> Iterator[CompiledEpochs]:
    """Yield a recording for this network and dataset, cached or returned by `make`.

    `shape_key` identifies batch sizes and epochs per call. With None the recording is not cached.
    """
    key = None if shape_key is None or not _cache.users else _key_for(net, data, shape_key)
    if key is None:
        yield make()
        return
    with _cache.lock:
        waiting = _cache.recordings.get(key)
        found = waiting.pop() if waiting else None
    if found is None:
        found = make()
        found.rebinder = net.backend.make_rebindable(found.runner, _arrays(net, data))
    elif found.rebinder is not None:
        found.rebinder.rebind(_arrays(net, data))
        # no step writes the gradient of a frozen layer, but clipping and the non-finite check read it
        net.gradient.fill(0)
        found.runner.state = net.state
        found.set_l2([p.l2 for p in net.penalties()])
    yield found
    if found.rebinder is not None:
        with _cache.lock:
            if _cache.users:
                _cache.recordings.setdefault(key, []).append(found)
                while len(_cache.recordings) > MAX_ENTRIES:
                    _cache.recordings.pop(next(iter(_cache.recordings)))


def _arrays(net: Network, data: Any) -> list[Array]:
    """Return the arrays of the network and the dataset that a step reads or writes."""
    own = [net.theta, net.gradient, net.state, net.metric_sums, net.running]
    given = [data.X, data.y, *([] if data.w is None else [data.w])]
    return [*own, *(net.slots[name] for name in sorted(net.slots)), *given]


class _NotCacheable(Exception):
    """A user-defined object, which may depend on anything."""


def _key_for(net: Network, data: Any, shape_key: Any) -> Any:
    """Return everything that recorded launches depend on, except addresses and λ. None if that is unknown."""
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
    """Convert an object of gpunn to a hashable key."""
    if isinstance(thing, HASHABLE):
        return thing
    if isinstance(thing, (list, tuple)):
        return tuple(map(_key, thing))
    if isinstance(thing, dict):
        return tuple((k, _key(v)) for k, v in sorted(thing.items()))
    if not type(thing).__module__.startswith("gpunn."):
        raise _NotCacheable
    return type(thing), tuple((k, _key(v)) for k, v in sorted(vars(thing).items()) if k not in ignored)
