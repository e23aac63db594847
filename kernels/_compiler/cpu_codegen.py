"""Generation of the C++ translation units for a CPU: for each kernel a loop around its source.

Every generated function takes ``(void* const* at, const long long* sizes, const double* numbers)``: the addresses of
the arrays, sizes and strides, and the scalars.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from .definition import DEFINITIONS, KernelDefinition
from .headers import header, preamble, used_headers
from .signature import Operand

LANES = 32  # partial results of a reduction over all elements
BLOCK_ROWS = 64  # rows per partial result of a reduction over rows
TILE = 256  # columns per pass of a reduction over rows


class CompilationUnit(NamedTuple):
    """A translation unit: the kernels of a module for one meaning of their type variables."""

    module: str
    types: tuple[tuple[str, str], ...]


def unit_of(kernel: KernelDefinition, types: dict[str, str]) -> CompilationUnit:
    """The unit that contains a kernel for these types."""
    return _unit(kernel.module, kernel.signature.type_variables, types.get("T"), types.get("S"))


@functools.cache
def _unit(module: str, variables: tuple[str, ...], T: str | None, S: str | None) -> CompilationUnit:
    types = {"T": T, "S": S}
    return CompilationUnit(module, tuple((v, str(types[v])) for v in variables))


def symbol(kernel: KernelDefinition, types: dict[str, str]) -> str:
    """The name of the compiled function for these types, for example relu__float32."""
    return "__".join([kernel.name, *(types[v] for v in kernel.signature.type_variables)])


def _kernels_of(unit: CompilationUnit) -> list[KernelDefinition]:
    """The kernels of a unit. Those with column sums have no source."""
    variables = tuple(variable for variable, _ in unit.types)
    return [
        kernel
        for _, kernel in sorted(DEFINITIONS.items())
        if kernel.module == unit.module and kernel.signature.type_variables == variables and kernel.form != "summed"
    ]


def symbols_of(unit: CompilationUnit) -> tuple[str, ...]:
    """The functions of a unit's library."""
    return tuple(symbol(kernel, dict(unit.types)) for kernel in _kernels_of(unit))


def cpu_source(unit: CompilationUnit) -> str:
    """The source of a unit: for each kernel one template and its instance."""
    types, kernels = dict(unit.types), _kernels_of(unit)
    parts = [
        "#include <cstddef>",
        # libstdc++'s special functions would double the compile time, and no kernel calls one
        "#undef _GLIBCXX_USE_STD_SPEC_FUNCS",
        "#include <math.h>",
        "#include <cmath>",
        preamble("lanes_cpu.h"),
    ]
    code = "\n".join(f"{kernel.source}\n{kernel.prologue}" for kernel in kernels)
    parts += map(header, used_headers(code, "vector_math.h", "philox.h"))
    for kernel in kernels:
        parts += [_template(kernel), _instance(kernel, types)]
    return "\n".join(parts) + "\n"


def _instance(kernel: KernelDefinition, types: dict[str, str]) -> str:
    arguments = ", ".join(Operand("", v, "element", "in").c_type(types) for v in kernel.signature.type_variables)
    call = f"{kernel.name}_<{arguments}>" if arguments else f"{kernel.name}_"
    return (
        f'extern "C" void {symbol(kernel, types)}(void* const* at, const long long* sizes, const double* numbers) '
        f"{{ {call}(at, sizes, numbers); }}"
    )


def _c_type(operand: Operand) -> str:
    return operand.type_variable or operand.c_type({})


def _template(kernel: KernelDefinition) -> str:
    body = {"elementwise": _elementwise, "by_row": _by_row, "reduction": _reduction}[kernel.form](kernel)
    head = "template <" + ", ".join(f"typename {v}" for v in kernel.signature.type_variables) + "> "
    head = head if kernel.signature.type_variables else ""
    return (
        f"{head}static inline void {kernel.name}_(void* const* at, const long long* sizes, const double* numbers) {{\n"
        f"  (void)at; (void)sizes; (void)numbers;\n{body}}}\n"
    )


def _prologue(kernel: KernelDefinition) -> str:
    """Pointers to all arrays and scalars by name, then guard and prologue: executed once per launch."""
    lines = []
    for k, o in enumerate(kernel.signature.arrays):
        const = "const " if o.role == "in" else ""
        name = o.name if o.kind == "raw" else f"p_{o.name}"
        lines.append(f"  {const}{_c_type(o)}* {name} = ({const}{_c_type(o)}*)at[{k}];")
    for k, o in enumerate(kernel.signature.scalars):
        lines.append(f"  const {_c_type(o)} {o.name} = ({_c_type(o)})numbers[{k}];")
    if kernel.guard is not None:
        lines.append(f"  if (!({kernel.guard.source})) return;")
    if kernel.prologue:
        lines.append(f"  {kernel.prologue}")
    return "\n".join(lines) + "\n"


