"""Checks of features, targets and weights before anything changes, and the order of the rows in an epoch."""

from __future__ import annotations

import contextlib
import datetime
from typing import Any

import numpy as np

from .backend import Backend, array_module, device_of, from_cuda_interface, is_device_array, to_host
from .losses import BinaryCrossentropy, CategoricalCrossentropy, Loss
from .network import CompressedRows, Table, keyed_generator
from .program import Array
from .program.groups import shard_bounds
from .validation import half_open_unit_interval, nonnegative

# Elements per block of a check, which never copies the data set. Larger on a GPU, where each block costs a
# synchronization.
BLOCK = 1 << 16
DEVICE_BLOCK = 1 << 24
# beyond these, weight · loss or the ratio of two class weights can leave the range of float64
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-100, 1e100
# objects with one of these are not read through `__dlpack__`
PREFERRED_PROTOCOLS = ("to_numpy", "__array__", "__cuda_array_interface__", "__dataframe__")
CONVERSION_ERRORS = (TypeError, ValueError, BufferError, RuntimeError)
# dates by NumPy's kinds, and as objects; pandas's Timestamp and Timedelta inherit from the classes
DATE_KINDS = {"M": "dates", "m": "time differences"}
DATE_CLASSES = (np.datetime64, np.timedelta64, datetime.date, datetime.time, datetime.timedelta)


def features(X: Any, n_in: int | None, dtype: np.dtype, name: str = "X", *, shard: tuple[int, int] = (0, 1)) -> Array:
    """Check features and return them as a matrix of finite numbers within the range of `dtype`.

    Parameters
    ----------
    X : array, table or sparse matrix
    n_in : int or None
        The required number of columns.
    dtype : dtype
        The network's dtype.
    name : str
        The name of X in error messages.
    shard : (int, int)
        Rank and number of processes. Each process checks the numbers of its shard of the rows.

    Returns
    -------
    array, shape (n, n_in)
        In its own type, or a sparse matrix in compressed rows.

    Raises
    ------
    TypeError
        If X is not made of real numbers.
    ValueError
        If the shape is wrong, or for NaN, infinity and numbers too large for `dtype`. The message names the first one.
    """
    array = as_matrix(X, n_in, name)
    check_numbers(array, dtype, name, shard=shard)
    return array


def as_matrix(X: Any, n_in: int | None, name: str = "X") -> Array:
    """Return X as a matrix of real numbers (n, n_in) that kernels can read, without a check of its numbers.

    Accepts NumPy and CuPy arrays, lists, pandas and polars tables, objects with `__dlpack__` or `__array__`, and
    SciPy's sparse matrices, which become one in compressed rows. The type does not change, nor does a layout that
    kernels can read. TypeError for text, dates, complex numbers and other objects. ValueError for wrong shapes, ragged
    lists and empty sets.
    """
    array = _compressed(X, name) if hasattr(X, "tocsr") else as_real_array(X, name)
    if array.ndim != 2:
        short = _short_name(name)
        hint = (
            f"; {short}.reshape(-1, 1) makes it one column, {short}.reshape(1, -1) one row" if array.ndim == 1 else ""
        )
        raise ValueError(f"{name} must have shape (rows, columns), got shape {array.shape}{hint}")
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise ValueError(f"{name} must have at least one row and one column, got shape {array.shape}")
    if n_in is not None and array.shape[1] != n_in:
        raise ValueError(f"{name} has {array.shape[1]} columns, but the network takes {n_in}")
    return array


def check_numbers(X: Any, dtype: np.dtype, name: str = "X", *, shard: tuple[int, int] = (0, 1)) -> None:
    """Check that a matrix of `as_matrix` is finite and within the range of `dtype`. ValueError if it is not."""
    if hasattr(X, "tocsr"):
        _check_stored(X, dtype, name)
    else:
        _check_finite(X, dtype, name, *shard_bounds(X.shape[0], *shard))


def on_device(X: Any, backend: Backend) -> Table:
    """Copy a matrix of `features` to a device, as an array or as compressed rows."""
    if not hasattr(X, "tocsr"):
        return backend.asarray(X)
    values, columns, starts = (
        backend.asarray(np.ascontiguousarray(part))
        for part in (X.data, X.indices.astype(np.int32, copy=False), X.indptr.astype(np.int64, copy=False))
    )
    return CompressedRows(values, columns, starts, X.shape)


