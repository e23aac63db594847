"""Losses ℓ(y, a) of a row and their gradients (E3), and where cross-entropy meets softmax or sigmoid (E4).

Every loss is the weighted mean over rows, C = Σ wᵢℓᵢ / Σ wᵢ. Half squared error and the cross-entropies sum over the
outputs within a row, as the text does; the others average over them, as Keras and PyTorch do.

A loss of one's own is a function (y, a) → (ℓ, g) on arrays of the device, ℓ (n,) and g = ∂ℓ/∂a (n, n_out), not
averaged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

from . import activations
from .activations import Activation
from .kernels import get as kernel
from .recording import Array, Recorder
from .validation import Checked, Named, boolean, enter, named, optional, positive

_NAMES: dict[str, type[Loss]] = {}


class Loss(Named):
    """ℓ(y, a). `targets` is "dense", rows as wide as the outputs, or "class_index", one integer a row."""

    targets: ClassVar[str] = "dense"
    fused_with_activation = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        enter("a loss", cls, _NAMES, __name__)

    def for_activation(self, activation: Activation) -> Loss:
        """This loss behind a last layer with that activation; ValueError where the two do not fit."""
        return self

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, grad_a: Array, row_losses: Array) -> None:
        """Record row_losses = wℓ (n,) and grad_a = ∂(Σ wℓ)/∂a (n, n_out), w (n,) summing to one. (E3)"""
        raise NotImplementedError

    def record_fused(
        self, ops: Recorder, z: Array, y: Array, w: Array, a: Array, delta: Array, row_losses: Array
    ) -> None:
        """Record a, δ = ∂C/∂z and row_losses = wℓ from z, where `fused_with_activation`. (E4)"""
        raise NotImplementedError

    def check_targets(self, y: Any, xp: Any, name: str) -> None:
        """ValueError where targets of the right shape lie outside what the loss is defined for."""

    def plan_key(self) -> Any:
        """The values that a plan records from the loss's attributes. A plan is recorded again if they change."""
        return repr(self.get_config())


class _RowLoss(Loss):
    """A loss with a kernel of its name that gives value and gradient in one pass."""

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, grad_a: Array, row_losses: Array) -> None:
        ops(kernel(self.names[0]), a, y, w, out=(grad_a, row_losses), **self._scalars())

    def _scalars(self) -> dict[str, float]:
        return {}


class HalfSquaredError(_RowLoss):
    """ℓ = ½‖y − a‖², summed over the outputs: the text's regression loss. (E3)"""

    names = ("half_squared_error",)


class MeanSquaredError(_RowLoss):
    """ℓ = mean over the outputs of (y − a)². (E3)"""

    names = ("mean_squared_error", "mse")


class MeanAbsoluteError(_RowLoss):
    """ℓ = mean over the outputs of |y − a|; its derivative is 0 where y = a. (E3)"""

    names = ("mean_absolute_error", "mae")


class Huber(_RowLoss):
    """ℓ = mean of ½e² for |e| ≤ κ and κ(|e| − ½κ) beyond, e = a − y. (E3)

    κ is the argument `delta`, as Keras and PyTorch call it, 1 unless given; it is no ∂C/∂z.
    """

    names = ("huber",)
    delta = Checked(positive)

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = delta

    def _scalars(self) -> dict[str, float]:
        return {"threshold": self.delta}

    def get_config(self) -> dict[str, Any]:
        return {"delta": self.delta}


class Poisson(_RowLoss):
    """ℓ = mean of a − y log a, for counts y ≥ 0 and outputs a > 0 (softplus, say). (E3)"""

    names = ("poisson",)

    def check_targets(self, y: Any, xp: Any, name: str) -> None:
        if bool((y < 0).any()):
            raise ValueError(f"{name} holds negative values; the poisson loss is for counts, y ≥ 0")


class LogCosh(_RowLoss):
    """ℓ = mean of log cosh(a − y). (E3)"""

    names = ("log_cosh", "logcosh")


def _from_logits(name: str, value: Any) -> bool | None:
    """None, True or False."""
    try:
        return optional(boolean)(name, value)
    except ValueError:
        raise ValueError(f"{name} must be None, True or False, got {value!r}") from None


class _CrossEntropy(Loss):
    """A cross-entropy looks at the last layer: probabilities are merged with it, logits are taken as they are.

    from_logits=None decides by the activation: `paired_activation` means probabilities, identity means logits, anything
    else is refused. True takes whatever the last layer gives as logits, False as probabilities.
    """

    paired_activation: ClassVar[str]
    logits_kernel: ClassVar[str]
    probabilities_kernel: ClassVar[str]
    from_logits = Checked(_from_logits)

    def __init__(self, from_logits: bool | None = None) -> None:
        self.from_logits = from_logits
        self._form = ""

    @property
    def fused_with_activation(self) -> bool:  # type: ignore[override]
        return self._form == "fused"

    @property
    def takes_logits(self) -> bool:
        """Whether the last layer's outputs are logits; known once resolved."""
        return self._form == "logits"

    def for_activation(self, activation: Activation) -> Loss:
        built_in = type(activation).__module__ == activations.__name__
        found = copy.copy(self)
        if activation.name == self.paired_activation:
            if self.from_logits:
                raise ValueError(
                    f"from_logits=True, but the last layer's {self.paired_activation} gives probabilities; "
                    "leave from_logits out, or end with activation=None"
                )
            found._form = "fused"
        elif self.from_logits is True or (self.from_logits is None and activation.name == "identity"):
            found._form = "logits"
        elif self.from_logits is False and (not built_in or activation.name in ("sigmoid", "softmax")):
            found._form = "probabilities"
        else:
            raise ValueError(
                f"loss {self.name!r} needs {self.paired_activation} (probabilities) or no activation (logits) in the "
                f"last layer, got {activation.name}; "
                f"write Dense(…, activation={self.paired_activation!r}), or say what it gives with from_logits="
            )
        return found

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, grad_a: Array, row_losses: Array) -> None:
        if self._form == "logits":
            # a are the logits, so ∂C/∂a is what δ is behind the merged activation
            probabilities = ops.new(a.shape, a.dtype)
            ops(kernel(self.logits_kernel), a, y, w, out=(probabilities, grad_a, row_losses))
        else:
            ops(kernel(self.probabilities_kernel), a, y, w, out=(grad_a, row_losses))

    def record_fused(
        self, ops: Recorder, z: Array, y: Array, w: Array, a: Array, delta: Array, row_losses: Array
    ) -> None:
        ops(kernel(self.logits_kernel), z, y, w, out=(a, delta, row_losses))

    def get_config(self) -> dict[str, Any]:
        return {"from_logits": self.from_logits}


