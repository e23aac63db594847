"""Networks: parameters in flat buffers, the state of training, and executables that compute steps."""

from .batch_io import Arrays, CompressedRows, Table, compressed_batch
from .cache import Loan
from .executable import Executable, ExecutableSpec, shared_key
from .network import Network
from .parameters import FlatParameters, ParameterSlice, PenaltyRange, keyed_generator
from .state import CompiledState, DeviceGroup, LossConvention, RowBuffer
from .step import StepOptions

__all__ = [
    "Arrays",
    "CompiledState",
    "CompressedRows",
    "DeviceGroup",
    "Executable",
    "ExecutableSpec",
    "FlatParameters",
    "Loan",
    "LossConvention",
    "Network",
    "ParameterSlice",
    "PenaltyRange",
    "RowBuffer",
    "StepOptions",
    "Table",
    "compressed_batch",
    "keyed_generator",
    "shared_key",
]
