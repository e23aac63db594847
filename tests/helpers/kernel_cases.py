"""Inputs for any registered kernel, generated from its signature, and the comparison of two bodies on them.

A kernel that is newly registered needs nothing here unless an operand means something special: then its maker stands
in SPECIAL, by the operand's name.
"""

import dataclasses

import numpy as np
import pytest

from gpunn.kernels import all_kernels
from gpunn.kernels._compiler.bfloat16 import rounded, widened
from gpunn.kernels.state import SIZE, Slot
from helpers import tolerances

OFFSET = 2  # the batch begins at this row of the table
POISON = 77
LAYOUTS = ("C", "F", "strided", "offset", "reversed")
SIZES = ((0, 3), (1, 1), (1, 31), (33, 1), (3, 33), (130, 67), (2, 8200))
FLAT = (0, 1, 31, 33, 9001)
EMPTY_ROWS = (4, 0)  # for kernels that do not work row by row: those have at least one column


def names(form=None):
    return [k.name for k in all_kernels() if form is None or k.form == form]


def by_kernel(variables=("T", "S")):
    """Parameters (kernel, types) of a test: every kernel with every meaning of its types, the rest float32."""
    parameters = []
    for kernel in all_kernels():
        for types in kernel.signature.type_combinations():
            if all(v in (*variables, "H") or t == "float32" for v, t in types.items()):
                name = "-".join([kernel.name, *types.values()])
                parameters.append(pytest.param(kernel, types, id=name))
    return parameters


def in_bfloat16():
    """Parameters (kernel, types) of a test: every kernel of matrices that may be held in bfloat16."""
    types = {"T": "float32", "S": "float32", "H": "uint16"}
    return [pytest.param(k, types, id=f"{k.name}-bfloat16") for k in all_kernels() if k.signature.supports_bf16]


def edges(dtype, extremes=True):
    """±0, ±1, ±inf, NaN, tiny, and where exp overflows or vanishes; the extremes are subnormal and huge numbers."""
    limits = np.finfo(dtype)
    positive = [0.0, 1.0, 1e-3, 0.5, 3.0, 17.0, 88.5, 104.0, 710.0, np.inf, float(limits.tiny), float(limits.eps)]
    if extremes:
        positive += [float(limits.smallest_subnormal), float(limits.tiny) / 8, float(limits.max), float(limits.max) / 3]
    return np.array([*positive, *(-x for x in positive), np.nan], dtype)


# --- memory layouts -------------------------------------------------------------------------------------------------


def _view(base, shape, layout):
    """The part of `base` that an array of `shape` occupies under `layout`."""
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
    """An array within a larger buffer, whose rest must stay as it is."""

    def __init__(self, values, layout, xp=np):
        shape = values.shape
        room = 3 * (shape[0] + 2) * (shape[1] + 3) if values.ndim == 2 else 3 * shape[0] + 8
        fill = np.array(POISON).astype(values.dtype)
        host = np.full(room, fill, values.dtype)
        outside = np.ones(room, bool)
        _view(host, shape, layout)[...] = values
        _view(outside, shape, layout)[...] = False
        self.outside, self.fill = outside, fill
        self.base = host if xp is np else xp.asarray(host)
        self.array = _view(self.base, shape, layout)

    def assert_rest_untouched(self, what):
        base = self.base if isinstance(self.base, np.ndarray) else self.base.get()
        assert (base[self.outside] == self.fill).all(), f"{what}: written outside of the output"


# --- values ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Asked:
    """What a case is asked to be: the kernel and its types, n rows and m columns, the values, a generator."""

    kernel: object
    types: dict
    n: int
    m: int
    values: str
    rng: np.random.Generator

    def dtype(self, operand):
        """Of its values; what is held in bfloat16 has values of float32."""
        return np.dtype("float32" if self.bf16(operand) else self.types.get(operand.type, operand.type))

    def bf16(self, operand):
        return operand.type == "H" and self.types["H"] == "uint16"

    def shape(self, operand):
        axis = self.kernel.axis
        if operand.role == "out" and self.kernel.form == "reduction":
            return (self.m,) if axis == "rows" else (1,)
        if operand.kind == "row" or (operand.kind == "raw" and operand.width):
            return (self.m,)
        if operand.kind == "col" or (operand.kind == "element" and self.kernel.form == "by_row"):
            return (self.n,)
        if operand.kind == "raw":
            return (self.n * self.m,)
        return (self.n, self.m)


