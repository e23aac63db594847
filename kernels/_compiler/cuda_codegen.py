"""Generation of the CUDA sources of kernels: the arguments of `cupy.ElementwiseKernel`. Nothing here needs CuPy.

elementwise  arrays in any layout, as CuPy iterates over them; contiguous arrays with `pack` elements per thread, in
             accesses of 16 bytes
by row       one thread per row, or `lanes` threads per row if the kernel's source uses LANES
reduction    see `reduction_sources`
summed       see `column_sums_source`

If matrices of type H are stored in bfloat16 (`bf16`), the kernel's source still reads and writes float32 values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .definition import Combine, KernelDefinition
from .headers import cuda_preamble, used_headers
from .signature import Operand
from .warp_lanes import WARP, uses_lanes

PARTIALS_PER_WARP = 32 * WARP  # partial results that one warp combines


class KernelSource(NamedTuple):
    """The arguments of a `cupy.ElementwiseKernel`, without its name and options."""

    inputs: str
    outputs: str
    operation: str
    preamble: str


def sources(kernel: KernelDefinition, *, bf16: bool = False) -> dict[str, KernelSource]:
    """The sources of a kernel by the suffix of their function's name. Of sources that differ in a number only, one."""
    if kernel.form == "reduction":
        return reduction_sources(kernel, bf16=bf16)
    if kernel.form == "by_row":
        found = {"": by_row_source(kernel, 1, bf16=bf16)}
        if uses_lanes(kernel.source):
            found["_lanes"] = by_row_source(kernel, WARP, bf16=bf16)
        return found
    pack = 8 if bf16 else 4
    if kernel.base is not None:
        return {"": column_sums_source(kernel.base, pack, bf16=bf16)}
    return {
        "": elementwise_source(kernel, bf16=bf16),
        "_packed": flat_source(kernel, pack, "int", bf16=bf16),
        "_single": flat_source(kernel, 1, "long long", bf16=bf16),
    }


# --- operands -------------------------------------------------------------------------------------------------------


def type_of(operand: Operand, *, bf16: bool = False) -> str:
    """The type in device code; T and S are CuPy's template parameters."""
    return "Bfloat16" if bf16 and operand.type == "H" else operand.type_variable or operand.c_type({})


def _cupy_type(operand: Operand, *, bf16: bool) -> str:
    """The type in the declaration of CuPy's parameters."""
    return "uint16" if bf16 and operand.type == "H" else operand.type_variable or operand.type


def _type_aliases(*, bf16: bool) -> list[str]:
    """CuPy defines T only if an array has that type, which no matrix stored in bfloat16 has."""
    return ["typedef float T;"] if bf16 else []


def _scalars(kernel: KernelDefinition, *, bf16: bool) -> list[str]:
    # CuPy cannot derive T from scalars
    return [f"{'float32' if bf16 and o.type == 'T' else o.type} {o.name}" for o in kernel.signature.scalars]


def _pointer(operand: Operand, name: str, *, bf16: bool = False) -> str:
    """Convert CuPy's raw array `operand_` to a plain pointer `name`."""
    const = "const " if operand.role == "in" else ""
    pointer = f"{const}{type_of(operand, bf16=bf16)}*"
    return f"{pointer} {name} = ({pointer})&{operand.name}_[0];"


def _pointers(kernel: KernelDefinition, *, bf16: bool) -> list[str]:
    """Pointers to all arrays: raw ones by their names, the others as p_NAME."""
    return _type_aliases(bf16=bf16) + [
        _pointer(o, o.name if o.kind == "raw" else f"p_{o.name}", bf16=bf16) for o in kernel.signature.arrays
    ]


def _raw(operands: tuple[Operand, ...], *, bf16: bool = False) -> list[str]:
    return [f"raw {_cupy_type(o, bf16=bf16)} {o.name}_" for o in operands]