class BinaryCrossentropy(_CrossEntropy):
    """ℓ = −Σ y log a + (1 − y) log(1 − a), summed over the outputs, 0 ≤ y ≤ 1. (E3)"""

    names = ("binary_crossentropy",)
    paired_activation = "sigmoid"
    logits_kernel = "sigmoid_crossentropy"
    probabilities_kernel = "binary_crossentropy"

    def check_targets(self, y: Any, xp: Any, name: str) -> None:
        if bool(((y < 0) | (y > 1)).any()):
            raise ValueError(
                f"{name} holds values outside [0, 1]; binary_crossentropy is for probabilities or 0/1 labels"
            )


class CategoricalCrossentropy(_CrossEntropy):
    """ℓ = −Σ yₖ log aₖ for rows y of probabilities (one-hot rows, say). (E3)"""

    names = ("categorical_crossentropy",)
    paired_activation = "softmax"
    logits_kernel = "softmax_crossentropy_dense"
    probabilities_kernel = "categorical_crossentropy"

    def check_targets(self, y: Any, xp: Any, name: str) -> None:
        sums = y.sum(axis=1, dtype="float64")
        if bool((y < 0).any()) or bool((abs(sums - 1) > 1e-3).any()):
            raise ValueError(
                f"{name} must hold rows of probabilities that add up to 1 (one-hot rows, say); "
                "for integer labels use sparse_categorical_crossentropy"
            )


class SparseCategoricalCrossentropy(_CrossEntropy):
    """ℓ = −log a_y for integer labels y = 0 … n_out − 1. (E3)"""

    names = ("sparse_categorical_crossentropy",)
    targets = "class_index"
    paired_activation = "softmax"
    logits_kernel = "softmax_crossentropy"
    probabilities_kernel = "sparse_categorical_crossentropy"


class FunctionLoss(Loss):
    """A user's own loss: function(y, a) → (ℓ, g), ℓ (n,) and g = ∂ℓ/∂a (n, n_out), on arrays of the device. (E3)

    y and a are copies, the function's own. ValueError or TypeError at the step where it returns other shapes or no
    real numbers. It runs eagerly, and `summary` says so.
    """

    def __init__(self, function: Callable[[Array, Array], tuple[Array, Array]]) -> None:
        self.function = function

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def record(self, ops: Recorder, a: Array, y: Array, w: Array, grad_a: Array, row_losses: Array) -> None:
        def evaluate() -> None:
            result = self.function(y.copy(), a.copy())
            if not isinstance(result, tuple) or len(result) != 2:
                raise TypeError(f"loss {self.name} must return (ℓ, g), got {type(result).__name__}")
            loss, g = result
            for what, got, wanted in (("ℓ", loss, row_losses.shape), ("g = ∂ℓ/∂a", g, a.shape)):
                if getattr(got, "shape", None) != wanted:
                    raise ValueError(
                        f"loss {self.name} must return {what} of shape {wanted}, got {getattr(got, 'shape', got)!r}"
                    )
                if got.dtype.kind not in "biuf":
                    raise TypeError(f"loss {self.name} must return {what} of real numbers, got {got.dtype}")
            grad_a[...] = w[:, None] * g
            row_losses[...] = w * loss

        ops.call_python(evaluate, reason=f"loss {self.name} is a Python function")

    def __repr__(self) -> str:
        return f"FunctionLoss({self.name})"


def built_in() -> list[str]:
    """The names of gpunn's own losses."""
    return sorted(name for name, cls in _NAMES.items() if cls.__module__ == __name__)


def get(loss: str | Loss | type[Loss] | Callable[..., Any]) -> Loss:
    """The loss of a name, an object, a class or a user's function. ValueError lists the names there are."""
    found = named("loss", loss, Loss, _NAMES, built_in())
    if found is not None:
        return found
    if callable(loss):
        return FunctionLoss(loss)  # type: ignore[arg-type]
    raise TypeError(
        f"loss must be a name, a gpunn.losses.Loss or a function (y, a) → (ℓ, g), got {type(loss).__name__}"
    )


def to_config(loss: Loss) -> dict[str, Any]:
    """The loss as JSON: its name and its constants; a user's function is marked, whatever its name."""
    own = {"own": True} if isinstance(loss, FunctionLoss) else {}
    return {"name": loss.name, **own, **loss.get_config()}


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Loss:
    """The inverse of `to_config`; `custom` maps the names of the user's own losses to their functions."""
    arguments = {k: v for k, v in config.items() if k not in ("name", "own")}
    name = config["name"]
    found = (custom or {}).get(name) or (None if config.get("own") else _NAMES.get(name))
    if found is None:
        raise ValueError(f"loss {name!r} is not built in: pass custom={{{name!r}: the function}}")
    return found(**arguments) if isinstance(found, type) and issubclass(found, Loss) else get(found)


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
