"""Tensors: the values of a step while it is recorded, and the variables that outlive it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..kernels import Kernel
from ..kernels import get as kernel

Array = Any  # type: ignore[explicit-any]  # NumPy's or CuPy's array, or a tensor
HostArray = NDArray["np.generic[object]"]  # NumPy's array of any type
DType = np.dtype["np.generic[object]"]
ShapeAndType = tuple[tuple[int, ...], DType]
REMEDY = "write it with @ + - * /, .T, .sum(axis=0) and kernels (gpunn.kernels.get), or set opaque = True to get arrays"


class Variable:
    """A flat array that outlives a step: parameters, gradients, slots, running statistics, the state array, sums."""

    __slots__ = ("dtype", "name", "size")

    def __init__(self, name: str, size: int, dtype: DTypeLike) -> None:
        self.name = name
        self.size = size
        self.dtype = np.dtype(dtype)

    def __repr__(self) -> str:
        return f"<Variable {self.name} ({self.size},) {self.dtype}>"


class Place(NamedTuple):
    """The elements start … stop of a variable."""

    variable: Variable
    start: int
    stop: int


class TensorSpec(NamedTuple):
    """The shape and dtype of a result of Python code; `batch` as for `Tensor`.

    A result without a batch axis is a sum over the rows of this process if it is partial.
    """

    shape: tuple[int, ...]
    dtype: DTypeLike
    batch: bool = True
    partial: bool = True


class ArrayFunction(Protocol):
    """Python code on arrays, which returns one array or a tuple of arrays."""

    def __call__(self, *arrays: Array, **options: Array) -> Array: ...


class NumPyFunction(Protocol):
    """A function or ufunc of NumPy."""

    __name__: str


class Recorder(Protocol):
    """The program that operations on tensors are recorded in: see `gpunn.program.Program`."""

    def matmul(self, a: object, b: object) -> Tensor: ...

    def record_kernel(
        self, called: Kernel, operands: Sequence[Array], count: int | None, scalars: dict[str, float]
    ) -> Array: ...

    def record_python(
        self, function: ArrayFunction, inputs: Sequence[Array], like: Sequence[TensorSpec | Array], reason: str
    ) -> Array: ...

    def first_row(self, x: Tensor) -> Tensor: ...


# operators that arrays have and tensors have not
REFUSED = {
    "__pow__": "the power **",
    "__rpow__": "the power **",
    "__mod__": "the remainder %",
    "__rmod__": "the remainder %",
    "__floordiv__": "the division //",
    "__rfloordiv__": "the division //",
    "__lt__": "the comparison <",
    "__le__": "the comparison <=",
    "__gt__": "the comparison >",
    "__ge__": "the comparison >=",
    "__and__": "the operator &",
    "__or__": "the operator |",
    "__invert__": "the operator ~",
    "__abs__": "abs()",
    "__float__": "float()",
    "__int__": "int()",
    "__len__": "len()",
    "__iter__": "iteration",
    "__getitem__": "indexing",
    "__setitem__": "the assignment to elements",
    "__bool__": "the truth value",
    "__array__": "the conversion to an array",
}
# operators that tensors have and transposed tensors have not
REFUSED_TRANSPOSED = dict.fromkeys(
    f"__{side}{name}__" for name in ("add", "sub", "mul", "truediv") for side in ("", "r")
) | {"__neg__": None}


def _refusing(operators: Mapping[str, str | None]) -> Callable[[type], type]:
    """A class decorator that adds operators which raise TypeError."""

    def decorate(cls: type) -> type:
        for name, what in operators.items():

            def refused(
                self: View, *others: object, what: str = what or name.strip("_"), **options: object
            ) -> NoReturn:
                refuse(f"{what} of a {self.kind}")

            setattr(cls, name, refused)
        return cls

    return decorate


@_refusing(REFUSED)
class Tensor:
    """A value of a step. It is written by one op, or read from outside.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        The storage type.
    batch : bool
        True if the first axis is that of the batch's rows. In distributed training a process has some of them.
    place : Place or None
        The elements of a variable that the tensor is stored in.
    name : str
        A name for people, "" for most intermediate values.
    row_stride : int
        Elements from one row of a matrix to the next; 0 if the rows are contiguous.
    """

    __slots__ = ("batch", "dtype", "name", "place", "program", "row_stride", "shape")
    transposed = False
    kind = "tensor"

    def __init__(
        self,
        program: Recorder,
        shape: tuple[int, ...],
        dtype: DType,
        *,
        batch: bool = False,
        place: Place | None = None,
        name: str = "",
    ) -> None:
        self.program = program
        self.shape = shape
        self.dtype = dtype
        self.batch = batch
        self.place = place
        self.name = name
        self.row_stride = 0

    @property
    def base(self) -> Tensor:
        """The tensor itself. That of a transposed tensor is the tensor that it is a view of."""
        return self

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        count = 1
        for n in self.shape:
            count *= n
        return count

    @property
    def nbytes(self) -> int:
        """The size in bytes of its memory, with the padding of rows."""
        size = self.shape[0] * self.row_stride if self.row_stride else self.size
        return size * self.dtype.itemsize

    @property
    def T(self) -> Transposed:
        """The transposed matrix, a view that products read."""
        return Transposed(self)

    def sum(self, axis: int | None = None) -> Tensor:
        """Σ over the rows (axis=0). (E7)"""
        if axis != 0 or self.ndim != 2:
            raise OperationRefused(
                f"sum(axis={axis}) of a tensor of shape {self.shape}: only axis=0 of a matrix is summed; {REMEDY}"
            )
        found: Tensor = kernel("column_sum")(self)
        return found

    def record_kernel(
        self, called: Kernel, operands: Sequence[Array], count: int | None, scalars: dict[str, float]
    ) -> Array:
        """Record the call of a kernel. Kernels call this method of an operand that has it."""
        return self.program.record_kernel(called, operands, count, scalars)

    # --- operators ---

    def __matmul__(self, other: object) -> Tensor:
        return self.program.matmul(self, other)

    def __add__(self, other: object) -> Tensor:
        return _binary("add", self, other)

    def __radd__(self, other: object) -> Tensor:
        return _binary("add", self, other)

    def __sub__(self, other: object) -> Tensor:
        return _binary("subtract", self, other)

    def __rsub__(self, other: object) -> Tensor:
        return _binary("rsubtract", self, other)

    def __mul__(self, other: object) -> Tensor:
        return _binary("multiply", self, other)

    def __rmul__(self, other: object) -> Tensor:
        return _binary("multiply", self, other)

    def __truediv__(self, other: object) -> Tensor:
        return _binary("divide", self, other)

    def __rtruediv__(self, other: object) -> Tensor:
        return _binary("rdivide", self, other)

    def __neg__(self) -> Tensor:
        return _binary("multiply", self, -1.0)

    def __array_ufunc__(self, ufunc: NumPyFunction, method: str, *inputs: object, **options: object) -> object:
        """Compute with NumPy's scalars as with Python's. TypeError for any other function of NumPy."""
        found = OPERATORS.get(ufunc.__name__) if method == "__call__" and len(inputs) == 2 and not options else None
        if found is not None and isinstance(inputs[0], NUMBERS):
            return getattr(self, found)(float(inputs[0]))
        if isinstance(inputs[0], np.ndarray) or isinstance(inputs[-1], np.ndarray):
            refuse(f"numpy.{ufunc.__name__} of a tensor and an array")
        refuse(f"numpy.{ufunc.__name__}")

    def __array_function__(self, function: NumPyFunction, *call: object) -> NoReturn:
        refuse(f"numpy.{function.__name__}")

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        refuse(f"the attribute {name} of a tensor", AttributeRefused)

    def __repr__(self) -> str:
        return f"<Tensor {self.name or 'without a name'} {self.shape} {self.dtype}>"


@_refusing(REFUSED | REFUSED_TRANSPOSED)
class Transposed:
    """A matrix read transposed: the same memory. Products and kernels read it."""

    __slots__ = ("base",)
    transposed = True
    kind = "transposed tensor"

    def __init__(self, base: Tensor) -> None:
        if len(base.shape) != 2:
            raise OperationRefused(f".T of a tensor of shape {base.shape}: only a matrix can be transposed")
        self.base = base

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.base.shape
        return columns, rows

    @property
    def dtype(self) -> DType:
        return self.base.dtype

    @property
    def T(self) -> Tensor:
        return self.base

    def record_kernel(
        self, called: Kernel, operands: Sequence[Array], count: int | None, scalars: dict[str, float]
    ) -> Array:
        """Record the call of a kernel on a transposed matrix, which is copied first."""
        return self.base.program.record_kernel(called, operands, count, scalars)

    def __matmul__(self, other: object) -> Tensor:
        return self.base.program.matmul(self, other)

    def __array_ufunc__(self, ufunc: NumPyFunction, method: str, *inputs: object, **options: object) -> NoReturn:
        refuse(f"numpy.{ufunc.__name__} of a transposed tensor")

    def __array_function__(self, function: NumPyFunction, *call: object) -> NoReturn:
        refuse(f"numpy.{function.__name__} of a transposed tensor")

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        refuse(f"the attribute {name} of a transposed tensor", AttributeRefused)


View = Tensor | Transposed
OPERATORS = {"add": "__radd__", "subtract": "__rsub__", "multiply": "__rmul__", "divide": "__rtruediv__"}
NUMBERS = (int, float, np.integer, np.floating)
COMMUTATIVE = ("add", "multiply")


class OperationRefused(TypeError):
    """Raised for an operation that arrays have and tensors have not."""


def named_call(owner: object, method: str, *arguments: object) -> Array:
    """Call a method. An error for an operation that tensors have not names the class and the method."""
    try:
        return getattr(owner, method)(*arguments)
    except OperationRefused as error:
        raise TypeError(f"{type(owner).__name__}.{method}: {error}") from error


class AttributeRefused(OperationRefused, AttributeError):
    """Raised for an attribute that arrays have and tensors have not. `hasattr` is False for it."""


def refuse(what: str, error: type[OperationRefused] = OperationRefused) -> NoReturn:
    """Raise TypeError with the remedy."""
    raise error(f"{what} is not an operation of tensors: {REMEDY}")


def _binary(name: str, x: Tensor, other: object) -> Tensor:
    """Record x op other for another tensor of this shape, a row vector or a number."""
    if isinstance(other, NUMBERS) and not isinstance(other, bool):
        found: Tensor = kernel(f"{name}_scalar")(x, c=float(other))
        return found
    if not isinstance(other, Tensor):
        refuse(f"{name} of a tensor and {described(other)}")
    if other.shape == x.shape:
        found = kernel(name)(x, other)
    elif other.shape == x.shape[1:]:
        found = kernel(f"{name}_row")(x, other)
    elif x.shape == other.shape[1:] and name in COMMUTATIVE:
        found = kernel(f"{name}_row")(other, x)
    elif x.shape == other.shape[1:] and name in ("subtract", "divide"):
        found = kernel(f"r{name}_row")(other, x)
    else:
        raise ValueError(
            f"{name}: shapes {x.shape} and {other.shape} differ; only a row vector (m,) is broadcast to (n, m)"
        )
    return found


def described(other: object) -> str:
    """An operand in words, for error messages."""
    if isinstance(other, np.ndarray):
        return "an array, which must be a parameter or a running statistic of the layer,"
    return f"a {getattr(other, 'kind', type(other).__name__)}"


def read_only(x: Array) -> Array:
    """A view that cannot be written, where the array's library has one."""
    view = x[...]
    if hasattr(view, "setflags"):
        view.setflags(write=False)
    return view


