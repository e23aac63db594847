"""The signature of a kernel: what it reads, what it writes, and how each operand meets the element at hand.

    "T z, row T b, scalar T alpha -> T a"

Before the arrow stand inputs, after it outputs; ``inout`` marks an output that is also read. Each operand is
``[kind] type name``. The kind says which part of an array one element of the launch sees:

(none)         the value at this element (elementwise, reduction) or the value of this row (by row)
``row``        one value per column, the same for every row: an intercept, a mean. Shape (m,)
``col``        one value per row, the same for every column: a row's weight. Shape (n,)
``rows[m]``    by row only: a pointer to this row, m columns wide. Shape (n, m)
``raw``        a pointer to the whole contiguous array, for the text to index (of type S: in any layout)
``raw[m]``     by row only: the same, of shape (m,), m the width of the rows
``scalar``     a number, fixed when the launch is bound

Types are ``T`` (float32 or float64, the same for all operands that say T), ``S`` (any real number type: what the
caller's table happens to hold), ``H`` (T, or where T is float32 bfloat16, the same for all operands that say H) or a
NumPy type name such as ``int32``. A text sees T where its signature says H: of bfloat16, kept as its bit pattern in
uint16, what is read is widened before and what is written is rounded after.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned int",
    "uint64": "unsigned long long",
    "bool": "bool",
}
VARIABLES = {"T": ("float32", "float64"), "S": tuple(C_TYPES)}
STORAGE_TO_COMPUTE = {"float32": "float32", "float64": "float64", "uint16": "float32"}  # what H may be, and T then
RESERVED_NAMES = {"i", "j", "n", "at", "sizes", "numbers", "LANE", "LANES"}
# names of the loops around a reduction's text, where an operand of that name would silently stand for another
RESERVED_IN_REDUCTIONS = set(
    """A a b block c combine end first half identity k l lane left m n_columns n_elements n_groups n_parts n_rows part
    parts r result top total w""".split()
)

_OPERAND = re.compile(
    r"^(?P<inout>inout\s+)?(?:(?P<kind>row|col|scalar|raw|(?:raw|rows)\[(?P<width>[a-z]\w*)\])\s+)?(?P<type>\w+)\s+(?P<name>[A-Za-z]\w*)$"
)


@dataclass(frozen=True)
class Operand:
    """One operand: name, type (T, S, H or a NumPy name), kind and role ("in", "out" or "inout")."""

    name: str
    type: str
    kind: str
    role: str
    width: str | None = None

    @property
    def is_array(self) -> bool:
        return self.kind != "scalar"

    def c_type(self, types: dict[str, str]) -> str:
        """The C type, given what T and S stand for."""
        return C_TYPES[types.get(self.type_variable or self.type, self.type)]

    @property
    def type_variable(self) -> str:
        """The type variable as a text knows it; "" for a type that is fixed."""
        return "T" if self.type == "H" else self.type if self.type in VARIABLES else ""


@dataclass(frozen=True)
class Signature:
    """The parsed signature: inputs, outputs and scalars in the order written."""

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    scalars: tuple[Operand, ...]

    @cached_property
    def arrays(self) -> tuple[Operand, ...]:
        return self.inputs + self.outputs

    @cached_property
    def type_variables(self) -> tuple[str, ...]:
        """The type variables that a text knows, in the order T, S."""
        return tuple(v for v in VARIABLES if any(o.type_variable == v for o in self.arrays))

    @cached_property
    def supports_bf16(self) -> bool:
        """Whether matrices may be held in bfloat16."""
        return any(o.type == "H" for o in self.arrays)

    @cached_property
    def widths(self) -> tuple[str, ...]:
        """The names of the row widths, in the order of first use."""
        return tuple(dict.fromkeys(o.width for o in self.arrays if o.width is not None))

    def type_combinations(self) -> list[dict[str, str]]:
        """Every meaning that the type variables can take: [{"T": "float32"}, {"T": "float64"}]; H is as T."""
        combinations: list[dict[str, str]] = [{}]
        for variable in self.type_variables:
            combinations = [{**c, variable: t} for c in combinations for t in VARIABLES[variable]]
        return [{**c, "H": c["T"]} for c in combinations] if self.supports_bf16 else combinations


def parse(signature: str) -> Signature:
    """Parse a signature; ValueError names the operand that is not of the form."""
    left, arrow, right = signature.partition("->")
    if not arrow:
        raise ValueError(f"kernel signature {signature!r} has no '->' between inputs and outputs")
    inputs: list[Operand] = []
    outputs: list[Operand] = []
    scalars: list[Operand] = []
    for side, texts in (("in", left), ("out", right)):
        for text in filter(None, (t.strip() for t in texts.split(","))):
            found = _OPERAND.match(text)
            if found is None:
                raise ValueError(f"kernel operand {text!r} in {signature!r} is not '[kind] type name'")
            kind = found["kind"] or "element"
            role = "inout" if found["inout"] else side
            operand = Operand(found["name"], found["type"], kind.partition("[")[0], role, found["width"])
            if not operand.type_variable and operand.type not in C_TYPES:
                raise ValueError(f"kernel operand {text!r}: unknown type {operand.type!r}")
            if operand.name in RESERVED_NAMES:
                raise ValueError(
                    f"kernel operand {text!r}: the name {operand.name!r} is reserved for the generated loop"
                )
            if role == "inout" and side == "in":
                raise ValueError(f"kernel operand {text!r}: 'inout' belongs behind the arrow")
            if kind == "scalar":
                if side == "out":
                    raise ValueError(f"kernel operand {text!r}: a scalar cannot be written")
                scalars.append(operand)
            else:
                (inputs if side == "in" else outputs).append(operand)
    if not outputs:
        raise ValueError(f"kernel signature {signature!r} writes nothing")
    names = [o.name for o in inputs + outputs + scalars]
    if len(set(names)) != len(names):
        raise ValueError(f"kernel signature {signature!r} uses a name twice")
    return Signature(tuple(inputs), tuple(outputs), tuple(scalars))


@functools.cache
def type_name(dtype: np.dtype) -> str:
    """The NumPy name of a dtype as the kernels spell it; byte order must be the machine's own."""
    return np.dtype(dtype).name
