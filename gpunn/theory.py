"""The equations E1 to E11 as pure functions, and one training step in six stages.

This module is the readable oracle: tests compare the compiled step with it. Each docstring is the derivation of its
equation, and the function body is the transcription.

Source: Steven Morse, "Neural Networks for a beginner (Part I: theory)". The text writes a layer for one example as a
column, z = Wᵀa + b. Here the n examples of a batch are the rows of a matrix, so every product is the text's product
transposed.

    a⁰ = x   input batch                                          (n, d)
    W, b     weights and intercepts; column j belongs to neuron j (n_in, n_out), (n_out,)
    z, a     aggregate and activation of a layer                  (n, n_out)
    delta    δ = ∂C/∂z, the error of a layer                      (n, n_out)
    grad_a   g = ∂C/∂a                                            (n, n_out)
    C        Σ wᵢ ℓ(yᵢ, aᵢᴸ) / Σ wᵢ, plus the penalty of E9       scalar

All functions accept NumPy and CuPy arrays. The arrays of one call have one floating type, and the result has it too.
Arguments are never broadcast: a wrong shape or number is a ValueError, a wrong type a TypeError, and the message names
the argument.

Examples
--------
>>> import numpy as np
>>> from gpunn import theory
>>> x, W, b = np.array([[1.0, 2.0]]), np.array([[1.0, -1.0], [0.5, 2.0]]), np.zeros(2)
>>> theory.activate(theory.aggregate(x, W, b), "relu")
array([[2., 3.]])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .backend import array_module

Array = Any
Layers = Sequence[tuple[Array, Array]]  # (W, b) of every layer


def _check_arrays(**arguments: tuple[Array, str]) -> None:
    """Raise unless all arrays have one floating type and each axis name has one size.

    An argument is (array, names of its axes): `a_prev=(a_prev, "n n_in")`.
    """
    sizes: dict[str, int] = {}
    first, dtype = "", None
    for name, (x, axes) in arguments.items():
        if not hasattr(x, "dtype"):
            raise TypeError(f"{name} must be a NumPy or CuPy array, got {type(x).__name__}")
        expected = [(axis, sizes.get(axis)) for axis in axes.split()]
        if len(x.shape) != len(expected) or any(
            s not in (None, m) for (_, s), m in zip(expected, x.shape, strict=True)
        ):
            shape = ", ".join(axis if size is None else f"{axis} = {size}" for axis, size in expected)
            raise ValueError(f"{name} must have shape ({shape}), got {x.shape}")
        sizes.update(zip(axes.split(), x.shape, strict=True))
        if dtype is None and x.dtype.kind != "f":
            raise TypeError(f"{name} must be a floating type, got {x.dtype}: use {name}.astype('float64')")
        if dtype is None:
            first, dtype = name, x.dtype
        elif x.dtype != dtype:
            raise TypeError(f"{name} must be {dtype} like {first}, got {x.dtype}: use {name}.astype({str(dtype)!r})")


def _check_number(name: str, value: float, below: float = math.inf) -> float:
    """A number in [0, below) as a Python float: NumPy's float64 scalars would promote float32 arrays."""
    number = float(value)
    if not 0 <= number < below:
        expected = f"a number in [0, {below:g})" if below < math.inf else "a finite number ≥ 0"
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return number


# --- E1, E2: forward pass ---


def aggregate(a_prev: Array, W: Array, b: Array) -> Array:
    """z = a_prev W + b. (E1)

    Neuron j adds its inputs with the weights in column j of W: zᵢⱼ = Σₘ a_prev,ᵢₘ Wₘⱼ + bⱼ.

    Parameters
    ----------
    a_prev : array (n, n_in)
        Activations of the previous layer; the inputs x for the first layer.
    W : array (n_in, n_out)
        Weights.
    b : array (n_out,)
        Intercepts.

    Returns
    -------
    array (n, n_out)
        The aggregates z.
    """
    _check_arrays(a_prev=(a_prev, "n n_in"), W=(W, "n_in n_out"), b=(b, "n_out"))
    return a_prev @ W + b  # mutate: E1 theory


