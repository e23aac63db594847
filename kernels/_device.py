"""The kernels' C++ texts on a GPU: the same text as on the CPU, as a `cupy.ElementwiseKernel`.

Every form becomes elementwise launches: an element is an element, a row, or one partial result of a reduction.
Reductions take two launches, partial results of blocks of rows (adjacent threads read adjacent columns) and then
their combination, through scratch that is allocated when the launch is bound: nothing allocates when it runs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._signature import Operand
from .host import after_copies
from .state import PREAMBLE

if TYPE_CHECKING:
    from ._registry import Call, Kernel

BLOCK_ROWS = 64
LANES = 8192  # partial results of a reduction over everything
OPTIONS = ("-std=c++17",)


def _cupy() -> Any:
    import cupy

    return cupy


def empty_like(like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialised array of the same kind (NumPy or CuPy) as `like`."""
    xp = np if isinstance(like, np.ndarray) else sys.modules[type(like).__module__.partition(".")[0]]
    return xp.empty(shape, dtype=dtype)


class DeviceLaunch:
    """Calls on a GPU, in order, that a stream may capture: they allocate nothing, read nothing back, and do the same
    work whenever they are run.

    reads, writes  the arrays that they read and write
    product        whether it is a matrix product: work that a GPU may do beside another
    """

    __slots__ = ("calls", "product", "reads", "writes")

    def __init__(
        self, calls: Sequence[Callable[[], Any]], reads: Sequence[Any], writes: Sequence[Any], *, product: bool = False
    ) -> None:
        self.calls, self.reads, self.writes, self.product = tuple(calls), tuple(reads), tuple(writes), product

    def __call__(self) -> None:
        for call in self.calls:
            call()


def bind(kernel: Kernel, call: Call) -> DeviceLaunch:
    """The launch on the GPU that holds the arrays; without elements it is a launch of nothing."""
    calls = {"elementwise": _elementwise, "by_row": _by_row, "reduction": _reduction}[kernel.form](kernel, call)
    pairs = list(zip(kernel.signature.arrays, call.arrays, strict=True))
    reads = [a for o, a in pairs if o.role != "out"]
    return DeviceLaunch(calls, reads, [a for o, a in pairs if o.role != "in"])


def _launch(function: Any, arguments: list[Any], size: int | None) -> Callable[[], None]:
    if size is None:
        return functools.partial(function, *arguments)
    return functools.partial(function, *arguments, size=size)


# --- parameters and texts ------------------------------------------------------------------------------------------


def _guarded(kernel: Kernel, text: str) -> str:
    setup = f"{kernel.setup}\n" if kernel.setup else ""
    return f"if ({kernel.when.text}) {{\n{setup}{text}\n}}" if kernel.when is not None else setup + text


def _scalars(kernel: Kernel) -> list[str]:
    return [f"{o.type} {o.name}" for o in kernel.signature.scalars]


def _values(kernel: Kernel, call: Call) -> list[Any]:
    kinds = {o.name: o.type for o in kernel.signature.scalars}
    return [
        np.dtype(call.types.get(kinds[o.name], kinds[o.name])).type(call.scalars[o.name])
        for o in kernel.signature.scalars
    ]


def _pointer(operand: Operand, call_types: str = "") -> str:
    """Turn CuPy's raw array `name_` into a plain pointer `name`, which is what the text indexes."""
    const = "const " if operand.role == "in" else ""
    return f"{const}{_device_type(operand)}* {operand.name} = &{operand.name}_[0];"


def _device_type(operand: Operand) -> str:
    return operand.type if operand.type in ("T", "S") else operand.ctype({})


def elementwise_parts(kernel: Kernel) -> tuple[str, str, str]:
    """(in_params, out_params, operation) of an elementwise kernel's ElementwiseKernel."""
    raws = [o for o in kernel.signature.arrays if o.kind == "raw"]

    def declare(operands: tuple[Operand, ...]) -> list[str]:
        return [f"raw {o.type} {o.name}_" if o.kind == "raw" else f"{o.type} {o.name}" for o in operands]

    ins = declare(kernel.signature.inputs) + _scalars(kernel)
    outs = declare(kernel.signature.outputs)
    pointers = "\n".join(_pointer(o) for o in raws)
    return ", ".join(ins), ", ".join(outs), f"{pointers}\n{_guarded(kernel, kernel.text)}".strip()


