"""What a kernel's text becomes on a GPU: the strings of `cupy.ElementwiseKernel`s around it. Nothing here needs CuPy.

elementwise  arrays in any layout as CuPy walks them; contiguous ones with `pack` elements a thread, 16 bytes at once
by row       one row a thread, or one row a team of `lanes` threads where the text says what each of them does
reduction    see `reduction_sources`

Where matrices of type H are held in bfloat16 (`narrow`), a text is given float32s and leaves them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..state import PREAMBLE
from . import bfloat16, warp_lanes
from .signature import Operand

if TYPE_CHECKING:
    from collections.abc import Callable

    from .definition import KernelDefinition

WARP = warp_lanes.WARP
PARTIALS_PER_WARP = 32 * WARP  # partial results that one warp joins
CUDA_PREAMBLE = PREAMBLE + bfloat16.ON_DEVICE


class KernelSource(NamedTuple):
    """The arguments of a `cupy.ElementwiseKernel`, but for its name and options."""

    inputs: str
    outputs: str
    operation: str
    preamble: str = CUDA_PREAMBLE


def sources(kernel: KernelDefinition, bf16: bool = False) -> dict[str, KernelSource]:
    """The texts that a kernel may be launched as, by what their names end in: of those that differ in a number alone,
    one."""
    if kernel.form == "reduction":
        return reduction_sources(kernel, bf16)
    if kernel.form == "by_row":
        shared = {"_shared": by_row_source(kernel, WARP, bf16)} if warp_lanes.uses_lanes(kernel.source) else {}
        return {"": by_row_source(kernel, 1, bf16), **shared}
    pack = 8 if bf16 else 4
    flat = {"_packed": flat_source(kernel, pack, "int", bf16), "_single": flat_source(kernel, 1, "long long", bf16)}
    summed = {"_summed": column_sums_source(kernel, pack, bf16)} if can_fuse_column_sums(kernel) else {}
    return {"": elementwise_source(kernel, bf16), **flat, **summed}


# --- operands ------------------------------------------------------------------------------------------------------


def type_of(operand: Operand, bf16: bool = False) -> str:
    """The type as the device's text says it: T and S are CuPy's letters."""
    return "Bfloat16" if bf16 and operand.type == "H" else operand.type_variable or operand.c_type({})


def _cupy_type(operand: Operand, bf16: bool) -> str:
    """The type as CuPy is told of it."""
    return "uint16" if bf16 and operand.type == "H" else operand.type_variable or operand.type


def _type_aliases(bf16: bool) -> list[str]:
    """Where no array has type T, CuPy does not say what it is."""
    return ["typedef float T;"] if bf16 else []


def _scalars(kernel: KernelDefinition, bf16: bool) -> list[str]:
    # a number alone tells CuPy no type
    return [f"{'float32' if bf16 and o.type == 'T' else o.type} {o.name}" for o in kernel.signature.scalars]


def _pointer(operand: Operand, name: str, bf16: bool = False) -> str:
    """Turn CuPy's raw array `operand_` into a plain pointer `name`."""
    const, held = "const " if operand.role == "in" else "", type_of(operand, bf16)
    return f"{const}{held}* {name} = ({const}{held}*)&{operand.name}_[0];"


def _raw(operands: tuple[Operand, ...], bf16: bool = False) -> list[str]:
    return [f"raw {_cupy_type(o, bf16)} {o.name}_" for o in operands]


def _guarded(kernel: KernelDefinition, pointers: list[str], inner: list[str]) -> str:
    """Everything behind the pointers stands under the kernel's guard, which reads the state."""
    lines = [x for x in inner if x]
    if kernel.guard is not None:
        lines = [f"if ({kernel.guard.source}) {{", *lines, "}"]
    return "\n".join([*pointers, *lines])


# --- elementwise ---------------------------------------------------------------------------------------------------


def elementwise_source(kernel: KernelDefinition, bf16: bool = False) -> KernelSource:
    """Arrays in any layout: CuPy hands over the element."""
    held = [o for o in kernel.signature.arrays if bf16 and o.type == "H"]

    def declare(operands: tuple[Operand, ...]) -> list[str]:
        return [
            f"raw {o.type} {o.name}_" if o.kind == "raw" else f"{_cupy_type(o, bf16)} {o.name}{'_' * (o in held)}"
            for o in operands
        ]

    ins = declare(kernel.signature.inputs) + _scalars(kernel, bf16)
    pointers = _type_aliases(bf16) + [_pointer(o, o.name) for o in kernel.signature.arrays if o.kind == "raw"]
    loads = [f"T {o.name}" + (";" if o.role == "out" else f" = *(const Bfloat16*)&{o.name}_;") for o in held]
    stores = [f"{o.name}_ = Bfloat16({o.name}).bits;" for o in held if o.role != "in"]
    operation = _guarded(kernel, pointers, [kernel.prologue, *loads, kernel.source, *stores])
    return KernelSource(", ".join(ins), ", ".join(declare(kernel.signature.outputs)), operation)


