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

MOST = 16  # kinds of recordings, and drawings, that wait at most
PLAIN = (type(None), bool, int, float, str, type)
# what of a layer no step depends on, and its λ, which is set anew
LEFT_OUT = ("kernel_initializer", "bias_initializer", "owned", "l2")


@dataclass
class Recording:
    """Epochs as they were recorded for one net, with what belongs to them.

    order    (rows of the epochs,), the rows in their order
    record   (epochs, 2 + sums), what each epoch came to
    set_l2   sets the λ of every penalty, in their order
    movable  gives them the arrays of another net; None where that cannot be
    """

    taking: EpochRunner
    order: Array
    record: Array
    set_l2: Callable[[list[float]], None]
    movable: BufferRebinder | None = None


class _Shelf:
    """Recordings that wait, by what they are of."""

    def __init__(self) -> None:
        self.users = 0
        self.lock = threading.Lock()
        self.found: dict[Any, list[Recording]] = {}
        self.drawn: dict[Any, Any] = {}


_shelf = _Shelf()


@contextmanager
def kept() -> Iterator[None]:
    """Meanwhile recordings wait for other nets, in all of this process; afterwards their memory is given back."""
    with _shelf.lock:
        _shelf.users += 1
    try:
        yield
    finally:
        with _shelf.lock:
            _shelf.users -= 1
            if not _shelf.users:
                _shelf.found.clear()
                _shelf.drawn.clear()


def drawn(key: Any, draw: Callable[[], Any]) -> Any:
    """What `draw` draws, which is the same for the same key: while many nets are trained, it is drawn once for those
    that begin alike, the candidates of one fold say."""
    if not _shelf.users:
        return draw()
    with _shelf.lock:
        found = _shelf.drawn.get(key)
    if found is None:
        found = draw()
        with _shelf.lock:
            _shelf.drawn[key] = found
            while len(_shelf.drawn) > MOST:
                _shelf.drawn.pop(next(iter(_shelf.drawn)))
    return found


@contextmanager
def recording(net: Network, data: Any, extent: Any, make: Callable[[], Recording]) -> Iterator[Recording]:
    """A recording for that net and set: one that waits, or else what `make` makes. `extent` is what else it depends on:
    sizes of batches, epochs at once; None keeps it from waiting."""
    key = None if extent is None or not _shelf.users else _told_of(net, data, extent)
    if key is None:
        yield make()
        return
    with _shelf.lock:
        waiting = _shelf.found.get(key)
        found = waiting.pop() if waiting else None
    if found is None:
        found = make()
        found.movable = net.backend.make_rebindable(found.taking, _arrays(net, data))
    elif found.movable is not None:
        found.movable.rebind(_arrays(net, data))
        # no step writes the gradient of a frozen layer, but clipping and the non-finite check read it
        net.gradient.fill(0)
        found.taking.state = net.state
        found.set_l2([p.l2 for p in net.penalties()])
    yield found
    if found.movable is not None:
        with _shelf.lock:
            if _shelf.users:
                _shelf.found.setdefault(key, []).append(found)
                while len(_shelf.found) > MOST:
                    _shelf.found.pop(next(iter(_shelf.found)))


def _arrays(net: Network, data: Any) -> list[Array]:
    """What a step reads and writes of a net and of its set."""
    own = [net.theta, net.gradient, net.state, net.metric_sums, net.running]
    given = [data.X, data.y, *([] if data.w is None else [data.w])]
    return [*own, *(net.slots[name] for name in sorted(net.slots)), *given]


class _Own(Exception):
    """Something of the user's, of which nobody knows what it depends on."""


def _told_of(net: Network, data: Any, extent: Any) -> Any:
    """What recorded launches depend on beside the arrays' places and λ; None where it is not known."""
    if isinstance(data.X, CompressedRows):
        return None
    try:
        return (
            extent,
            net.backend,
            net.dtype,
            net.precision,
            net.n_in,
            tuple(_told(layer, LEFT_OUT) for layer in net.layers),
            _told(net.optimizer, ("schedule",)),
            _told(net.loss),
            tuple(map(_told, net.metrics)),
            net.loss_convention,
            tuple((p.start, p.stop, p.l1) for p in net.penalties()),
            tuple((p.start, p.stop) for p in net.penalties(trainable_only=True)),
            *((a.dtype, a.strides) for a in (data.X, data.y)),
            ("weighted", data.w is not None),
        )
    except _Own:
        return None


def _told(thing: Any, left_out: tuple[str, ...] = ()) -> Any:
    """An object of gpunn's own as something that can be compared."""
    if isinstance(thing, PLAIN):
        return thing
    if isinstance(thing, (list, tuple)):
        return tuple(map(_told, thing))
    if isinstance(thing, dict):
        return tuple((k, _told(v)) for k, v in sorted(thing.items()))
    if not type(thing).__module__.startswith("gpunn."):
        raise _Own
    return type(thing), tuple((k, _told(v)) for k, v in sorted(vars(thing).items()) if k not in left_out)
