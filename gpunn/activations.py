"""Activations a = f(z) and their derivatives f′(z) (E2, E4, E5).

`Activation` is the base class; its docstring shows how to write an activation in Python. One that has kernels (see
`gpunn.kernels`) is a `KernelActivation` and runs as fast as the built-in ones.
"""

from __future__ import annotations

from typing import Any

from .kernels import ActivationKernels, activation_kernels
from .kernels import get as kernel
from .recording import Array, Recorder
from .registry import Named, Registry, check_config, name_of, names_of
from .validation import Checked, nonnegative


class Activation(Named):
    """The function f of a layer, a = f(z). (E2)

    A subclass defines `f` and `derivative` on arrays of the device, and `get_config` if its constructor has arguments.
    Such an activation runs as Python code between the kernels, and `Sequential.summary` reports it.

    Attributes
    ----------
    names : tuple of str
        The names that strings may use. Files store the first one, or the name of the class if there are none.
    backward_needs_z : bool
        True if f′ cannot be computed from a alone. The step then stores z too.
    rectifier : bool
        True if layers with this activation start from He's initial weights. (E10)
    elementwise : bool
        False if aᵢ depends on other elements of its row than zᵢ.
    supports_bf16 : bool
        True if its kernels accept matrices that are stored in bfloat16.

    Examples
    --------
    >>> class Cube(gpunn.activations.Activation):
    ...     def f(self, z):
    ...         return z**3
    ...
    ...     def derivative(self, z, a):
    ...         return 3 * z**2
    >>> layer = gpunn.Dense(10, activation=Cube())
    """

    backward_needs_z = True
    rectifier = False
    elementwise = True
    supports_bf16 = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        REGISTRY.check_free(names_of(cls) or (name_of(cls),))
        REGISTRY.register(cls, *names_of(cls))

    def f(self, z: Array) -> Array:
        """Compute a = f(z). (E2)

        Parameters
        ----------
        z : array, shape (n, n_out)

        Returns
        -------
        array
            A new array of z's shape and type.
        """
        raise NotImplementedError(f"{type(self).__name__} must define f(self, z)")

    def derivative(self, z: Array, a: Array) -> Array:
        """Compute f′(z). (E4)

        Parameters
        ----------
        z : array, shape (n, n_out)
        a : array, shape (n, n_out)
            f(z), which often makes the derivative cheaper.

        Returns
        -------
        array
            A new array of z's shape and type.
        """
        raise NotImplementedError(f"{type(self).__name__} must define derivative(self, z, a)")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    # The methods that layers call while they record a step. These defaults serve activations without kernels.

    def record(self, ops: Recorder, z: Array, a: Array) -> None:
        """Record a = f(z). (E2)"""

        def forward() -> None:
            a[...] = _checked(self.f(z), z, f"{type(self).__name__}.f")

        ops.call_python(forward, reason=f"activation {self.name} is a Python function")

    def record_with_bias(self, ops: Recorder, z: Array, b: Array, a: Array) -> None:
        """Record a = f(z + b). The buffer z contains a_prev W first, and z itself later if f′ needs it. (E1, E2)"""
        ops(kernel("bias_identity"), z, b, out=z)
        self.record(ops, z, a)

    def record_backward(self, ops: Recorder, z: Array, a: Array, grad_a: Array, delta: Array) -> None:
        """Record δ = f′(z) ⊙ ∂C/∂a. (E4, E5)"""

        def backward() -> None:
            delta[...] = _checked(self.derivative(z, a), z, f"{type(self).__name__}.derivative") * grad_a

        ops.call_python(backward, reason=f"activation {self.name} is a Python function")

    def record_backward_and_sum(
        self, ops: Recorder, z: Array, a: Array, grad_a: Array, delta: Array, db: Array
    ) -> bool:
        """Record δ = f′(z) ⊙ ∂C/∂a and ∂C/∂b = Σ δ (E7) in one pass. Returns False if no kernel can do both."""
        return False


# defined here because subclasses register themselves
REGISTRY: Registry[Activation] = Registry("activation", Activation, __name__)


def _checked(result: Array, like: Array, function: str) -> Array:
    """Check that a user's function returned an array of the right shape."""
    if getattr(result, "shape", None) != like.shape:
        got = getattr(result, "shape", result)
        raise ValueError(f"{function} must return an array of shape {like.shape}, got {got!r}")
    return result


class KernelActivation(Activation):
    """An activation with kernels. They compute f(z), f(z + b) and f′(z) ⊙ ∂C/∂a in one pass each.

    A subclass sets `kernels`. One that overrides `f` or `derivative` instead runs as Python code, since the kernels do
    not know its function.
    """

    kernels: ActivationKernels

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = vars(cls)
        if "kernels" in own:
            cls.backward_needs_z, cls.supports_bf16 = cls.kernels.stored == "z", True
        elif {"f", "derivative"} & own.keys():
            cls.backward_needs_z = True
            for hook in ("record", "record_with_bias", "record_backward"):
                setattr(cls, hook, vars(Activation)[hook])
        if "kernels" not in own and any(name in ("f", "derivative") or "record" in name for name in own):
            cls.supports_bf16 = False
        if own.get("record_backward") is not None and "record_backward_and_sum" not in own:
            # the kernel that adds up δ computes the derivative of `kernels`, not this one
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
    """Rectified linear unit, f(z) = max(0, z). f′ = 1 for z > 0, else 0, also at z = 0. (E2)"""

    names = ("relu",)
    rectifier = True
    kernels = activation_kernels("relu")