def _guarded(kernel: KernelDefinition, pointers: list[str], statements: list[str]) -> str:
    """The pointers, then the statements under the kernel's guard, which reads the state array."""
    lines = [x for x in statements if x]
    if kernel.guard is not None:
        lines = [f"if ({kernel.guard.source}) {{", *lines, "}"]
    return "\n".join([*pointers, *lines])


def _raw_source(
    kernel: KernelDefinition, numbers: list[str], operation: str, preamble: str, *, bf16: bool
) -> KernelSource:
    """A source whose arrays are all raw; `numbers` are declared after the scalars."""
    inputs = _raw(kernel.signature.inputs, bf16=bf16) + _scalars(kernel, bf16=bf16) + numbers
    return KernelSource(", ".join(inputs), ", ".join(_raw(kernel.signature.outputs, bf16=bf16)), operation, preamble)


# --- elementwise ----------------------------------------------------------------------------------------------------


def elementwise_source(kernel: KernelDefinition, *, bf16: bool = False) -> KernelSource:
    """Arrays in any layout: CuPy passes the element."""
    stored = [o for o in kernel.signature.arrays if bf16 and o.type == "H"]

    def declare(operands: tuple[Operand, ...]) -> list[str]:
        return [
            f"raw {o.type} {o.name}_"
            if o.kind == "raw"
            else f"{_cupy_type(o, bf16=bf16)} {o.name}{'_' * (o in stored)}"
            for o in operands
        ]

    inputs = declare(kernel.signature.inputs) + _scalars(kernel, bf16=bf16)
    pointers = _type_aliases(bf16=bf16) + [_pointer(o, o.name) for o in kernel.signature.arrays if o.kind == "raw"]
    loads = [f"T {o.name}" + (";" if o.role == "out" else f" = *(const Bfloat16*)&{o.name}_;") for o in stored]
    stores = [f"{o.name}_ = Bfloat16({o.name}).bits;" for o in stored if o.role != "in"]
    # CuPy passes references, and an output may share the memory of an input
    read = [o for o in kernel.signature.inputs if o.kind != "raw" and o not in stored]
    loads += [f"const {type_of(o)} read_{o.name} = {o.name};" for o in read]
    inner = [f"const {type_of(o)} {o.name} = read_{o.name};" for o in read]
    body = ["{", *inner, kernel.source, "}"] if read else [kernel.source]
    operation = _guarded(kernel, pointers, [kernel.prologue, *loads, *body, *stores])
    return KernelSource(", ".join(inputs), ", ".join(declare(kernel.signature.outputs)), operation, cuda_preamble())


def _element_function(kernel: KernelDefinition) -> str:
    """The kernel's source for one element as a function."""
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    parameters = [
        f"{'const ' if o.role == 'in' else ''}{type_of(o)}{' ' if o.role == 'in' else '& '}{o.name}" for o in operands
    ]
    return f"auto flat_element = [&]({', '.join(parameters)}) {{ {kernel.source} }};"


def _element_call(kernel: KernelDefinition, expression: Callable[[Operand], str], *, bf16: bool) -> str:
    """The call of that function with `expression(operand)` for each operand."""
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    stored = [o for o in operands if bf16 and o.type == "H" and o.role != "in"]
    before = [f"T h_{o.name}" + (";" if o.role == "out" else f" = {expression(o)};") for o in stored]
    call = ", ".join(f"h_{o.name}" if o in stored else expression(o) for o in operands)
    after = [f"{expression(o)} = h_{o.name};" for o in stored]
    return " ".join(["{", *before, f"flat_element({call});", *after, "}"])


