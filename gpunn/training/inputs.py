"""What a network is given, batches and whole sets: checked against it, and brought to its device.

ValueError or TypeError, before anything changes, names what does not fit.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import input_checks as checks
from ..backend import array_module, device_of, to_host
from ..network import Network
from ..parallel import Rows
from ..recording import Array, Group, shard_bounds
from .host_dataset import HostDataset, exceeds_device
from .loop import DeviceDataset

SAMPLED_ROWS = 65  # of a table in a checksum: about a batch, which may be read from a disk or a GPU
SAMPLED_NUMBERS = 1025  # of labels and weights
Arrays = tuple[Any, Array, Array | None]  # X (n, n_in), y for the loss, weights (n,) or None
WeightCheck = Callable[..., Array]


def known_inputs(net: Network) -> int | None:
    """The number of inputs; None before it is known."""
    return net.n_in if net.is_built else None


def validate(
    net: Network,
    X: Any,
    y: Any,
    w: Any,
    *,
    prefix: str = "",
    x_name: str = "X",
    n_in: int | None = None,
    own: tuple[int, int] = (0, 1),
    check_weights: WeightCheck = checks.weights,
) -> Arrays:
    """X, y and weights as the network takes them. Messages call X by the name `x`, and have `it` before every name;
    `look` checks the weights, and `own` is that of `data.features`."""
    X = checks.features(X, known_inputs(net) if n_in is None else n_in, net.dtype, prefix + x_name, shard=own)
    n = X.shape[0]
    y = checks.targets(y, net.loss, n, net.output_width(X.shape[1]), net.dtype, f"{prefix}y")
    return X, y, None if w is None else check_weights(w, n, net.dtype, f"{prefix}sample_weight")


def apply_class_weight(
    net: Network, data: Arrays, class_weight: Any, *, prefix: str = "", check_weights: WeightCheck = checks.weights
) -> Arrays:
    """The set with its weights times those of the classes; `it` and `look` as in `checked`."""
    if class_weight is None:
        return data
    X, y, w = data
    by_class = checks.class_weights(class_weight, y, net.loss, net.output_width(X.shape[1]))
    with np.errstate(over="ignore"):  # `look` reports an overflow
        both, name = (by_class, "") if w is None else (to_host(w) * by_class, "sample_weight times ")
    return X, y, check_weights(both, len(both), net.dtype, f"{prefix}{name}class_weight")


def require_explicit_class_weight(class_weight: Any, why: str) -> None:
    """ValueError for weights of classes that are known only when all rows are."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        raise ValueError(f"class_weight='balanced' needs all rows, and {why}: pass a dict")


def batch(net: Network, x: Any, y: Any, sample_weight: Any, class_weight: Any = None) -> Arrays:
    """One batch, checked, whose weights may all be 0; the network is built for it where it was not."""
    require_explicit_class_weight(class_weight, "this is one batch")
    check_weights = checks.batch_weights
    found = apply_class_weight(
        net,
        validate(net, x, y, sample_weight, x_name="x", check_weights=check_weights),
        class_weight,
        check_weights=check_weights,
    )
    return _built(net, found)


def evaluation_data(net: Network, X: Any, y: Any, sample_weight: Any) -> Arrays:
    """A data set to be evaluated, checked; the network is built for it where it was not."""
    return _built(net, validate(net, X, y, sample_weight))


def _built(net: Network, found: Arrays) -> Arrays:
    if not net.is_built:
        net.build(found[0].shape[1])
    return found


def stream_batch(net: Network, given: Any, number: int, class_weight: Any) -> Arrays:
    """A batch of a stream, checked; messages say which one it is, counted from 1."""
    prefix = f"batch {number + 1}"
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        got = f"{len(given)} things" if isinstance(given, (tuple, list)) else type(given).__name__
        raise TypeError(f"{prefix} of X must be (x, y) or (x, y, sample_weight), got {got}")
    prefix, check_weights = f"{prefix}: ", checks.batch_weights
    x, y, w = (*given, None)[:3]
    return apply_class_weight(
        net,
        validate(net, x, y, w, prefix=prefix, x_name="x", check_weights=check_weights),
        class_weight,
        prefix=prefix,
        check_weights=check_weights,
    )