def state_array(**slots):
    """A state array in the middle of training: nothing bad, candidates tried, a seed, a rate, a step."""
    state = np.zeros(SIZE)
    ordinary = {
        "STEP": 3, "LR": 0.01, "OFFSET": OFFSET, "FIRST_ROW": 5, "SEED_LOW": 0x9E3779B9, "SEED_HIGH": 7,
        "NEAR_OVERFLOW": 1,
        "LOSS": 0.7, "PENALTY": 0.1, "WEIGHT": 8, "LOSS_SUM": 2.5, "WEIGHT_SUM": 24, "MAX_ABS": 1.5, "SQUARED_NORM": 9,
        "CORRECTED_LR": 0.02, "INV_SQRT_CORRECTION": 0.4, "BATCH_INDEX": 2,
    }  # fmt: skip
    for name, value in (ordinary | slots).items():
        state[Slot[name]] = value
    return state


def _table(ask, operand):
    dtype = ask.dtype(operand)
    shape = (ask.n + OFFSET,) if operand.type == "int32" else (ask.n + OFFSET, ask.m)
    if dtype.kind == "f":
        return ask.rng.normal(size=shape).astype(dtype)
    if dtype.kind == "b":
        return ask.rng.integers(0, 2, size=shape).astype(bool)
    limits = np.iinfo(dtype)
    return ask.rng.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)


def _stored(ask, operand):
    """The values of a table in compressed rows with every place stored; `_columns` and `starts` say where."""
    return _table(ask, operand).ravel()


def _columns(ask, operand):
    """Any column, some twice in a row: what is stored twice adds up."""
    return ask.rng.integers(0, ask.m, size=(ask.n + OFFSET) * ask.m) if ask.m else np.empty(0)


def _targets(ask, operand):
    if ask.dtype(operand).kind in "iu":
        return ask.rng.integers(0, ask.m, size=ask.n).astype(ask.dtype(operand))
    if operand.kind != "rows":
        return None
    y = ask.rng.uniform(0.05, 0.95, size=(ask.n, ask.m))
    y[ask.rng.random(y.shape) < 0.2] = 0
    y[ask.rng.random(y.shape) < 0.2] = 1
    return y


def _probabilities(ask, operand):
    return ask.rng.uniform(0.05, 0.95, size=ask.shape(operand)) if operand.kind == "rows" else None


def _stored_rows(ask, operand):
    """Room for what every row leaves behind."""
    return np.zeros((ask.n + OFFSET) * max(ask.m, 1))


def _first(ask, operand):
    """The first row of a batch: as wide as the rows where there are any, else of two columns."""
    return None if operand.width else ask.rng.normal(size=2)


def _of_a_batch(ask, operand):
    """The sums of a batch, of two columns; the weights among them are positive."""
    return np.abs(ask.rng.normal(size=10)) + 0.05 if operand.kind == "raw" else None


def _magnitudes(ask, operand):
    shape = (ask.n,) if operand.kind == "raw" else ask.shape(operand)
    return np.abs(ask.rng.normal(size=shape)) + 0.05


