"""What a kernel's text becomes on a GPU: the strings of `cupy.ElementwiseKernel`s around it. Nothing here needs CuPy.

elementwise  arrays in any layout as CuPy walks them; contiguous ones with `pack` elements a thread, 16 bytes at once
by row       one row a thread, or one row a team of `lanes` threads where the text says what each of them does
reduction    see `reduction_texts`

Where matrices of type H are held in bfloat16 (`narrow`), a text is given float32s and leaves them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..state import PREAMBLE
from . import bfloat16, warp_lanes
from .signature import Operand

if TYPE_CHECKING:
    from collections.abc import Callable

    from .registry import Kernel

WARP = warp_lanes.WARP
GROUP = 32 * WARP  # partial results that one warp joins
AROUND = PREAMBLE + bfloat16.ON_DEVICE


class Text(NamedTuple):
    """The arguments of a `cupy.ElementwiseKernel`, but for its name and options."""

    inputs: str
    outputs: str
    operation: str
    preamble: str = AROUND


def texts(kernel: Kernel, narrow: bool = False) -> dict[str, Text]:
    """The texts that a kernel may be launched as, by what their names end in: of those that differ in a number alone,
    one."""
    if kernel.form == "reduction":
        return reduction_texts(kernel, narrow)
    if kernel.form == "by_row":
        shared = {"_shared": by_row_text(kernel, WARP, narrow)} if warp_lanes.is_shared(kernel.text) else {}
        return {"": by_row_text(kernel, 1, narrow), **shared}
    pack = 8 if narrow else 4
    flat = {"_packed": flat_text(kernel, pack, "int", narrow), "_single": flat_text(kernel, 1, "long long", narrow)}
    summed = {"_summed": summed_text(kernel, pack, narrow)} if can_be_summed(kernel) else {}
    return {"": elementwise_text(kernel, narrow), **flat, **summed}


# --- operands ------------------------------------------------------------------------------------------------------


def type_of(operand: Operand, narrow: bool = False) -> str:
    """The type as the device's text says it: T and S are CuPy's letters."""
    return "Bfloat16" if narrow and operand.type == "H" else operand.letter or operand.ctype({})


def _cupys(operand: Operand, narrow: bool) -> str:
    """The type as CuPy is told of it."""
    return "uint16" if narrow and operand.type == "H" else operand.letter or operand.type


def _known(narrow: bool) -> list[str]:
    """Where no array has type T, CuPy does not say what it is."""
    return ["typedef float T;"] if narrow else []


def _scalars(kernel: Kernel, narrow: bool) -> list[str]:
    # a number alone tells CuPy no type
    return [f"{'float32' if narrow and o.type == 'T' else o.type} {o.name}" for o in kernel.signature.scalars]


def _pointer(operand: Operand, name: str, narrow: bool = False) -> str:
    """Turn CuPy's raw array `operand_` into a plain pointer `name`."""
    const, held = "const " if operand.role == "in" else "", type_of(operand, narrow)
    return f"{const}{held}* {name} = ({const}{held}*)&{operand.name}_[0];"


def _raw(operands: tuple[Operand, ...], narrow: bool = False) -> list[str]:
    return [f"raw {_cupys(o, narrow)} {o.name}_" for o in operands]


def _guarded(kernel: Kernel, pointers: list[str], inner: list[str]) -> str:
    """Everything behind the pointers stands under the kernel's guard, which reads the state."""
    lines = [x for x in inner if x]
    if kernel.when is not None:
        lines = [f"if ({kernel.when.text}) {{", *lines, "}"]
    return "\n".join([*pointers, *lines])


# --- elementwise ---------------------------------------------------------------------------------------------------


def elementwise_text(kernel: Kernel, narrow: bool = False) -> Text:
    """Arrays in any layout: CuPy hands over the element."""
    held = [o for o in kernel.signature.arrays if narrow and o.type == "H"]

    def declare(operands: tuple[Operand, ...]) -> list[str]:
        return [
            f"raw {o.type} {o.name}_" if o.kind == "raw" else f"{_cupys(o, narrow)} {o.name}{'_' * (o in held)}"
            for o in operands
        ]

    ins = declare(kernel.signature.inputs) + _scalars(kernel, narrow)
    pointers = _known(narrow) + [_pointer(o, o.name) for o in kernel.signature.arrays if o.kind == "raw"]
    loads = [f"T {o.name}" + (";" if o.role == "out" else f" = *(const Bfloat16*)&{o.name}_;") for o in held]
    stores = [f"{o.name}_ = Bfloat16({o.name}).bits;" for o in held if o.role != "in"]
    operation = _guarded(kernel, pointers, [kernel.setup, *loads, kernel.text, *stores])
    return Text(", ".join(ins), ", ".join(declare(kernel.signature.outputs)), operation)


