"""What comes in: features, targets and weights, checked once before anything changes, and the order of the batches."""

from __future__ import annotations

import contextlib
import datetime
from typing import Any

import numpy as np

from .backend import Backend, array_module, device_of, from_cuda_interface, is_device_array, to_host
from .losses import BinaryCrossentropy, CategoricalCrossentropy, Loss
from .network import CompressedRows, Table, keyed_generator
from .recording import Array, shard_bounds
from .validation import half_open_unit_interval, nonnegative

BLOCK = 1 << 16  # elements looked at together: a check never copies the set
DEVICE_BLOCK = 1 << 24  # the same on a GPU, of which each look waits
# beyond these a weight times a loss, or the weight of one class times that of another, leaves the range of float64
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-100, 1e100
# taken before `__dlpack__`
OTHER_WAYS = ("to_numpy", "__array__", "__cuda_array_interface__", "__dataframe__")
UNREADABLE = (TypeError, ValueError, BufferError, RuntimeError)
# NumPy's types have these kinds; objects can be of these classes, which pandas's Timestamp and Timedelta inherit
KINDS_OF_TIME = {"M": "dates", "m": "time differences"}
TIMES = (np.datetime64, np.timedelta64, datetime.date, datetime.time, datetime.timedelta)


def features(X: Any, n_in: int | None, dtype: np.dtype, name: str = "X", *, shard: tuple[int, int] = (0, 1)) -> Array:
    """As `as_matrix`, its numbers finite and within `dtype`: ValueError names the first that is not.

    `shard` is (rank, size) where processes look at one set: each at the numbers of its part of the rows."""
    array = as_matrix(X, n_in, name)
    check_numbers(array, dtype, name, shard=shard)
    return array


def as_matrix(X: Any, n_in: int | None, name: str = "X") -> Array:
    """X as a two-dimensional array of real numbers, its own type kept, and its layout where kernels can read it.

    Accepts NumPy and CuPy arrays, lists, pandas and polars tables, and whatever else offers `__dlpack__` or
    `__array__`; SciPy's sparse matrices come out as one in compressed rows. Raises TypeError for what are not real
    numbers (text, dates, complex), ValueError for wrong shapes, ragged lists and empty sets.
    """
    array = _compressed(X, name) if hasattr(X, "tocsr") else as_real_array(X, name)
    if array.ndim != 2:
        it = _short_name(name)
        hint = f"; {it}.reshape(-1, 1) makes one column of it, {it}.reshape(1, -1) one row" if array.ndim == 1 else ""
        raise ValueError(f"{name} must have shape (rows, columns), got shape {array.shape}{hint}")
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise ValueError(f"{name} must have at least one row and one column, got shape {array.shape}")
    if n_in is not None and array.shape[1] != n_in:
        raise ValueError(f"{name} has {array.shape[1]} columns, but the network takes {n_in}")
    return array


def check_numbers(X: Any, dtype: np.dtype, name: str = "X", *, shard: tuple[int, int] = (0, 1)) -> None:
    """ValueError for NaN, infinity, and numbers too large for `dtype`, in what `as_matrix` gave."""
    if hasattr(X, "tocsr"):
        _check_stored(X, dtype, name)
    else:
        _check_finite(X, dtype, name, *shard_bounds(X.shape[0], *shard))


def on_device(X: Any, backend: Backend) -> Table:
    """What `features` gave, on a device: an array, or compressed rows."""
    if not hasattr(X, "tocsr"):
        return backend.asarray(X)
    values, columns, starts = (
        backend.asarray(np.ascontiguousarray(part))
        for part in (X.data, X.indices.astype(np.int32, copy=False), X.indptr.astype(np.int64, copy=False))
    )
    return CompressedRows(values, columns, starts, X.shape)