def flat_source(kernel: KernelDefinition, pack: int, index: str, *, bf16: bool = False) -> KernelSource:
    """Contiguous arrays: a thread processes `pack` consecutive elements, in accesses of 16 bytes.

    If the kernel has row or column operands, `pack` must divide the number of columns. The last thread processes the
    remainder one by one. `index` is the type of an element's index: a 32-bit division is cheaper.
    """
    position = {"element": "at_k", "row": "at_k % flat_m", "col": "at_k / flat_m"}
    one = _element_call(kernel, lambda o: f"p_{o.name}[{position[o.kind]}]", bf16=bf16)
    statements = [
        kernel.prologue,
        _element_function(kernel),
        f"const {index} flat_m = ({index})flat_columns, at_0 = ({index})i * {pack};",
    ]
    if pack == 1:
        statements += [f"const {index} at_k = at_0;", one]
    else:
        statements += [
            f"if (at_0 + {pack} <= ({index})flat_count) {{",
            *_packed_element(kernel, pack, bf16=bf16),
            f"}} else for ({index} at_k = at_0; at_k < ({index})flat_count; ++at_k) {one}",
        ]
    operation = _guarded(kernel, _pointers(kernel, bf16=bf16), statements)
    numbers = ["int64 flat_count", "int64 flat_columns"]
    return _raw_source(kernel, numbers, operation, cuda_preamble("pack.h"), bf16=bf16)


def _packed_element(kernel: KernelDefinition, pack: int, *, bf16: bool) -> list[str]:
    """Load, compute and store `pack` consecutive elements."""
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    packs = {o.name: f"Pack<{type_of(o, bf16=bf16)}, {pack}>" for o in operands}
    loads = {
        "element": lambda o: f"{packs[o.name]} v_{o.name} = ((const {packs[o.name]}*)p_{o.name})[i];",
        "row": lambda o: f"{packs[o.name]} v_{o.name} = *(const {packs[o.name]}*)(p_{o.name} + at_0 % flat_m);",
        "col": lambda o: f"const {type_of(o)} v_{o.name} = p_{o.name}[at_0 / flat_m];",
    }
    call = _element_call(kernel, lambda o: f"v_{o.name}" if o.kind == "col" else f"v_{o.name}.e[at_e]", bf16=bf16)
    return [
        *(f"{packs[o.name]} v_{o.name};" if o.role == "out" else loads[o.kind](o) for o in operands),
        f"for (int at_e = 0; at_e < {pack}; ++at_e) {call}",
        *(f"(({packs[o.name]}*)p_{o.name})[i] = v_{o.name};" for o in operands if o.role != "in"),
    ]


def column_sums_source(kernel: KernelDefinition, pack: int, *, bf16: bool = False) -> KernelSource:
    """One pass over contiguous matrices that computes a kernel's elements and partial sums of the output's columns.

    Thread (part, columns) processes rows part, part + n_parts, … of `pack` neighboring columns, as in
    `reduction_sources`.
    """
    (out,) = kernel.signature.outputs
    packs = {o.name: f"Pack<{type_of(o, bf16=bf16)}, {pack}>" for o in kernel.signature.arrays}
    statements = [
        kernel.prologue,
        _element_function(kernel),
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
        _element_call(kernel, lambda o: f"v_{o.name}.e[at_e]", bf16=bf16),
        f"flat_sums[at_e] += v_{out.name}.e[at_e];",
        "}",
        f"*({packs[out.name]}*)(p_{out.name} + at_k) = v_{out.name};",
        "}",
        f"for (int at_e = 0; at_e < {pack}; ++at_e) parts[(at_c + at_e) * n_parts + part] = flat_sums[at_e];",
    ]
    operation = _guarded(kernel, _pointers(kernel, bf16=bf16), statements)
    numbers = ["int64 flat_rows", "int64 flat_columns", "int64 n_parts"]
    source = _raw_source(kernel, numbers, operation, cuda_preamble("pack.h"), bf16=bf16)
    return source._replace(outputs=f"{source.outputs}, raw T parts")


# --- by row ---------------------------------------------------------------------------------------------------------


