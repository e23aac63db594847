"""Inputs for any registered kernel, generated from its signature, and the comparison of two implementations.

A new kernel needs an entry here only if an operand has a special meaning: a function in SPECIAL, by the operand's name.
"""

import dataclasses

import numpy as np
import pytest

from gpunn.kernels import all_kernels
from gpunn.kernels._compiler.bfloat16 import rounded, widened
from gpunn.kernels.state import SIZE, StateEntry
from helpers import tolerances

OFFSET = 2  # first row of the batch in the table
POISON = 77
PER_COLUMN = 2  # frequencies per column of a periodic embedding
MULTIPLES = {"embedded": PER_COLUMN, "total": 1 + PER_COLUMN}  # row widths, as multiples of m
LAYOUTS = ("C", "F", "strided", "offset", "reversed")
SIZES = ((0, 3), (1, 1), (1, 31), (33, 1), (3, 33), (130, 67), (2, 8200))
FLAT = (0, 1, 31, 33, 9001)
EMPTY_ROWS = (4, 0)  # not for kernels by row, which require at least one column


def names(form=None):
    return [k.name for k in all_kernels() if form is None or k.form == form]


def by_kernel(variables=("T", "S")):
    """Parameters (kernel, types) of a test: every kernel, with every type of `variables`, float32 for the others."""
    parameters = []
    for kernel in all_kernels():
        for types in kernel.signature.type_combinations():
            if all(v in (*variables, "H") or t == "float32" for v, t in types.items()):
                name = "-".join([kernel.name, *types.values()])
                parameters.append(pytest.param(kernel, types, id=name))
    return parameters


def in_bfloat16():
    """Parameters (kernel, types) of a test: every kernel on matrices that may be stored in bfloat16."""
    types = {"T": "float32", "S": "float32", "H": "uint16"}
    return [pytest.param(k, types, id=f"{k.name}-bfloat16") for k in all_kernels() if k.signature.supports_bf16]


def edges(dtype, *, extremes=True):
    """±0, ±1, ±inf, NaN, tiny numbers, and limits of exp; `extremes` adds subnormal and huge numbers."""
    limits = np.finfo(dtype)
    positive = [0.0, 1.0, 1e-3, 0.5, 3.0, 17.0, 88.5, 104.0, 710.0, np.inf, float(limits.tiny), float(limits.eps)]
    if extremes:
        positive += [float(limits.smallest_subnormal), float(limits.tiny) / 8, float(limits.max), float(limits.max) / 3]
    return np.array([*positive, *(-x for x in positive), np.nan], dtype)


def in_place():
    """Parameters (kernel, output, input) of a test: all that may share memory.

    They are those that a kernel declares, and all others of the same type and kind. Targets y are never overwritten.
    """
    parameters = []
    for kernel in all_kernels():
        for o, declared in zip(kernel.signature.outputs, kernel.in_place, strict=True):
            for k, x in enumerate(kernel.operands[: len(kernel.signature.inputs)]):
                alike = kernel.form == "by_row" and o.role == "out" and o.kind != "raw" and x.name != "y"
                alike = alike and (o.kind, o.type, o.width) == (x.kind, x.type, x.width)
                if k in declared or alike:
                    parameters.append(pytest.param(kernel, o.name, x.name, id=f"{kernel.name}-{o.name}-in-{x.name}"))
    return parameters


# --- memory layouts -------------------------------------------------------------------------------------------------


def _view(base, shape, layout):
    """The view of `base` as an array of `shape` in a layout."""
    if len(shape) == 1:
        (n,) = shape
        return {
            "C": lambda: base[:n],
            "F": lambda: base[:n],
            "strided": lambda: base[1 : 1 + 3 * n : 3],
            "offset": lambda: base[3 : 3 + n],
            "reversed": lambda: base[n + 1 : 1 : -1],
            "padded": lambda: base[1 : 1 + n],
        }[layout]()
    n, m = shape
    matrix = base[: 3 * (n + 2) * (m + 3)]
    return {
        "C": lambda: matrix[: n * m].reshape(n, m),
        "F": lambda: matrix[: n * m].reshape(m, n).T,
        "strided": lambda: matrix.reshape(n + 2, 3 * (m + 3))[1 : 1 + n, 2 : 2 + 2 * m : 2],
        "offset": lambda: matrix[1 : 1 + n * m].reshape(n, m),
        "reversed": lambda: matrix[: n * m].reshape(n, m)[::-1, ::-1],
        "padded": lambda: matrix.reshape(n + 2, 3 * (m + 3))[1 : 1 + n, 1 : 1 + m],
    }[layout]()


