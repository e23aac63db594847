"""What surrounds the update of a step: the batch's weights, the non-finite flag, clipping, penalties, the tick."""

import numpy as np

from ._compiler.registry import Guard, by_row, elementwise, reduction
from .state import Slot

# updates write only while no step was bad and the batch has weight
UPDATING = Guard("state[BAD] == 0.0 && state[SKIP] == 0.0", lambda s: s[Slot.BAD] == 0 and s[Slot.SKIP] == 0)
CAREFUL = Guard(
    "state[BAD] == 0.0 && state[SKIP] == 0.0 && state[CAREFUL] != 0.0",
    lambda s: s[Slot.BAD] == 0 and s[Slot.SKIP] == 0 and s[Slot.CAREFUL] != 0,
)


@by_row("scalar float64 rows -> raw float64 state", "state[WEIGHT] = rows; state[SKIP] = 0.0; state[PENALTY] = 0.0;")
def begin_batch(rows, state):
    """Σ wᵢ of a batch without sample weights is its number of rows. No penalty is known yet."""
    state[Slot.WEIGHT] = rows
    state[Slot.SKIP] = 0
    state[Slot.PENALTY] = 0


@by_row("-> raw float64 state", "state[SKIP] = state[WEIGHT] > 0.0 ? 0.0 : 1.0; state[PENALTY] = 0.0;")
def begin_weighted(state):
    """A batch whose weights are all zero, as their sum in the state says, changes nothing. No penalty is known yet."""
    state[Slot.SKIP] = 0 if state[Slot.WEIGHT] > 0 else 1
    state[Slot.PENALTY] = 0


@elementwise(
    "T w, raw float64 state -> T share",
    "share = weight > 0.0 ? (T)((double)w / weight) : w;",  # mutate: E3 weights
    setup="const double weight = state[WEIGHT];",
    ulp=0,
)
def weigh(w, state):
    """share = wᵢ/Σw, so that C = Σ wᵢℓᵢ/Σ wᵢ; weights that are all zero give zeros. (E3)"""
    weight = state[Slot.WEIGHT]
    return w.astype(np.float64) / weight if weight > 0 else w


@elementwise(
    "T theta, raw float64 state, scalar T l2, scalar T l1 -> inout T g",
    "g = g + (l2 * theta + l1 * (theta > (T)0 ? (T)1 : (theta < (T)0 ? (T)-1 : (T)0 * theta)));",  # mutate: E9 gradient
)
def add_penalty_gradient(theta, state, l2, l1, g):
    """∂C/∂W gains λW, and λ₁ sign(W) for the l1 form. (E9)"""
    return g + (l2 * theta + l1 * np.sign(theta))


@reduction(
    "T theta, scalar float64 l2, scalar float64 l1 -> float64 s",
    "const double u = (double)theta; s = 0.5 * l2 * u * u + l1 * fabs(u);",  # mutate: E9 penalty
    over="all",
)
def penalty(theta, l2, l1):
    """½λ Σ W² + λ₁ Σ |W|, added in float64. (E9)"""
    u = theta.astype(np.float64)
    return 0.5 * l2 * u * u + l1 * np.abs(u)


@by_row(
    "scalar float64 limit -> raw float64 state",
    """
if (state[BAD] == 0.0 && state[SKIP] == 0.0) {
  const double loss = state[LOSS] + state[PENALTY];
  const double cause = loss - loss != 0.0 ? 1.0 : (state[LARGEST] - state[LARGEST] != 0.0 ? 2.0 : 0.0);
  if (cause != 0.0) {
    state[BAD] = state[STEP] + 1.0; state[CAUSE] = cause; state[BAD_LR] = state[LR]; state[BAD_BATCH] = state[BATCH];
  } else if (state[LARGEST] > limit || !(fabs(state[LR]) <= limit)) state[CAREFUL] = 1.0;
}
""",
)
def judge(limit, state):
    """Raise the flag where the loss, a gradient or a parameter is not finite; turn careful where one passes `limit`.

    Below the limit no rule's update can overflow, so that most steps need no second look.
    """
    if state[Slot.BAD] == 0 and state[Slot.SKIP] == 0:
        loss = state[Slot.LOSS] + state[Slot.PENALTY]
        cause = 1 if not np.isfinite(loss) else 2 if not np.isfinite(state[Slot.LARGEST]) else 0
        if cause:
            state[Slot.BAD] = state[Slot.STEP] + 1
            state[Slot.CAUSE] = cause
            state[Slot.BAD_LR], state[Slot.BAD_BATCH] = state[Slot.LR], state[Slot.BATCH]
        elif state[Slot.LARGEST] > limit or not abs(state[Slot.LR]) <= limit:
            state[Slot.CAREFUL] = 1


@by_row(
    "-> raw float64 state",
    """
if (state[PROBE] - state[PROBE] != 0.0) {
  state[BAD] = state[STEP] + 1.0; state[CAUSE] = 3.0; state[BAD_LR] = state[LR]; state[BAD_BATCH] = state[BATCH];
}
""",
    when=CAREFUL,
)
def judge_update(state):
    """Raise the flag where a candidate update is not finite, before anything of it is written."""
    if not np.isfinite(state[Slot.PROBE]):
        state[Slot.BAD] = state[Slot.STEP] + 1
        state[Slot.CAUSE] = 3
        state[Slot.BAD_LR], state[Slot.BAD_BATCH] = state[Slot.LR], state[Slot.BATCH]


@elementwise(
    "scalar T limit -> inout T g",
    "g = g > limit ? limit : (g < -limit ? -limit : g);",
)
def clip_value(limit, g):
    """g ← g clipped to [−limit, limit], element by element."""
    return np.clip(g, -limit, limit)