@dataclass(frozen=True)
class Function:
    """An elementwise activation: `f` and its `derivative` f′, both functions of (array module, z)."""

    f: Callable[[Any, Array], Array]
    derivative: Callable[[Any, Array], Array]


def _sigmoid(xp: Any, z: Array) -> Array:
    # with e = e^−|z| ≤ 1 nothing overflows: 1/(1 + e⁻ᶻ) is 1/(1 + e) for z ≥ 0 and e/(1 + e) for z < 0
    e = xp.exp(-abs(z))
    return xp.where(z >= 0, xp.ones_like(e), e) / (1 + e)


def _softplus(xp: Any, z: Array) -> Array:
    # log(1 + eᶻ) = z + log(1 + e⁻ᶻ)
    return xp.maximum(z, 0) + xp.log1p(xp.exp(-abs(z)))


def _tanh_of_gelu(xp: Any, z: Array) -> Array:
    # √(2/π) = 0.79788…
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
    "selu": Function(
        # λ = 1.05070…, λα = 1.75809…
        lambda xp, z: xp.where(z > 0, 1.0507009873554805 * z, 1.7580993408473766 * xp.expm1(xp.minimum(z, 0))),
        lambda xp, z: xp.where(
            z > 0, xp.full_like(z, 1.0507009873554805), 1.7580993408473766 * xp.exp(xp.minimum(z, 0))
        ),
    ),
    "softplus": Function(_softplus, _sigmoid),
    "silu": Function(
        lambda xp, z: z * _sigmoid(xp, z),
        lambda xp, z: _sigmoid(xp, z) * (1 + z * _sigmoid(xp, -z)),
    ),
    "mish": Function(
        lambda xp, z: z * xp.tanh(_softplus(xp, z)),
        lambda xp, z: xp.tanh(_softplus(xp, z)) + z * (1 - xp.tanh(_softplus(xp, z)) ** 2) * _sigmoid(xp, z),
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

    ==========  ====================================
    identity    z
    relu        max(0, z)
    sigmoid     σ(z) = 1/(1 + e⁻ᶻ)
    tanh        tanh(z)
    leaky_relu  z for z > 0, else 0.01 z
    elu         z for z > 0, else eᶻ − 1
    selu        λz for z > 0, else λα(eᶻ − 1)
    softplus    log(1 + eᶻ)
    silu        z σ(z)
    mish        z tanh(log(1 + eᶻ))
    gelu        ½z(1 + tanh(√(2/π)(z + 0.044715 z³)))
    softmax     aₖ = e^zₖ / Σⱼ e^zⱼ in each row
    ==========  ====================================

    The constants of selu are λ = 1.0507009873554805 and α = 1.6732632423543772.

    Softmax subtracts the largest z of each row first. The quotient is the same, and no exponential overflows.

    Parameters
    ----------
    z : array (n, n_out)
        Aggregates.
    f : str
        Name of the activation.

    Returns
    -------
    array (n, n_out)
        The activations a.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    _check_arrays(z=(z, "n n_out"))
    xp = array_module(z)
    if f == "softmax":
        e = xp.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)  # mutate: E2 theory softmax
    return _function(f).f(xp, z)


def derivative(z: Array, f: str = "relu") -> Array:
    """f′(z) of an elementwise activation; f′(0) = 0 for ReLU. (E4, E5)

    Parameters
    ----------
    z : array (n, n_out)
        Aggregates.
    f : str
        Name of the activation.

    Returns
    -------
    array (n, n_out)
        The derivative at every entry.

    Raises
    ------
    ValueError
        For an unknown name, and for softmax: the derivative of a row is a matrix, see `output_error`.
    """
    _check_arrays(z=(z, "n n_out"))
    return _function(f).derivative(array_module(z), z)