def by_row_parts(kernel: Kernel) -> tuple[str, str, str]:
    """(in_params, out_params, operation) of a by-row kernel: everything raw, one element a row."""
    prologue: list[str] = []
    epilogue: list[str] = []
    ins: list[str] = []
    outs: list[str] = []
    for o in kernel.signature.arrays:
        params = outs if o.role != "in" else ins
        params.append(f"raw {o.type} {o.name}_")
        const = "const " if o.role == "in" else ""
        ctype = _device_type(o)
        if o.kind == "rows":
            prologue.append(f"{const}{ctype}* {o.name} = &{o.name}_[0] + i * (ptrdiff_t){o.name}_ld;")
        elif o.kind == "raw":
            prologue.append(_pointer(o))
        elif o.role == "out":
            prologue.append(f"{ctype} {o.name};")
        else:
            prologue.append(f"{const}{ctype} {o.name} = {o.name}_[i];")
        if o.kind == "element" and o.role != "in":
            epilogue.append(f"{o.name}_[i] = {o.name};")
    numbers = [f"int64 {w}" for w in kernel.signature.widths]
    numbers += [f"int64 {o.name}_ld" for o in kernel.signature.arrays if o.kind == "rows"]
    text = "\n".join([*prologue, kernel.text, *epilogue])
    if kernel.when is not None:
        pointers = [_pointer(o) for o in kernel.signature.arrays if o.name == "state"]
        inner = "\n".join([*(x for x in prologue if x not in pointers), kernel.text, *epilogue])
        text = "\n".join([*pointers, f"if ({kernel.when.text}) {{", inner, "}"])
    return ", ".join(ins + _scalars(kernel) + numbers), ", ".join(outs), text


def reduction_parts(kernel: Kernel) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """The two launches of a reduction: partial results, and their combination.

    Over rows, element (block, column) combines up to 64 rows of one column. Over everything, element `lane`
    combines every LANES-th element. Inputs are addressed through their strides, so any layout will do.
    """
    combine = kernel.combine
    assert combine is not None
    (out,) = kernel.signature.outputs
    a = _device_type(out)
    ins, prologue, loads = [], [], []
    for o in kernel.signature.inputs:
        ins.append(f"raw {o.type} {o.name}_")
        prologue.append(_pointer(o, "").replace(f"* {o.name} =", f"* p_{o.name} =") if o.kind != "raw" else _pointer(o))
        if o.kind == "element":
            loads.append(f"const {_device_type(o)} {o.name} = p_{o.name}[r * {o.name}_rs + c * {o.name}_cs];")
        elif o.kind == "row":
            loads.append(f"const {_device_type(o)} {o.name} = p_{o.name}[c * {o.name}_cs];")
    numbers = ["int64 n_rows", "int64 n_columns", "int64 n_parts"]
    for o in kernel.signature.inputs:
        numbers += [f"int64 {o.name}_rs"] if o.kind == "element" else []
        numbers += [f"int64 {o.name}_cs"] if o.kind in ("element", "row") else []
    step = " ".join([*loads, f"{a} {out.name};", kernel.text])
    join = f"{{ const {a} a = total, b = {out.name}; total = {combine.text}; }}"
    begin = f"{a} total = ({a}){combine.identity!r};"
    if kernel.over == "rows":
        walk = (
            "const long long c = i % n_columns, block = i / n_columns;\n"
            f"const long long top = block * {BLOCK_ROWS};\n"
            f"const long long end = top + {BLOCK_ROWS} < n_rows ? top + {BLOCK_ROWS} : n_rows;\n"
            f"for (long long r = top; r < end; ++r) {{ {step} {join} }}"
        )
        second_index = "k * n_columns + i"
    else:
        walk = (
            "for (long long k = i; k < n_rows * n_columns; k += n_parts) {"
            f" const long long r = k / n_columns, c = k % n_columns; {{ {step} {join} }} }}"
        )
        second_index = "k"
    first = "\n".join([*prologue, begin, kernel.setup, walk, "parts[i] = total;"])
    guard = kernel.when.text if kernel.when is not None else None
    if guard:
        pointers = [x for x in prologue if x.endswith("= &state_[0];")]
        rest = [x for x in prologue if x not in pointers]
        inner = "\n".join([*rest, begin, kernel.setup, walk, "parts[i] = total;"])
        first = "\n".join([*pointers, f"if ({guard}) {{", inner, "}"])
    walk_parts = f"for (long long k = 0; k < n_parts; ++k) {{ {a} {out.name} = parts[{second_index}]; {join} }}"
    second = f"{begin}\n{walk_parts}\nresult[i] = total;"
    second_ins = f"raw {out.type} parts, int64 n_columns, int64 n_parts"
    if guard:
        second_ins = f"raw float64 state_, {second_ins}"
        second = f"const double* state = &state_[0];\nif ({guard}) {{\n{second}\n}}"
    return (
        (", ".join(ins + _scalars(kernel) + numbers), f"raw {out.type} parts", first),
        (second_ins, f"raw {out.type} result", second),
    )


