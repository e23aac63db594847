"""Losses ℓ(y, a) of a row and their gradients (E3), and the cross-entropies' shortcut through softmax or sigmoid (E4).

Every loss is the weighted mean over rows, C = Σ wᵢℓᵢ / Σ wᵢ. Half squared error and the cross-entropies sum over the
outputs within a row. The other losses average over the outputs, as Keras and PyTorch do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

from . import activations
from .activations import Activation
from .kernels import get as kernel
from .program import Array
from .registry import Named, Registry, Versioned, name_of, names_of
from .validation import Checked, boolean, half_open_unit_interval, optional, positive


class Loss(Named, Versioned):
    """A loss ℓ(y, a) of a row and its gradient. (E3)

    The simplest custom loss is a function ``(y, a) → (ℓ, g)``: see `FunctionLoss`. A subclass defines `evaluate`. It
    overrides `resolve` if it depends on the last layer's activation, and `check_targets` if it is not defined for all
    targets. It overrides `get_config` if its constructor has arguments.

    `evaluate` and `from_z` compute with operators and kernels. The same text runs on arrays, and on symbolic tensors
    that record the step's program. A subclass with ``opaque = True`` may use all of NumPy: `evaluate` gets arrays of
    the device each time the step runs. It must not change them. No op is fused with it, and `Sequential.summary`
    reports it.

    A new value of an attribute that `get_config` returns takes effect at the next step. A saved network stores the name
    and `get_config`; ``gpunn.load(…, custom={name: class})`` restores it.

    Attributes
    ----------
    names : tuple of str
        The names that strings may use. Files store the first one, or the name of the class if there are none.
    targets : {"dense", "class_index"}
        The form of y: rows as wide as the outputs, (n, n_out), or one int32 per row, (n,).
    opaque : bool
        True if `evaluate` takes arrays only.
    takes_z : bool
        True if the loss computes a and δ from the last layer's z: see `from_z`.

    Examples
    --------
    >>> class Quartic(gpunn.losses.Loss):
    ...     opaque = True
    ...
    ...     def evaluate(self, a, y, w):
    ...         e = a - y
    ...         grad_a = 4 * w[:, None] * e**3
    ...         row_losses = w * (e**4).sum(axis=1)
    ...         return grad_a, row_losses
    >>> net.compile("adam", loss=Quartic())
    """

    targets: ClassVar[str] = "dense"
    opaque = False
    takes_z = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        REGISTRY.check_free(names_of(cls) or (name_of(cls),))
        REGISTRY.register(cls, *names_of(cls))

    def resolve(self, activation: Activation) -> Loss:
        """Return the form of this loss that fits a last layer with that activation. ValueError if none does."""
        return self

    def evaluate(self, a: Array, y: Array, w: Array) -> tuple[Array, Array]:
        """Return the gradient ∂C/∂a and the losses of the rows. (E3)

        Parameters
        ----------
        a : array or tensor, shape (n, n_out)
            The network's outputs, in its dtype.
        y : array or tensor, shape (n, n_out) or (n,)
            The targets, as `targets` says.
        w : array or tensor, shape (n,)
            The sample weights, divided by their sum.

        Returns
        -------
        grad_a : array or tensor, shape (n, n_out)
            ∂C/∂a, row by row w · ∂ℓ/∂a.
        row_losses : array or tensor, shape (n,)
            w · ℓ.
        """
        raise NotImplementedError(f"{type(self).__name__} must define evaluate(self, a, y, w)")

    def from_z(self, z: Array, y: Array, w: Array) -> tuple[Array, Array, Array]:
        """Return a = f(z), δ = ∂C/∂z and w · ℓ from z, if `takes_z`: the shortcut of E4."""
        raise NotImplementedError(f"{type(self).__name__} does not compute the activation")

    def check_targets(self, y: Any, xp: Any, name: str) -> None:
        """Check targets of the right shape. ValueError if the loss is not defined for their values."""

    def step_key(self) -> Any:
        """The attributes that a recorded step depends on. The step is recorded again when they change."""
        return repr(self.get_config())


REGISTRY: Registry[Loss] = Registry("loss", Loss, __name__, "function")


class _RowLoss(Loss):
    """A loss with a kernel of the same name, which computes value and gradient in one pass."""

    def evaluate(self, a: Array, y: Array, w: Array) -> tuple[Array, Array]:
        grad_a, row_losses = kernel(self.names[0])(a, y, w, **self._scalars())
        return grad_a, row_losses

    def _scalars(self) -> dict[str, Any]:
        return {}


class HalfSquaredError(_RowLoss):
    """Half squared error, ℓ = ½‖y − a‖², summed over the outputs. (E3)"""

    names = ("half_squared_error",)


class MeanSquaredError(_RowLoss):
    """Mean squared error, ℓ = the mean over the outputs of (y − a)². (E3)"""

    names = ("mean_squared_error", "mse")


class MeanAbsoluteError(_RowLoss):
    """Mean absolute error, ℓ = the mean over the outputs of |y − a|. Its derivative is 0 where y = a. (E3)"""

    names = ("mean_absolute_error", "mae")


class Huber(_RowLoss):
    """Huber loss, ℓ = the mean over the outputs of ½e² for |e| ≤ κ and of κ(|e| − ½κ) for larger e = a − y. (E3)

    Parameters
    ----------
    delta : float
        κ > 0. The name is that of Keras and PyTorch; it is not δ = ∂C/∂z.
    """

    names = ("huber",)
    delta = Checked(positive)

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = delta

    def _scalars(self) -> dict[str, Any]:
        return {"threshold": self.delta}

    def get_config(self) -> dict[str, Any]:
        return {"delta": self.delta}


class Poisson(_RowLoss):
    """Poisson loss, ℓ = the mean over the outputs of a − y log a, for counts y ≥ 0 and outputs a > 0. (E3)

    An activation such as softplus or exponential makes the outputs positive.
    """

    names = ("poisson",)

    def check_targets(self, y: Any, xp: Any, name: str) -> None:
        if bool((y < 0).any()):
            raise ValueError(f"{name} holds negative values; the poisson loss is for counts, y ≥ 0")


class LogCosh(_RowLoss):
    """Log-cosh loss, ℓ = the mean over the outputs of log cosh(a − y). (E3)"""

    names = ("log_cosh", "logcosh")


class _CrossEntropy(Loss):
    """A cross-entropy of probabilities or logits, as the last layer's activation decides.

    Parameters
    ----------
    from_logits : bool or None
        None decides by the last layer: this loss's `paired_activation` means probabilities, the identity means logits,
        and anything else is a ValueError at `compile`. True treats any outputs as logits, False as probabilities.
    """

    paired_activation: ClassVar[str]
    logits_kernel: str
    probabilities_kernel: str
    from_logits = Checked(optional(boolean))

    def __init__(self, from_logits: bool | None = None) -> None:
        self.from_logits = from_logits
        self._form = ""

    @property
    def takes_z(self) -> bool:  # type: ignore[override]
        """True if the last layer's activation is `paired_activation`. Known after `resolve`."""
        return self._form == "z"

    @property
    def takes_logits(self) -> bool:
        """True if the last layer's outputs are logits. Known after `resolve`."""
        return self._form == "logits"

    def resolve(self, activation: Activation) -> Loss:
        built_in = type(activation).__module__ == activations.__name__
        found = copy.copy(self)
        if activation.name == self.paired_activation:
            if self.from_logits:
                raise ValueError(
                    f"from_logits=True, but the last layer's {self.paired_activation} returns probabilities; "
                    "leave from_logits out, or end with activation=None"
                )
            found._form = "z"
        elif self.from_logits is True or (self.from_logits is None and activation.name == "identity"):
            found._form = "logits"
        elif self.from_logits is False and (not built_in or activation.name in ("sigmoid", "softmax")):
            found._form = "probabilities"
        else:
            raise ValueError(
                f"loss {self.name!r} needs {self.paired_activation} (probabilities) or no activation (logits) in the "
                f"last layer, got {activation.name}; "
                f"write Dense(…, activation={self.paired_activation!r}), or set from_logits= to what it returns"
            )
        return found

    def evaluate(self, a: Array, y: Array, w: Array) -> tuple[Array, Array]:
        if self.takes_logits:
            # a are the logits, so ∂C/∂a is the δ of the paired activation
            _, grad_a, row_losses = self.from_z(a, y, w)
        else:
            grad_a, row_losses = kernel(self.probabilities_kernel)(a, self._targets(a, y), w)
        return grad_a, row_losses

    def from_z(self, z: Array, y: Array, w: Array) -> tuple[Array, Array, Array]:
        a, delta, row_losses = kernel(self.logits_kernel)(z, self._targets(z, y), w)
        return a, delta, row_losses

    def _targets(self, a: Array, y: Array) -> Array:
        """The targets of the kernels, for outputs or logits a."""
        return y

    def get_config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits}


