"""scikit-learn's conventions, which differ from E3, E8 and E9. The estimators use them to reproduce its fits.

- The gradient of the penalty is αW/Σw, not λW.
- The loss of an epoch is the mean of its batches' losses by rows, not by sample weights.
- The reported cross-entropy, but not its gradient, clips probabilities to [ε, 1 − ε], ε the spacing of floats at 1.
- v of momentum contains the learning rate.
- Adam adds ε outside the bias correction.

Source: scikit-learn 1.9, `_multilayer_perceptron.py` and `_stochastic_optimizers.py`.
"""

import numpy as np

from ._compiler.registry import by_row, elementwise
from ._compiler.update_rule import update_rule
from ._compiler.warp_lanes import row_sum
from .adam import DECAY_RATES
from .crossentropy import SIGMOID, sigmoid_terms
from .state import StateEntry
from .step import END_STEP_READS, END_STEP_WRITES, end_step_reference, end_step_source


@elementwise(
    "T theta, raw float64 state, scalar T l2, scalar T l1 -> inout T g",
    "g = g + per_weight * (l2 * theta + l1 * (theta > (T)0 ? (T)1 : (theta < (T)0 ? (T)-1 : (T)0 * theta)));",
    reads=(StateEntry.WEIGHT,),
    prologue="const T per_weight = (T)(state[WEIGHT] > 0.0 ? 1.0 / state[WEIGHT] : 0.0);",
)
def add_scaled_penalty_gradient(theta, state, l2, l1, g):
    """∂C/∂W += αW/Σw, and α₁ sign(W)/Σw for an l1 penalty, where Σw is the weight of the batch. (variant of E9)"""
    weight = state[StateEntry.WEIGHT]
    per_weight = g.dtype.type(1 / weight if weight > 0 else 0)
    return g + per_weight * (l2 * theta + l1 * np.sign(theta))


@by_row(
    "-> raw float64 state",
    "state[PENALTY] = state[WEIGHT] > 0.0 ? state[PENALTY] / state[WEIGHT] : 0.0;",
    reads=(StateEntry.PENALTY, StateEntry.WEIGHT),
    writes=(StateEntry.PENALTY,),
)
def scale_penalty(state):
    """The penalty in the loss of a batch: ½α ΣW²/Σw. (variant of E9)"""
    weight = state[StateEntry.WEIGHT]
    state[StateEntry.PENALTY] = state[StateEntry.PENALTY] / weight if weight > 0 else 0


@by_row(
    "scalar float64 rows -> raw float64 state",
    end_step_source("rows"),
    reads=END_STEP_READS,
    writes=END_STEP_WRITES,
)
def end_step_by_rows(rows, state):
    """End the step as end_step does; the weight of the batch in the epoch's loss is its number of rows."""
    end_step_reference(rows, rows, state)


@by_row(
    "rows[m] T a, rows[m] T y, T w -> rows[m] T g, T loss",
    row_sum("const T e = a[k] - y[k]; sum += e * e; g[k] = w * e;", "loss = w * ((T)0.5 * sum / (T)m);"),
)
def mean_half_squared_error(a, y, w):
    """ℓ = ½ (1/m) Σ (a − y)² is reported, but g = w(a − y) is the gradient of the sum. (variant of E3)"""
    e = a - y
    return w[:, None] * e, w * (0.5 * (e * e).mean(axis=1))


@elementwise(
    "T w, scalar T low, scalar T high -> inout T loss",
    "const T lower = w * low, upper = w * high; loss = loss < lower ? lower : (loss > upper ? upper : loss);",
)
def clip_log_loss(w, low, high, loss):
    """wℓ with ℓ = −log a_y, where a_y is clipped to [ε, 1 − ε]: low = −log(1 − ε), high = −log ε. (E3)"""
    lower, upper = w * low, w * high
    return np.where(loss < lower, lower, np.where(loss > upper, upper, loss))


@by_row(
    "rows[m] T z, rows[m] T y, T w, scalar T low, scalar T high -> rows[m] T a, rows[m] T delta, T loss",
    row_sum(f"{SIGMOID} sum += term < low ? low : (term > high ? high : term);", "loss = w * sum;"),
    in_place={"a": ("z",), "delta": ("z",)},
)
def sigmoid_log_loss(z, y, w, low, high):
    """a = σ(z), δ = w(a − y), and wℓ with ℓ = −Σ y log a + (1 − y) log(1 − a), where each a is clipped to
    [ε, 1 − ε] and y is 0 or 1: low = −log(1 − ε), high = −log ε. (E3, E4)"""
    a, delta, terms = sigmoid_terms(z, y, w)
    return a, delta, w * np.clip(terms, low, high).sum(axis=1)


