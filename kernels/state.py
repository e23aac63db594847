"""The state array: whatever changes from step to step lives in one small float64 array beside the buffers.

Nothing that changes is ever baked into a launch, so a recorded step can be replayed (a CUDA graph) or walked by
compiled code. Integers up to 2⁵³ are exact in float64, which a step count, an offset and 32-bit keys never exceed.
"""

from __future__ import annotations

import re
from enum import IntEnum


class Slot(IntEnum):
    """What each entry of the state array holds."""

    STEP = 0  # t: updates taken so far
    LR = 1  # η of this step, set by the schedule
    OFFSET = 2  # first row of this batch in the shuffled order
    FIRST_ROW = 3  # number of this batch's first row in the global batch (other processes hold the rows before it)
    SEED_LOW = 4  # the seed's low 32 bits
    SEED_HIGH = 5  # the seed's high 32 bits
    NONFINITE_STEP = 6  # 0, or 1 + the step at which a loss, a gradient or an update was not finite
    EMPTY_BATCH = 7  # 1 while every weight of the batch is zero: such a batch changes nothing
    NEAR_OVERFLOW = (
        8  # 1 once a value grew so large that an update could overflow: candidates are tried before they are written
    )
    LOSS = 9  # Σ wᵢℓᵢ / Σ wᵢ of this batch, the penalty not included
    PENALTY = 10  # the penalty of E9 (and its l1 form)
    WEIGHT = 11  # Σ wᵢ of this batch
    LOSS_SUM = 12  # Σ over the epoch's batches of (loss + penalty) · weight
    WEIGHT_SUM = 13  # Σ over the epoch's batches of weight
    MAX_ABS = 14  # max(|g|, |θ|), not finite if one of them is not
    UPDATE_PROBE = 15  # 0, or not finite where a candidate update is
    SQUARED_NORM = 16  # Σ g², for clipping by the global norm
    NONFINITE_CAUSE = 17  # what was not finite first: 1 the loss, 2 a gradient or a parameter, 3 an update
    NONFINITE_LR = 18  # η at that step
    CORRECTED_LR = 19  # Adam: η / (1 − β₁ᵗ)
    INV_SQRT_CORRECTION = 20  # Adam: 1/√(1 − β₂ᵗ)
    BATCH_INDEX = 21  # number of this batch in the epoch
    NONFINITE_BATCH = 22  # number of the batch at which the flag was raised
    NET_INDEX = 23  # index of this net among many that share one plan; part of the counter of dropout masks
    EPOCHS_DONE = 24  # epochs that ended since Python looked


SIZE = 32

SLOT_ENUM = "enum { " + ", ".join(f"{slot.name} = {int(slot)}" for slot in Slot) + " };\n"

_MENTION = re.compile(r"((?<!&)&\s*(?:\w+\s*=\s*)?|\+\+|--)?\bstate\b(?:\[([A-Z_]+)\]\s*(\+\+|--|[-+*/]?=(?!=))?)?")


def slots(text: str) -> tuple[set[int], set[int]] | None:
    """The entries of the state array that a text reads, and those that it writes; None where it takes it as a whole, or
    an entry's address."""
    reads, writes = set(), set()
    for before, name, behind in _MENTION.findall(text):
        if before.startswith("&") or name not in Slot.__members__:
            return None
        if before or behind:
            writes.add(int(Slot[name]))
        if behind != "=":
            reads.add(int(Slot[name]))
    return reads, writes
