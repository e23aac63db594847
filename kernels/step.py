"""Bookkeeping of a training step: batch weights, penalties, the check for non-finite values, clipping, counters."""

import numpy as np

from ._compiler.definition import Guard
from ._compiler.registry import by_row, elementwise, reduction
from .state import StateEntry

# an update is applied only if all steps so far were finite and the batch has weight
IF_UPDATING = Guard(
    "state[NONFINITE_STEP] == 0.0 && state[EMPTY_BATCH] == 0.0",
    lambda s: s[StateEntry.NONFINITE_STEP] == 0 and s[StateEntry.EMPTY_BATCH] == 0,
    reads=(StateEntry.NONFINITE_STEP, StateEntry.EMPTY_BATCH),
)
IF_NEAR_OVERFLOW = Guard(
    "state[NONFINITE_STEP] == 0.0 && state[EMPTY_BATCH] == 0.0 && state[NEAR_OVERFLOW] != 0.0",
    lambda s: s[StateEntry.NONFINITE_STEP] == 0 and s[StateEntry.EMPTY_BATCH] == 0 and s[StateEntry.NEAR_OVERFLOW] != 0,
    reads=(StateEntry.NONFINITE_STEP, StateEntry.EMPTY_BATCH, StateEntry.NEAR_OVERFLOW),
)


@by_row(
    "scalar float64 rows -> raw float64 state",
    "state[WEIGHT] = rows; state[EMPTY_BATCH] = 0.0; state[PENALTY] = 0.0;",
    writes=(StateEntry.WEIGHT, StateEntry.EMPTY_BATCH, StateEntry.PENALTY),
)
def start_batch(rows, state):
    """Set Σ wᵢ of a batch without sample weights to its number of rows, and reset the penalty."""
    state[StateEntry.WEIGHT] = rows
    state[StateEntry.EMPTY_BATCH] = 0
    state[StateEntry.PENALTY] = 0


@by_row(
    "-> raw float64 state",
    "state[EMPTY_BATCH] = state[WEIGHT] > 0.0 ? 0.0 : 1.0; state[PENALTY] = 0.0;",
    reads=(StateEntry.WEIGHT,),
    writes=(StateEntry.EMPTY_BATCH, StateEntry.PENALTY),
)
def start_weighted_batch(state):
    """Mark a batch whose weights sum to zero: it changes nothing. Resets the penalty."""
    state[StateEntry.EMPTY_BATCH] = 0 if state[StateEntry.WEIGHT] > 0 else 1
    state[StateEntry.PENALTY] = 0


@elementwise(
    "T w, raw float64 state -> T normalized",
    "normalized = weight > 0.0 ? (T)((double)w / weight) : w;",  # mutate: E3 weights
    prologue="const double weight = state[WEIGHT];",
    reads=(StateEntry.WEIGHT,),
    ulp=0,
)
def normalize_weights(w, state):
    """normalized = wᵢ/Σw, so that C = Σ wᵢℓᵢ/Σ wᵢ; zero if all weights are zero. (E3)"""
    weight = state[StateEntry.WEIGHT]
    return w.astype(np.float64) / weight if weight > 0 else w


@elementwise(
    "T theta, raw float64 state, scalar T l2, scalar T l1 -> inout T g",
    "g = g + (l2 * theta + l1 * (theta > (T)0 ? (T)1 : (theta < (T)0 ? (T)-1 : (T)0 * theta)));",  # mutate: E9 gradient
    reads=(),
)
def add_penalty_gradient(theta, state, l2, l1, g):
    """∂C/∂W += λW, and λ₁ sign(W) for an l1 penalty. (E9)"""
    return g + (l2 * theta + l1 * np.sign(theta))


@reduction(
    "T theta, scalar float64 l2, scalar float64 l1 -> float64 s",
    "const double u = (double)theta; s = 0.5 * l2 * u * u + l1 * fabs(u);",  # mutate: E9 penalty
    axis="all",
)
def penalty(theta, l2, l1):
    """½λ Σ W² + λ₁ Σ |W| in float64. (E9)"""
    u = theta.astype(np.float64)
    return 0.5 * l2 * u * u + l1 * np.abs(u)


# the record of the first non-finite step
_NONFINITE = (
    StateEntry.NONFINITE_STEP,
    StateEntry.NONFINITE_CAUSE,
    StateEntry.NONFINITE_LR,
    StateEntry.NONFINITE_BATCH,
)