def targets(y: Any, loss: Loss, n: int, n_out: int, dtype: np.dtype, name: str = "y") -> Array:
    """Check targets and return them in the form that the loss takes. They are never broadcast.

    Parameters
    ----------
    y : array
    loss : Loss
    n, n_out : int
        The numbers of rows and outputs.
    dtype : dtype
        The network's dtype.
    name : str
        The name of y in error messages.

    Returns
    -------
    array
        int32 labels (n,), or values (n, n_out).

    Raises
    ------
    TypeError
        If y is not made of real numbers.
    ValueError
        If the shape is wrong, for NaN, infinity and numbers too large for `dtype`, for labels that are out of range or
        not integers, and for values for which the loss is not defined.
    """
    array = as_real_array(y, name)
    if loss.targets == "class_index":
        _check_label_shape(array, loss, n, name)
        return _labels(array, n_out, name)
    _check_dense_shape(array, loss, n, n_out, name)
    _check_finite(array, dtype, name)
    with device_of(array):
        for rows in _row_blocks(array):
            loss.check_targets(array[rows], array_module(array), name)
    return array


def _check_label_shape(array: Array, loss: Loss, n: int, name: str) -> None:
    if array.ndim != 1:
        hint = "for one-hot rows use categorical_crossentropy"
        if array.size == n:
            hint = f"{_short_name(name)}.ravel() makes it so"
        raise ValueError(
            f"{name} must hold one label per row, shape ({n},), for loss {loss.name!r}, got shape {array.shape}; {hint}"
        )
    if array.shape[0] != n:
        raise ValueError(f"{name} has {array.shape[0]} rows, but X has {n}")


def _check_dense_shape(array: Array, loss: Loss, n: int, n_out: int, name: str) -> None:
    if array.shape == (n, n_out):
        return
    hint = ""
    if array.shape == (n,) and n_out == 1:
        hint = f"; {_short_name(name)}.reshape(-1, 1) makes it so"
    elif array.shape == (n,) and loss.name == "categorical_crossentropy":
        hint = "; for integer labels use sparse_categorical_crossentropy"
    raise ValueError(f"{name} must have shape ({n}, {n_out}) for loss {loss.name!r}, got shape {array.shape}{hint}")


def weights(w: Any, n: int, dtype: np.dtype, name: str = "sample_weight") -> Array:
    """Check the sample weights (n,) of a data set, as `batch_weights` does. ValueError too if all of them are 0."""
    converted = batch_weights(w, n, dtype, name)
    if not any_weight(converted):
        raise ValueError(
            f"{name} is zero in every row; at least one weight must be > 0, and weights below "
            f"{_smallest_weight(dtype):.3g} count as 0 in {dtype}"
        )
    return converted


def any_weight(w: Array | None) -> bool:
    """Return True unless all weights are 0. None means weights of 1."""
    if w is None:
        return True
    with device_of(w):
        return bool((w > 0).any())


def batch_weights(w: Any, n: int, dtype: np.dtype, name: str = "sample_weight") -> Array:
    """Check the sample weights (n,) of a batch, which may all be 0, and return them in the network's dtype. (E3)

    A training step flushes subnormal numbers, so weights that small become 0 on every device. ValueError or TypeError
    if weights are negative, not finite, or too large to be added up.
    """
    array = as_real_array(w, name)
    if array.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one weight per row, got shape {array.shape}")
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
    """Return the smallest weight that does not count as 0."""
    return max(float(np.finfo(dtype).tiny), SMALLEST_WEIGHT)


def class_weights(class_weight: Any, y: Array, loss: Loss, n_out: int) -> np.ndarray:
    """Return the weight of each row from the weights of the classes. (E3)

    Parameters
    ----------
    class_weight : dict or "balanced"
        {class: weight}; a class that is not named has weight 1. "balanced" gives all classes in y the same total
        weight, n/(k · rows of the class) with k classes, as scikit-learn does.
    y : array
        Checked targets.
    loss : Loss
    n_out : int

    Returns
    -------
    array, shape (n,)
        float64.

    Raises
    ------
    TypeError
        If `class_weight` is anything else.
    ValueError
        If the loss has no classes, a class does not exist, or a weight is negative or not finite.
    """
    balanced = isinstance(class_weight, str) and class_weight == "balanced"
    if not isinstance(class_weight, dict) and not balanced:
        got = repr(class_weight) if isinstance(class_weight, str) else type(class_weight).__name__
        raise TypeError(f"class_weight must be a dict of class and weight, or 'balanced', got {got}")
    labels, n_classes = _class_of_each_row(to_host(y), loss, n_out)
    if balanced:
        present, index, rows = np.unique(labels, return_inverse=True, return_counts=True)
        if not np.isin(present, range(n_classes)).all():
            raise ValueError("class_weight='balanced' needs targets that are 0 or 1; pass sample_weight")
        return (len(labels) / (len(present) * rows))[index]
    result = np.ones(len(labels))
    for key, value in class_weight.items():
        if key not in range(n_classes):
            raise ValueError(f"class_weight names class {key!r}, but the classes are 0 … {n_classes - 1}")
        result[labels == key] = nonnegative(f"class_weight[{key!r}]", value)
    return result