def _function(f: str) -> Function:
    if f not in FUNCTIONS:
        raise ValueError(f"activation must be elementwise, one of {', '.join(FUNCTIONS)}, got {f!r}")
    return FUNCTIONS[f]


# --- E3: loss ---

LOSSES = ("half_squared_error", "softmax_crossentropy", "sigmoid_crossentropy")


def _unknown_loss(kind: str) -> ValueError:
    return ValueError(f"loss must be one of {', '.join(LOSSES)}, got {kind!r}")


def row_losses(y: Array, a: Array, kind: str = "half_squared_error") -> Array:
    """ℓ(y, a) of every row, summed over the outputs. (E3)

    ====================  ================================================================
    half_squared_error    ½‖y − a‖²
    softmax_crossentropy  −Σₖ yₖ log aₖ; y is one-hot or a row of probabilities
    sigmoid_crossentropy  −Σₖ [yₖ log aₖ + (1 − yₖ) log(1 − aₖ)], 0 ≤ yₖ ≤ 1
    ====================  ================================================================

    0 log 0 is 0.

    Parameters
    ----------
    y : array (n, n_out)
        Targets.
    a : array (n, n_out)
        Activations of the last layer.
    kind : str
        Name of the loss.

    Returns
    -------
    array (n,)
        One loss per row.

    Raises
    ------
    ValueError
        For an unknown loss, or if the shapes differ.
    """
    _check_arrays(a=(a, "n n_out"), y=(y, "n n_out"))
    xp = array_module(a)
    if kind == "half_squared_error":
        return 0.5 * ((y - a) ** 2).sum(axis=1)  # mutate: E3 theory loss
    if kind == "softmax_crossentropy":
        return -_times_log(xp, y, a).sum(axis=1)
    if kind == "sigmoid_crossentropy":
        return -(_times_log(xp, y, a) + _times_log(xp, 1 - y, 1 - a)).sum(axis=1)
    raise _unknown_loss(kind)


def _times_log(xp: Any, y: Array, a: Array) -> Array:
    """y log a, with 0 log 0 = 0."""
    return xp.where(y == 0, xp.zeros_like(a), y * xp.log(xp.where(y == 0, xp.ones_like(a), a)))


def row_weights(a: Array, w: Array | None = None) -> Array:
    """wᵢ/Σw, the weight of row i in C; 1/n without sample weights. (E3)

    Parameters
    ----------
    a : array (n, n_out)
        Determines n and the dtype.
    w : array (n,), optional
        Sample weights ≥ 0.

    Returns
    -------
    array (n,)
        Weights with sum 1; zeros if all sample weights are 0.

    Raises
    ------
    ValueError
        For a weight that is negative or NaN.
    """
    _check_arrays(a=(a, "n n_out"))
    xp = array_module(a)
    if w is None:
        return xp.ones_like(a[:, 0]) / a.shape[0]  # mutate: E3 theory mean
    _check_arrays(a=(a, "n n_out"), w=(w, "n"))
    if not bool((w >= 0).all()):
        raise ValueError("w must hold weights ≥ 0, got a negative one or NaN")
    total = w.sum()
    return w / (total if total > 0 else 1)


def loss(y: Array, a: Array, kind: str = "half_squared_error", w: Array | None = None) -> Array:
    """C = Σ wᵢ ℓ(yᵢ, aᵢ) / Σ wᵢ, the mean over the rows if there are no weights. (E3)

    Parameters
    ----------
    y, a : array (n, n_out)
        Targets, and activations of the last layer.
    kind : str
        Name of the loss, see `row_losses`.
    w : array (n,), optional
        Sample weights ≥ 0.

    Returns
    -------
    scalar
        The cost without penalty.
    """
    return (row_weights(a, w) * row_losses(y, a, kind)).sum()