@by_row(
    "scalar float64 limit -> raw float64 state",
    """
if (state[NONFINITE_STEP] == 0.0 && state[EMPTY_BATCH] == 0.0) {
  const double loss = state[LOSS] + state[PENALTY];
  const double cause = loss - loss != 0.0 ? 1.0 : (state[MAX_ABS] - state[MAX_ABS] != 0.0 ? 2.0 : 0.0);
  if (cause != 0.0) {
    state[NONFINITE_STEP] = state[STEP] + 1.0;
    state[NONFINITE_CAUSE] = cause;
    state[NONFINITE_LR] = state[LR];
    state[NONFINITE_BATCH] = state[BATCH_INDEX];
  } else if (state[MAX_ABS] > limit || !(fabs(state[LR]) <= limit)) state[NEAR_OVERFLOW] = 1.0;
}
""",
    reads=(
        StateEntry.NONFINITE_STEP,
        StateEntry.EMPTY_BATCH,
        StateEntry.LOSS,
        StateEntry.PENALTY,
        StateEntry.MAX_ABS,
        StateEntry.STEP,
        StateEntry.LR,
        StateEntry.BATCH_INDEX,
    ),
    writes=(*_NONFINITE, StateEntry.NEAR_OVERFLOW),
)
def check_finite(limit, state):
    """Record the step if the loss, a gradient or a parameter is not finite.

    Set NEAR_OVERFLOW if the magnitude of a gradient, a parameter or η exceeds `limit`. Below the limit no update can
    overflow, so most steps do not check their update.
    """
    if state[StateEntry.NONFINITE_STEP] == 0 and state[StateEntry.EMPTY_BATCH] == 0:
        loss = state[StateEntry.LOSS] + state[StateEntry.PENALTY]
        loss_is_finite, max_is_finite = np.isfinite(loss), np.isfinite(state[StateEntry.MAX_ABS])
        if not loss_is_finite or not max_is_finite:
            state[StateEntry.NONFINITE_STEP] = state[StateEntry.STEP] + 1
            state[StateEntry.NONFINITE_CAUSE] = 2 if loss_is_finite else 1
            state[StateEntry.NONFINITE_LR], state[StateEntry.NONFINITE_BATCH] = (
                state[StateEntry.LR],
                state[StateEntry.BATCH_INDEX],
            )
        elif state[StateEntry.MAX_ABS] > limit or not abs(state[StateEntry.LR]) <= limit:
            state[StateEntry.NEAR_OVERFLOW] = 1


@by_row(
    "-> raw float64 state",
    """
if (state[UPDATE_PROBE] - state[UPDATE_PROBE] != 0.0) {
  state[NONFINITE_STEP] = state[STEP] + 1.0;
  state[NONFINITE_CAUSE] = 3.0;
  state[NONFINITE_LR] = state[LR];
  state[NONFINITE_BATCH] = state[BATCH_INDEX];
}
""",
    guard=IF_NEAR_OVERFLOW,
    reads=(StateEntry.UPDATE_PROBE, StateEntry.STEP, StateEntry.LR, StateEntry.BATCH_INDEX),
    writes=_NONFINITE,
)
def check_update_finite(state):
    """Record the step if its update would not be finite, before the update is applied."""
    if not np.isfinite(state[StateEntry.UPDATE_PROBE]):
        state[StateEntry.NONFINITE_STEP] = state[StateEntry.STEP] + 1
        state[StateEntry.NONFINITE_CAUSE] = 3
        state[StateEntry.NONFINITE_LR], state[StateEntry.NONFINITE_BATCH] = (
            state[StateEntry.LR],
            state[StateEntry.BATCH_INDEX],
        )


@elementwise(
    "scalar T limit -> inout T g",
    "g = g > limit ? limit : (g < -limit ? -limit : g);",
)
def clip_value(limit, g):
    """g ← min(max(g, −limit), limit) for each element."""
    return np.clip(g, -limit, limit)


