"""The state array: a small float64 array with all values that change from step to step.

No launch has such a value as an argument, so a recorded step can be repeated by a CUDA graph or by compiled code. Step
counts, offsets and 32-bit keys are exact in float64, as all integers up to 2⁵³.
"""

from __future__ import annotations

from enum import IntEnum


class StateEntry(IntEnum):
    """The entries of the state array. Their indices are stored in files and must not change."""

    STEP = 0  # t: number of updates so far
    LR = 1  # η of this step, set by the schedule
    OFFSET = 2  # first row of this batch in the shuffled order
    FIRST_ROW = 3  # index of this process's first row in the global batch
    SEED_LOW = 4  # the seed's low 32 bits
    SEED_HIGH = 5  # the seed's high 32 bits
    NONFINITE_STEP = 6  # 1 + the first step with a non-finite loss, gradient or update; otherwise 0
    EMPTY_BATCH = 7  # 1 if all weights of the batch are zero: such a batch changes nothing
    NEAR_OVERFLOW = 8  # 1 after a value became so large that updates may overflow and are checked before they apply
    LOSS = 9  # Σ wᵢℓᵢ / Σ wᵢ of this batch, without the penalty
    PENALTY = 10  # the penalty of E9 (l2 and l1)
    WEIGHT = 11  # Σ wᵢ of this batch
    LOSS_SUM = 12  # Σ over the epoch's batches of (loss + penalty) · weight
    WEIGHT_SUM = 13  # Σ over the epoch's batches of weight
    MAX_ABS = 14  # max(|g|, |θ|), not finite if an element is not
    UPDATE_PROBE = 15  # 0, or not finite if the update would be
    SQUARED_NORM = 16  # unused; earlier versions stored Σ g² here
    NONFINITE_CAUSE = 17  # 1 the loss, 2 a gradient or a parameter, 3 an update was not finite
    NONFINITE_LR = 18  # η at that step
    CORRECTED_LR = 19  # Adam: η / (1 − β₁ᵗ)
    INV_SQRT_CORRECTION = 20  # Adam: 1/√(1 − β₂ᵗ)
    BATCH_INDEX = 21  # index of this batch in the epoch
    NONFINITE_BATCH = 22  # index of that batch
    NET_INDEX = 23  # index of a network among several that are trained together; part of the counter of dropout masks
    EPOCHS_DONE = 24  # epochs completed in this run of compiled epochs
    STEP_LR = 25  # η of this step while LR is that of layers with another learning_rate_factor


SIZE = 32

STATE_ENUM = "enum { " + ", ".join(f"{entry.name} = {int(entry)}" for entry in StateEntry) + " };\n"