class Shard(NamedTuple):
    """A set, or this process's rows of a set of `rows` rows, the first of which is `first`."""

    X: Any
    y: Array
    w: Array | None
    offset: int = 0
    total_rows: int | None = None

    def checksums(self, group: Group) -> dict[str, int]:
        """A checksum of sampled rows of each array, the same on every process. All processes call it."""
        total = int(self.X.shape[0] if self.total_rows is None else self.total_rows)
        arrays = {"X": self.X, "y": self.y, "sample_weight and class_weight": self.w}
        sampled = {name: self._sample(array, total) for name, array in arrays.items() if array is not None}
        shards = [sampled] if self.total_rows is None else group.allgather("the checksums of a set", sampled)
        return {name: zlib.crc32(b"".join(shard.get(name, b"") for shard in shards)) for name in sampled}

    def _sample(self, array: Any, total: int) -> bytes:
        """The bytes of sampled rows, of those of all `total` that this process has."""
        own = sampled_rows(total, SAMPLED_ROWS if array.ndim > 1 else SAMPLED_NUMBERS) - self.offset
        with device_of(array):
            chosen = array[array_module(array).asarray(own[(own >= 0) & (own < array.shape[0])])]
        if not hasattr(chosen, "tocsr"):
            chosen = to_host(chosen)
            if chosen.ndim == 1:
                return bytes(chosen.tobytes())
            return b"".join(_nonzero(np.flatnonzero(row), row[np.flatnonzero(row)]) for row in chosen)
        rows = chosen.tocsr()
        rows.sum_duplicates()
        rows.eliminate_zeros()
        bounds = zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
        return b"".join(_nonzero(rows.indices[start:stop], rows.data[start:stop]) for start, stop in bounds)

    def on_device(self, net: Network) -> Any:
        """The same where the network finds it."""
        return dataclasses.replace(
            to_device_or_host(net, (self.X, self.y, self.w)), offset=self.offset, total_rows=self.total_rows
        )


def _nonzero(columns: np.ndarray, values: np.ndarray) -> bytes:
    """One row as bytes, the same for dense and sparse tables, which are never made dense."""
    return bytes(columns.astype(np.int64).tobytes() + values.tobytes())


def sampled_rows(n: int, most: int) -> np.ndarray:
    """At most that many of n rows, evenly spaced: the first, the last and those between."""
    count = min(n, most)
    return np.arange(count) * (n - 1) // max(1, count - 1)


def validation(net: Network, given: Any, n_in: int) -> Shard | None:
    """What a fit is given as `validation_data`, checked; None where that is nothing."""
    if given is None:
        return None
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
    X, y, w = (*given, None)[:3]
    group, first, rows = net.group, 0, None
    own, check_weights = (group.rank, group.size), checks.weights
    if isinstance(X, Rows):
        rows = len(X)
        if any(each is not None and np.shape(each)[0] != rows for each in (y, w)):
            raise ValueError(f"validation X has {rows} rows, and its y or sample_weight another number")
        if rows < group.size:
            raise ValueError(f"validation X has {rows} rows, fewer than there are processes, {group.size}")
        first, count = shard_bounds(rows, *own)
        X, y, w = (_rows_on_disk(each, first, count) for each in (X, y, w))
        own, check_weights = (0, 1), checks.batch_weights
    found = validate(net, X, y, w, prefix="validation ", n_in=n_in, own=own, check_weights=check_weights)
    if rows is not None:
        check_weight(found[2], "validation sample_weight", group)
    return Shard(*found, first, rows)


def check_weight(w: Array | None, name: str, group: Group) -> None:
    """ValueError on every process where the weights of all of them are 0."""
    if not any(group.allgather("the weights of a set", checks.any_weight(w))):
        raise ValueError(f"{name} is zero in every row; at least one weight must be > 0")


def _rows_on_disk(given: Any, first: int, count: int) -> Any:
    """So many rows from that one on, read, of a `Rows` or of an array."""
    if isinstance(given, Rows):
        return given.read(first, first + count)
    return None if given is None else np.asarray(given)[first : first + count]


def on_device(net: Network, data: Arrays, put: Callable[[Any], Array] | None = None) -> DeviceDataset:
    """The set on the network's device; `put` brings arrays there where fits share them."""
    X, y, w = data
    bring = net.backend.asarray if put is None else put
    return DeviceDataset(
        checks.on_device(X, net.backend) if put is None else put(X), bring(y), None if w is None else bring(w)
    )


def to_device_or_host(net: Network, data: Arrays) -> DeviceDataset | HostDataset:
    """The set on the device, or on the host where the device has no room for it."""
    return HostDataset(*data) if exceeds_device(net.backend, *data) else on_device(net, data)


def check_shard_sizes(n: int, batch_size: int, group: Group) -> None:
    """ValueError where a process would have no rows."""
    if n < group.size:
        raise ValueError(f"there are {group.size} processes, but {n} rows: start at most as many processes as rows")
    if batch_size < group.size:
        raise ValueError(
            f"batch_size={batch_size} leaves process {group.size - 1} of {group.size} without a row: give each "
            "at least one, or start fewer processes"
        )