@elementwise(
    "raw float64 squared_norm, raw float64 state, scalar float64 limit -> inout T g",
    "g = scale * g;",
    prologue="""const double unit = state[MAX_ABS] > 1e100 ? state[MAX_ABS] : 1.0;
             const double norm = sqrt(squared_norm[0]) * unit;
             const T scale = (T)(norm > limit ? limit / norm : 1.0);""",
    reads=(StateEntry.MAX_ABS,),
)
def clip_norm(squared_norm, state, limit, g):
    """g ← g · min(1, limit/‖g‖), where ‖g‖² is the sum of squares over all parameters, as sum_of_squares returns it."""
    max_abs = state[StateEntry.MAX_ABS]
    norm = np.sqrt(squared_norm[0]) * (max_abs if max_abs > 1e100 else 1.0)
    return g.dtype.type(limit / norm if norm > limit else 1) * g


@elementwise(
    "row T squares, raw float64 state, scalar T limit -> inout T W",
    "const T norm = sqrt(squares); W = norm > limit ? W * (limit / norm) : W;",
    guard=IF_UPDATING,
    reads=(),
)
def max_norm(squares, state, limit, W):
    """Scale column j of W, the weights of neuron j, to the Euclidean norm `limit` if its norm is larger."""
    norm = np.sqrt(squares)
    return np.where(norm > limit, W * (limit / norm), W)


@elementwise(
    "row T observed, raw float64 state, scalar T momentum, scalar T factor -> inout T running",
    "running = running + momentum * (factor * observed - running);",
    guard=IF_UPDATING,
    reads=(),
)
def update_running_stat(observed, state, momentum, factor, running):
    """running ← running + momentum · (factor · observed − running): a running mean or variance."""
    return running + momentum * (factor * observed - running)


@elementwise("T value, raw float64 state -> inout T variable", "variable = value;", guard=IF_UPDATING, reads=(), ulp=0)
def assign_if_updating(value, state, variable):
    """variable ← value, a guarded assignment: for example, an update that an optimizer computed with operators."""
    return value


@reduction("T x, raw float64 state -> float64 s", "s = (double)(x - x);", axis="all", guard=IF_NEAR_OVERFLOW, reads=())
def nonfinite_difference(x, state):
    """s = Σ (x − x): 0, or NaN if an element of x, such as an update, is not finite."""
    return x - x


@elementwise(
    "float64 batch, raw float64 state -> inout float64 sums",
    "sums = sums + batch;",
    guard=IF_UPDATING,
    reads=(),
)
def accumulate(batch, state, sums):
    """sums ← sums + batch: the weighted sums of an epoch's metrics."""
    return sums + batch


def end_step_source(weight):
    """The source of end_step; `weight` is the weight of the batch in the loss of the epoch."""
    return f"""
if (state[NONFINITE_STEP] == 0.0 && state[EMPTY_BATCH] == 0.0) {{
  state[LOSS_SUM] += (state[LOSS] + state[PENALTY]) * {weight};
  state[WEIGHT_SUM] += {weight};
  state[STEP] += 1.0;
}}
state[OFFSET] += rows;
state[BATCH_INDEX] += 1.0;
"""


END_STEP_WRITES = (
    StateEntry.LOSS_SUM,
    StateEntry.WEIGHT_SUM,
    StateEntry.STEP,
    StateEntry.OFFSET,
    StateEntry.BATCH_INDEX,
)
END_STEP_READS = (
    *END_STEP_WRITES,
    StateEntry.NONFINITE_STEP,
    StateEntry.EMPTY_BATCH,
    StateEntry.LOSS,
    StateEntry.PENALTY,
)


def end_step_reference(weight, rows, state):
    """The NumPy reference of end_step_source."""
    if state[StateEntry.NONFINITE_STEP] == 0 and state[StateEntry.EMPTY_BATCH] == 0:
        state[StateEntry.LOSS_SUM] += (state[StateEntry.LOSS] + state[StateEntry.PENALTY]) * weight
        state[StateEntry.WEIGHT_SUM] += weight
        state[StateEntry.STEP] += 1
    state[StateEntry.OFFSET] += rows
    state[StateEntry.BATCH_INDEX] += 1


@by_row(
    "scalar float64 rows -> raw float64 state",
    end_step_source("state[WEIGHT]"),
    reads=(*END_STEP_READS, StateEntry.WEIGHT),
    writes=END_STEP_WRITES,
)
def end_step(rows, state):
    """End the step: t ← t + 1, the next batch begins `rows` later, the loss is added to the epoch's sums."""
    end_step_reference(state[StateEntry.WEIGHT], rows, state)