def _class_of_each_row(y: np.ndarray, loss: Loss, n_out: int) -> tuple[np.ndarray, int]:
    """Return the labels of the rows and the number of classes. ValueError if the loss has no classes."""
    if loss.targets == "class_index":
        return y, n_out
    if n_out == 1 and isinstance(loss, BinaryCrossentropy):
        return y[:, 0], 2
    if isinstance(loss, CategoricalCrossentropy):
        return y.argmax(axis=1), n_out
    raise ValueError(f"class_weight needs classes, which loss {loss.name!r} does not have; use sample_weight")


def epoch_permutation(n: int, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """Return the order of the rows in an epoch: a permutation that depends on (seed, epoch) alone, or 0 … n − 1."""
    return keyed_generator(seed, epoch).permutation(n) if shuffle else np.arange(n)


def n_training_rows(n: int, validation_split: float) -> int:
    """Return the number of training rows, ⌊n (1 − validation_split)⌋ as in Keras. The last rows are for validation.

    ValueError if there would be no rows for one of the two.
    """
    fraction = half_open_unit_interval("validation_split", validation_split)
    # 10 · (1 − 0.9) is less than 1 in floating-point numbers
    rows = int(n * (1 - fraction + np.finfo(np.float64).eps))
    if rows == 0 or (fraction > 0 and rows == n):
        raise ValueError(f"validation_split={fraction} of {n} rows leaves one side without rows")
    return rows


def like_input(result: Array, like: Any) -> Array:
    """Return a result as the kind of array that went in: CuPy for CuPy, NumPy for everything else."""
    return array_module(like).asarray(result) if is_device_array(like) else to_host(result)


def float_dtype(dtype: Any) -> np.dtype:
    """Return float32 or float64 from any of its names. ValueError for any other type."""
    with contextlib.suppress(TypeError):
        for allowed in (np.dtype(np.float32), np.dtype(np.float64)):
            # np.dtype(None) is float64
            if dtype is not None and np.dtype(dtype) == allowed:
                return allowed
    raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")


def as_real_array(x: Any, name: str) -> Array:
    """Return x as an array of real numbers in a type and a layout that kernels read. TypeError or ValueError if not."""
    array = x if isinstance(x, np.ndarray) or is_device_array(x) else _converted(x, name)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; fill the masked cells first ({_short_name(name)}.filled(…))")
    if array.dtype.kind == "O" and array.size:
        array = _from_objects(array, name)
    kind = array.dtype.kind
    if kind not in "biuf":
        got = {"c": "complex numbers", "U": "text", "S": "text", **DATE_KINDS}.get(kind, array.dtype)
        # bfloat16, float8_e4m3, …
        remedy = "cast to float32" if "float" in array.dtype.name else "encode them as numbers"
        raise TypeError(f"{name} must hold real numbers, got {got}; {remedy} first")
    if array.dtype.itemsize == 2 and kind == "f":
        with device_of(array):
            array = array.astype(np.float32)
    elif kind == "f" and array.dtype.itemsize > 8:
        array = _from_long_double(array, name)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    elif isinstance(array, np.ndarray) and not _has_element_strides(array):
        array = array.copy()
    return array


def reject_dates(x: Any, name: str) -> None:
    """Check that x has no dates, times of day or time differences, which NumPy converts to integers. TypeError if so.

    x is an array, a list or a data frame. Another library checks it next, and may reject it for other reasons.
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
    """Return False for the numeric types of NumPy, pandas and polars."""
    if hasattr(dtype, "is_numeric"):  # polars
        return not dtype.is_numeric()
    return getattr(dtype, "kind", "O") in "mMO"


def _reject_dates_in(x: Any, name: str) -> None:
    try:
        array = np.asarray(x)
    except CONVERSION_ERRORS:
        return
    got = DATE_KINDS.get(array.dtype.kind)
    if array.dtype.kind == "O":
        date = next((value for value in array.ravel() if isinstance(value, DATE_CLASSES)), None)
        got = None if date is None else f"{type(date).__name__} {date!r}"
    if got is not None:
        raise TypeError(f"{name} must hold real numbers, got {got}; encode them as numbers first")


def _short_name(name: str) -> str:
    """Return the last word of a name: "y" for "validation y"."""
    return name.split()[-1]


def _has_element_strides(array: np.ndarray) -> bool:
    """Return True if strides are multiples of the element size. Those of a field of a record array need not be."""
    return array.flags.aligned and all(s % array.itemsize == 0 for s in array.strides)


def _from_long_double(array: np.ndarray, name: str) -> np.ndarray:
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
    except CONVERSION_ERRORS as error:
        raise _unreadable(x, name, error) from error
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} must be rectangular, every row as long as the others: {error}") from None
    except RuntimeError as error:
        raise _unreadable(x, name, error) from error


def tensor_to_numpy(x: Any, name: str) -> Any:
    """Return a torch tensor, or an object that has `__dlpack__` only, as a NumPy array, and other objects unchanged.

    Tensors that require gradients are detached, also in a list. TypeError if x cannot be read.
    """
    if x is None or isinstance(x, np.ndarray):
        return x
    try:
        if hasattr(x, "detach"):
            return x.detach().cpu().numpy()
        if isinstance(x, (list, tuple)) and x and all(hasattr(row, "detach") for row in x):
            return [row.detach().cpu().numpy()[()] for row in x]  # [()] turns a 0-d array into a scalar
        if hasattr(x, "__dlpack__") and not any(hasattr(x, way) for way in PREFERRED_PROTOCOLS):
            return np.from_dlpack(x)
    except CONVERSION_ERRORS as error:
        raise _unreadable(x, name, error) from error
    return x


def _unreadable(x: Any, name: str, error: Exception) -> TypeError:
    return TypeError(
        f"{name}, of type {type(x).__name__}, cannot be read as an array: {str(error).rstrip('.')}; "
        "pass a NumPy array of float32 or float64"
    )


def _from_objects(array: Array, name: str) -> Array:
    """Return an array of Python numbers as float64. TypeError names the first object that is no number."""
    for value in array.ravel():
        # np.timedelta64 is a subclass of np.number
        if not isinstance(value, (int, float, np.number, np.bool_)) or isinstance(
            value, (np.complexfloating, *DATE_CLASSES)
        ):
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
    """Check that numbers are finite and within the range of `dtype`, in all rows or in `count` rows from `first` on.

    ValueError names the first number that is not.
    """
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
        invalid = ~np.isfinite(block)
        if not invalid.any():
            raise ValueError(
                f"{name} holds values too large for {dtype} (beyond {limit:.3g}); scale it, or use dtype='float64'"
            )
        r, c = (int(v[0]) for v in np.nonzero(invalid))
        got = "NaN" if np.isnan(block[r, c]) else "infinity"
        raise ValueError(
            f"{name} contains {got}, first in row {rows.start + r}, column {c}; fill or drop such cells first"
        )


def _compressed(X: Any, name: str) -> Any:
    """Return SciPy's sparse matrix in compressed rows, in a type that the kernels read. Its indices are checked."""
    X = X.tocsr()
    if X.ndim != 2 or X.shape[1] >= 2**31:
        raise ValueError(f"{name} must have shape (rows, columns) with fewer than 2³¹ columns, got shape {X.shape}")
    try:
        X.check_format(full_check=True)
    except ValueError as error:
        raise ValueError(f"{name} is not a valid sparse matrix: {error}") from None
    stored = as_real_array(X.data, name)
    return X if stored is X.data else type(X)((stored, X.indices, X.indptr), shape=X.shape)


def _check_stored(X: Any, dtype: np.dtype, name: str) -> None:
    """Check the stored numbers of a sparse matrix, as `_check_finite` does."""
    try:
        _check_finite(X.data[:, None], dtype, name)
    except ValueError:
        with np.errstate(over="ignore"):
            k = int(np.flatnonzero(~np.isfinite(X.data.astype(dtype)))[0])
        r = int(np.searchsorted(X.indptr, k, side="right")) - 1
        raise ValueError(
            f"{name} contains {X.data[k]!r} in row {r}, column {X.indices[k]}, which is not a finite number in "
            f"{dtype}; fill, drop or scale such cells first"
        ) from None


def _labels(array: Array, n_out: int, name: str) -> Array:
    """Return integers 0 … n_out − 1 as int32. They are checked on the host, since a GPU wraps an index out of range."""
    host = to_host(array)
    if host.dtype.kind == "f":
        if not np.isfinite(host).all():
            raise ValueError(f"{name} contains NaN or infinity")
        fractional = host[host != np.floor(host)]
        if fractional.size:
            raise ValueError(f"{name} must hold integers as labels, got {fractional[0]!r}")
    low, high = host.min(), host.max()
    if low < 0 or high >= n_out:
        invalid = low if low < 0 else high
        raise ValueError(
            f"{name} holds label {float(invalid):.15g}, but the network has {n_out} outputs: labels are 0 … {n_out - 1}"
        )
    return host.astype(np.int32)
