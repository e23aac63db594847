"""The program of a step: tensors, ops, rewrite rules and passes. It knows no layer and no device."""

from .op import SECTIONS, Op
from .program import Program
from .rewrite import Match, Rule, rewrite
from .tensor import (
    Array,
    ArrayFunction,
    DType,
    HostArray,
    Place,
    Tensor,
    TensorSpec,
    Variable,
    as_tuple,
    first_row,
    named_call,
    python_call,
    unpacked,
)

__all__ = [
    "SECTIONS",
    "Array",
    "ArrayFunction",
    "DType",
    "HostArray",
    "Match",
    "Op",
    "Place",
    "Program",
    "Rule",
    "Tensor",
    "TensorSpec",
    "Variable",
    "as_tuple",
    "first_row",
    "named_call",
    "python_call",
    "rewrite",
    "unpacked",
]


def __dir__() -> list[str]:
    return __all__