def by_row_source(kernel: KernelDefinition, lanes: int, *, bf16: bool = False) -> KernelSource:
    """Raw arrays; `lanes` neighboring threads per row, of which the first writes the outputs with one value per row."""
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    pointers = _type_aliases(bf16=bf16) + [_pointer(o, o.name) for o in kernel.signature.arrays if o.kind == "raw"]
    load = [_load_row(o, bf16=bf16) for o in operands]
    if kernel.ranges:
        load += ["const ptrdiff_t end = i + 1;", *(f"const ptrdiff_t {o.name}_step = {o.name}_ld;" for o in operands)]
    store = [f"{o.name}_[i] = {o.name};" for o in operands if o.kind == "element" and o.role != "in"]
    statements = [*load, kernel.source, *store]
    if uses_lanes(kernel.source):
        if store:
            # an output may be an input of the same row, which all lanes must have read
            store = ["sync_lanes<LANES>();", "if (LANE == 0) {", *store, "}"]
        statements = [
            f"enum {{ LANES = {lanes} }};",
            "const int LANE = (int)(i % LANES);",
            "const ptrdiff_t at_row = i / LANES;",
            "{ const ptrdiff_t i = at_row;",
            *load,
            kernel.source,
            *store,
            "}",
        ]
    numbers = [f"int64 {w}" for w in kernel.signature.widths]
    numbers += [f"int64 {o.name}_ld" for o in operands if o.kind == "rows"]
    operation = _guarded(kernel, pointers, statements)
    preamble = cuda_preamble("pack.h", "lanes_cuda.h", *used_headers(kernel.source, "philox.h"))
    return _raw_source(kernel, numbers, operation, preamble, bf16=bf16)


def _load_row(operand: Operand, *, bf16: bool) -> str:
    """A pointer to this row of a matrix, or the value of this row."""
    const, name = "const " if operand.role == "in" else "", operand.name
    c_type = type_of(operand, bf16=bf16)
    if operand.kind == "rows":
        return f"{const}{c_type}* {name} = ({const}{c_type}*)&{name}_[0] + i * (ptrdiff_t){name}_ld;"
    if operand.role == "out":
        return f"{c_type} {name};"
    return f"{const}{c_type} {name} = {name}_[i];"


# --- reductions -----------------------------------------------------------------------------------------------------

# a warp combines its lanes in halves
_FIRST_LANE = f"if (i % {WARP} == 0) result[i / {WARP}] = total;"


@dataclass(frozen=True)
class _Reduction:
    """The pieces of which the sources of a reduction consist."""

    kernel: KernelDefinition
    combine: Combine
    out: Operand
    bf16: bool

    @property
    def init(self) -> str:
        return f"{type_of(self.out)} total = ({type_of(self.out)}){self.combine.identity!r};"

    @property
    def accumulate(self) -> str:
        """Combine `total` with the term in the variable of the output's name."""
        a = type_of(self.out)
        return f"{{ const {a} a = total, b = {self.out.name}; total = {self.combine.source}; }}"

    @property
    def combine_lanes(self) -> str:
        return (
            f"for (int half = {WARP // 2}; half > 0; half /= 2) {{ "
            f"const {type_of(self.out)} {self.out.name} = __shfl_xor_sync(0xffffffffu, total, half); "
            f"{self.accumulate} }}"
        )

    @property
    def step(self) -> str:
        """Load the operands of element (r, c), compute its term and accumulate it."""
        loads = []
        for o in self.kernel.signature.inputs:
            if o.kind == "element":
                loads.append(f"const {type_of(o)} {o.name} = p_{o.name}[r * {o.name}_rs + c * {o.name}_cs];")
            elif o.kind == "row":
                loads.append(f"const {type_of(o)} {o.name} = p_{o.name}[c * {o.name}_cs];")
        return " ".join([*loads, f"{type_of(self.out)} {self.out.name};", self.kernel.source, self.accumulate])

    def source(self, *statements: str) -> KernelSource:
        """A source that reads the inputs."""
        inputs = self.kernel.signature.inputs
        numbers = ["int64 n_rows", "int64 n_columns", "int64 n_parts"]
        for o in inputs:
            numbers += [f"int64 {o.name}_rs"] if o.kind == "element" else []
            numbers += [f"int64 {o.name}_cs"] if o.kind in ("element", "row") else []
        pointers = _type_aliases(bf16=self.bf16) + [
            _pointer(o, o.name if o.kind == "raw" else f"p_{o.name}", bf16=self.bf16) for o in inputs
        ]
        return KernelSource(
            ", ".join(_raw(inputs, bf16=self.bf16) + _scalars(self.kernel, bf16=self.bf16) + numbers),
            f"raw {self.out.type} result",
            _guarded(self.kernel, pointers, [self.init, self.kernel.prologue, *statements]),
            cuda_preamble(),
        )