def _element(kernel: KernelDefinition) -> str:
    """The text for one element as a function."""
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    parameters = [
        f"{'const ' if o.role == 'in' else ''}{type_of(o)}{' ' if o.role == 'in' else '& '}{o.name}" for o in operands
    ]
    return f"auto flat_element = [&]({', '.join(parameters)}) {{ {kernel.source} }};"


def _of_element(kernel: KernelDefinition, place: Callable[[Operand], str], bf16: bool) -> str:
    """The call of that function for the elements that lie at `place`."""
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    held = [o for o in operands if bf16 and o.type == "H" and o.role != "in"]
    before = [f"T h_{o.name}" + (";" if o.role == "out" else f" = {place(o)};") for o in held]
    call = ", ".join(f"h_{o.name}" if o in held else place(o) for o in operands)
    after = [f"{place(o)} = h_{o.name};" for o in held]
    return " ".join(["{", *before, f"flat_element({call});", *after, "}"])


def flat_source(kernel: KernelDefinition, pack: int, index: str, bf16: bool = False) -> KernelSource:
    """Contiguous arrays: a thread takes `pack` elements that lie side by side, read and written 16 bytes at a time.

    With rows and columns told apart, `pack` divides the number of columns. The last thread takes what remains one by
    one. `index` is the type of an element's number: 32 bits where they suffice, whose division is the cheaper one.
    """
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    pointers = [_pointer(o, o.name if o.kind == "raw" else f"p_{o.name}", bf16) for o in kernel.signature.arrays]
    place = {"element": "at_k", "row": "at_k % flat_m", "col": "at_k / flat_m"}
    one = _of_element(kernel, lambda o: f"p_{o.name}[{place[o.kind]}]", bf16)
    inner = [
        kernel.prologue,
        _element(kernel),
        f"const {index} flat_m = ({index})flat_columns, at_0 = ({index})i * {pack};",
    ]
    if pack == 1:
        inner += [f"const {index} at_k = at_0;", one]
    else:
        packs = {o.name: f"Pack<{type_of(o, bf16)}, {pack}>" for o in operands}
        loads = {
            "element": lambda o: f"{packs[o.name]} v_{o.name} = ((const {packs[o.name]}*)p_{o.name})[i];",
            "row": lambda o: f"{packs[o.name]} v_{o.name} = *(const {packs[o.name]}*)(p_{o.name} + at_0 % flat_m);",
            "col": lambda o: f"const {type_of(o)} v_{o.name} = p_{o.name}[at_0 / flat_m];",
        }
        several = _of_element(kernel, lambda o: f"v_{o.name}" if o.kind == "col" else f"v_{o.name}.e[at_e]", bf16)
        inner += [
            f"if (at_0 + {pack} <= ({index})flat_count) {{",
            *(f"{packs[o.name]} v_{o.name};" if o.role == "out" else loads[o.kind](o) for o in operands),
            f"for (int at_e = 0; at_e < {pack}; ++at_e) {several}",
            *(f"(({packs[o.name]}*)p_{o.name})[i] = v_{o.name};" for o in operands if o.role != "in"),
            f"}} else for ({index} at_k = at_0; at_k < ({index})flat_count; ++at_k) {one}",
        ]
    ins = _raw(kernel.signature.inputs, bf16) + _scalars(kernel, bf16) + ["int64 flat_count", "int64 flat_columns"]
    operation = _guarded(kernel, _type_aliases(bf16) + pointers, inner)
    return KernelSource(
        ", ".join(ins), ", ".join(_raw(kernel.signature.outputs, bf16)), operation, CUDA_PREAMBLE + warp_lanes.PACKS
    )


def can_fuse_column_sums(kernel: KernelDefinition) -> bool:
    """Whether an elementwise kernel can add up the columns of what it writes: of one matrix from several."""
    inputs, outputs = kernel.signature.inputs, kernel.signature.outputs
    alike = all(o.kind == "element" and o.type_variable == "T" for o in inputs + outputs)
    return alike and kernel.guard is None and len(inputs) > 1 and [o.role for o in outputs] == ["out"]