def loss_gradient(y: Array, a: Array, kind: str = "half_squared_error", w: Array | None = None) -> Array:
    """∂C/∂a = (wᵢ/Σw) ∂ℓ/∂a in row i. (E3)

    ====================  ==========================================
    loss                  ∂ℓ/∂a
    ====================  ==========================================
    half_squared_error    a − y
    softmax_crossentropy  −y/a
    sigmoid_crossentropy  (1 − y)/(1 − a) − y/a
    ====================  ==========================================

    0/0 is 0, the derivative of 0 log 0.

    Parameters
    ----------
    y, a : array (n, n_out)
        Targets, and activations of the last layer.
    kind : str
        Name of the loss, see `row_losses`.
    w : array (n,), optional
        Sample weights ≥ 0.

    Returns
    -------
    array (n, n_out)
        The gradient with respect to a.
    """
    _check_arrays(a=(a, "n n_out"), y=(y, "n n_out"))
    xp = array_module(a)
    if kind == "half_squared_error":
        g = a - y  # mutate: E3 theory gradient
    elif kind == "softmax_crossentropy":
        g = -_quotient(xp, y, a)
    elif kind == "sigmoid_crossentropy":
        g = _quotient(xp, 1 - y, 1 - a) - _quotient(xp, y, a)
    else:
        raise _unknown_loss(kind)
    return row_weights(a, w)[:, None] * g


def _quotient(xp: Any, y: Array, a: Array) -> Array:
    """y/a, with 0/0 = 0: an output with y = 0 has no gradient even if its a was rounded to 0."""
    return y / xp.where(y == 0, xp.ones_like(a), a)


# --- E4, E5: errors ---


def output_error(z: Array, grad_a: Array, f: str) -> Array:
    """δᴸ = f′(zᴸ) ⊙ ∂C/∂aᴸ; for softmax δ = a ⊙ (g − Σₖ aₖgₖ) in each row. (E4)

    The chain rule gives δⱼ = ∂C/∂zⱼ = Σₖ ∂aₖ/∂zⱼ gₖ, with g = ∂C/∂a. If f is elementwise, ∂aₖ/∂zⱼ = 0 for k ≠ j and one
    term remains: δⱼ = f′(zⱼ) gⱼ. For softmax ∂aₖ/∂zⱼ = aₖ(1[k = j] − aⱼ), so δⱼ = aⱼgⱼ − aⱼ Σₖ aₖgₖ.

    Parameters
    ----------
    z : array (n, n_out)
        Aggregates of the last layer.
    grad_a : array (n, n_out)
        ∂C/∂a, see `loss_gradient`.
    f : str
        Name of the activation.

    Returns
    -------
    array (n, n_out)
        The error δᴸ.
    """
    _check_arrays(z=(z, "n n_out"), grad_a=(grad_a, "n n_out"))
    if f == "softmax":
        a = activate(z, "softmax")
        return a * (grad_a - (a * grad_a).sum(axis=1, keepdims=True))  # mutate: E4 theory softmax
    return derivative(z, f) * grad_a  # mutate: E4 theory


def matched_output_error(y: Array, a: Array, w: Array | None = None) -> Array:
    """δᴸ = (aᴸ − y) wᵢ/Σw, the value of E4 for matching pairs of activation and loss. (E4)

    The pairs are softmax or sigmoid with its own cross-entropy, and identity with half squared error. For softmax,
    g = −y/a and Σₖ aₖgₖ = −Σₖ yₖ = −1, so δ = a ⊙ (−y/a + 1) = a − y; the rows of y must add up to 1. For sigmoid,
    f′ = a(1 − a) and g = (a − y)/(a(1 − a)), so δ = a − y. This is a shortcut, not the definition.

    Parameters
    ----------
    y, a : array (n, n_out)
        Targets, and activations of the last layer.
    w : array (n,), optional
        Sample weights ≥ 0.

    Returns
    -------
    array (n, n_out)
        The error δᴸ.
    """
    _check_arrays(a=(a, "n n_out"), y=(y, "n n_out"))
    return row_weights(a, w)[:, None] * (a - y)  # mutate: E4 theory matched


