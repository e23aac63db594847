"""A batch whose rows are shared among processes: where a process's part begins."""

from ._compiler.registry import by_row
from .state import Slot


@by_row("scalar float64 first -> raw float64 state", "state[FIRST_ROW] = first;")
def start_shard(first, state):
    """Row i of this process is row first + i of the batch: dropout masks are those of one process alone. (E11)"""
    state[Slot.FIRST_ROW] = first