def column_sums_source(kernel: KernelDefinition, pack: int, bf16: bool = False) -> KernelSource:
    """The element's text on contiguous matrices, and partial sums of the columns of what it writes, in one pass.

    Thread (part, columns) takes rows part, part + n_parts, … of `pack` columns side by side, as `reduction_sources`.
    """
    (out,) = kernel.signature.outputs
    packs = {o.name: f"Pack<{type_of(o, bf16)}, {pack}>" for o in kernel.signature.arrays}
    inner = [
        kernel.prologue,
        _element(kernel),
        f"const long long flat_packs = flat_columns / {pack}, at_c = i % flat_packs * {pack}, part = i / flat_packs;",
        f"T flat_sums[{pack}];",
        f"for (int at_e = 0; at_e < {pack}; ++at_e) flat_sums[at_e] = (T)0;",
        "for (long long at_r = part; at_r < flat_rows; at_r += n_parts) {",
        "const long long at_k = at_r * flat_columns + at_c;",
        *(
            f"{packs[o.name]} v_{o.name} = *(const {packs[o.name]}*)(p_{o.name} + at_k);"
            for o in kernel.signature.inputs
        ),
        f"{packs[out.name]} v_{out.name};",
        f"for (int at_e = 0; at_e < {pack}; ++at_e) {{",
        _of_element(kernel, lambda o: f"v_{o.name}.e[at_e]", bf16),
        f"flat_sums[at_e] += v_{out.name}.e[at_e];",
        "}",
        f"*({packs[out.name]}*)(p_{out.name} + at_k) = v_{out.name};",
        "}",
        f"for (int at_e = 0; at_e < {pack}; ++at_e) parts[(at_c + at_e) * n_parts + part] = flat_sums[at_e];",
    ]
    numbers = ["int64 flat_rows", "int64 flat_columns", "int64 n_parts"]
    ins = _raw(kernel.signature.inputs, bf16) + _scalars(kernel, bf16) + numbers
    outs = [*_raw(kernel.signature.outputs, bf16), "raw T parts"]
    pointers = _type_aliases(bf16) + [_pointer(o, f"p_{o.name}", bf16) for o in kernel.signature.arrays]
    return KernelSource(
        ", ".join(ins), ", ".join(outs), _guarded(kernel, pointers, inner), CUDA_PREAMBLE + warp_lanes.PACKS
    )


# --- by row --------------------------------------------------------------------------------------------------------


def by_row_source(kernel: KernelDefinition, lanes: int, bf16: bool = False) -> KernelSource:
    """Everything raw; `lanes` neighbouring threads a row, of which the first writes what is one value a row."""
    raws = _type_aliases(bf16)
    prologue: list[str] = []
    epilogue: list[str] = []
    for o in kernel.signature.arrays:
        const = "const " if o.role == "in" else ""
        ctype = type_of(o, bf16)
        if o.kind == "raw":
            raws.append(_pointer(o, o.name))
        elif o.kind == "rows":
            prologue.append(f"{const}{ctype}* {o.name} = ({const}{ctype}*)&{o.name}_[0] + i * (ptrdiff_t){o.name}_ld;")
        elif o.role == "out":
            prologue.append(f"{ctype} {o.name};")
        else:
            prologue.append(f"{const}{ctype} {o.name} = {o.name}_[i];")
        if o.kind == "element" and o.role != "in":
            epilogue.append(f"{o.name}_[i] = {o.name};")
    numbers = [f"int64 {w}" for w in kernel.signature.widths]
    numbers += [f"int64 {o.name}_ld" for o in kernel.signature.arrays if o.kind == "rows"]
    inner = [*prologue, kernel.source, *epilogue]
    if warp_lanes.uses_lanes(kernel.source):
        if epilogue:
            # an output may be an input of the same row, which every lane has read then
            epilogue = ["sync_lanes<LANES>();", "if (LANE == 0) {", *epilogue, "}"]
        inner = [
            f"enum {{ LANES = {lanes} }};",
            "const int LANE = (int)(i % LANES);",
            "const ptrdiff_t at_row = i / LANES;",
            "{ const ptrdiff_t i = at_row;",
            *prologue,
            kernel.source,
            *epilogue,
            "}",
        ]
    ins = ", ".join(_raw(kernel.signature.inputs, bf16) + _scalars(kernel, bf16) + numbers)
    operation = _guarded(kernel, raws, inner)
    return KernelSource(
        ins, ", ".join(_raw(kernel.signature.outputs, bf16)), operation, CUDA_PREAMBLE + warp_lanes.ON_DEVICE
    )


