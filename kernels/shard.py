"""The shard of a batch that a process trains on."""

from ._compiler.registry import by_row
from .state import StateEntry


@by_row("scalar float64 first -> raw float64 state", "state[FIRST_ROW] = first;", writes=(StateEntry.FIRST_ROW,))
def start_shard(first, state):
    """Row i of this process is row first + i of the global batch, so dropout masks equal those of one process. (E11)"""
    state[StateEntry.FIRST_ROW] = first