class LeakyReLU(KernelActivation):
    """Leaky rectifier, f(z) = z for z > 0, else αz. (E2)

    Parameters
    ----------
    alpha : float
        α ≥ 0, the derivative for z < 0.
    """

    names = ("leaky_relu",)
    rectifier = True
    kernels = activation_kernels("leaky_relu")
    alpha = Checked(nonnegative)

    def __init__(self, alpha: float = 0.01) -> None:
        self.alpha = alpha

    def get_config(self) -> dict[str, Any]:
        return {"alpha": self.alpha}


class ELU(KernelActivation):
    """Exponential linear unit, f(z) = z for z > 0, else α(eᶻ − 1). (E2)

    Parameters
    ----------
    alpha : float
        α ≥ 0; f(z) approaches −α for z → −∞.
    """

    names = ("elu",)
    rectifier = True
    kernels = activation_kernels("elu")
    alpha = Checked(nonnegative)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def get_config(self) -> dict[str, Any]:
        return {"alpha": self.alpha}


class GELU(KernelActivation):
    """Gaussian error linear unit in its tanh form, f(z) = ½z(1 + tanh(√(2/π)(z + 0.044715 z³))) ≈ zΦ(z). (E2)"""

    names = ("gelu",)
    rectifier = True
    kernels = activation_kernels("gelu")


class SiLU(KernelActivation):
    """Sigmoid linear unit, f(z) = zσ(z), also called swish. (E2)"""

    names = ("silu", "swish")
    rectifier = True
    kernels = activation_kernels("silu")


class Softplus(KernelActivation):
    """Softplus, f(z) = log(1 + eᶻ). (E2)"""

    names = ("softplus",)
    rectifier = True
    kernels = activation_kernels("softplus")


class Exponential(KernelActivation):
    """Exponential, f(z) = eᶻ: positive outputs, for counts and rates. (E2)"""

    names = ("exponential", "exp")
    kernels = activation_kernels("exp")


class Sigmoid(KernelActivation):
    """Sigmoid, f(z) = 1/(1 + e⁻ᶻ); scikit-learn calls it logistic. (E2)"""

    names = ("sigmoid", "logistic")
    kernels = activation_kernels("sigmoid")


class Tanh(KernelActivation):
    """Hyperbolic tangent, f(z) = tanh z. (E2)"""

    names = ("tanh",)
    kernels = activation_kernels("tanh")


class Identity(KernelActivation):
    """Identity, f(z) = z; Keras calls it linear. (E2)"""

    names = ("identity", "linear")
    kernels = activation_kernels("identity")

    def record(self, ops: Recorder, z: Array, a: Array) -> None:
        if a is not z:
            super().record(ops, z, a)

    def record_backward(self, ops: Recorder, z: Array, a: Array, grad_a: Array, delta: Array) -> None:
        if delta is not grad_a:
            super().record_backward(ops, z, a, grad_a, delta)


class Softmax(Activation):
    """Softmax, aₖ = e^zₖ / Σⱼ e^zⱼ in each row. The backward pass multiplies by the transposed Jacobian. (E2, E4)"""

    names = ("softmax",)
    backward_needs_z = False
    elementwise = False

    def f(self, z: Array) -> Array:
        return kernel("softmax")(z)

    def derivative(self, z: Array, a: Array) -> Array:
        raise TypeError("softmax has no elementwise derivative: its derivative is one matrix per row (E4)")

    def record(self, ops: Recorder, z: Array, a: Array) -> None:
        ops(kernel("softmax"), z, out=a)

    def record_backward(self, ops: Recorder, z: Array, a: Array, grad_a: Array, delta: Array) -> None:
        """Record δ = a ⊙ (g − Σₖ aₖgₖ), g = ∂C/∂a. (E4)"""
        ops(kernel("softmax_backward"), a, grad_a, out=delta)


def get(activation: str | Activation | type[Activation] | None) -> Activation:
    """Return an activation from its name, an object, a class, or None for the identity.

    Parameters
    ----------
    activation : str, Activation, class or None

    Returns
    -------
    Activation

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the built-in names.
    TypeError
        If the argument is anything else.
    """
    if activation is None:
        return Identity()
    found = REGISTRY.get(activation)
    if found is None:
        raise TypeError(
            f"activation must be a name or a gpunn.activations.Activation, got {type(activation).__name__}; "
            "to use a function, subclass Activation with f(z) and derivative(z, a)"
        )
    return found


def to_config(activation: Activation) -> dict[str, Any]:
    """Describe an activation as JSON: its name and its constants."""
    return {"name": activation.name, **check_config(activation, activation.get_config())}


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Activation:
    """Make the activation that `to_config` described. `custom` maps the names of user classes to them."""
    return REGISTRY.from_config(config, custom)


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