def _load(operand: Operand, at: str) -> str:
    """Load one operand's element into a local variable of its name."""
    const = "const " if operand.role == "in" else ""
    if operand.role == "out":
        return f"{_c_type(operand)} {operand.name};"
    return f"{const}{_c_type(operand)} {operand.name} = {at};"


def _strides(operands: list[Operand]) -> list[str]:
    return [
        f"  const long long rs_{o.name} = sizes[{4 + 2 * k}], cs_{o.name} = sizes[{5 + 2 * k}];"
        for k, o in enumerate(operands)
    ]


def _unit_strides(operands: list[Operand]) -> str:
    return " && ".join(f"cs_{o.name} == 1" for o in operands) or "true"


def _elementwise(kernel: KernelDefinition) -> str:
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    lines = [_prologue(kernel), "  const long long n = sizes[1], j0 = sizes[2], m = sizes[3];", *_strides(operands)]
    varying = [o for o in operands if o.kind != "col"]
    lines += _single_column(kernel, operands)
    lines.append("  for (long long i = sizes[0]; i < n; ++i) {")
    for o in operands:
        lines.append(f"    auto* q_{o.name} = p_{o.name} + i * rs_{o.name};")
        if o.kind == "col":
            lines.append("    " + _load(o, f"*q_{o.name}"))

    def loop(index: Callable[[Operand], str]) -> list[str]:
        loads = " ".join(_load(o, f"q_{o.name}[{index(o)}]") for o in varying)
        stores = " ".join(f"q_{o.name}[{index(o)}] = {o.name};" for o in varying if o.role != "in")
        return ["for (long long j = j0; j < m; ++j) {", f"  {loads}", f"  {kernel.source}", f"  {stores}", "}"]

    lines += [f"    if ({_unit_strides(varying)}) {{", "VECTOR_LOOP", *loop(lambda o: "j"), "    } else {"]
    lines += [*loop(lambda o: f"j * cs_{o.name}"), "    }", "  }"]
    return "\n".join(lines) + "\n"


def _single_column(kernel: KernelDefinition, operands: list[Operand]) -> list[str]:
    """The loop over the rows of a single column, which the compiler vectorizes."""
    rows = [o for o in operands if o.kind != "row"]
    contiguous = " && ".join(f"rs_{o.name} == 1" for o in rows) or "true"
    loads = " ".join(_load(o, f"p_{o.name}[i]") for o in rows)
    stores = " ".join(f"p_{o.name}[i] = {o.name};" for o in rows if o.role != "in")
    return [
        f"  if (j0 == 0 && m == 1 && {contiguous}) {{",
        *("    " + _load(o, f"*p_{o.name}") for o in operands if o.kind == "row"),
        "    const long long j = 0; (void)j;",
        "VECTOR_LOOP",
        f"    for (long long i = sizes[0]; i < n; ++i) {{ {loads} {kernel.source} {stores} }}",
        "    return;",
        "  }",
    ]


def _by_row(kernel: KernelDefinition) -> str:
    operands = [o for o in kernel.signature.arrays if o.kind != "raw"]
    widths = kernel.signature.widths
    steps = {o.name: f"sizes[{2 + len(widths) + k}]" for k, o in enumerate(operands)}
    lines = [_prologue(kernel), "  const long long n = sizes[1];"]
    if widths and not kernel.ranges and not any(o.kind == "raw" and o.role != "in" for o in kernel.signature.arrays):
        # rows of one column are one long row: with a constant width, the compiler vectorizes the loop over rows
        one = " && ".join(f"{x} == 1" for x in [*(f"sizes[{2 + k}]" for k in range(len(widths))), *steps.values()])
        lines += [f"  if ({one}) {{", *(f"  const long long {w} = 1;" for w in widths), "VECTOR_LOOP"]
        lines += [*_loop_over_rows(kernel, operands, lambda o: "1"), "  return; }"]
    lines += [f"  const long long {w} = sizes[{2 + k}];" for k, w in enumerate(widths)]
    lines += _loop_over_rows(kernel, operands, lambda o: steps[o.name])
    return "\n".join(lines) + "\n"


