"""The signature of a kernel: its inputs, outputs and scalars, with the type and the kind of each operand.

    "T z, row T b, scalar T alpha -> T a"

Inputs are before the arrow, outputs after it; ``inout`` marks an output that is also read. Each operand has the form
``[kind] type name``. The kind determines which part of an array one element or row of the launch sees:

(none)         the value of this element (elementwise, reduction) or of this row (by row)
``row``        one value per column, the same for all rows, such as an intercept. Shape (m,)
``col``        one value per row, the same for all columns, such as a sample weight. Shape (n,)
``rows[m]``    by row only: a pointer to this row of m columns. Shape (n, m)
``raw``        a pointer to the entire contiguous array, which the source indexes (type S: in any layout)
``raw[m]``     by row only: as raw, with shape (m,), where m is the width of the rows
``raw[:m]``    by row only: as raw, with m columns and any number of rows
``raw[x]``     output only: as raw, with the shape of the raw input x. All of it is written
``scalar``     a number, fixed when the launch is bound

A call without ``out=`` is functional. Its operands are the inputs, then every output that is updated: each ``inout``
output and each ``raw`` output, such as the state array, except ``raw[x]``. It returns all outputs:

    "T g, raw float64 state -> inout T theta"     theta = sgd(g, state, theta)
    "raw T x, raw float64 state -> raw[x] T y"    y = dropout(x, state)

The shape of a new output follows from the operands: that of the elements, (n, m) of ``rows[m]``, (n,) for one value per
row, and (m,) or (1,) for a reduction. ``count=`` is the number of rows if no operand determines it, and the scalar
``width_m`` the number of columns of ``rows[m]``.

Types are ``T`` (float32 or float64, the same for all operands of type T), ``S`` (any real type: that of the caller's
table), ``H`` (T, or bfloat16 if T is float32, the same for all operands of type H) or a NumPy type such as ``int32``.
The source sees T for an operand of type H: bfloat16 values, stored as bit patterns in uint16, are widened when they are
read and rounded when they are written.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
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
# the types that H may have, and the type of T for each
STORAGE_TO_COMPUTE = {"float32": "float32", "float64": "float64", "uint16": "float32"}
RESERVED_NAMES = {"i", "j", "n", "at", "sizes", "numbers", "LANE", "LANES"}
# variables of the loops around the source of a reduction, which would hide an operand of the same name
RESERVED_IN_REDUCTIONS = set(
    """A a b block c combine end first half identity k l lane left m n_columns n_elements n_groups n_parts n_rows part
    parts r result top total w""".split()
)

_OPERAND = re.compile(
    r"^(?P<inout>inout\s+)?(?:(?P<kind>row|col|scalar|raw|(?:raw|rows)\[(?P<matrix>:)?(?P<width>[a-z]\w*)\])\s+)?(?P<type>\w+)\s+(?P<name>[A-Za-z]\w*)$"
)


@dataclass(frozen=True)
class Operand:
    """One operand: name, type (T, S, H or a NumPy name), kind and role ("in", "out" or "inout").

    width      the name of the row width in ``rows[m]``, ``raw[m]`` and ``raw[:m]``
    is_matrix  True for ``raw[:m]``
    like       the raw input whose shape an output ``raw[x]`` has
    """

    name: str
    type: str
    kind: str
    role: str
    width: str | None = None
    is_matrix: bool = False
    like: str | None = None

    @property
    def is_array(self) -> bool:
        return self.kind != "scalar"

    @property
    def is_updated(self) -> bool:
        """True for an output that a functional call takes as an operand too."""
        return self.role == "inout" or (self.role == "out" and self.kind == "raw" and self.like is None)

    def c_type(self, types: dict[str, str]) -> str:
        """The C type for the given meaning of T and S."""
        return C_TYPES[types.get(self.type_variable or self.type, self.type)]

    @property
    def type_variable(self) -> str:
        """The type variable in the source, T or S; "" for a fixed type."""
        if self.type == "H":
            return "T"
        return self.type if self.type in VARIABLES else ""


@dataclass(frozen=True)
class Signature:
    """A parsed signature: inputs, outputs and scalars in their order."""

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    scalars: tuple[Operand, ...]

    @cached_property
    def arrays(self) -> tuple[Operand, ...]:
        return self.inputs + self.outputs

    @cached_property
    def type_variables(self) -> tuple[str, ...]:
        """The type variables of the source, in the order T, S."""
        return tuple(v for v in VARIABLES if any(o.type_variable == v for o in self.arrays))

    @cached_property
    def supports_bf16(self) -> bool:
        """True if matrices may be stored in bfloat16."""
        return any(o.type == "H" for o in self.arrays)

    @cached_property
    def widths(self) -> tuple[str, ...]:
        """The names of the row widths, in the order of first use."""
        return tuple(dict.fromkeys(o.width for o in self.arrays if o.width is not None))

    def type_combinations(self) -> list[dict[str, str]]:
        """All meanings of the type variables, for example [{"T": "float32"}, {"T": "float64"}]. H has the type of T."""
        combinations: list[dict[str, str]] = [{}]
        for variable in self.type_variables:
            combinations = [{**c, variable: t} for c in combinations for t in VARIABLES[variable]]
        return [{**c, "H": c["T"]} for c in combinations] if self.supports_bf16 else combinations


def parse(signature: str) -> Signature:
    """Parse a signature. Raises ValueError with the operand that is invalid."""
    left, arrow, right = signature.partition("->")
    if not arrow:
        raise ValueError(f"kernel signature {signature!r} has no '->' between inputs and outputs")
    inputs = [_parse_operand(text, "in", signature) for text in _operands(left)]
    outputs = [_parse_operand(text, "out", signature) for text in _operands(right)]
    if not outputs:
        raise ValueError(f"kernel signature {signature!r} writes nothing")
    raw_inputs = {o.name for o in inputs if o.kind == "raw"}
    outputs = [replace(o, width=None, like=o.width) if o.width in raw_inputs else o for o in outputs]
    names = [o.name for o in inputs + outputs]
    if len(set(names)) != len(names):
        raise ValueError(f"kernel signature {signature!r} uses a name twice")
    return Signature(tuple(o for o in inputs if o.is_array), tuple(outputs), tuple(o for o in inputs if not o.is_array))


def _operands(side: str) -> list[str]:
    return [text.strip() for text in side.split(",") if text.strip()]


def _parse_operand(text: str, side: str, signature: str) -> Operand:
    found = _OPERAND.match(text)
    if found is None:
        raise ValueError(f"kernel operand {text!r} in {signature!r} is not '[kind] type name'")
    kind = (found["kind"] or "element").partition("[")[0]
    role = "inout" if found["inout"] else side
    operand = Operand(found["name"], found["type"], kind, role, found["width"], found["matrix"] is not None)
    if not operand.type_variable and operand.type not in C_TYPES:
        raise ValueError(f"kernel operand {text!r}: unknown type {operand.type!r}")
    if operand.name in RESERVED_NAMES:
        raise ValueError(f"kernel operand {text!r}: the name {operand.name!r} is reserved for the generated loop")
    if role == "inout" and side == "in":
        raise ValueError(f"kernel operand {text!r}: 'inout' must be after the arrow")
    if kind == "scalar" and side == "out":
        raise ValueError(f"kernel operand {text!r}: a scalar cannot be written")
    if operand.is_matrix and (kind != "raw" or side == "out"):
        raise ValueError(f"kernel operand {text!r}: '[:{operand.width}]' must be of a raw input")
    return operand


@functools.cache
def type_name(dtype: np.dtype) -> str:
    """The NumPy name of a dtype, without its byte order."""
    return np.dtype(dtype).name