@by_row(
    "rows[m] T z, rows[m] T y, T w -> rows[m] T a, rows[m] T delta, T loss",
    row_sum(
        """
  const T t = y[k], p = exp(z[k]);
  const T d = z[k] - log(t);
  sum += t == (T)0 ? p : (fabs(d) < (T)1 ? t * (expm1(d) - d) : p - t - t * d);
  a[k] = p;
  delta[k] = w * (p - t);
""",
        "loss = w * sum;",
    ),
    in_place={"a": ("z",), "delta": ("z",)},
)
def exp_poisson(z, y, w):
    """a = eᶻ, δ = w(a − y) and wℓ, ℓ = Σ y log(y/a) − y + a, half the Poisson deviance. (E3, E4)

    A term is y(eᵈ − 1 − d) with d = log(a/y) = z − log y. This form is used near d = 0, where a − y − yd would cancel.
    """
    a = np.exp(z)
    d = z - np.log(y)
    loss = np.where(y == 0, a, np.where(np.abs(d) < 1, y * (np.expm1(d) - d), a - y - y * d))
    return a, w[:, None] * (a - y), w * loss.sum(axis=1)


@update_rule(
    "v",
    "v = mu * v - lr * g; theta = theta + v;",
    reads=(StateEntry.LR,),
    prologue="const T lr = (T)state[LR], mu = (T)momentum;",
    scalars=("momentum",),
)
def sklearn_momentum(g, state, momentum, theta, v):
    """v ← μv − ηg, θ ← θ + v: a change of η affects later contributions to v only. (variant of E8)"""
    lr = theta.dtype.type(state[StateEntry.LR])
    v = momentum * v - lr * g
    return theta + v, v


@update_rule(
    "v",
    "v = mu * v - lr * g; theta = theta + (mu * v - lr * g);",
    reads=(StateEntry.LR,),
    prologue="const T lr = (T)state[LR], mu = (T)momentum;",
    scalars=("momentum",),
)
def sklearn_nesterov(g, state, momentum, theta, v):
    """v ← μv − ηg, θ ← θ + μv − ηg. (variant of E8)"""
    lr = theta.dtype.type(state[StateEntry.LR])
    v = momentum * v - lr * g
    return theta + (momentum * v - lr * g), v


@by_row(
    "scalar float64 beta1, scalar float64 beta2 -> raw float64 state",
    """
const double t = state[STEP] + 1.0;
state[CORRECTED_LR] = state[LR] * sqrt(1.0 - pow(beta2, t)) / (1.0 - pow(beta1, t));
""",
    reads=(StateEntry.STEP, StateEntry.LR),
    writes=(StateEntry.CORRECTED_LR,),
)
def sklearn_adam_bias_correction(beta1, beta2, state):
    """η√(1 − β₂ᵗ)/(1 − β₁ᵗ), where t counts steps from 1: once per step, in float64."""
    t = state[StateEntry.STEP] + 1
    state[StateEntry.CORRECTED_LR] = state[StateEntry.LR] * np.sqrt(1 - beta2**t) / (1 - beta1**t)


@update_rule(
    "m v",
    """m = b1 * m + one_minus_b1 * g;
       v = b2 * v + one_minus_b2 * (g * g);
       theta = theta - rate * m / (sqrt(v) + eps);""",
    reads=(StateEntry.CORRECTED_LR,),
    prologue=f"{DECAY_RATES} const T rate = (T)state[CORRECTED_LR], eps = (T)epsilon;",
    scalars=("beta1", "beta2", "epsilon"),
)
def sklearn_adam(g, state, beta1, beta2, epsilon, theta, m, v):
    """m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − η√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m/(√v + ε).
    (variant of E8; Kingma and Ba 2015, the form at the end of section 2)"""
    rate = theta.dtype.type(state[StateEntry.CORRECTED_LR])
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    return theta - rate * m / (np.sqrt(v) + epsilon), m, v