def targets(y: Any, loss: Loss, n: int, n_out: int, dtype: np.dtype, name: str = "y") -> Array:
    """y for that loss: int32 labels (n,), or values (n, n_out); never broadcast.

    Raises TypeError and ValueError as `features`, and ValueError for labels out of range or not whole numbers.
    """
    array = as_real_array(y, name)
    if loss.targets == "class_index":
        if array.ndim != 1:
            raise ValueError(
                f"{name} must hold one label a row, shape ({n},), for loss {loss.name!r}, got shape {array.shape}; "
                + (
                    f"{_short_name(name)}.ravel() makes it so"
                    if array.size == n
                    else "for one-hot rows use categorical_crossentropy"
                )
            )
        _check_rows(array, n, name)
        return _labels(array, n_out, name)
    if array.shape != (n, n_out):
        hint = ""
        if array.shape == (n,) and n_out == 1:
            hint = f"; {_short_name(name)}.reshape(-1, 1) makes it so"
        elif array.shape == (n,) and loss.name == "categorical_crossentropy":
            hint = "; for integer labels use sparse_categorical_crossentropy"
        raise ValueError(f"{name} must have shape ({n}, {n_out}) for loss {loss.name!r}, got shape {array.shape}{hint}")
    _check_finite(array, dtype, name)
    with device_of(array):
        for rows in _row_blocks(array):
            loss.check_targets(array[rows], array_module(array), name)
    return array


def weights(w: Any, n: int, dtype: np.dtype, name: str = "sample_weight") -> Array:
    """The sample weights (n,) of a data set, as `batch_weights` checks them. ValueError too if all are 0."""
    converted = batch_weights(w, n, dtype, name)
    if not any_weight(converted):
        raise ValueError(
            f"{name} is zero in every row; at least one weight must be > 0, and weights below "
            f"{_smallest_weight(dtype):.3g} count as 0 in {dtype}"
        )
    return converted


def any_weight(w: Array | None) -> bool:
    """True unless all weights are 0; None stands for weights of 1."""
    if w is None:
        return True
    with device_of(w):
        return bool((w > 0).any())


def batch_weights(w: Any, n: int, dtype: np.dtype, name: str = "sample_weight") -> Array:
    """The sample weights (n,) of a batch, which may all be 0, in the network's dtype. (E3)

    Weights too small for a training step, which flushes subnormal numbers, become 0 on every device. ValueError or
    TypeError where weights are negative, not finite, or too large to be added up.
    """
    array = as_real_array(w, name)
    if array.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one weight a row, got shape {array.shape}")
    _check_finite(array[:, None], dtype, name)
    with device_of(array):
        if bool((array < 0).any()):
            raise ValueError(f"{name} holds negative weights; weights must be ≥ 0")
        if float(array.max()) > LARGEST_WEIGHT:
            raise ValueError(
                f"{name} must be at most {LARGEST_WEIGHT:g}, got {float(array.max()):.3g}; divide all weights by the "
                "largest one"
            )
        converted = array.astype(dtype)
        converted *= converted >= _smallest_weight(dtype)
        return converted


def _smallest_weight(dtype: np.dtype) -> float:
    """The smallest weight that does not count as 0."""
    return max(float(np.finfo(dtype).tiny), SMALLEST_WEIGHT)


