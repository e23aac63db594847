"""Activations a = f(z) and their derivatives (E2, E4, E5).

An activation of one's own is a subclass of `Activation` with two methods on plain arrays of the device:
``f(self, z)`` returns a = f(z), and ``derivative(self, z, a)`` returns f′(z), both of z's shape and type. It runs
eagerly; one with a kernel file (see `gpunn.kernels`) runs as fast as the built-in ones.
"""

from __future__ import annotations

from typing import Any

from .kernels import ActivationKernels, activation_kernels
from .kernels import get as kernel
from .recording import Array, Recorder
from .validation import Checked, Named, complete, enter, named, nonnegative

_NAMES: dict[str, type[Activation]] = {}


class Activation(Named):
    """The function f of a layer. `names` are what strings may call it, the first its own.

    `backward_needs_z` says that f′ cannot be had from a alone, so that a plan keeps z too. `rectifier` chooses
    the default initial weights (He for rectifiers, E10). `elementwise` is False where aᵢ depends on other zⱼ of a row.
    """

    backward_needs_z = True
    rectifier = False
    elementwise = True
    supports_bf16 = False  # whether its kernels take matrices held in less than float32

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        enter("an activation", cls, _NAMES, __name__)

    def f(self, z: Array) -> Array:
        """a = f(z), a new array of z's shape and type. (E2)"""
        raise NotImplementedError(f"{type(self).__name__} must define f(self, z)")

    def derivative(self, z: Array, a: Array) -> Array:
        """f′(z), a new array of z's shape and type; `a` = f(z) may help. (E4)"""
        raise NotImplementedError(f"{type(self).__name__} must define derivative(self, z, a)")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    # what a layer records; the defaults serve activations without kernels

    def record(self, ops: Recorder, z: Array, a: Array) -> None:
        """Record a = f(z). (E2)"""

        def forward() -> None:
            a[...] = _checked(self.f(z), z, f"{type(self).__name__}.f")

        ops.call_python(forward, reason=f"activation {self.name} is a Python function")

    def record_with_bias(self, ops: Recorder, z: Array, b: Array, a: Array) -> None:
        """Record a = f(z + b), z holds a_prev W and then, if `backward_needs_z`, z itself. (E1, E2)"""
        ops(kernel("bias_identity"), z, b, out=z)
        self.record(ops, z, a)

    def record_backward(self, ops: Recorder, z: Array, a: Array, grad_a: Array, delta: Array) -> None:
        """Record δ = f′(z) ⊙ ∂C/∂a. (E4, E5)"""

        def backward() -> None:
            derivative = _checked(self.derivative(z, a), z, f"{type(self).__name__}.derivative")
            delta[...] = derivative * grad_a

        ops.call_python(backward, reason=f"activation {self.name} is a Python function")

    def record_backward_and_sum(
        self, ops: Recorder, z: Array, a: Array, grad_a: Array, delta: Array, db: Array
    ) -> bool:
        """Record δ = f′(z) ⊙ ∂C/∂a and ∂C/∂b = Σ δ (E7) where one pass does both; whether it was recorded."""
        return False


def _checked(result: Array, like: Array, what: str) -> Array:
    if getattr(result, "shape", None) != like.shape:
        raise ValueError(f"{what} must return an array of shape {like.shape}, got {getattr(result, 'shape', result)!r}")
    return result


class KernelActivation(Activation):
    """An activation with kernels: value, derivative times upstream, and bias + value in one pass."""

    kernels: ActivationKernels

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kernels" in vars(cls):
            cls.backward_needs_z, cls.supports_bf16 = cls.kernels.stored == "z", True
        elif {"f", "derivative"} & vars(cls).keys():
            # the kernels do not know a subclass's own f
            cls.backward_needs_z = True
            for hook in ("record", "record_with_bias", "record_backward"):
                setattr(cls, hook, vars(Activation)[hook])
        if "kernels" not in vars(cls) and any(
            name == "f" or name == "derivative" or "record" in name for name in vars(cls)
        ):
            cls.supports_bf16 = False
        if vars(cls).get("record_backward") is not None and "record_backward_and_sum" not in vars(cls):
            # a derivative of its own is not the kernels'
            cls.record_backward_and_sum = Activation.record_backward_and_sum  # type: ignore[method-assign]

    def f(self, z: Array) -> Array:
        return self.kernels.value(z, **self.get_config())

    def derivative(self, z: Array, a: Array) -> Array:
        _, d = self.kernels.with_derivative(z, **self.get_config())
        return d

    def record(self, ops: Recorder, z: Array, a: Array) -> None:
        ops(self.kernels.value, z, out=a, **self.get_config())

    def record_with_bias(self, ops: Recorder, z: Array, b: Array, a: Array) -> None:
        out = (z, a) if self.backward_needs_z else a
        ops(self.kernels.with_bias, z, b, out=out, **self.get_config())

    def record_backward(self, ops: Recorder, z: Array, a: Array, grad_a: Array, delta: Array) -> None:
        stored = z if self.backward_needs_z else a
        ops(self.kernels.backward, stored, grad_a, out=delta, **self.get_config())

    def record_backward_and_sum(
        self, ops: Recorder, z: Array, a: Array, grad_a: Array, delta: Array, db: Array
    ) -> bool:
        stored = z if self.backward_needs_z else a
        return ops.fused_column_sum(self.kernels.backward, stored, grad_a, out=delta, sums=db, **self.get_config())