class Arena:
    """An array within a larger buffer. The rest of the buffer must not change."""

    def __init__(self, values, layout, xp=np):
        shape = values.shape
        size = 3 * (shape[0] + 2) * (shape[1] + 3) if values.ndim == 2 else 3 * shape[0] + 8
        fill = np.array(POISON).astype(values.dtype)
        host = np.full(size, fill, values.dtype)
        outside = np.ones(size, bool)
        _view(host, shape, layout)[...] = values
        _view(outside, shape, layout)[...] = False
        self.outside, self.fill = outside, fill
        self.base = host if xp is np else xp.asarray(host)
        self.array = _view(self.base, shape, layout)

    def assert_rest_unchanged(self, description):
        base = self.base if isinstance(self.base, np.ndarray) else self.base.get()
        assert (base[self.outside] == self.fill).all(), f"{description}: written outside of the output"


# --- values ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Request:
    """The request for a case: kernel and types, n rows and m columns, the kind of values, a random generator."""

    kernel: object
    types: dict
    n: int
    m: int
    values: str
    rng: np.random.Generator

    def dtype(self, operand):
        """The type of an operand's values: float32 if they are stored in bfloat16."""
        return np.dtype("float32" if self.bf16(operand) else self.types.get(operand.type, operand.type))

    def bf16(self, operand):
        return operand.type == "H" and self.types["H"] == "uint16"

    def shape(self, operand):
        axis = self.kernel.axis
        if operand.role == "out" and self.kernel.form == "reduction":
            return (self.m,) if axis == "rows" else (1,)
        if operand.kind == "rows":
            return (self.n, MULTIPLES.get(operand.width, 1) * self.m)
        if operand.is_matrix:
            return (max(self.n, 1), self.m)
        if operand.kind == "row" or (operand.kind == "raw" and operand.width):
            return (self.m,)
        if operand.kind == "col" or (operand.kind == "element" and self.kernel.form == "by_row"):
            return (self.n,)
        if operand.kind == "raw":
            return (self.n * self.m,)
        return (self.n, self.m)


def state_array(**entries):
    """A state array during training: finite, near overflow, with a seed, a learning rate and a step."""
    state = np.zeros(SIZE)
    ordinary = {
        "STEP": 3, "LR": 0.01, "OFFSET": OFFSET, "FIRST_ROW": 5, "SEED_LOW": 0x9E3779B9, "SEED_HIGH": 7,
        "NEAR_OVERFLOW": 1,
        "LOSS": 0.7, "PENALTY": 0.1, "WEIGHT": 8, "LOSS_SUM": 2.5, "WEIGHT_SUM": 24, "MAX_ABS": 1.5,
        "CORRECTED_LR": 0.02, "INV_SQRT_CORRECTION": 0.4, "BATCH_INDEX": 2,
    }  # fmt: skip
    for name, value in (ordinary | entries).items():
        state[StateEntry[name]] = value
    return state


def _table(request, operand):
    dtype = request.dtype(operand)
    shape = (request.n + OFFSET,) if operand.type == "int32" else (request.n + OFFSET, request.m)
    if dtype.kind == "f":
        return request.rng.normal(size=shape).astype(dtype)
    if dtype.kind == "b":
        return request.rng.integers(0, 2, size=shape).astype(bool)
    limits = np.iinfo(dtype)
    return request.rng.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)


def _stored(request, operand):
    """The values of a CSR table that stores m values per row, in the columns of `_columns`."""
    return _table(request, operand).ravel()


def _columns(request, operand):
    """Random columns, with duplicates within a row: of a matrix x, or rows of W."""
    multiplies = any(o.name == "W" for o in request.kernel.signature.inputs)
    count = max(request.n, 1) if multiplies else request.m
    return request.rng.integers(0, count, size=(request.n + OFFSET) * request.m) if count else np.empty(0)


def _targets(request, operand):
    if request.dtype(operand).kind in "iu":
        return request.rng.integers(0, request.m, size=request.n).astype(request.dtype(operand))
    if operand.kind != "rows":
        return None
    y = request.rng.uniform(0.05, 0.95, size=(request.n, request.m))
    y[request.rng.random(y.shape) < 0.2] = 0
    y[request.rng.random(y.shape) < 0.2] = 1
    return y


