"""Networks: parameters in flat buffers, the state of training, and plans that compute steps."""

from .batch_io import CompressedRows, Table
from .network import Network
from .parameters import FlatParameters, ParameterSlice, PenaltyRange, keyed_generator
from .plan import Plan
from .state import CompiledState, LossConvention, RowBuffer
from .step import StepOptions

__all__ = [
    "CompiledState",
    "CompressedRows",
    "FlatParameters",
    "LossConvention",
    "Network",
    "ParameterSlice",
    "PenaltyRange",
    "Plan",
    "RowBuffer",
    "StepOptions",
    "Table",
    "keyed_generator",
]