# by the operand's name; a maker that answers None leaves the operand to the general rule
SPECIAL = {
    "state": lambda ask, operand: state_array(),
    "order": lambda ask, operand: ask.rng.permutation(ask.n + OFFSET),
    "source": _table,
    "values": _stored,
    "columns": _columns,
    "starts": lambda ask, operand: np.arange(ask.n + OFFSET + 1) * ask.m,
    "record": lambda ask, operand: ask.rng.normal(size=(4, 4)),
    "totals": lambda ask, operand: ask.rng.normal(size=2),
    "y": _targets,
    "a": _probabilities,
    "w": _magnitudes,
    "v": _magnitudes,
    "v_": _magnitudes,
    "variance": _magnitudes,
    "squares": _magnitudes,
    "scale": _magnitudes,
    "key": lambda ask, operand: ask.rng.integers(0, 2**32, size=2),
    "rates": lambda ask, operand: np.array([2.0, *ask.rng.normal(size=3)]),  # of step 2 and the two behind it
    "stored": _stored_rows,
    "first": _first,
    "batch": _of_a_batch,
    "variance_sums": lambda ask, operand: np.abs(ask.rng.normal(size=10)) + 0.05,
}
WIDTHS = {"philox": 4}  # the number of columns that a text insists on
NON_NEGATIVE = {name for name, maker in SPECIAL.items() if maker is _magnitudes}
SCALARS = {
    "alpha": 0.3, "epsilon": 1e-3, "beta1": 0.9, "beta2": 0.99, "rho": 0.9, "momentum": 0.55, "weight_decay": 0.01,
    "limit": 1.25, "l2": 0.1, "l1": 0.01, "layer": 5, "totals_n": 2,
}  # fmt: skip
THRESHOLD = 0x60000000  # of dropout: p = 3/8


def _values(ask, operand, index):
    dtype = ask.dtype(operand)
    made = SPECIAL[operand.name](ask, operand) if operand.name in SPECIAL else None
    if made is None:
        shape = ask.shape(operand)
        made = ask.rng.normal(size=shape) if dtype.kind == "f" else ask.rng.integers(0, 2**31, size=shape)
    made = np.asarray(made).astype(dtype)
    if ask.values != "ordinary" and dtype.kind == "f" and operand.kind != "raw" and operand.type_variable == "T":
        made = _with_edges(ask, operand, made, index)
    return made


def _with_edges(ask, operand, made, index):
    """Edge values: every pair of the first two operands of an elementwise kernel, one a row elsewhere."""
    special = edges(made.dtype, ask.values == "edges" and ask.kernel.form != "reduction")
    if operand.name in NON_NEGATIVE:
        special = np.abs(special)
    if ask.kernel.form == "elementwise":
        if made.ndim == 1:
            return special[: len(made)]
        count = len(special)
        pick = [
            np.arange(count)[:, None] + np.zeros(count, int),
            np.arange(count)[None, :] + np.zeros((count, 1), int),
            ask.rng.integers(0, count, size=(count, count)),
        ][min(index, 2)]
        return special[pick]
    if made.ndim == 2:
        for row in range(min(len(made), len(special))):
            made[row, (row + index) % ask.m] = special[row]
    elif operand.kind == "row":
        made[: len(special)] = special[: len(made)]
    return made


# --- cases ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Case:
    """The arguments of one call. `inputs` and `outputs` are arenas in the signature's order, `before` their values."""

    kernel: object
    shape: tuple
    inputs: list
    outputs: list
    before: dict
    count: int | None
    scalars: dict
    ordinary: bool
    what: str

    def arguments(self):
        """(inputs, keywords) of Kernel.bind."""
        out = tuple(o.array for o in self.outputs)
        options = {} if self.count is None else {"count": self.count}
        return [x.array for x in self.inputs], {"out": out, **options, **self.scalars}

    def results(self):
        """The outputs on the host."""
        return [o.array if isinstance(o.array, np.ndarray) else o.array.get() for o in self.outputs]

    def assert_rest_untouched(self):
        for arena in (*self.inputs, *self.outputs):
            arena.assert_rest_untouched(self.what)


