"""Networks: parameters in flat buffers, the state of training, and plans that compute steps."""

from .network import Network
from .parameters import FlatParameters, ParameterSlice, PenaltyRange, keyed_generator
from .plan import CompressedRows, Plan, Table
from .state import CompiledState, LossConvention, RowBuffer

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
    "Table",
    "keyed_generator",
]