@by_row(
    "scalar int64 totals_n -> raw float64 record, raw float64 totals, raw float64 state",
    """
if (state[NONFINITE_STEP] == 0.0) {
  double* row = record + (long long)state[EPOCHS_DONE] * (totals_n + 2);
  row[0] = state[LOSS_SUM]; row[1] = state[WEIGHT_SUM];
  for (long long k = 0; k < totals_n; ++k) { row[2 + k] = totals[k]; totals[k] = 0.0; }
  state[LOSS_SUM] = 0.0; state[WEIGHT_SUM] = 0.0; state[BATCH_INDEX] = 0.0; state[EPOCHS_DONE] += 1.0;
}
""",
    reads=(StateEntry.NONFINITE_STEP, StateEntry.LOSS_SUM, StateEntry.WEIGHT_SUM, StateEntry.EPOCHS_DONE),
    writes=(StateEntry.LOSS_SUM, StateEntry.WEIGHT_SUM, StateEntry.BATCH_INDEX, StateEntry.EPOCHS_DONE),
)
def end_epoch(totals_n, record, totals, state):
    """End an epoch without non-finite steps: record its sums and reset them.

    Row EPOCHS_DONE of the record gets Σ loss · weight, Σ weight and the metrics' sums.
    """
    if state[StateEntry.NONFINITE_STEP] == 0:
        n, at = int(totals_n), int(state[StateEntry.EPOCHS_DONE])
        row = record.reshape(-1)[at * (n + 2) : (at + 1) * (n + 2)]
        row[:2] = state[StateEntry.LOSS_SUM], state[StateEntry.WEIGHT_SUM]
        row[2:] = totals[:n]
        totals[:n] = 0
        for slot in (StateEntry.LOSS_SUM, StateEntry.WEIGHT_SUM, StateEntry.BATCH_INDEX):
            state[slot] = 0
        state[StateEntry.EPOCHS_DONE] += 1


@by_row(
    "scalar float64 rows -> raw float64 state",
    """
state[LOSS_SUM] += state[LOSS] * state[WEIGHT];
state[WEIGHT_SUM] += state[WEIGHT];
state[OFFSET] += rows;
""",
    reads=(StateEntry.LOSS, StateEntry.WEIGHT, StateEntry.LOSS_SUM, StateEntry.WEIGHT_SUM, StateEntry.OFFSET),
    writes=(StateEntry.LOSS_SUM, StateEntry.WEIGHT_SUM, StateEntry.OFFSET),
)
def accumulate_loss(rows, state):
    """End an evaluation batch: add its loss, without penalties, to the sums."""
    state[StateEntry.LOSS_SUM] += state[StateEntry.LOSS] * state[StateEntry.WEIGHT]
    state[StateEntry.WEIGHT_SUM] += state[StateEntry.WEIGHT]
    state[StateEntry.OFFSET] += rows


@by_row(
    "scalar float64 rows -> raw float64 state",
    "state[OFFSET] += rows;",
    reads=(StateEntry.OFFSET,),
    writes=(StateEntry.OFFSET,),
)
def advance_offset(rows, state):
    """The next block of rows begins `rows` later."""
    state[StateEntry.OFFSET] += rows


@by_row(
    "raw float64 rates -> raw float64 state",
    "state[LR] = rates[1 + (long long)(state[STEP] - rates[0])];",
    reads=(StateEntry.STEP,),
    writes=(StateEntry.LR,),
)
def set_scheduled_lr(rates, state):
    """η of step t is rates[1 + t − first], where rates[0] is first: a schedule computed in advance."""
    state[StateEntry.LR] = rates[1 + int(state[StateEntry.STEP] - rates[0])]


@by_row(
    "-> raw float64 state",
    "state[STEP_LR] = state[LR];",
    reads=(StateEntry.LR,),
    writes=(StateEntry.STEP_LR,),
)
def store_lr(state):
    """Keep η of the step before it is scaled."""
    state[StateEntry.STEP_LR] = state[StateEntry.LR]


@by_row(
    "scalar float64 factor -> raw float64 state",
    "state[LR] = factor * state[STEP_LR];",  # mutate: E8 factor
    reads=(StateEntry.STEP_LR,),
    writes=(StateEntry.LR,),
)
def scale_lr(factor, state):
    """η of the next update is the factor of its layers times η of the step. (E8)"""
    state[StateEntry.LR] = factor * state[StateEntry.STEP_LR]
