"""Check the data that a user passes, single batches or datasets, and copy it to the network's device.

Invalid data raises ValueError or TypeError, with the argument's name, before anything changes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .. import input_checks as checks
from ..backend import Backend, to_host
from ..network import Network, Table
from ..parallel import Rows
from ..program import Array, DType
from ..program.groups import ProcessGroup, shard_bounds
from .datasets import DeviceDataset, HostDataset, exceeds_device
from .shard import Shard
from .stream import Stream

Arrays = tuple[Table, Array, Array | None]  # X (n, n_in), y for the loss, weights (n,) or None


class WeightCheck(Protocol):
    """A check of sample weights: `input_checks.weights` or `batch_weights`."""

    def __call__(self, w: Array, n: int, dtype: DType, name: str = ..., /) -> Array: ...


def known_inputs(net: Network) -> int | None:
    """Return the number of inputs, or None if it is not known yet."""
    return net.n_in if net.is_built else None


def validate(
    net: Network,
    X: Array,
    y: Array,
    w: Array,
    *,
    prefix: str = "",
    x_name: str = "X",
    n_in: int | None = None,
    shard: tuple[int, int] = (0, 1),
    check_weights: WeightCheck = checks.weights,
) -> Arrays:
    """Check X, y and weights, and convert them to the layout that the network uses.

    prefix         text before every name in error messages
    x_name         name of X in error messages
    shard          (rank, size): this process checks its part of the rows, as in `input_checks.features`
    check_weights  function that checks the weights
    """
    X = checks.features(X, known_inputs(net) if n_in is None else n_in, net.dtype, prefix + x_name, shard=shard)
    n = X.shape[0]
    y = checks.targets(y, net.loss, n, net.output_width(X.shape[1]), net.dtype, f"{prefix}y")
    return X, y, None if w is None else check_weights(w, n, net.dtype, f"{prefix}sample_weight")


def apply_class_weight(
    net: Network, data: Arrays, class_weight: object, *, prefix: str = "", check_weights: WeightCheck = checks.weights
) -> Arrays:
    """Multiply the weights of a dataset by those of the classes. `prefix` and `check_weights` as in `validate`."""
    if class_weight is None:
        return data
    X, y, w = data
    by_class = checks.class_weights(class_weight, y, net.loss, net.output_width(X.shape[1]))
    with np.errstate(over="ignore"):  # check_weights reports an overflow
        both, name = (by_class, "") if w is None else (to_host(w) * by_class, "sample_weight times ")
    return X, y, check_weights(both, len(both), net.dtype, f"{prefix}{name}class_weight")


def require_explicit_class_weight(class_weight: object, reason: str) -> None:
    """Raise ValueError for class_weight="balanced", which needs the labels of all rows."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        raise ValueError(f"class_weight='balanced' needs all rows, but {reason}: pass a dict")


def batch(net: Network, x: Array, y: Array, sample_weight: Array, class_weight: object = None) -> Arrays:
    """Check one batch, whose weights may all be 0. Build the network if it is not built."""
    require_explicit_class_weight(class_weight, "this is one batch")
    check_weights = checks.batch_weights
    data = validate(net, x, y, sample_weight, x_name="x", check_weights=check_weights)
    return _built(net, apply_class_weight(net, data, class_weight, check_weights=check_weights))


def evaluation_data(net: Network, X: Array, y: Array, sample_weight: Array) -> Arrays:
    """Check a dataset for `evaluate`. Build the network if it is not built."""
    return _built(net, validate(net, X, y, sample_weight))


def _built(net: Network, data: Arrays) -> Arrays:
    if not net.is_built:
        net.build(data[0].shape[1])
    return data


def stream_batch(net: Network, given: object, number: int, class_weight: object) -> Arrays:
    """Check a batch of a stream. Error messages contain its number, counted from 1."""
    name = f"batch {number + 1}"
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        got = f"{len(given)} items" if isinstance(given, (tuple, list)) else type(given).__name__
        raise TypeError(f"{name} of X must be (x, y) or (x, y, sample_weight), got {got}")
    x, y, w = (*given, None)[:3]
    check_weights = checks.batch_weights
    data = validate(net, x, y, w, prefix=f"{name}: ", x_name="x", check_weights=check_weights)
    return apply_class_weight(net, data, class_weight, prefix=f"{name}: ", check_weights=check_weights)