def class_weights(class_weight: Any, y: Array, loss: Loss, n_out: int) -> np.ndarray:
    """Weights (n,), float64, from {class: weight}; a class that is not named weighs 1. (E3)

    "balanced" gives every class that y has the same weight in all: n/(k · rows of the class), k the number of classes,
    as scikit-learn does.
    """
    if not isinstance(class_weight, dict) and not (isinstance(class_weight, str) and class_weight == "balanced"):
        got = repr(class_weight) if isinstance(class_weight, str) else type(class_weight).__name__
        raise TypeError(f"class_weight must be a dict of class and weight, or 'balanced', got {got}")
    host, classes = to_host(y), n_out
    if loss.targets == "class_index":
        labels = host
    elif n_out == 1 and isinstance(loss, BinaryCrossentropy):
        labels, classes = host[:, 0], 2
    elif isinstance(loss, CategoricalCrossentropy):
        labels = host.argmax(axis=1)
    else:
        raise ValueError(f"class_weight needs classes, which loss {loss.name!r} does not have; use sample_weight")
    if not isinstance(class_weight, dict):
        present, which, rows = np.unique(labels, return_inverse=True, return_counts=True)
        if not np.isin(present, range(classes)).all():
            raise ValueError("class_weight='balanced' needs targets that are 0 or 1; pass sample_weight")
        return (len(labels) / (len(present) * rows))[which]
    result = np.ones(len(labels))
    for key, value in class_weight.items():
        if key not in range(classes):
            raise ValueError(f"class_weight names class {key!r}, but the classes are 0 … {classes - 1}")
        result[labels == key] = nonnegative(f"class_weight[{key!r}]", value)
    return result