def _probabilities(request, operand):
    return request.rng.uniform(0.05, 0.95, size=request.shape(operand)) if operand.kind == "rows" else None


def _stored_rows(request, operand):
    """A buffer for one value or row per row of the table."""
    return np.zeros((request.n + OFFSET) * max(request.m, 1))


def _first(request, operand):
    """The first row of a batch: of the rows' width if there is one, otherwise two columns."""
    return None if operand.width else request.rng.normal(size=2)


def _per_column(request, operand):
    """The frequencies or phases of m columns."""
    return request.rng.normal(size=(request.m, PER_COLUMN))


def _of_a_batch(request, operand):
    """The sums of a batch of two columns, with positive weights."""
    return np.abs(request.rng.normal(size=10)) + 0.05 if operand.kind == "raw" else None


def _magnitudes(request, operand):
    shape = (request.n,) if operand.kind == "raw" else request.shape(operand)
    return np.abs(request.rng.normal(size=shape)) + 0.05


# by the operand's name; None means the general rule
SPECIAL = {
    "state": lambda request, operand: state_array(),
    "order": lambda request, operand: request.rng.permutation(request.n + OFFSET),
    "source": _table,
    "values": _stored,
    "columns": _columns,
    "starts": lambda request, operand: np.arange(request.n + OFFSET + 1) * request.m,
    "record": lambda request, operand: request.rng.normal(size=(4, 4)),
    "totals": lambda request, operand: request.rng.normal(size=2),
    "y": _targets,
    "a": _probabilities,
    "w": _magnitudes,
    "v": _magnitudes,
    "v_": _magnitudes,
    "variance": _magnitudes,
    "squares": _magnitudes,
    "squared_norm": lambda request, operand: np.array([9.0]),
    "scale": _magnitudes,
    "frequency": _per_column,
    "phase": _per_column,
    "key": lambda request, operand: request.rng.integers(0, 2**32, size=2),
    "rates": lambda request, operand: np.array([2.0, *request.rng.normal(size=3)]),  # for steps 2, 3 and 4
    "stored": _stored_rows,
    "first": _first,
    "batch": _of_a_batch,
    "variance_sums": lambda request, operand: np.abs(request.rng.normal(size=10)) + 0.05,
}
WIDTHS = {"philox": 4}  # the number of columns that a source requires
NON_NEGATIVE = {name for name, maker in SPECIAL.items() if maker is _magnitudes}
SCALARS = {
    "alpha": 0.3, "epsilon": 1e-3, "beta1": 0.9, "beta2": 0.99, "rho": 0.9, "momentum": 0.55, "weight_decay": 0.01,
    "limit": 1.25, "l2": 0.1, "l1": 0.01, "layer": 5, "totals_n": 2,
    "smoothing": 0.2, "column": 0, "first": 0, "start": 0,
}  # fmt: skip
THRESHOLD = 0x60000000  # of dropout: p = 3/8


def _values(request, operand, index):
    dtype = request.dtype(operand)
    made = SPECIAL[operand.name](request, operand) if operand.name in SPECIAL else None
    if made is None:
        shape = request.shape(operand)
        made = request.rng.normal(size=shape) if dtype.kind == "f" else request.rng.integers(0, 2**31, size=shape)
    made = np.asarray(made).astype(dtype)
    if request.values != "ordinary" and dtype.kind == "f" and operand.kind != "raw" and operand.type_variable == "T":
        made = _with_edges(request, operand, made, index)
    return made


def _with_edges(request, operand, made, index):
    """Edge values: every pair for the first two operands of an elementwise kernel, otherwise one per row."""
    special = edges(
        made.dtype, extremes=request.values == "edges" and request.kernel.form not in ("reduction", "summed")
    )
    if operand.name in NON_NEGATIVE:
        special = np.abs(special)
    if request.kernel.form == "elementwise":
        if made.ndim == 1:
            return special[: len(made)]
        count = len(special)
        pick = [
            np.arange(count)[:, None] + np.zeros(count, int),
            np.arange(count)[None, :] + np.zeros((count, 1), int),
            request.rng.integers(0, count, size=(count, count)),
        ][min(index, 2)]
        return special[pick]
    if made.ndim == 2:
        for row in range(min(len(made), len(special))):
            made[row, (row + index) % request.m] = special[row]
    elif operand.kind == "row":
        made[: len(special)] = special[: len(made)]
    return made