def reduction_sources(kernel: KernelDefinition, *, bf16: bool = False) -> dict[str, KernelSource]:
    """The sources of which a reduction consists. Their order is fixed, so the same input gives the same bits.

    _partial  over rows, thread (part, column) combines rows part, part + n_parts, … of its column; over all elements,
              lane l of n_parts combines elements l, l + n_parts, …, and a warp combines its lanes
    _columns  over rows, a warp combines one column: lane l rows l, l + 32, …
    _combine  a warp combines 1024 consecutive partial results of one result, lane l those at l, l + 32, …

    A warp combines its lanes in halves: lane l with l + 16, then l + 8, and so on. Adjacent threads read adjacent
    elements of a contiguous array. Inputs are addressed by their strides, so any layout is possible.
    """
    parts = _reduction(kernel, bf16=bf16)
    found = _row_reductions(parts) if kernel.axis == "rows" else _full_reduction(parts)
    return {**found, "_combine": combine_source(kernel)}


def _reduction(kernel: KernelDefinition, *, bf16: bool = False) -> _Reduction:
    assert kernel.combine is not None
    (out,) = kernel.signature.outputs
    return _Reduction(kernel, kernel.combine, out, bf16=bf16)


def _row_reductions(parts: _Reduction) -> dict[str, KernelSource]:
    partial = parts.source(
        "const long long c = i % n_columns, part = i / n_columns;",
        "#pragma unroll 8",
        f"for (long long r = part; r < n_rows; r += n_parts) {{ {parts.step} }}",
        "result[c * n_parts + part] = total;",
    )
    columns = parts.source(
        f"const long long c = i / {WARP};",
        "#pragma unroll 4",
        f"for (long long r = i % {WARP}; r < n_rows; r += {WARP}) {{ {parts.step} }}",
        parts.combine_lanes,
        _FIRST_LANE,
    )
    return {"_partial": partial, "_columns": columns}


def _full_reduction(parts: _Reduction) -> dict[str, KernelSource]:
    partial = parts.source(
        "const long long n_elements = n_rows * n_columns;",
        "#pragma unroll 8",
        "for (long long k = i; k < n_elements; k += n_parts) {",
        f"const long long r = n_rows == 1 ? 0 : k / n_columns, c = k - r * n_columns; {parts.step}",
        "}",
        parts.combine_lanes,
        _FIRST_LANE,
    )
    return {"_partial": partial}


def combine_source(kernel: KernelDefinition) -> KernelSource:
    """The source `_combine` of `reduction_sources`."""
    parts = _reduction(kernel)
    out = parts.out
    state = [o for o in kernel.signature.inputs if o.name == "state" and kernel.guard is not None]
    statements = [
        parts.init,
        f"const long long part = i / {WARP}, first = part % n_groups * {PARTIALS_PER_WARP};",
        f"const long long end = first + {PARTIALS_PER_WARP} < n_parts ? first + {PARTIALS_PER_WARP} : n_parts;",
        "#pragma unroll 8",
        f"for (long long k = first + i % {WARP}; k < end; k += {WARP}) {{ "
        f"const {type_of(out)} {out.name} = parts[part / n_groups * n_parts + k]; {parts.accumulate} }}",
        parts.combine_lanes,
        _FIRST_LANE,
    ]
    return KernelSource(
        ", ".join([*_raw(tuple(state)), f"raw {out.type} parts", "int64 n_parts", "int64 n_groups"]),
        f"raw {out.type} result",
        _guarded(kernel, [_pointer(o, o.name) for o in state], statements),
        cuda_preamble(),
    )
