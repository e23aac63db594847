"""Compile the kernels that nearly every training needs while other packages are imported."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from .. import backend, kernels
from ..kernels._compiler import cpu_cache

_SINGLE = {"T": "float32"}
# one kernel of each compilation unit, with its types
COMMON_KERNELS = (
    *((name, _SINGLE) for name in ("identity", "relu", "dropout", "softmax", "sum_all", "adam", "sparse_accuracy")),
    *((name, {}) for name in ("check_finite", "adam_bias_correction", "gather_labels")),
    ("gather", {"T": "float32", "S": "float32"}),
    ("sum_all", {"T": "float64"}),
)


@contextlib.contextmanager
def precompiling() -> Iterator[None]:
    """Compile common kernels that the cache lacks, and load the backend, in threads that end with the context."""
    requests = [(kernels.get(name), types) for name, types in COMMON_KERNELS]
    threads = [
        threading.Thread(target=cpu_cache.precompile, args=(requests,)),
        threading.Thread(target=backend.preload),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