def validation(net: Network, given: object, n_in: int) -> Shard | None:
    """Check the `validation_data` of a fit. None if there is none."""
    if given is None:
        return None
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
    X, y, w = (*given, None)[:3]
    if isinstance(X, Rows):
        return _validation_on_disk(net, X, y, w, n_in)
    shard = (net.group.rank, net.group.size)
    return Shard(*validate(net, X, y, w, prefix="validation ", n_in=n_in, shard=shard))


def _validation_on_disk(net: Network, X: Rows, y: Array, w: Array, n_in: int) -> Shard:
    """Read and check the rows of this process in validation data on disk."""
    group = net.group
    rows = len(X)
    if any(each is not None and np.shape(each)[0] != rows for each in (y, w)):
        raise ValueError(f"validation y and sample_weight must have as many rows as validation X, which has {rows}")
    if rows < group.size:
        raise ValueError(f"validation X must have at least one row for each of {group.size} processes, got {rows} rows")
    first, count = shard_bounds(rows, group.rank, group.size)
    shard = [_read_rows(each, first, count) for each in (X, y, w)]
    arrays = validate(net, *shard, prefix="validation ", n_in=n_in, check_weights=checks.batch_weights)
    check_weight(arrays[2], "validation sample_weight", group)
    return Shard(*arrays, first, rows)


def _read_rows(given: object, first: int, count: int) -> Array | None:
    """Return `count` rows of a `Rows` or of an array, beginning with row `first`."""
    if isinstance(given, Rows):
        return given.read(first, first + count)
    return None if given is None else np.asarray(given)[first : first + count]


def check_weight(w: Array | None, name: str, group: ProcessGroup) -> None:
    """Raise ValueError on every rank if the weights of all ranks are 0."""
    if not any(group.allgather("the weights of the dataset", checks.any_weight(w))):
        raise ValueError(f"{name} is zero in every row; at least one weight must be > 0")


def on_device(net: Network, data: Arrays) -> DeviceDataset:
    """Copy a dataset to the network's device."""
    return DeviceCopies().dataset(net, data)


def to_device_or_host(net: Network, data: Arrays) -> DeviceDataset:
    """Copy a dataset to the device, or keep it on the host if it exceeds the device's memory."""
    return HostDataset(*data) if exceeds_device(net.backend, *data) else on_device(net, data)


class DeviceCopies:
    """Copies datasets to devices. If several fits share it, each array is copied once."""

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self._copies: dict[Hashable, tuple[Array, Table]] = {}

    def array(self, backend: Backend, array: Array) -> Table:
        """The array on a device."""
        if not self._shared:
            return checks.on_device(array, backend)
        key = backend, id(array)
        if key not in self._copies:
            # a reference to the array keeps its id from being reused
            self._copies[key] = array, checks.on_device(array, backend)
        return self._copies[key][1]

    def dataset(self, net: Network, data: Arrays) -> DeviceDataset:
        """A dataset on the network's device."""
        X, y, w = (None if a is None else self.array(net.backend, a) for a in data)
        return DeviceDataset(X, y, w)

    def shard(self, net: Network, shard: Shard) -> DeviceDataset:
        """The rows of this process on the device, or on the host if they exceed the device's memory."""
        arrays = shard[:3]
        kept = not self._shared and exceeds_device(net.backend, *arrays)
        data = HostDataset(*arrays) if kept else self.dataset(net, arrays)
        data.offset, data.total_rows = shard.offset, shard.total_rows
        return data

    def training(self, net: Network, shard: Shard) -> DeviceDataset:
        """The training rows as `shard` has them. With several processes, the rows of each must fit on its device."""
        return self.shard(net, shard) if net.group.size == 1 else self.dataset(net, shard[:3])


@dataclass(frozen=True)
class CheckedStream:
    """The batches of a stream, each checked and copied to the device when it is needed."""

    net: Network
    stream: Stream
    class_weight: object

    def epoch(self) -> Iterator[DeviceDataset]:
        for number, batch in enumerate(self.stream.epoch()):
            yield on_device(self.net, stream_batch(self.net, batch, number, self.class_weight))