def python_call(
    function: ArrayFunction, inputs: Sequence[Array], like: Sequence[TensorSpec | Array], reason: str
) -> Array:
    """Compute with Python code on arrays.

    Parameters
    ----------
    function : callable
        ``function(*inputs)`` returns one array, or a tuple of arrays, of the shapes of `like`. It must not change its
        inputs.
    inputs : sequence of arrays, or of tensors
    like : sequence of TensorSpec or tensors
        One per result, with its shape and dtype.
    reason : str
        The reason for Python code, which `Sequential.summary` reports.

    Returns
    -------
    array, tensor or tuple of them
        The results: arrays, or the tensors of one recorded op.
    """
    for x in inputs:
        if isinstance(x, Tensor):
            return x.program.record_python(function, inputs, like, reason)
    found = checked_results(function(*map(read_only, inputs)), like, reason)
    return unpacked([x.astype(to.dtype, copy=False) for x, to in zip(found, like, strict=True)])


def checked_results(found: Array, like: Sequence[TensorSpec | Array], reason: str) -> tuple[Array, ...]:
    """The results of Python code as a tuple. ValueError or TypeError if they have not the shapes of `like`."""
    results = as_tuple(found)
    if len(results) != len(like):
        raise ValueError(f"{reason}, and must return {len(like)} arrays, got {len(results)}")
    for number, (x, to) in enumerate(zip(results, like, strict=True), 1):
        got, expected = getattr(x, "shape", x), tuple(to.shape)
        if got != expected:
            raise ValueError(f"{reason}, and its result {number} must be an array of shape {expected}, got {got!r}")
        if x.dtype.kind not in "biuf":
            raise TypeError(f"{reason}, and its result {number} must be of real numbers, got {x.dtype}")
    return results


def as_tuple(found: Array) -> tuple[Array, ...]:
    """The results of a function that returns one value, or a tuple of values."""
    return found if isinstance(found, tuple) else (found,)


def unpacked(results: Sequence[Array]) -> Array:
    """The only result, or a tuple of several: the opposite of `as_tuple`."""
    return results[0] if len(results) == 1 else tuple(results)


def first_row(x: Array) -> Array:
    """Row 0 of the batch, (m,). In distributed training it is that of the first process."""
    return x.program.first_row(x) if isinstance(x, Tensor) else x[0]