def make(kernel, types, n, m, *, layout="C", values="ordinary", flat=False, seed=0, xp=np):
    """The same case for the same arguments, in new arrays. `flat` asks for arrays of one dimension."""
    if values != "ordinary" and kernel.form == "elementwise":
        n = m = len(edges(types.get("T", "float64"), values == "edges"))
    m = WIDTHS.get(kernel.name, m)
    ask = Asked(kernel, types, n, m, values, np.random.default_rng([seed, n, m]))
    inputs, outputs, scalars, before, elements = [], [], {}, {}, 0
    layouts = (layout, "C", "offset") if layout == "mixed" else (layout,)
    layouts = tuple("C" if x == "mixed" else x for x in layouts)
    for k, operand in enumerate(kernel.signature.arrays):
        if operand.role == "out" and operand.kind != "raw":
            made = np.full(ask.shape(operand), POISON, ask.dtype(operand))
        else:
            made = _values(ask, operand, elements)
            elements += operand.kind == "element"
        if flat and operand.kind in ("element", "col"):
            made = made[:1].ravel()
        made = widened(rounded(made)) if ask.bf16(operand) else made
        held = rounded(made) if ask.bf16(operand) else made
        arena = Arena(held, _layout_of(kernel, operand, layouts[k % len(layouts)]), xp)
        if operand.name == "source" and made.ndim == 2:
            steps = [s // made.itemsize for s in arena.array.strides]
            scalars |= {"row_step": steps[0], "column_step": steps[1]}
        (inputs if operand.role == "in" else outputs).append(arena)
        before[operand.name] = made
    by_name = SCALARS | {"width": m, "elements": n * m, "rows": n, "factor": 1 / max(n, 1)} | scalars
    for operand in kernel.signature.scalars:
        number = 0.4 if operand.type == "T" or operand.type.startswith("float") else 2
        scalars[operand.name] = (
            THRESHOLD if operand.type == "uint32" and operand.name == "threshold" else by_name.get(operand.name, number)
        )
    what = f"{kernel.name} {types} {n}x{m} {layout} {values}{' flat' if flat else ''}"
    return Case(kernel, (n, m), inputs, outputs, before, _count(kernel, n, m), scalars, values == "ordinary", what)


def _layout_of(kernel, operand, layout):
    if operand.kind == "raw" and (operand.type != "S" or operand.name == "values"):
        return "offset" if layout == "offset" else "C"
    if kernel.form == "reduction" and operand.role == "out":
        return "C"
    if kernel.form == "by_row" and operand.role != "in":
        # a text by row writes along the row
        return {"F": "C", "strided": "padded", "reversed": "padded"}.get(layout, layout)
    return layout


def _count(kernel, n, m):
    arrays = kernel.signature.arrays
    if kernel.form != "by_row" or any(o.kind in ("rows", "element") for o in arrays):
        return None
    # four elements a row of the launch, and one row more where the first begins in the middle of one
    return n * m // 4 + 2 if any(o.name == "elements" for o in kernel.signature.scalars) else 1


def cases(kernel, types, *, layouts=LAYOUTS, sizes=SIZES, flat=FLAT, values="edges"):
    """Arguments for `make`: every layout and size, arrays of one dimension, and `values` ("edges", or "mild edges"
    without the extremes)."""
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
    """Two runs of one case agree. A GPU flushes subnormals, fuses multiply-adds and has functions of its own."""
    kernel = got.kernel
    for k, operand in enumerate(kernel.signature.outputs):
        a, b = got.results()[k], wanted.results()[k]
        what = f"{got.what}: {operand.name}"
        step = 0
        if operand.type == "H" and b.dtype == np.uint16:
            a, b = widened(a), widened(b)
            # where float32s part, if only by their last bit, they may round to neighbours
            step = 2.0**-7 * _magnitude(b) if kernel.ulp or on_gpu else 0
        if b.dtype.kind == "f":
            tolerances.assert_within(a, b, _allowed(wanted, b, operand, on_gpu) + step, what)
        else:
            np.testing.assert_array_equal(a, b, err_msg=what)
    got.assert_rest_untouched()


def _allowed(case, reference, operand, on_gpu):
    """`kernel.ulp` ulps of the largest term of each element; 64·u·√K of the largest entry of the result, where one
    edge value would hide all others of its row or column."""
    kernel, (n, m) = case.kernel, case.shape
    scale = _magnitude(reference)
    if operand.kind == "raw":
        return tolerances.sums(reference.dtype, max(n, m), scale)
    read = [
        (o, _magnitude(case.before[o.name]))
        for o in kernel.signature.arrays
        if o.kind != "raw" and o.role != "out" and case.before[o.name].dtype.kind == "f"
    ]
    if kernel.form == "elementwise":
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