def _compiled(parts: tuple[str, str, str], name: str) -> Any:
    # a kernel of the bare name tanh would clash with the function
    return _made(_cupy().ElementwiseKernel, parts, f"gpunn_{name}")


@functools.cache
def _made(elementwise_kernel: Any, parts: tuple[str, str, str], name: str) -> Any:
    return elementwise_kernel(*parts, name, preamble=PREAMBLE, options=OPTIONS)


# --- the three forms -----------------------------------------------------------------------------------------------


Calls = list[Callable[[], Any]]


def _elementwise(kernel: Kernel, call: Call) -> Calls:
    n, m = call.shape
    if n * m == 0:
        return []
    function = _compiled(elementwise_parts(kernel), kernel.name)
    operands = kernel.signature.arrays
    flat = any(o.kind == "element" and a.ndim == 1 for o, a in zip(operands, call.arrays, strict=True))
    arrays = [a[:, None] if o.kind == "col" and not flat else a for o, a in zip(operands, call.arrays, strict=True)]
    split = len(kernel.signature.inputs)
    return [_launch(function, [*arrays[:split], *_values(kernel, call), *arrays[split:]], None)]


def _by_row(kernel: Kernel, call: Call) -> Calls:
    n = call.shape[0]
    if n == 0:
        return []
    function = _compiled(by_row_parts(kernel), kernel.name)
    xp = _cupy()
    arrays, copies = [], []
    for o, a in zip(kernel.signature.arrays, call.arrays, strict=True):
        if o.kind in ("rows", "element") and a.shape[-1] > 1 and a.strides[-1] != a.itemsize:
            if o.role != "in":
                raise ValueError(f"kernel {kernel.name}: the rows of output {o.name} must be contiguous")
            copies.append((xp.empty(a.shape, a.dtype), a))
            a = copies[-1][0]
        arrays.append(a)
    numbers = [call.widths[w] for w in kernel.signature.widths]
    numbers += [
        a.strides[0] // a.itemsize for o, a in zip(kernel.signature.arrays, arrays, strict=True) if o.kind == "rows"
    ]
    split = len(kernel.signature.inputs)
    launch = _launch(function, [*arrays[:split], *_values(kernel, call), *numbers, *arrays[split:]], n)
    return [after_copies(copies, launch) if copies else launch]


def _reduction(kernel: Kernel, call: Call) -> Calls:
    n, m = call.shape
    *inputs, result = call.arrays
    xp = _cupy()
    combine = kernel.combine
    assert combine is not None
    rows = kernel.over == "rows"
    n_parts = -(-n // BLOCK_ROWS) if rows else min(LANES, n * m)
    parts = xp.empty(max(1, n_parts * m if rows else n_parts), dtype=result.dtype)
    first_parts, second_parts = reduction_parts(kernel)
    first = _compiled(first_parts, f"{kernel.name}_parts")
    second = _compiled(second_parts, f"{kernel.name}_combine")
    numbers: list[Any] = [n, m, n_parts]
    state = None
    for o, a in zip(kernel.signature.inputs, inputs, strict=True):
        steps = [stride // a.itemsize for stride in a.strides]
        state = a if o.name == "state" else state
        if o.kind == "element":
            numbers += [0, steps[0]] if a.ndim == 1 else steps
        elif o.kind == "row":
            numbers += [steps[0]]
    run_first = _launch(first, [*inputs, *_values(kernel, call), *numbers, parts], parts.size)
    guarded = [state] if kernel.when is not None else []
    run_second = _launch(second, [*guarded, parts, m, n_parts, result], m if rows else 1)
    return [run_first, run_second] if n * m else [run_second]