class BinaryCrossentropy(_CrossEntropy):
    """Binary cross-entropy, ℓ = −Σ y log a + (1 − y) log(1 − a), summed over the outputs, 0 ≤ y ≤ 1. (E3)

    Parameters
    ----------
    from_logits : bool or None
        None decides by the last layer: sigmoid means probabilities, no activation means logits.
    """

    names = ("binary_crossentropy",)
    paired_activation = "sigmoid"
    logits_kernel = "sigmoid_crossentropy"
    probabilities_kernel = "binary_crossentropy"

    def check_targets(self, y: Any, xp: Any, name: str) -> None:
        if bool(((y < 0) | (y > 1)).any()):
            raise ValueError(
                f"{name} holds values outside [0, 1]; binary_crossentropy is for probabilities or 0/1 labels"
            )


class _SoftmaxCrossEntropy(_CrossEntropy):
    """The part of both categorical cross-entropies that does not depend on the form of the targets."""

    paired_activation = "softmax"
    label_smoothing = Checked(half_open_unit_interval)

    def __init__(self, from_logits: bool | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__(from_logits)
        self.label_smoothing = label_smoothing

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"label_smoothing": self.label_smoothing}


class CategoricalCrossentropy(_SoftmaxCrossEntropy):
    """Categorical cross-entropy, ℓ = −Σ yₖ log aₖ, for rows y of probabilities such as one-hot rows. (E3)

    Parameters
    ----------
    from_logits : bool or None
        None decides by the last layer: softmax means probabilities, no activation means logits.
    label_smoothing : float
        s in [0, 1). The targets become (1 − s)y + s/n_out, also in `Sequential.evaluate`; metrics use y.

    References
    ----------
    Szegedy, Vanhoucke, Ioffe, Shlens and Wojna 2016 (label smoothing).
    """

    names = ("categorical_crossentropy",)
    logits_kernel = "softmax_crossentropy_dense"
    probabilities_kernel = "categorical_crossentropy"

    def _targets(self, a: Array, y: Array) -> Array:
        return kernel("smooth_targets")(y, smoothing=self.label_smoothing) if self.label_smoothing else y

    def check_targets(self, y: Any, xp: Any, name: str) -> None:
        sums = y.sum(axis=1, dtype="float64")
        if bool((y < 0).any()) or bool((abs(sums - 1) > 1e-3).any()):
            raise ValueError(
                f"{name} must have rows of probabilities that add up to 1, such as one-hot rows; "
                "for integer labels use sparse_categorical_crossentropy"
            )


