"""The theory, one equation a function: E1 to E11 on plain arrays, and the text's procedure of six steps.

Source: Steven Morse, "Neural Networks for a beginner (Part I: theory)". The text writes a layer for one example as a
column, z = Wᵀa + b. Here a batch of n examples is the rows of a matrix, so every product is the text's transposed.

    a⁰ = x   the input batch                               (n, d)
    W, b     weights and intercepts; neuron j is column j  (n_in, n_out), (n_out,)
    z, a     aggregate and activation of a layer           (n, n_out)
    delta    ∂C/∂z, the error of a layer                   (n, n_out)
    C        Σ wᵢ ℓ(yᵢ, aᵢᴸ) / Σ wᵢ, plus the penalty of E9   a number

Every function is pure, takes NumPy or CuPy arrays alike, of one floating type a call, and keeps that. What does not fit
is refused by name, never broadcast: ValueError for a shape or a number, TypeError for a type. This module is the oracle
that the fast path is held to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .backend import array_module

Array = Any


def _fit(**arguments: tuple[Array, str]) -> None:
    """Refuse arrays that do not fit: an axis has one size wherever its name stands, all have one floating type."""
    sizes: dict[str, int] = {}
    first, dtype = "", None
    for name, (x, axes) in arguments.items():
        if not hasattr(x, "dtype"):
            raise TypeError(f"{name} must be a NumPy or CuPy array, got {type(x).__name__}")
        wanted = [(axis, sizes.get(axis)) for axis in axes.split()]
        if len(x.shape) != len(wanted) or any(s not in (None, m) for (_, s), m in zip(wanted, x.shape, strict=True)):
            shape = ", ".join(axis if size is None else f"{axis} = {size}" for axis, size in wanted)
            raise ValueError(f"{name} must have shape ({shape}), got {x.shape}")
        sizes.update(zip(axes.split(), x.shape, strict=True))
        if dtype is None and x.dtype.kind != "f":
            raise TypeError(f"{name} must hold floating numbers, got {x.dtype}: write {name}.astype('float64')")
        if dtype is None:
            first, dtype = name, x.dtype
        elif x.dtype != dtype:
            raise TypeError(f"{name} must be {dtype} as {first} is, got {x.dtype}: write {name}.astype({str(dtype)!r})")


def _number(name: str, value: float, below: float = math.inf) -> float:
    """A float, which leaves an array's type as it is, where NumPy's float64 would promote it."""
    number = float(value)
    if not 0 <= number < below:
        wanted = f"a number in [0, {below:g})" if below < math.inf else "a finite number ≥ 0"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return number


# --- E1, E2: forward ---


def aggregate(a_prev: Array, W: Array, b: Array) -> Array:
    """z = a_prev W + b. (E1)

    a_prev (n, n_in), W (n_in, n_out), b (n_out,) → z (n, n_out).
    """
    _fit(a_prev=(a_prev, "n n_in"), W=(W, "n_in n_out"), b=(b, "n_out"))
    return a_prev @ W + b  # mutate: E1 theory


@dataclass(frozen=True)
class Function:
    """An activation: f(z), and f′ as a function of z."""

    f: Callable[[Any, Array], Array]
    derivative: Callable[[Any, Array], Array]


def _sigmoid(xp: Any, z: Array) -> Array:
    # with e = e^−|z| ≤ 1 nothing overflows: 1/(1 + e⁻ᶻ) is 1/(1 + e) for z ≥ 0 and e/(1 + e) below
    e = xp.exp(-abs(z))
    return xp.where(z >= 0, xp.ones_like(e), e) / (1 + e)


def _tanh_of_gelu(xp: Any, z: Array) -> Array:
    return xp.tanh(0.7978845608028654 * (z + 0.044715 * z**3))


FUNCTIONS = {
    "identity": Function(lambda xp, z: z, lambda xp, z: xp.ones_like(z)),
    "relu": Function(lambda xp, z: xp.maximum(z, 0), lambda xp, z: (z > 0).astype(z.dtype)),  # mutate: E2 theory relu
    "sigmoid": Function(_sigmoid, lambda xp, z: _sigmoid(xp, z) * _sigmoid(xp, -z)),
    "tanh": Function(lambda xp, z: xp.tanh(z), lambda xp, z: 1 - xp.tanh(z) ** 2),
    "leaky_relu": Function(
        lambda xp, z: xp.where(z > 0, z, 0.01 * z),
        lambda xp, z: xp.where(z > 0, xp.ones_like(z), xp.full_like(z, 0.01)),
    ),
    "elu": Function(
        lambda xp, z: xp.where(z > 0, z, xp.expm1(xp.minimum(z, 0))),
        lambda xp, z: xp.exp(xp.minimum(z, 0)),
    ),
    "softplus": Function(lambda xp, z: xp.maximum(z, 0) + xp.log1p(xp.exp(-abs(z))), _sigmoid),
    "silu": Function(
        lambda xp, z: z * _sigmoid(xp, z),
        lambda xp, z: _sigmoid(xp, z) * (1 + z * _sigmoid(xp, -z)),
    ),
    "gelu": Function(
        lambda xp, z: 0.5 * z * (1 + _tanh_of_gelu(xp, z)),
        lambda xp, z: (
            0.5 * (1 + _tanh_of_gelu(xp, z))
            + 0.5 * z * (1 - _tanh_of_gelu(xp, z) ** 2) * 0.7978845608028654 * (1 + 3 * 0.044715 * z**2)
        ),
    ),
}


def activate(z: Array, f: str = "relu") -> Array:
    """a = f(z). (E2)

    Rectifier max(0, z); sigmoid 1/(1 + e⁻ᶻ); identity z; tanh; leaky_relu (slope 0.01); elu (α = 1); softplus
    log(1 + eᶻ); silu zσ(z); gelu ½z(1 + tanh(√(2/π)(z + 0.044715 z³))); and softmax aₖ = e^zₖ / Σⱼ e^zⱼ by row.
    z (n, n_out) → a (n, n_out). ValueError for an unknown name.
    """
    _fit(z=(z, "n n_out"))
    xp = array_module(z)
    if f == "softmax":
        e = xp.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)  # mutate: E2 theory softmax
    return _function(f).f(xp, z)


def derivative(z: Array, f: str = "relu") -> Array:
    """f′(z) of an elementwise activation; 0 at z = 0 for the rectifier. (E4, E5)

    z (n, n_out) → (n, n_out). ValueError for an unknown name and for softmax, whose derivative is a matrix a row.
    """
    _fit(z=(z, "n n_out"))
    return _function(f).derivative(array_module(z), z)


def _function(f: str) -> Function:
    if f not in FUNCTIONS:
        raise ValueError(f"activation {f!r} is not elementwise or not known; there are {', '.join(FUNCTIONS)}")
    return FUNCTIONS[f]


# --- E3: loss ---

LOSSES = ("half_squared_error", "softmax_crossentropy", "sigmoid_crossentropy")


def row_losses(y: Array, a: Array, kind: str = "half_squared_error") -> Array:
    """ℓ(y, a) of every row, summed over the outputs. (E3)

    half_squared_error    ½‖y − a‖²
    softmax_crossentropy  −Σₖ yₖ log aₖ, y one-hot or a row of probabilities
    sigmoid_crossentropy  −Σₖ [yₖ log aₖ + (1 − yₖ) log(1 − aₖ)], 0 ≤ yₖ ≤ 1
    y and a (n, n_out) → (n,). ValueError for an unknown kind or unequal shapes.
    """
    _fit(a=(a, "n n_out"), y=(y, "n n_out"))
    xp = array_module(a)
    if kind == "half_squared_error":
        return 0.5 * ((y - a) ** 2).sum(axis=1)  # mutate: E3 theory loss
    if kind == "softmax_crossentropy":
        return -_times_log(xp, y, a).sum(axis=1)
    if kind == "sigmoid_crossentropy":
        return -(_times_log(xp, y, a) + _times_log(xp, 1 - y, 1 - a)).sum(axis=1)
    raise ValueError(f"loss {kind!r} is unknown; there are {', '.join(LOSSES)}")


def _times_log(xp: Any, y: Array, a: Array) -> Array:
    """y log a, with 0 log 0 = 0."""
    return xp.where(y == 0, xp.zeros_like(a), y * xp.log(xp.where(y == 0, xp.ones_like(a), a)))


def row_weights(a: Array, w: Array | None = None) -> Array:
    """wᵢ/Σw, which is 1/n without sample weights: what a row counts in C. (E3)

    a (n, n_out) gives n and the dtype, w (n,) or None → (n,). A batch whose weights are all zero counts nothing: zeros.
    ValueError for a negative weight.
    """
    _fit(a=(a, "n n_out"))
    xp = array_module(a)
    if w is None:
        return xp.ones_like(a[:, 0]) / a.shape[0]  # mutate: E3 theory mean
    _fit(a=(a, "n n_out"), w=(w, "n"))
    if not bool((w >= 0).all()):
        raise ValueError("w must hold weights ≥ 0, got a negative one or NaN")
    total = w.sum()
    return w / (total if total > 0 else 1)


def loss(y: Array, a: Array, kind: str = "half_squared_error", w: Array | None = None) -> Array:
    """C = Σ wᵢ ℓ(yᵢ, aᵢ) / Σ wᵢ, the mean over the rows without weights. (E3)

    y and a (n, n_out), w (n,) ≥ 0 → a number.
    """
    return (row_weights(a, w) * row_losses(y, a, kind)).sum()


def loss_gradient(y: Array, a: Array, kind: str = "half_squared_error", w: Array | None = None) -> Array:
    """∂C/∂a, row i times wᵢ/Σw: a − y; −y/a; (1 − y)/(1 − a) − y/a, where 0/0 = 0. (E3)

    y and a (n, n_out), w (n,) → (n, n_out).
    """
    _fit(a=(a, "n n_out"), y=(y, "n n_out"))
    xp = array_module(a)
    if kind == "half_squared_error":
        g = a - y  # mutate: E3 theory gradient
    elif kind == "softmax_crossentropy":
        g = -_over(xp, y, a)
    elif kind == "sigmoid_crossentropy":
        g = _over(xp, 1 - y, 1 - a) - _over(xp, y, a)
    else:
        raise ValueError(f"loss {kind!r} is unknown; there are {', '.join(LOSSES)}")
    return row_weights(a, w)[:, None] * g


def _over(xp: Any, y: Array, a: Array) -> Array:
    """y/a, with 0/0 = 0: what y rules out has no gradient, though its a may have rounded to 0."""
    return y / xp.where(y == 0, xp.ones_like(a), a)


# --- E4, E5: the errors ---


def output_error(z: Array, grad_a: Array, f: str) -> Array:
    """δᴸ = f′(zᴸ) ⊙ ∂C/∂aᴸ; for softmax, which is not elementwise, δ = a ⊙ (g − Σₖ aₖgₖ) by row, g = ∂C/∂a. (E4)

    By the chain rule δⱼ = Σₖ ∂aₖ/∂zⱼ ∂C/∂aₖ. For an elementwise f only k = j remains. For softmax
    ∂aₖ/∂zⱼ = aₖ(1[k = j] − aⱼ), so δⱼ = aⱼgⱼ − aⱼ Σₖ aₖgₖ.
    z and grad_a (n, n_out) → δ (n, n_out).
    """
    _fit(z=(z, "n n_out"), grad_a=(grad_a, "n n_out"))
    if f == "softmax":
        a = activate(z, "softmax")
        return a * (grad_a - (a * grad_a).sum(axis=1, keepdims=True))  # mutate: E4 theory softmax
    return derivative(z, f) * grad_a  # mutate: E4 theory


def matched_output_error(y: Array, a: Array, w: Array | None = None) -> Array:
    """δᴸ = (aᴸ − y) wᵢ/Σw, where softmax or sigmoid meets its own cross-entropy, and where identity meets half squared
    error: what E4 reduces to there, a shortcut and not the definition. For softmax the rows of y add up to 1. (E4)

    y and a (n, n_out), w (n,) → δ (n, n_out).
    """
    _fit(a=(a, "n n_out"), y=(y, "n n_out"))
    return row_weights(a, w)[:, None] * (a - y)  # mutate: E4 theory matched


def recursion(z: Array, delta_next: Array, W_next: Array, f: str) -> Array:
    """δˡ = f′(zˡ) ⊙ (δˡ⁺¹ (Wˡ⁺¹)ᵀ). (E5)

    zˡ⁺¹ = aˡWˡ⁺¹ + b, so ∂C/∂aˡ = δˡ⁺¹(Wˡ⁺¹)ᵀ, and aˡ = f(zˡ) puts f′(zˡ) before it.
    z (n, n_l), delta_next (n, n_next), W_next (n_l, n_next) → δ (n, n_l).
    """
    _fit(z=(z, "n n_l"), W_next=(W_next, "n_l n_next"), delta_next=(delta_next, "n n_next"))
    grad_a = delta_next @ W_next.T  # mutate: E5 theory
    return derivative(z, f) * grad_a


# --- E6, E7, E8: gradients and the step ---


def weight_gradient(a_prev: Array, delta: Array) -> Array:
    """∂C/∂W = a_prevᵀ δ. (E6)

    ∂zᵢⱼ/∂W_mj = a_prev,ᵢₘ, summed over the rows i. a_prev (n, n_in), delta (n, n_out) → (n_in, n_out).
    """
    _fit(a_prev=(a_prev, "n n_in"), delta=(delta, "n n_out"))
    return a_prev.T @ delta  # mutate: E6 theory


def intercept_gradient(delta: Array) -> Array:
    """∂C/∂b = Σ over rows of δ. (E7)  delta (n, n_out) → (n_out,)."""
    _fit(delta=(delta, "n n_out"))
    return delta.sum(axis=0)  # mutate: E7 theory


def gradient_step(theta: Array, g: Array, lr: float) -> Array:
    """θ ← θ − η ∂C/∂θ. (E8)

    On one row this is the text's stochastic gradient descent, else on a mini-batch or on the whole set.
    theta and g of one shape → the new θ.
    """
    axes = " ".join(f"axis_{k}" for k in range(theta.ndim))
    _fit(theta=(theta, axes), g=(g, axes))
    lr = _number("lr", lr)
    return theta - lr * g  # mutate: E8 theory


# --- E9, E10, E11: penalty, initial weights, dropout ---


def penalty(weights: Sequence[Array], lam: float) -> Array:
    """½λ Σ W² over all weights, not intercepts: what C gains. (E9)"""
    lam = _number("lam", lam)
    return 0.5 * lam * sum((W**2).sum() for W in weights)  # mutate: E9 theory penalty


def penalty_gradient(W: Array, lam: float) -> Array:
    """λW: what ∂C/∂W gains. (E9)  W (n_in, n_out) → (n_in, n_out)."""
    lam = _number("lam", lam)
    return lam * W  # mutate: E9 theory gradient


def initial_weights(n_in: int, n_out: int, generator: Any, *, rectifier: bool = False) -> Array:
    """W ~ N(0, 1/n_in), not truncated; N(0, 2/n_in) for rectifiers. (E10)

    With independent entries of mean 0, E[z²] = Σ E[W²] a² = n_in σ² · mean a²: σ² = 1/n_in keeps the mean square of the
    neuron's input. A rectifier loses half of it, which 2/n_in gives back. `generator` is a NumPy Generator.
    """
    return generator.normal(0.0, ((2 if rectifier else 1) / n_in) ** 0.5, (n_in, n_out))  # mutate: E10 theory


def dropout(a: Array, mask: Array | None, p: float, *, form: str = "inverted") -> Array:
    """In training a ⊙ k/(1 − p), k the mask of zeros and ones with P(k = 1) = 1 − p; at prediction (mask None) a. (E11)

    The text's other form, "textbook": a ⊙ k in training and (1 − p) a at prediction. In each form the expectation in
    training is the value at prediction. The same function takes ∂C/∂a back. a and mask (n, n_out), 0 ≤ p < 1.
    """
    p = _number("p", p, below=1)
    if form not in ("inverted", "textbook"):
        raise ValueError(f'form must be "inverted" or "textbook", got {form!r}')
    if mask is None:
        return a if form == "inverted" else (1 - p) * a
    mask = mask.astype(a.dtype)  # it may be boolean
    _fit(a=(a, "n n_out"), mask=(mask, "n n_out"))
    return a * mask / (1 - p) if form == "inverted" else a * mask  # mutate: E11 theory


# --- the procedure ---


@dataclass(frozen=True)
class Step:
    """What one step of the procedure computed, layer by layer; `parameters` are those after it."""

    parameters: list[tuple[Array, Array]]
    C: Array
    z: list[Array]
    a: list[Array]
    delta: list[Array]
    dW: list[Array]
    db: list[Array]


def train_step(
    parameters: Sequence[tuple[Array, Array]],
    x: Array,
    y: Array,
    lr: float,
    *,
    activations: Sequence[str],
    kind: str = "half_squared_error",
    w: Array | None = None,
    lam: float = 0.0,
    masks: Sequence[Array | None] = (),
    p: float = 0.0,
) -> Step:
    """The text's six steps on one batch: (1) a⁰ = x; (2) feed forward by E1, E2; (3) δᴸ by E4; (4) δˡ by E5 down to
    the first layer; (5) gradients by E6, E7; (6) gradient step by E8.

    parameters   (W, b) of every layer        activations  f of every layer
    x (n, d), y (n, n_out), w (n,) or None    lr           η
    kind         the loss of E3               lam          λ of E9
    masks, p     dropout of E11 behind each hidden layer that has a mask
    A batch whose weights are all zero changes nothing. ValueError where shapes do not fit.
    """
    if len(activations) != len(parameters):
        raise ValueError(f"activations must name one function a layer: {len(activations)} for {len(parameters)}")
    last = len(parameters) - 1
    if len(masks) > last:
        raise ValueError(f"masks must be one a hidden layer, at most {last}, got {len(masks)}")
    kept = [*masks, *[None] * (last - len(masks))]
    # (1) and (2): forward; what a layer hands on is its activation, thinned by dropout
    handed, zs, activated = [x], [], []
    for k, ((W, b), f) in enumerate(zip(parameters, activations, strict=True)):
        zs.append(aggregate(handed[-1], W, b))
        activated.append(activate(zs[-1], f))
        thinned = k < last and kept[k] is not None
        handed.append(dropout(activated[-1], kept[k], p) if thinned else activated[-1])
    C = loss(y, activated[-1], kind, w) + penalty([W for W, _ in parameters], lam)
    # (3): the output error
    delta = [output_error(zs[-1], loss_gradient(y, activated[-1], kind, w), activations[-1])]
    # (4): the recursion; dropout takes the error back through the mask it applied
    for k in reversed(range(last)):
        mask = kept[k]
        if mask is None:
            delta.insert(0, recursion(zs[k], delta[0], parameters[k + 1][0], activations[k]))
        else:
            through = dropout(delta[0] @ parameters[k + 1][0].T, mask, p)
            delta.insert(0, derivative(zs[k], activations[k]) * through)
    # (5): the gradients
    dW = [
        weight_gradient(a, d) + penalty_gradient(W, lam)
        for a, d, (W, _) in zip(handed[:-1], delta, parameters, strict=True)
    ]
    db = [intercept_gradient(d) for d in delta]
    # (6): the step
    idle = w is not None and not bool((w > 0).any())
    after = [
        (W, b) if idle else (gradient_step(W, gW, lr), gradient_step(b, gb, lr))
        for (W, b), gW, gb in zip(parameters, dW, db, strict=True)
    ]
    return Step(after, C, zs, activated, delta, dW, db)