# --- reductions ----------------------------------------------------------------------------------------------------


def reduction_sources(kernel: KernelDefinition, bf16: bool = False) -> dict[str, KernelSource]:
    """The launches that a reduction is made of; their order is fixed, so the same input gives the same bits.

    _parts    over rows, thread (part, column) combines rows part, part + n_parts, … of its column; over everything,
              lane l of n_lanes combines elements l, l + n_lanes, …, and a warp its lanes
    _columns  over rows, a warp combines one column: lane l rows l, l + 32, …
    _join     a warp combines 1024 neighbouring partial results of one result, lane l those at l, l + 32, …

    A warp combines its lanes in halves: lane l with l + 16, then l + 8, and so on. Adjacent threads read adjacent
    elements of a contiguous array. Inputs are addressed through their strides, so any layout will do.
    """
    combine = kernel.combine
    assert combine is not None
    (out,) = kernel.signature.outputs
    a = type_of(out)
    pointers, loads = _type_aliases(bf16), []
    for o in kernel.signature.inputs:
        pointers.append(_pointer(o, o.name if o.kind == "raw" else f"p_{o.name}", bf16))
        if o.kind == "element":
            loads.append(f"const {type_of(o)} {o.name} = p_{o.name}[r * {o.name}_rs + c * {o.name}_cs];")
        elif o.kind == "row":
            loads.append(f"const {type_of(o)} {o.name} = p_{o.name}[c * {o.name}_cs];")
    numbers = ["int64 n_rows", "int64 n_columns", "int64 n_parts"]
    for o in kernel.signature.inputs:
        numbers += [f"int64 {o.name}_rs"] if o.kind == "element" else []
        numbers += [f"int64 {o.name}_cs"] if o.kind in ("element", "row") else []
    join = f"{{ const {a} a = total, b = {out.name}; total = {combine.source}; }}"
    step = " ".join([*loads, f"{a} {out.name};", kernel.source, join])
    begin = f"{a} total = ({a}){combine.identity!r};"
    lanes = (
        f"for (int half = {WARP // 2}; half > 0; half /= 2) {{ "
        f"const {a} {out.name} = __shfl_xor_sync(0xffffffffu, total, half); {join} }}"
    )
    first = f"if (i % {WARP} == 0) result[i / {WARP}] = total;"
    ins = ", ".join(_raw(kernel.signature.inputs, bf16) + _scalars(kernel, bf16) + numbers)

    def launch(*inner: str) -> KernelSource:
        return KernelSource(ins, f"raw {out.type} result", _guarded(kernel, pointers, [begin, kernel.prologue, *inner]))

    made = {}
    if kernel.axis == "rows":
        made["_parts"] = launch(
            "const long long c = i % n_columns, part = i / n_columns;",
            "#pragma unroll 8",
            f"for (long long r = part; r < n_rows; r += n_parts) {{ {step} }}",
            "result[c * n_parts + part] = total;",
        )
        made["_columns"] = launch(
            f"const long long c = i / {WARP};",
            "#pragma unroll 4",
            f"for (long long r = i % {WARP}; r < n_rows; r += {WARP}) {{ {step} }}",
            lanes,
            first,
        )
    else:
        made["_parts"] = launch(
            "const long long n_elements = n_rows * n_columns;",
            "#pragma unroll 8",
            "for (long long k = i; k < n_elements; k += n_parts) {",
            f"const long long r = n_rows == 1 ? 0 : k / n_columns, c = k - r * n_columns; {step}",
            "}",
            lanes,
            first,
        )
    state = [o for o in kernel.signature.inputs if o.name == "state" and kernel.guard is not None]
    made["_join"] = KernelSource(
        ", ".join([*_raw(tuple(state)), f"raw {out.type} parts", "int64 n_parts", "int64 n_groups"]),
        f"raw {out.type} result",
        _guarded(
            kernel,
            [_pointer(o, o.name) for o in state],
            [
                begin,
                f"const long long part = i / {WARP}, first = part % n_groups * {PARTIALS_PER_WARP};",
                f"const long long end = first + {PARTIALS_PER_WARP} < n_parts ? first + {PARTIALS_PER_WARP} : n_parts;",
                "#pragma unroll 8",
                f"for (long long k = first + i % {WARP}; k < end; k += {WARP}) {{ "
                f"const {a} {out.name} = parts[part / n_groups * n_parts + k]; {join} }}",
                lanes,
                first,
            ],
        ),
    )
    return made