def _element(kernel: Kernel) -> str:
    """The text for one element as a function."""
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    parameters = [
        f"{'const ' if o.role == 'in' else ''}{type_of(o)}{' ' if o.role == 'in' else '& '}{o.name}" for o in operands
    ]
    return f"auto flat_element = [&]({', '.join(parameters)}) {{ {kernel.text} }};"


def _of_element(kernel: Kernel, place: Callable[[Operand], str], narrow: bool) -> str:
    """The call of that function for the elements that lie at `place`."""
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    held = [o for o in operands if narrow and o.type == "H" and o.role != "in"]
    before = [f"T h_{o.name}" + (";" if o.role == "out" else f" = {place(o)};") for o in held]
    call = ", ".join(f"h_{o.name}" if o in held else place(o) for o in operands)
    after = [f"{place(o)} = h_{o.name};" for o in held]
    return " ".join(["{", *before, f"flat_element({call});", *after, "}"])


def flat_text(kernel: Kernel, pack: int, index: str, narrow: bool = False) -> Text:
    """Contiguous arrays: a thread takes `pack` elements that lie side by side, read and written 16 bytes at a time.

    With rows and columns told apart, `pack` divides the number of columns. The last thread takes what remains one by
    one. `index` is the type of an element's number: 32 bits where they suffice, whose division is the cheaper one.
    """
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    pointers = [_pointer(o, o.name if o.kind == "raw" else f"p_{o.name}", narrow) for o in kernel.signature.arrays]
    place = {"element": "at_k", "row": "at_k % flat_m", "col": "at_k / flat_m"}
    one = _of_element(kernel, lambda o: f"p_{o.name}[{place[o.kind]}]", narrow)
    inner = [
        kernel.setup,
        _element(kernel),
        f"const {index} flat_m = ({index})flat_columns, at_0 = ({index})i * {pack};",
    ]
    if pack == 1:
        inner += [f"const {index} at_k = at_0;", one]
    else:
        packs = {o.name: f"Pack<{type_of(o, narrow)}, {pack}>" for o in operands}
        loads = {
            "element": lambda o: f"{packs[o.name]} v_{o.name} = ((const {packs[o.name]}*)p_{o.name})[i];",
            "row": lambda o: f"{packs[o.name]} v_{o.name} = *(const {packs[o.name]}*)(p_{o.name} + at_0 % flat_m);",
            "col": lambda o: f"const {type_of(o)} v_{o.name} = p_{o.name}[at_0 / flat_m];",
        }
        several = _of_element(kernel, lambda o: f"v_{o.name}" if o.kind == "col" else f"v_{o.name}.e[at_e]", narrow)
        inner += [
            f"if (at_0 + {pack} <= ({index})flat_count) {{",
            *(f"{packs[o.name]} v_{o.name};" if o.role == "out" else loads[o.kind](o) for o in operands),
            f"for (int at_e = 0; at_e < {pack}; ++at_e) {several}",
            *(f"(({packs[o.name]}*)p_{o.name})[i] = v_{o.name};" for o in operands if o.role != "in"),
            f"}} else for ({index} at_k = at_0; at_k < ({index})flat_count; ++at_k) {one}",
        ]
    ins = _raw(kernel.signature.inputs, narrow) + _scalars(kernel, narrow) + ["int64 flat_count", "int64 flat_columns"]
    operation = _guarded(kernel, _known(narrow) + pointers, inner)
    return Text(", ".join(ins), ", ".join(_raw(kernel.signature.outputs, narrow)), operation, AROUND + warp_lanes.PACKS)


def can_be_summed(kernel: Kernel) -> bool:
    """Whether an elementwise kernel can add up the columns of what it writes: of one matrix from several."""
    inputs, outputs = kernel.signature.inputs, kernel.signature.outputs
    alike = all(o.kind == "element" and o.letter == "T" for o in inputs + outputs)
    return alike and kernel.when is None and len(inputs) > 1 and [o.role for o in outputs] == ["out"]


def summed_text(kernel: Kernel, pack: int, narrow: bool = False) -> Text:
    """The element's text on contiguous matrices, and partial sums of the columns of what it writes, in one pass.

    Thread (part, columns) takes rows part, part + n_parts, … of `pack` columns side by side, as `reduction_texts`.
    """
    (out,) = kernel.signature.outputs
    packs = {o.name: f"Pack<{type_of(o, narrow)}, {pack}>" for o in kernel.signature.arrays}
    inner = [
        kernel.setup,
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
        _of_element(kernel, lambda o: f"v_{o.name}.e[at_e]", narrow),
        f"flat_sums[at_e] += v_{out.name}.e[at_e];",
        "}",
        f"*({packs[out.name]}*)(p_{out.name} + at_k) = v_{out.name};",
        "}",
        f"for (int at_e = 0; at_e < {pack}; ++at_e) parts[(at_c + at_e) * n_parts + part] = flat_sums[at_e];",
    ]
    numbers = ["int64 flat_rows", "int64 flat_columns", "int64 n_parts"]
    ins = _raw(kernel.signature.inputs, narrow) + _scalars(kernel, narrow) + numbers
    outs = [*_raw(kernel.signature.outputs, narrow), "raw T parts"]
    pointers = _known(narrow) + [_pointer(o, f"p_{o.name}", narrow) for o in kernel.signature.arrays]
    return Text(", ".join(ins), ", ".join(outs), _guarded(kernel, pointers, inner), AROUND + warp_lanes.PACKS)