def recursion(z: Array, delta_next: Array, W_next: Array, f: str) -> Array:
    """δˡ = f′(zˡ) ⊙ (δˡ⁺¹ (Wˡ⁺¹)ᵀ). (E5)

    C depends on aˡ through zˡ⁺¹ = aˡWˡ⁺¹ + bˡ⁺¹, so ∂C/∂aˡ = δˡ⁺¹(Wˡ⁺¹)ᵀ. As in E4, aˡ = f(zˡ) adds the factor f′(zˡ).

    Parameters
    ----------
    z : array (n, n_l)
        Aggregates of layer l.
    delta_next : array (n, n_next)
        Error of layer l + 1.
    W_next : array (n_l, n_next)
        Weights of layer l + 1.
    f : str
        Name of the activation of layer l.

    Returns
    -------
    array (n, n_l)
        The error δˡ.
    """
    _check_arrays(z=(z, "n n_l"), W_next=(W_next, "n_l n_next"), delta_next=(delta_next, "n n_next"))
    grad_a = delta_next @ W_next.T  # mutate: E5 theory
    return derivative(z, f) * grad_a


# --- E6, E7, E8: gradients and the step ---


def weight_gradient(a_prev: Array, delta: Array) -> Array:
    """∂C/∂W = a_prevᵀ δ. (E6)

    zᵢⱼ = Σₘ a_prev,ᵢₘ Wₘⱼ + bⱼ has ∂zᵢⱼ/∂Wₘⱼ = a_prev,ᵢₘ, so ∂C/∂Wₘⱼ = Σᵢ a_prev,ᵢₘ δᵢⱼ.

    Parameters
    ----------
    a_prev : array (n, n_in)
        Activations of the previous layer.
    delta : array (n, n_out)
        Error of this layer.

    Returns
    -------
    array (n_in, n_out)
        The gradient with respect to W.
    """
    _check_arrays(a_prev=(a_prev, "n n_in"), delta=(delta, "n n_out"))
    return a_prev.T @ delta  # mutate: E6 theory


def intercept_gradient(delta: Array) -> Array:
    """∂C/∂b = Σᵢ δᵢ, the sum over the rows, since ∂zᵢⱼ/∂bⱼ = 1. (E7)

    Parameters
    ----------
    delta : array (n, n_out)
        Error of the layer.

    Returns
    -------
    array (n_out,)
        The gradient with respect to b.
    """
    _check_arrays(delta=(delta, "n n_out"))
    return delta.sum(axis=0)  # mutate: E7 theory


def gradient_step(theta: Array, g: Array, lr: float) -> Array:
    """θ ← θ − η ∂C/∂θ. (E8)

    With a batch of one row this is the text's stochastic gradient descent. Momentum, Adam and the other optimizers
    replace this line only.

    Parameters
    ----------
    theta, g : array, of one shape
        A parameter and its gradient.
    lr : float
        Learning rate η ≥ 0.

    Returns
    -------
    array
        The updated parameter; `theta` is not changed.
    """
    axes = " ".join(f"axis_{k}" for k in range(theta.ndim))
    _check_arrays(theta=(theta, axes), g=(g, axes))
    lr = _check_number("lr", lr)
    return theta - lr * g  # mutate: E8 theory


# --- E9, E10, E11: penalty, initial weights, dropout ---


def penalty(weights: Sequence[Array], lam: float) -> Array:
    """½λ Σ W² over all weights, added to C. (E9)

    Parameters
    ----------
    weights : sequence of arrays (n_in, n_out)
        W of every layer. Intercepts have no penalty.
    lam : float
        λ ≥ 0.

    Returns
    -------
    scalar
        The penalty.
    """
    lam = _check_number("lam", lam)
    return 0.5 * lam * sum((W**2).sum() for W in weights)  # mutate: E9 theory penalty


