"""Validate the arguments of `Sequential.compile` and resolve names to objects."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import backend as backends
from . import losses, metrics, optimizers
from ._version import __version__
from .backend import Backend
from .losses import Loss
from .metrics import Metric
from .network import DeviceGroup, Network
from .optimizers import Optimizer
from .parallel import DataParallel
from .program.groups import SINGLE_PROCESS
from .validation import as_list, boolean, positive_integer


@dataclass(frozen=True)
class CompileOptions:
    """The resolved arguments of `compile`."""

    optimizer: Optimizer
    loss: Loss
    metrics: list[Metric]
    resolved: tuple[Loss, list[Metric]]  # by `Network.resolve`
    threads: int | None
    backend: Backend
    precision: str | None  # None for products in the network's dtype
    eager: bool


def resolve(
    net: Network,
    group: DeviceGroup,
    optimizer: Any,
    loss: Any,
    metrics: Iterable[Any],
    *,
    device: Any,
    precision: str | None,
    threads: int | None,
    eager: bool,
) -> CompileOptions:
    """The options for a network. Raises before anything is changed."""
    rule = optimizers.get(optimizer)
    if loss is None:
        raise TypeError("loss is missing: name one, for example loss='sparse_categorical_crossentropy'")
    chosen = losses.get(loss)
    net.check_optimizer(rule)
    if isinstance(metrics, str):
        raise TypeError(f"metrics must be a list: use metrics=[{metrics!r}]")
    found = [_metric(m) for m in as_list("metrics", metrics, "names or gpunn metrics")]
    resolved = net.resolve(chosen, found)
    if threads is not None:
        threads = positive_integer("threads", threads)
        if importlib.util.find_spec("threadpoolctl") is None:
            raise ImportError('threads= needs threadpoolctl: pip install "gpunn[threads]"')
    backend = group.backend(backends.get(device), device)
    lower = resolve_precision(precision, backend, net.dtype)
    return CompileOptions(rule, chosen, found, resolved, threads, backend, lower, resolve_eager(eager, lower, group))


def resolve_eager(eager: Any, precision: str | None, group: DeviceGroup) -> bool:
    """True if every operation is computed from Python: by the argument, or by the variable GPUNN_EAGER=1."""
    chosen = boolean("eager", eager) or backends.eager_setting()
    if chosen and precision is not None:
        raise ValueError(f"eager mode computes in the network's dtype: leave out precision={precision!r}, or eager")
    if chosen and group.size > 1:
        raise ValueError(f"eager mode runs in one process, and strategy has {group.size}: leave out one of them")
    return chosen


# `resolve` has an argument with the module's name
_metric = metrics.get


def check_agreement(group: DeviceGroup, net: Network, options: CompileOptions, model: object) -> None:
    """Raise ValueError on every rank unless all ranks compile the same model, by its repr, with the same options."""
    group.check_agreement(
        "compile",
        lambda: {
            "gpunn's version": __version__,
            "NumPy's version": np.__version__,
            "seed": net.seed,
            "the network": _strip_addresses(repr(model)),
            "the initial weights": net.weights_checksum(),
            "optimizer": _strip_addresses(repr(options.optimizer)),
            "loss": options.loss.name,
            "metrics": [m.name for m in options.metrics],
            "the kind of device": options.backend.device.partition(":")[0],
            "precision": options.precision,
            "strategy": [group.size, group.synchronized_batch_norm],
        },
    )


def _strip_addresses(text: str) -> str:
    """Remove memory addresses, which differ between processes, from a repr."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def process_group(strategy: Any) -> DeviceGroup:
    """The process group that a strategy starts; a single process for None."""
    if strategy is None:
        return SINGLE_PROCESS
    if not isinstance(strategy, DataParallel):
        raise TypeError(f"strategy must be gpunn.DataParallel() or None, got {strategy!r}")
    return strategy.start()


def resolve_precision(precision: str | None, backend: Backend, dtype: np.dtype, *, explicit: bool = True) -> Any:
    """The precision of matrix products, None for the network's dtype. ValueError if it cannot be used."""
    if precision is None or precision == dtype.name:
        return None
    if precision not in ("tf32", "bf16", "float32", "float64"):
        raise ValueError(f"precision must be None, 'tf32' or 'bf16', got {precision!r}")
    if precision in ("float32", "float64"):
        raise ValueError(f"precision={precision!r} does not fit a {dtype} network: give Sequential dtype={precision!r}")
    error = backend.lower_precision_error(explicit=explicit)
    if not error and dtype != np.float32:
        error = f"is for float32, and the network is in {dtype}; give dtype='float32', or leave precision out"
    if error:
        raise ValueError(f"precision={precision!r} {error}")
    return precision