def _loop_over_rows(kernel: KernelDefinition, operands: list[Operand], step: Callable[[Operand], str]) -> list[str]:
    lines = ["  for (long long i = sizes[0]; i < n; ++i) {"]
    if kernel.ranges:
        lines = ["  if (const long long i = sizes[0], end = n; i < end) {"]
        lines += [f"    const long long {o.name}_step = {step(o)};" for o in operands if o.kind == "rows"]
    for o in operands:
        at = f"p_{o.name} + i * {step(o)}"
        const = "const " if o.role == "in" else ""
        pointer = f"{const}{_c_type(o)}* {o.name} = {at};"
        lines.append("    " + (pointer if o.kind == "rows" else _load(o, f"*({at})")))
    lines.append(f"    {kernel.source}")
    lines += [f"    p_{o.name}[i * {step(o)}] = {o.name};" for o in operands if o.kind == "element" and o.role != "in"]
    return [*lines, "  }"]


def _reduction(kernel: KernelDefinition) -> str:
    combine = kernel.combine
    assert combine is not None
    operands = [o for o in kernel.signature.inputs if o.kind != "raw"]
    (out,) = kernel.signature.outputs
    accumulator = "T" if combine.is_selection and "T" in kernel.signature.type_variables else _c_type(out)
    lines = [
        _prologue(kernel),
        "  const long long i0 = sizes[0], n = sizes[1], j0 = sizes[2], m = sizes[3];",
        *_strides(operands),
        f"  typedef {accumulator} A; const A identity = (A){combine.identity!r};",
        f"  auto combine = [](A a, A b) -> A {{ return {combine.source}; }};",
    ]

    def term(index: Callable[[Operand], str]) -> str:
        loads = " ".join(_load(o, f"q_{o.name}[{index(o)}]") for o in operands)
        return f"{loads} {_c_type(out)} {out.name}; {kernel.source}"

    reduce = _reduce_rows if kernel.axis == "rows" else _reduce_all
    return "\n".join([*lines, *reduce(operands, out.name, term)]) + "\n"


def _row_pointers(operands: list[Operand]) -> list[str]:
    return [f"auto* q_{o.name} = p_{o.name} + i * rs_{o.name};" for o in operands]


def _reduce_rows(operands: list[Operand], out: str, term: Callable[[Callable[[Operand], str]], str]) -> list[str]:
    """One result per column: partial results of BLOCK_ROWS rows each, for TILE columns at a time."""
    contiguous, strided = term(lambda o: "left + j"), term(lambda o: f"(left + j) * cs_{o.name}")
    return [
        f"  A part[{TILE}], total[{TILE}];",
        f"  for (long long left = j0; left < m; left += {TILE}) {{",
        f"    const long long w = m - left < {TILE} ? m - left : {TILE};",
        "    for (long long j = 0; j < w; ++j) total[j] = identity;",
        f"    for (long long top = i0; top < n; top += {BLOCK_ROWS}) {{",
        f"      const long long end = top + {BLOCK_ROWS} < n ? top + {BLOCK_ROWS} : n;",
        "      for (long long j = 0; j < w; ++j) part[j] = identity;",
        "      for (long long i = top; i < end; ++i) {",
        *_row_pointers(operands),
        f"        if ({_unit_strides(operands)}) {{",
        "VECTOR_LOOP",
        f"          for (long long j = 0; j < w; ++j) {{ {contiguous} part[j] = combine(part[j], {out}); }}",
        f"        }} else for (long long j = 0; j < w; ++j) {{ {strided} part[j] = combine(part[j], {out}); }}",
        "      }",
        "      for (long long j = 0; j < w; ++j) total[j] = combine(total[j], part[j]);",
        "    }",
        f"    for (long long j = 0; j < w; ++j) p_{out}[left + j] = total[j];",
        "  }",
    ]


def _reduce_all(operands: list[Operand], out: str, term: Callable[[Callable[[Operand], str]], str]) -> list[str]:
    """One result: LANES interleaved partial results, combined in halves."""
    contiguous, strided = term(lambda o: "j + l"), term(lambda o: f"j * cs_{o.name}")
    return [
        f"  A lane[{LANES}]; for (int l = 0; l < {LANES}; ++l) lane[l] = identity;",
        "  for (long long i = i0; i < n; ++i) {",
        *_row_pointers(operands),
        "    long long j = j0;",
        f"    if ({_unit_strides(operands)}) for (; j + {LANES} <= m; j += {LANES}) {{",
        "VECTOR_LOOP",
        f"      for (int l = 0; l < {LANES}; ++l) {{ {contiguous} lane[l] = combine(lane[l], {out}); }}",
        "    }",
        f"    for (int l = 0; j < m; ++j, l = (l + 1) % {LANES}) {{ {strided} lane[l] = combine(lane[l], {out}); }}",
        "  }",
        f"  for (int half = {LANES // 2}; half > 0; half /= 2)",
        "    for (int l = 0; l < half; ++l) lane[l] = combine(lane[l], lane[l + half]);",
        f"  p_{out}[sizes[{4 + 2 * len(operands)}]] = lane[0];",
    ]