@elementwise(
    "raw float64 state, scalar float64 limit -> inout T g",
    "g = scale * g;",
    setup="""const double unit = state[LARGEST] > 1e100 ? state[LARGEST] : 1.0;
             const double norm = sqrt(state[NORM]) * unit; const T scale = (T)(norm > limit ? limit / norm : 1.0);""",
)
def clip_norm(state, limit, g):
    """g ← g · min(1, limit/‖g‖), ‖g‖ the Euclidean norm over all parameters."""
    norm = np.sqrt(state[Slot.NORM]) * (state[Slot.LARGEST] if state[Slot.LARGEST] > 1e100 else 1.0)
    return g.dtype.type(limit / norm if norm > limit else 1) * g


@elementwise(
    "row T squares, raw float64 state, scalar T limit -> inout T W",
    "const T norm = sqrt(squares); W = norm > limit ? W * (limit / norm) : W;",
    when=UPDATING,
)
def max_norm(squares, state, limit, W):
    """Column j of W, the weights into neuron j, is scaled back to Euclidean norm `limit` where it is longer."""
    norm = np.sqrt(squares)
    return np.where(norm > limit, W * (limit / norm), W)


@elementwise(
    "row T observed, raw float64 state, scalar T momentum, scalar T factor -> inout T running",
    "running = running + momentum * (factor * observed - running);",
    when=UPDATING,
)
def track(observed, state, momentum, factor, running):
    """running ← running + momentum · (factor · observed − running): a running mean or variance."""
    return running + momentum * (factor * observed - running)


@elementwise(
    "float64 batch, raw float64 state -> inout float64 sums",
    "sums = sums + batch;",
    when=UPDATING,
)
def accumulate(batch, state, sums):
    """sums ← sums + batch: the metrics of an epoch from those of its batches, each a weighted sum over rows."""
    return sums + batch


def tick_text(weight):
    """The text of `tick` for a batch that counts in the epoch's loss by that weight."""
    return f"""
if (state[BAD] == 0.0 && state[SKIP] == 0.0) {{
  state[LOSS_SUM] += (state[LOSS] + state[PENALTY]) * {weight};
  state[WEIGHT_SUM] += {weight};
  state[STEP] += 1.0;
}}
state[OFFSET] += rows;
state[BATCH] += 1.0;
"""


def tick_counting(weight, rows, state):
    """The same in NumPy."""
    if state[Slot.BAD] == 0 and state[Slot.SKIP] == 0:
        state[Slot.LOSS_SUM] += (state[Slot.LOSS] + state[Slot.PENALTY]) * weight
        state[Slot.WEIGHT_SUM] += weight
        state[Slot.STEP] += 1
    state[Slot.OFFSET] += rows
    state[Slot.BATCH] += 1


@by_row(
    "scalar float64 rows -> raw float64 state",
    tick_text("state[WEIGHT]"),
)
def tick(rows, state):
    """The step is over: t ← t + 1, the next batch begins `rows` further on, the epoch's sums grow."""
    tick_counting(state[Slot.WEIGHT], rows, state)


@by_row(
    "scalar int64 totals_n -> raw float64 record, raw float64 totals, raw float64 state",
    """
if (state[BAD] == 0.0) {
  double* row = record + (long long)state[EPOCH] * (totals_n + 2);
  row[0] = state[LOSS_SUM]; row[1] = state[WEIGHT_SUM];
  for (long long k = 0; k < totals_n; ++k) { row[2 + k] = totals[k]; totals[k] = 0.0; }
  state[LOSS_SUM] = 0.0; state[WEIGHT_SUM] = 0.0; state[BATCH] = 0.0; state[EPOCH] += 1.0;
}
""",
)
def end_epoch(totals_n, record, totals, state):
    """An epoch that no step was bad in is over: what its batches' sums came to is row `EPOCH` of the record
    (Σ loss · weight, Σ weight, the metrics' sums), and the next epoch's begin at 0."""
    if state[Slot.BAD] == 0:
        n, at = int(totals_n), int(state[Slot.EPOCH])
        row = record.reshape(-1)[at * (n + 2) : (at + 1) * (n + 2)]
        row[:2] = state[Slot.LOSS_SUM], state[Slot.WEIGHT_SUM]
        row[2:] = totals[:n]
        totals[:n] = 0
        for slot in (Slot.LOSS_SUM, Slot.WEIGHT_SUM, Slot.BATCH):
            state[slot] = 0
        state[Slot.EPOCH] += 1


@by_row(
    "scalar float64 rows -> raw float64 state",
    """
state[LOSS_SUM] += state[LOSS] * state[WEIGHT];
state[WEIGHT_SUM] += state[WEIGHT];
state[OFFSET] += rows;
""",
)
def count_batch(rows, state):
    """A batch that is looked at and trains nothing is over: the sums of its loss, without penalties, grow."""
    state[Slot.LOSS_SUM] += state[Slot.LOSS] * state[Slot.WEIGHT]
    state[Slot.WEIGHT_SUM] += state[Slot.WEIGHT]
    state[Slot.OFFSET] += rows


@by_row("scalar float64 rows -> raw float64 state", "state[OFFSET] += rows;")
def move_on(rows, state):
    """The next block of rows begins `rows` further on."""
    state[Slot.OFFSET] += rows


@by_row(
    "raw float64 rates -> raw float64 state",
    "state[LR] = rates[1 + (long long)(state[STEP] - rates[0])];",
)
def scheduled_rate(rates, state):
    """η of the optimiser's step t is rates[1 + t − first], and rates[0] is first: a schedule made ahead."""
    state[Slot.LR] = rates[1 + int(state[Slot.STEP] - rates[0])]