# --- cases ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Case:
    """The arguments of one launch: arenas in the order of the signature, and their values before the launch."""

    kernel: object
    shape: tuple
    inputs: list
    outputs: list
    before: dict
    count: int | None
    scalars: dict
    ordinary: bool
    description: str

    def arguments(self):
        """(inputs, keywords) of Kernel.bind."""
        out = tuple(o.array for o in self.outputs)
        options = {} if self.count is None else {"count": self.count}
        return [x.array for x in self.inputs], {"out": out, **options, **self.scalars}

    def results(self):
        """The outputs on the host."""
        return [o.array if isinstance(o.array, np.ndarray) else o.array.get() for o in self.outputs]

    def assert_rest_unchanged(self):
        for arena in (*self.inputs, *self.outputs):
            arena.assert_rest_unchanged(self.description)


def make(kernel, types, n, m, *, layout="C", values="ordinary", flat=False, seed=0, xp=np):
    """Make a case in new arrays, with the same values for the same arguments. `flat`: one-dimensional arrays."""
    if values != "ordinary" and kernel.form == "elementwise":
        n = m = len(edges(types.get("T", "float64"), extremes=values == "edges"))
    m = WIDTHS.get(kernel.name, m)
    request = Request(kernel, types, n, m, values, np.random.default_rng([seed, n, m]))
    inputs, outputs, scalars, before, elements = [], [], {}, {}, 0
    layouts = (layout, "C", "offset") if layout == "mixed" else (layout,)
    layouts = tuple("C" if x == "mixed" else x for x in layouts)
    for k, operand in enumerate(kernel.signature.arrays):
        if operand.role == "out" and operand.kind != "raw":
            made = np.full(request.shape(operand), POISON, request.dtype(operand))
        else:
            made = _values(request, operand, elements)
            elements += operand.kind == "element"
        if flat and operand.kind in ("element", "col"):
            made = made[:1].ravel()
        made = widened(rounded(made)) if request.bf16(operand) else made
        stored = rounded(made) if request.bf16(operand) else made
        arena = Arena(stored, _layout_of(kernel, operand, layouts[k % len(layouts)]), xp)
        if operand.name == "source" and made.ndim == 2:
            steps = [s // made.itemsize for s in arena.array.strides]
            scalars |= {"row_step": steps[0], "column_step": steps[1]}
        (inputs if operand.role == "in" else outputs).append(arena)
        before[operand.name] = made
    by_name = SCALARS | {"width": m, "width_m": m, "elements": n * m, "rows": n, "factor": 1 / max(n, 1)} | scalars
    by_name["levels"] = max(n, 1)
    by_name |= {f"width_{name}": k * m for name, k in MULTIPLES.items()}
    for operand in kernel.signature.scalars:
        number = 0.4 if operand.type == "T" or operand.type.startswith("float") else 2
        scalars[operand.name] = (
            THRESHOLD if operand.type == "uint32" and operand.name == "threshold" else by_name.get(operand.name, number)
        )
    description = f"{kernel.name} {types} {n}x{m} {layout} {values}{' flat' if flat else ''}"
    return Case(
        kernel, (n, m), inputs, outputs, before, _count(kernel, n, m), scalars, values == "ordinary", description
    )


def _layout_of(kernel, operand, layout):
    if operand.kind == "raw" and (operand.type != "S" or operand.name == "values"):
        return "offset" if layout == "offset" else "C"
    if operand.role == "out" and (kernel.form == "reduction" or operand.kind == "row"):
        return "C"
    if kernel.form == "by_row" and operand.role != "in":
        # a source by row writes contiguous rows
        return {"F": "C", "strided": "padded", "reversed": "padded"}.get(layout, layout)
    return layout


def _count(kernel, n, m):
    arrays = kernel.signature.arrays
    if kernel.form != "by_row" or any(o.kind in ("rows", "element") for o in arrays):
        return None
    # four elements per row of the launch, and one more row if the first element is within a block
    return n * m // 4 + 2 if any(o.name == "elements" for o in kernel.signature.scalars) else 1


def cases(kernel, types, *, layouts=LAYOUTS, sizes=SIZES, flat=FLAT, values="edges"):
    """Arguments for `make`: every layout and size, one-dimensional arrays, and edge values.

    `values` is "edges", or "mild edges" without the extremes.
    """
    layouts = (*layouts, "mixed") if len(layouts) > 1 else layouts
    if kernel.form != "by_row":
        sizes = (*sizes, EMPTY_ROWS)
    asked = [{"n": n, "m": m, "layout": layout} for n, m in sizes for layout in layouts]
    if kernel.form == "elementwise" or kernel.axis == "all":
        asked += [{"n": 1, "m": m, "layout": x, "flat": True} for m in flat for x in layouts]
    asked += [{"n": 40, "m": 7, "values": values, "layout": x} for x in layouts]
    return [a | {"kernel": kernel, "types": types} for a in asked]


# --- the comparison -------------------------------------------------------------------------------------------------


def assert_same(got, wanted, on_gpu=False):
    """Assert that two runs of a case agree. A GPU flushes subnormals, fuses multiply-adds and has other functions."""
    kernel = got.kernel
    for k, operand in enumerate(kernel.signature.outputs):
        a, b = got.results()[k], wanted.results()[k]
        description = f"{got.description}: {operand.name}"
        step = 0
        if kernel.form == "summed" and operand.kind == "row":
            b, scale = _sums_of(got.results()[0])
            tolerances.assert_within(a, b, tolerances.sums(a.dtype, got.shape[0], scale), description)
            continue
        if operand.type == "H" and b.dtype == np.uint16:
            a, b = widened(a), widened(b)
            # float32 values that differ in their last bit may round to neighboring bfloat16 values
            step = 2.0**-7 * _magnitude(b) if kernel.ulp or on_gpu else 0
        if b.dtype.kind == "f":
            tolerances.assert_within(a, b, _tolerance(wanted, b, operand, on_gpu=on_gpu) + step, description)
        else:
            np.testing.assert_array_equal(a, b, err_msg=description)
    got.assert_rest_unchanged()


def _sums_of(matrix):
    """The column sums of a run's own matrix, since an error of the matrix is not one of the sums, and their scale."""
    x = widened(matrix) if matrix.dtype == np.uint16 else matrix
    with np.errstate(all="ignore"):
        return x.sum(axis=0, dtype=np.float64).astype(x.dtype), _largest(_magnitude(x), axis=0)


def _tolerance(case, reference, operand, *, on_gpu):
    """Elementwise: `kernel.ulp` ulps of the largest term of each element. Otherwise 64·u·√K of the largest entry.

    With edge values, the largest entry is that of the row or column, since one edge value would hide all others.
    """
    kernel, (n, m) = case.kernel, case.shape
    scale = _magnitude(reference)
    if operand.kind == "raw":
        return tolerances.sums(reference.dtype, max(n, m), scale)
    read = [
        (o, _magnitude(case.before[o.name]))
        for o in kernel.signature.arrays
        if o.kind != "raw" and o.role != "out" and case.before[o.name].dtype.kind == "f"
    ]
    if kernel.form in ("elementwise", "summed"):
        for o, x in read:
            scale = np.maximum(scale, x[:, None] if o.kind == "col" and reference.ndim == 2 else x)
        if on_gpu:
            return tolerances.ulps(reference.dtype, kernel.ulp + tolerances.DEVICE_ULP, scale) + tolerances.flushed(
                reference.dtype, scale
            )
        return tolerances.ulps(reference.dtype, kernel.ulp, scale)
    if kernel.form == "by_row":
        everywhere = _largest(scale, axis=None)
        if case.ordinary and not on_gpu:
            return tolerances.sums(reference.dtype, m, everywhere)
        rows = [_largest(x, axis=1) if x.ndim == 2 else x for x in (scale, *(x for _, x in read))]
        largest = np.maximum(np.max(rows, axis=0), everywhere if case.ordinary else 0)
        return tolerances.sums(reference.dtype, m, largest[:, None] if reference.ndim == 2 else largest)
    if kernel.axis == "rows":
        for _, x in read:
            scale = np.maximum(scale, _largest(x, axis=0) if x.ndim == 2 else x)
        return tolerances.sums(reference.dtype, n, scale)
    scale = max(_largest(x, axis=None) for x in (scale, *(x for _, x in read)))
    return tolerances.sums(reference.dtype, n * m, scale)


def _magnitude(x):
    return np.where(np.isfinite(x), np.abs(x), 0).astype(np.float64)


def _largest(x, axis):
    return x.max(axis=axis, initial=0)
