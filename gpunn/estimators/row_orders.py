"""The order of the rows in each epoch, drawn as scikit-learn draws it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

MAX_ENTRIES = 16  # draws that candidates of a search share

_lock = threading.Lock()
_shared: dict[Any, Any] = {}
_searches = 0


@contextmanager
def shared_draws() -> Iterator[None]:
    """Within the body, fits that begin with equal generators share their draws: candidates of one fold, for example."""
    global _searches
    with _lock:
        _searches += 1
    try:
        yield
    finally:
        with _lock:
            _searches -= 1
            if not _searches:
                _shared.clear()


def draw_orders(generator: Any, order: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffle an order `count` times, each time as scikit-learn's `shuffle(order)` does.

    Returns all orders (count · n,) and the last one; the generator has advanced.
    """
    if not _searches:
        return _draw(generator, order, count)
    state = generator.get_state(legacy=False)
    key = (count, order.tobytes(), *(v.tobytes() if isinstance(v, np.ndarray) else v for v in _flat(state)))
    with _lock:
        found = _shared.get(key)
    if found is None:
        found = (*_draw(generator, order, count), generator.get_state(legacy=False))
        with _lock:
            _shared[key] = found
            while len(_shared) > MAX_ENTRIES:
                _shared.pop(next(iter(_shared)))
    orders, last, after = found
    generator.set_state(after)
    return orders, last


def _draw(generator: Any, order: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = []
    for _ in range(count):
        # scikit-learn draws a permutation of indices in place
        permutation = np.arange(len(order))
        generator.shuffle(permutation)
        order = order[permutation]
        drawn.append(order)
    return drawn[0] if count == 1 else np.concatenate(drawn), order


def _flat(state: dict[str, Any]) -> list[Any]:
    """The numbers and arrays of a generator's state, in one list."""
    return [p for v in state.values() for p in (_flat(v) if isinstance(v, dict) else [v])]