# --- by row --------------------------------------------------------------------------------------------------------


def by_row_text(kernel: Kernel, lanes: int, narrow: bool = False) -> Text:
    """Everything raw; `lanes` neighbouring threads a row, of which the first writes what is one value a row."""
    raws = _known(narrow)
    prologue: list[str] = []
    epilogue: list[str] = []
    for o in kernel.signature.arrays:
        const = "const " if o.role == "in" else ""
        ctype = type_of(o, narrow)
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
    inner = [*prologue, kernel.text, *epilogue]
    if warp_lanes.is_shared(kernel.text):
        if epilogue:
            # an output may be an input of the same row, which every lane has read then
            epilogue = ["meet<LANES>();", "if (LANE == 0) {", *epilogue, "}"]
        inner = [
            f"enum {{ LANES = {lanes} }};",
            "const int LANE = (int)(i % LANES);",
            "const ptrdiff_t at_row = i / LANES;",
            "{ const ptrdiff_t i = at_row;",
            *prologue,
            kernel.text,
            *epilogue,
            "}",
        ]
    ins = ", ".join(_raw(kernel.signature.inputs, narrow) + _scalars(kernel, narrow) + numbers)
    operation = _guarded(kernel, raws, inner)
    return Text(ins, ", ".join(_raw(kernel.signature.outputs, narrow)), operation, AROUND + warp_lanes.ON_DEVICE)


# --- reductions ----------------------------------------------------------------------------------------------------


def reduction_texts(kernel: Kernel, narrow: bool = False) -> dict[str, Text]:
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
    pointers, loads = _known(narrow), []
    for o in kernel.signature.inputs:
        pointers.append(_pointer(o, o.name if o.kind == "raw" else f"p_{o.name}", narrow))
        if o.kind == "element":
            loads.append(f"const {type_of(o)} {o.name} = p_{o.name}[r * {o.name}_rs + c * {o.name}_cs];")
        elif o.kind == "row":
            loads.append(f"const {type_of(o)} {o.name} = p_{o.name}[c * {o.name}_cs];")
    numbers = ["int64 n_rows", "int64 n_columns", "int64 n_parts"]
    for o in kernel.signature.inputs:
        numbers += [f"int64 {o.name}_rs"] if o.kind == "element" else []
        numbers += [f"int64 {o.name}_cs"] if o.kind in ("element", "row") else []
    join = f"{{ const {a} a = total, b = {out.name}; total = {combine.text}; }}"
    step = " ".join([*loads, f"{a} {out.name};", kernel.text, join])
    begin = f"{a} total = ({a}){combine.identity!r};"
    lanes = (
        f"for (int half = {WARP // 2}; half > 0; half /= 2) {{ "
        f"const {a} {out.name} = __shfl_xor_sync(0xffffffffu, total, half); {join} }}"
    )
    first = f"if (i % {WARP} == 0) result[i / {WARP}] = total;"
    ins = ", ".join(_raw(kernel.signature.inputs, narrow) + _scalars(kernel, narrow) + numbers)

    def launch(*inner: str) -> Text:
        return Text(ins, f"raw {out.type} result", _guarded(kernel, pointers, [begin, kernel.setup, *inner]))

    made = {}
    if kernel.over == "rows":
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
    state = [o for o in kernel.signature.inputs if o.name == "state" and kernel.when is not None]
    made["_join"] = Text(
        ", ".join([*_raw(tuple(state)), f"raw {out.type} parts", "int64 n_parts", "int64 n_groups"]),
        f"raw {out.type} result",
        _guarded(
            kernel,
            [_pointer(o, o.name) for o in state],
            [
                begin,
                f"const long long part = i / {WARP}, first = part % n_groups * {GROUP};",
                f"const long long end = first + {GROUP} < n_parts ? first + {GROUP} : n_parts;",
                "#pragma unroll 8",
                f"for (long long k = first + i % {WARP}; k < end; k += {WARP}) {{ "
                f"const {a} {out.name} = parts[part / n_groups * n_parts + k]; {join} }}",
                lanes,
                first,
            ],
        ),
    )
    return made