class SparseCategoricalCrossentropy(_SoftmaxCrossEntropy):
    """Categorical cross-entropy of labels, ℓ = −log a_y for integers y = 0 … n_out − 1. (E3)

    With label smoothing it is the loss of `CategoricalCrossentropy` for the one-hot rows of the labels.

    Parameters
    ----------
    from_logits : bool or None
        None decides by the last layer: softmax means probabilities, no activation means logits.
    label_smoothing : float
        s in [0, 1). The target of class k is s/n_out, plus 1 − s for k = y, also in `Sequential.evaluate`; metrics
        use y.
    """

    names = ("sparse_categorical_crossentropy",)
    targets = "class_index"

    @property
    def logits_kernel(self) -> str:  # type: ignore[override]
        """The kernel for z or logits: that of smoothed rows with label smoothing."""
        return "softmax_crossentropy_dense" if self.label_smoothing else "softmax_crossentropy"

    @property
    def probabilities_kernel(self) -> str:  # type: ignore[override]
        """The kernel for probabilities: that of smoothed rows with label smoothing."""
        return "categorical_crossentropy" if self.label_smoothing else "sparse_categorical_crossentropy"

    def _targets(self, a: Array, y: Array) -> Array:
        return kernel("smooth_labels")(a, y, smoothing=self.label_smoothing) if self.label_smoothing else y