def penalty_gradient(W: Array, lam: float) -> Array:
    """λW, added to ∂C/∂W: the derivative of ½λW². (E9)

    Parameters
    ----------
    W : array (n_in, n_out)
        Weights.
    lam : float
        λ ≥ 0.

    Returns
    -------
    array (n_in, n_out)
        The gradient of the penalty.
    """
    lam = _check_number("lam", lam)
    return lam * W  # mutate: E9 theory gradient


def initial_weights(n_in: int, n_out: int, generator: Any, *, rectifier: bool = False) -> Array:
    """W ~ N(0, 1/n_in), not truncated; N(0, 2/n_in) before rectifiers. (E10)

    For independent weights with mean 0 and variance σ², E[z²] = Σₘ E[Wₘ²] aₘ² = n_in σ² · mean(a²). With σ² = 1/n_in,
    z has the mean square of its inputs. ReLU halves the mean square, and σ² = 2/n_in restores it.

    Parameters
    ----------
    n_in, n_out : int
        Numbers of inputs and neurons.
    generator : numpy.random.Generator
        Source of the random numbers.
    rectifier : bool
        True if the layer's activation is a rectifier.

    Returns
    -------
    array (n_in, n_out), float64
        Random weights.
    """
    return generator.normal(0.0, ((2 if rectifier else 1) / n_in) ** 0.5, (n_in, n_out))  # mutate: E10 theory


def dropout(a: Array, mask: Array | None, p: float, *, form: str = "inverted") -> Array:
    """a ⊙ k/(1 − p) in training and a at prediction, with random k ∈ {0, 1}, P(k = 1) = 1 − p. (E11)

    E[k] = 1 − p, so the expectation in training is a, the value at prediction. The form "textbook" moves the factor:
    a ⊙ k in training, (1 − p) a at prediction. The map a ↦ a ⊙ k/(1 − p) is linear and diagonal, so the same function
    with the same mask takes ∂C/∂a backward.

    Parameters
    ----------
    a : array (n, n_out)
        Activations, or their gradient.
    mask : array (n, n_out), optional
        The mask k, of any type; None means prediction.
    p : float
        Probability of 0, in [0, 1).
    form : {"inverted", "textbook"}
        Where the factor 1 − p is applied.

    Returns
    -------
    array (n, n_out)
        The thinned activations or gradient.
    """
    p = _check_number("p", p, below=1)
    if form not in ("inverted", "textbook"):
        raise ValueError(f'form must be "inverted" or "textbook", got {form!r}')
    if mask is None:
        return a if form == "inverted" else (1 - p) * a
    mask = mask.astype(a.dtype)  # it may be boolean
    _check_arrays(a=(a, "n n_out"), mask=(mask, "n n_out"))
    return a * mask / (1 - p) if form == "inverted" else a * mask  # mutate: E11 theory


# --- one step ---


@dataclass(frozen=True)
class Step:
    """The quantities of one step, one list entry per layer.

    Attributes
    ----------
    parameters : list of (W, b)
        The parameters after the step.
    C : scalar
        The cost before the step, with penalty.
    z, a, delta : list of arrays (n, n_out)
        Aggregates, activations (before dropout) and errors.
    dW, db : list of arrays (n_in, n_out), (n_out,)
        Gradients, with penalty.
    """

    parameters: list[tuple[Array, Array]]
    C: Array
    z: list[Array]
    a: list[Array]
    delta: list[Array]
    dW: list[Array]
    db: list[Array]