class ReLU(KernelActivation):
    """f(z) = max(0, z); f′ = 1 for z > 0, else 0, at z = 0 too. (E2)"""

    names = ("relu",)
    rectifier = True
    kernels = activation_kernels("relu")


class LeakyReLU(KernelActivation):
    """f(z) = z for z > 0, αz else. α = 0.01 unless given; ValueError where α < 0. (E2)"""

    names = ("leaky_relu",)
    rectifier = True
    kernels = activation_kernels("leaky_relu")
    alpha = Checked(nonnegative)

    def __init__(self, alpha: float = 0.01) -> None:
        self.alpha = alpha

    def get_config(self) -> dict[str, Any]:
        return {"alpha": self.alpha}


class ELU(KernelActivation):
    """f(z) = z for z > 0, α(eᶻ − 1) else. α = 1 unless given; ValueError where α < 0. (E2)"""

    names = ("elu",)
    rectifier = True
    kernels = activation_kernels("elu")
    alpha = Checked(nonnegative)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def get_config(self) -> dict[str, Any]:
        return {"alpha": self.alpha}


class GELU(KernelActivation):
    """The tanh form, f(z) = ½z(1 + tanh(√(2/π)(z + 0.044715 z³))): close to zΦ(z), not equal to it. (E2)"""

    names = ("gelu",)
    rectifier = True
    kernels = activation_kernels("gelu")


class SiLU(KernelActivation):
    """f(z) = zσ(z), also called swish. (E2)"""

    names = ("silu", "swish")
    rectifier = True
    kernels = activation_kernels("silu")


class Softplus(KernelActivation):
    """f(z) = log(1 + eᶻ). (E2)"""

    names = ("softplus",)
    rectifier = True
    kernels = activation_kernels("softplus")


class Exponential(KernelActivation):
    """f(z) = eᶻ: positive outputs, for counts and rates. (E2)"""

    names = ("exponential", "exp")
    kernels = activation_kernels("exp")


class Sigmoid(KernelActivation):
    """f(z) = 1/(1 + e⁻ᶻ); scikit-learn calls it logistic. (E2)"""

    names = ("sigmoid", "logistic")
    kernels = activation_kernels("sigmoid")


class Tanh(KernelActivation):
    """f(z) = tanh z. (E2)"""

    names = ("tanh",)
    kernels = activation_kernels("tanh")


class Identity(KernelActivation):
    """f(z) = z; Keras calls it linear. (E2)"""

    names = ("identity", "linear")
    kernels = activation_kernels("identity")

    def record(self, ops: Recorder, z: Array, a: Array) -> None:
        if a is not z:
            super().record(ops, z, a)

    def record_backward(self, ops: Recorder, z: Array, a: Array, grad_a: Array, delta: Array) -> None:
        if delta is not grad_a:
            super().record_backward(ops, z, a, grad_a, delta)


class Softmax(Activation):
    """aₖ = e^zₖ / Σⱼ e^zⱼ over the row: not elementwise, its backward pass is the transposed Jacobian. (E2, E4)"""

    names = ("softmax",)
    backward_needs_z = False
    elementwise = False

    def f(self, z: Array) -> Array:
        return kernel("softmax")(z)

    def derivative(self, z: Array, a: Array) -> Array:
        raise TypeError("softmax is not elementwise: its derivative is a matrix a row (E4), not a slope")

    def record(self, ops: Recorder, z: Array, a: Array) -> None:
        ops(kernel("softmax"), z, out=a)

    def record_backward(self, ops: Recorder, z: Array, a: Array, grad_a: Array, delta: Array) -> None:
        """Record δ = a ⊙ (g − Σₖ aₖgₖ), g = ∂C/∂a. (E4)"""
        ops(kernel("softmax_backward"), a, grad_a, out=delta)


def get(activation: str | Activation | type[Activation] | None) -> Activation:
    """The activation of a name, an object or a class; None is the identity. ValueError lists the names there are."""
    if activation is None:
        return Identity()
    found = named("activation", activation, Activation, _NAMES)
    if found is None:
        raise TypeError(
            f"activation must be a name or a gpunn.activations.Activation, got {type(activation).__name__}; "
            "to use a function of your own, subclass Activation with f(z) and derivative(z, a)"
        )
    return found


def to_config(activation: Activation) -> dict[str, Any]:
    """The activation as JSON: its name and its constants."""
    return {"name": activation.name, **complete(activation, activation.get_config())}


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Activation:
    """The inverse of `to_config`; `custom` maps the names of the user's own activations to their classes."""
    arguments = {k: v for k, v in config.items() if k != "name"}
    name = config["name"]
    found = (custom or {}).get(name) or _NAMES.get(name)
    if found is None:
        raise ValueError(f"activation {name!r} is not built in: pass custom={{{name!r}: its class}}")
    return found if isinstance(found, Activation) else found(**arguments)


__all__ = [
    "ELU",
    "GELU",
    "Activation",
    "Exponential",
    "Identity",
    "LeakyReLU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "from_config",
    "get",
    "to_config",
]