def epoch_permutation(n: int, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """The rows' order in an epoch: a permutation from a generator keyed (seed, epoch), never from a running one."""
    return keyed_generator(seed, epoch).permutation(n) if shuffle else np.arange(n)


def n_training_rows(n: int, validation_split: float) -> int:
    """The number of rows that train, ⌊n (1 − validation_split)⌋ as in Keras; the last ones validate.

    ValueError where one side would have no rows.
    """
    held = half_open_unit_interval("validation_split", validation_split)
    # 1 − 0.9 is less than 0.1 by rounding, and 10 times it less than 1
    rows = int(n * (1 - held + np.finfo(np.float64).eps))
    if rows == 0 or (held > 0 and rows == n):
        raise ValueError(f"validation_split={held} of {n} rows leaves one side without rows")
    return rows


def like_input(result: Array, like: Any) -> Array:
    """A result, made for the caller alone, as the kind that went in: CuPy for CuPy, NumPy for everything else."""
    return array_module(like).asarray(result) if is_device_array(like) else to_host(result)


def float_dtype(dtype: Any) -> np.dtype:
    """float32 or float64, by whatever name. ValueError for any other."""
    with contextlib.suppress(TypeError):
        for allowed in (np.dtype(np.float32), np.dtype(np.float64)):
            # NumPy takes None for float64
            if dtype is not None and np.dtype(dtype) == allowed:
                return allowed
    raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")


def as_real_array(x: Any, name: str) -> Array:
    """x as an array of real numbers of a type and a layout that the kernels read. TypeError or ValueError names it."""
    array = x if isinstance(x, np.ndarray) or is_device_array(x) else _converted(x, name)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; fill the masked cells first ({_short_name(name)}.filled(…))")
    kind = array.dtype.kind
    if kind == "O" and array.size:
        array = _from_objects(array, name)
        kind = array.dtype.kind
    if kind not in "biuf":
        what = {"c": "complex numbers", "U": "text", "S": "text", **KINDS_OF_TIME}.get(kind)
        remedy = "cast to float32" if "float" in array.dtype.name else "encode them as numbers"  # bfloat16, float8_…
        raise TypeError(f"{name} must hold real numbers, got {what or array.dtype}; {remedy} first")
    if array.dtype.itemsize == 2 and kind == "f":
        with device_of(array):
            array = array.astype(np.float32)
    elif kind == "f" and array.dtype.itemsize > 8:
        array = _from_long(array, name)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    elif isinstance(array, np.ndarray) and not _is_regular(array):
        array = array.copy()
    return array


def reject_dates(x: Any, name: str) -> None:
    """TypeError where x holds dates, times of day or time differences, which NumPy converts to integers.

    x is an array, a list or a data frame that another library checks next, and which that library may refuse for other
    reasons.
    """
    if not (hasattr(x, "columns") and hasattr(x, "dtypes")):
        if x is not None and _may_hold_dates(getattr(x, "dtype", None)):
            _reject_dates_in(x, name)
        return
    for k, (column, dtype) in enumerate(zip(x.columns, x.dtypes, strict=True)):
        if _may_hold_dates(dtype):
            cells = x.iloc[:, k] if hasattr(x, "iloc") else x[column]
            _reject_dates_in(cells, f"column {column!r} of {name}")


def _may_hold_dates(dtype: Any) -> bool:
    """False for the types of numbers that NumPy, pandas and polars have."""
    if hasattr(dtype, "is_numeric"):  # of polars
        return not dtype.is_numeric()
    return getattr(dtype, "kind", "O") in "mMO"


def _reject_dates_in(x: Any, name: str) -> None:
    try:
        array = np.asarray(x)
    except UNREADABLE:
        return
    what = KINDS_OF_TIME.get(array.dtype.kind)
    if array.dtype.kind == "O":
        found = next((value for value in array.ravel() if isinstance(value, TIMES)), None)
        what = None if found is None else f"{type(found).__name__} {found!r}"
    if what is not None:
        raise TypeError(f"{name} must hold real numbers, got {what}; encode them as numbers first")


def _short_name(name: str) -> str:
    """What the user calls it: y of "validation y"."""
    return name.split()[-1]


def _is_regular(array: np.ndarray) -> bool:
    """Whether strides are whole numbers of elements, which a field of a record array's need not be."""
    return array.flags.aligned and all(s % array.itemsize == 0 for s in array.strides)


def _from_long(array: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        converted = array.astype(np.float64)
    if (np.isinf(converted) & np.isfinite(array)).any():
        raise ValueError(f"{name} holds values too large for float64; scale it")
    return converted


def _converted(x: Any, name: str) -> Array:
    if x is None or isinstance(x, (str, bytes, dict, set)):
        raise TypeError(f"{name} must be an array of numbers, got {type(x).__name__}")
    if hasattr(x, "tocsr"):
        raise TypeError(f"{name} is a sparse matrix, which only X may be; pass {_short_name(name)}.toarray()")
    x = tensor_to_numpy(x, name)
    try:
        if hasattr(x, "to_numpy"):
            x = x.to_numpy()
        elif hasattr(x, "__cuda_array_interface__"):
            return from_cuda_interface(x)
    except UNREADABLE as error:
        raise _unreadable(x, name, error) from error
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} must be rectangular, every row as long as the others: {error}") from None
    except RuntimeError as error:
        raise _unreadable(x, name, error) from error


def tensor_to_numpy(x: Any, name: str) -> Any:
    """What torch holds, or `__dlpack__` alone offers, as NumPy has it; everything else as it is.

    Tensors that remember gradients are detached, those of a list too. TypeError names what cannot be read."""
    try:
        if hasattr(x, "detach"):
            return x.detach().cpu().numpy()
        if isinstance(x, (list, tuple)) and x and all(hasattr(row, "detach") for row in x):
            return [row.detach().cpu().numpy()[()] for row in x]  # of one number that number
        if hasattr(x, "__dlpack__") and not any(hasattr(x, way) for way in OTHER_WAYS):
            return np.from_dlpack(x)
    except UNREADABLE as error:
        raise _unreadable(x, name, error) from error
    return x


def _unreadable(x: Any, name: str, error: Exception) -> TypeError:
    what = f"{name}, of type {type(x).__name__}, cannot be read as an array: {str(error).rstrip('.')}"
    return TypeError(f"{what}; pass a NumPy array of float32 or float64")


def _from_objects(array: Array, name: str) -> Array:
    """Objects that are all numbers as float64; anything else is named."""
    for value in array.ravel():
        # np.timedelta64 is a subclass of np.number
        if not isinstance(value, (int, float, np.number, np.bool_)) or isinstance(value, (np.complexfloating, *TIMES)):
            raise TypeError(
                f"{name} must hold real numbers, got {type(value).__name__} {value!r}; encode it as numbers first"
            )
    try:
        return array.astype(np.float64)
    except OverflowError:
        raise ValueError(f"{name} holds an integer too large for float64") from None


def _row_blocks(array: Array, first: int = 0, count: int | None = None) -> list[slice]:
    step = max(1, (DEVICE_BLOCK if is_device_array(array) else BLOCK) // max(1, array.shape[1]))
    stop = array.shape[0] if count is None else first + count
    return [slice(k, min(k + step, stop)) for k in range(first, stop, step)]


def _check_finite(array: Array, dtype: np.dtype, name: str, first: int = 0, count: int | None = None) -> None:
    """ValueError where a number is NaN, infinite, or beyond what `dtype` holds; names the first such place. It looks at
    all rows, or at `count` of them from `first` on."""
    if array.dtype.kind != "f":
        return
    xp = array_module(array)
    limit = float(np.finfo(dtype).max)
    narrows = array.dtype.itemsize > dtype.itemsize
    for rows in _row_blocks(array, first, count):
        block = array[rows]
        with device_of(array):
            top = xp.abs(block).max()
            if bool(xp.isfinite(top)) and not (narrows and float(top) > limit):
                continue
        block = to_host(block)
        wrong = ~np.isfinite(block)
        if wrong.any():
            r, c = (int(v[0]) for v in np.nonzero(wrong))
            value = float(block[r, c])
            what = "NaN" if value != value else "infinity"
            raise ValueError(
                f"{name} contains {what}, first in row {rows.start + r}, column {c}; fill or drop such cells first"
            )
        raise ValueError(
            f"{name} holds values too large for {dtype} (beyond {limit:.3g}); scale it, or use dtype='float64'"
        )


def _compressed(X: Any, name: str) -> Any:
    """SciPy's sparse matrix in compressed rows, of a type that the kernels read, its indices checked."""
    X = X.tocsr()
    if X.ndim != 2 or X.shape[1] >= 2**31:
        raise ValueError(f"{name} must have shape (rows, columns), fewer than 2³¹ columns, got shape {X.shape}")
    try:
        X.check_format(full_check=True)
    except ValueError as error:
        raise ValueError(f"{name} is no valid sparse matrix: {error}") from None
    stored = as_real_array(X.data, name)
    return X if stored is X.data else type(X)((stored, X.indices, X.indptr), shape=X.shape)


def _check_stored(X: Any, dtype: np.dtype, name: str) -> None:
    """`_check_finite` of what a sparse matrix stores."""
    try:
        _check_finite(X.data[:, None], dtype, name)
    except ValueError:
        with np.errstate(over="ignore"):
            k = int(np.flatnonzero(~np.isfinite(X.data.astype(dtype)))[0])
        r = int(np.searchsorted(X.indptr, k, side="right")) - 1
        raise ValueError(
            f"{name} contains {X.data[k]!r} in row {r}, column {X.indices[k]}, which {dtype} does not hold as a finite "
            "number; fill, drop or scale such cells first"
        ) from None


def _check_rows(array: Array, n: int, name: str) -> None:
    if array.shape[0] != n:
        raise ValueError(f"{name} has {array.shape[0]} rows, but X has {n}")


def _labels(array: Array, n_out: int, name: str) -> Array:
    """Whole numbers 0 … n_out − 1 as int32; checked on the host, since a GPU wraps an index out of range."""
    host = to_host(array)
    if host.dtype.kind == "f":
        if not np.isfinite(host).all():
            raise ValueError(f"{name} contains NaN or infinity")
        if (host != np.floor(host)).any():
            raise ValueError(f"{name} must hold whole numbers as labels, got {host[host != np.floor(host)][0]!r}")
    low, high = host.min(), host.max()
    if low < 0 or high >= n_out:
        wrong = low if low < 0 else high
        raise ValueError(
            f"{name} holds label {float(wrong):.15g}, but the network has {n_out} outputs: labels are 0 … {n_out - 1}"
        )
    return host.astype(np.int32)