class FunctionLoss(Loss):
    """A loss that is a Python function. (E3)

    It runs as Python code between the kernels, and `Sequential.summary` reports it.

    Parameters
    ----------
    function : callable
        ``function(y, a)`` returns (ℓ, g): ℓ (n,), and g = ∂ℓ/∂a (n, n_out), not averaged. y and a are copies on the
        device. A step raises ValueError or TypeError if a result has another shape or is not made of real numbers.

    Examples
    --------
    >>> def quartic(y, a):
    ...     e = a - y
    ...     return (e**4).sum(axis=1), 4 * e**3
    >>> net.compile("adam", loss=quartic)
    """

    opaque = True

    def __init__(self, function: Callable[[Array, Array], tuple[Array, Array]]) -> None:
        self.function = function

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def evaluate(self, a: Array, y: Array, w: Array) -> tuple[Array, Array]:
        result = self.function(y.copy(), a.copy())
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"loss {self.name} must return (ℓ, g), got {type(result).__name__}")
        loss, g = result
        self._check_result("ℓ", loss, w.shape)
        self._check_result("g = ∂ℓ/∂a", g, a.shape)
        return w[:, None] * g, w * loss

    def _check_result(self, symbol: str, got: Any, shape: tuple[int, ...]) -> None:
        if getattr(got, "shape", None) != shape:
            raise ValueError(
                f"loss {self.name} must return {symbol} of shape {shape}, got {getattr(got, 'shape', got)!r}"
            )
        if got.dtype.kind not in "biuf":
            raise TypeError(f"loss {self.name} must return {symbol} of real numbers, got {got.dtype}")

    def __repr__(self) -> str:
        return f"FunctionLoss({self.name})"


def built_in() -> list[str]:
    """The names of the built-in losses."""
    return REGISTRY.built_in()


def get(loss: str | Loss | type[Loss] | Callable[..., Any]) -> Loss:
    """Return a loss from its name, an object, a class or a function.

    Parameters
    ----------
    loss : str, Loss, class or callable
        A function becomes a `FunctionLoss`.

    Returns
    -------
    Loss

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the built-in names.
    TypeError
        If the argument is anything else.
    """
    found = REGISTRY.get(loss)
    if found is not None:
        return found
    if callable(loss):
        return FunctionLoss(loss)  # type: ignore[arg-type]
    raise TypeError(
        f"loss must be a name, a gpunn.losses.Loss or a function (y, a) → (ℓ, g), got {type(loss).__name__}"
    )


def to_config(loss: Loss) -> dict[str, Any]:
    """Describe a loss as JSON: its name and its constants. "own" marks a function."""
    own = {"own": True} if isinstance(loss, FunctionLoss) else {}
    return {"name": loss.name, **own, **loss.get_config()}


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Loss:
    """Make the loss that `to_config` described. `custom` maps the names of user losses to functions or classes."""
    name = config["name"]
    if config.get("own") and not (custom or {}).get(name):
        raise ValueError(f"loss {name!r} is not built in: pass custom={{{name!r}: the function}}")
    found = REGISTRY.find(name, custom)
    if isinstance(found, type) and issubclass(found, Loss):
        return found(**{k: v for k, v in config.items() if k not in ("name", "own")})
    return get(found)


__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "FunctionLoss",
    "HalfSquaredError",
    "Huber",
    "LogCosh",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "built_in",
    "from_config",
    "get",
    "to_config",
]


def __dir__() -> list[str]:
    return __all__