def train_step(
    parameters: Layers,
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
    """Compute one training step in the text's six stages.

    (1) a⁰ = x; (2) feed forward by E1 and E2; (3) δᴸ by E4; (4) δˡ by E5 down to the first layer; (5) gradients by E6
    and E7; (6) gradient step by E8. A batch whose weights are all zero changes no parameter.

    Parameters
    ----------
    parameters : sequence of (W, b)
        Weights (n_in, n_out) and intercepts (n_out,) of every layer.
    x : array (n, d)
        Input batch.
    y : array (n, n_out)
        Targets.
    lr : float
        Learning rate η ≥ 0.
    activations : sequence of str
        One activation per layer, see `activate`. Only the last may be softmax.
    kind : str
        Name of the loss, see `row_losses`.
    w : array (n,), optional
        Sample weights ≥ 0.
    lam : float
        λ of the penalty (E9).
    masks : sequence of arrays (n, n_l) or None
        Dropout masks after the hidden layers, first to last; None or a missing entry means no dropout. (E11)
    p : float
        Dropout probability, in [0, 1).

    Returns
    -------
    Step
        All quantities of the step, and the parameters after it.

    Raises
    ------
    ValueError, TypeError
        If shapes, types or numbers do not fit; the message names the argument.
    """
    if len(activations) != len(parameters):
        raise ValueError(f"activations must name one function per layer, got {len(activations)} for {len(parameters)}")
    n_hidden = len(parameters) - 1
    if len(masks) > n_hidden:
        raise ValueError(f"masks must have at most one entry per hidden layer, {n_hidden}, got {len(masks)}")
    masks = [*masks, *[None] * (n_hidden - len(masks))]
    inputs, z, a = _feed_forward(parameters, x, activations, masks, p)
    C = loss(y, a[-1], kind, w) + penalty([W for W, _ in parameters], lam)
    delta_L = output_error(z[-1], loss_gradient(y, a[-1], kind, w), activations[-1])  # (3)
    delta = _back_propagate(parameters, z, delta_L, activations, masks, p)
    # (5): the gradients
    dW = [
        weight_gradient(a_prev, d) + penalty_gradient(W, lam)
        for a_prev, d, (W, _) in zip(inputs, delta, parameters, strict=True)
    ]
    db = [intercept_gradient(d) for d in delta]
    # (6): the step
    no_weight = w is not None and not bool((w > 0).any())
    after = [
        (W, b) if no_weight else (gradient_step(W, gW, lr), gradient_step(b, gb, lr))
        for (W, b), gW, gb in zip(parameters, dW, db, strict=True)
    ]
    return Step(after, C, z, a, delta, dW, db)


def _feed_forward(
    parameters: Layers, x: Array, activations: Sequence[str], masks: Sequence[Array | None], p: float
) -> tuple[list[Array], list[Array], list[Array]]:
    """Stages (1) and (2): the inputs, z and a of every layer."""
    inputs, z, a = [x], [], []
    for (W, b), f, mask in zip(parameters, activations, [*masks, None], strict=True):
        z.append(aggregate(inputs[-1], W, b))
        a.append(activate(z[-1], f))
        inputs.append(a[-1] if mask is None else dropout(a[-1], mask, p))
    return inputs[:-1], z, a


def _back_propagate(
    parameters: Layers,
    z: list[Array],
    delta_L: Array,
    activations: Sequence[str],
    masks: Sequence[Array | None],
    p: float,
) -> list[Array]:
    """Stage (4): δ of every layer, first to last; ∂C/∂a passes backward through the dropout mask of its layer."""
    delta = [delta_L]
    for k in reversed(range(len(masks))):
        mask, W_next = masks[k], parameters[k + 1][0]
        if mask is None:
            delta.insert(0, recursion(z[k], delta[0], W_next, activations[k]))
        else:
            grad_a = dropout(delta[0] @ W_next.T, mask, p)
            delta.insert(0, derivative(z[k], activations[k]) * grad_a)
    return delta


__all__ = [
    "Function",
    "Step",
    "activate",
    "aggregate",
    "derivative",
    "dropout",
    "gradient_step",
    "initial_weights",
    "intercept_gradient",
    "loss",
    "loss_gradient",
    "matched_output_error",
    "output_error",
    "penalty",
    "penalty_gradient",
    "recursion",
    "row_losses",
    "row_weights",
    "train_step",
    "weight_gradient",
]


def __dir__() -> list[str]:
    return __all__
