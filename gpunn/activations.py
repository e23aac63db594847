"""Activations a = f(z) and their derivatives f′(z) (E2, E4, E5).

`Activation` is the base class; its docstring shows how to write an activation in Python. One that has kernels (see
`gpunn.kernels`) is a `KernelActivation` and runs as fast as the built-in ones.
"""

from __future__ import annotations

from typing import Any

from .kernels import ActivationKernels, activation_kernels
from .kernels import get as kernel
from .program import Array, named_call, python_call
from .registry import Named, Registry, Versioned, check_config, name_of, names_of
from .validation import Checked, nonnegative


class Activation(Named, Versioned):
    """The function f of a layer, a = f(z). (E2)

    A subclass defines `f` and `derivative` with operators and kernels, and `get_config` if its constructor has
    arguments. The same text runs on arrays, and on symbolic tensors that record the step's program. Tensors support
    ``@ + - * /`` with tensors, numbers and row vectors, ``.T``, ``.sum(axis=0)`` and kernels.

    A subclass with ``opaque = True`` may use all of NumPy: `f` and `derivative` get arrays of the device each time the
    step runs. They must not change them. No op is fused with them, and `Sequential.summary` reports them.

    A subclass whose f is no function of single elements defines `forward` and `backward` instead.

    A new value of an attribute that `get_config` returns takes effect at the next step. A saved network stores the name
    and `get_config`; ``gpunn.load(…, custom={name: class})`` restores it.

    Attributes
    ----------
    names : tuple of str
        The names that strings may use. Files store the first one, or the name of the class if there are none.
    opaque : bool
        True if `f` and `derivative` take arrays only.
    rectifier : bool
        True if layers with this activation start from He's initial weights. (E10)
    elementwise : bool
        False if aᵢ depends on other elements of its row than zᵢ.

    Examples
    --------
    >>> class Cube(gpunn.activations.Activation):
    ...     def f(self, z):
    ...         return z * z * z
    ...
    ...     def derivative(self, z, a):
    ...         return 3 * z * z
    >>> layer = gpunn.Dense(10, activation=Cube())

    and with NumPy's functions:

    >>> class Sine(gpunn.activations.Activation):
    ...     opaque = True
    ...
    ...     def f(self, z):
    ...         return np.sin(z)
    ...
    ...     def derivative(self, z, a):
    ...         return np.cos(z)
    """

    opaque = False
    rectifier = False
    elementwise = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        REGISTRY.check_free(names_of(cls) or (name_of(cls),))
        REGISTRY.register(cls, *names_of(cls))

    def f(self, z: Array) -> Array:
        """Compute a = f(z). (E2)

        Parameters
        ----------
        z : array or tensor, shape (n, n_out)

        Returns
        -------
        array or tensor
            a, of z's shape and dtype.
        """
        raise NotImplementedError(f"{type(self).__name__} must define f(self, z)")

    def derivative(self, z: Array, a: Array) -> Array:
        """Compute f′(z). (E4)

        Parameters
        ----------
        z : array or tensor, shape (n, n_out)
        a : array or tensor, shape (n, n_out)
            f(z), which often makes the derivative cheaper.

        Returns
        -------
        array or tensor
            f′(z), of z's shape and dtype.
        """
        raise NotImplementedError(f"{type(self).__name__} must define derivative(self, z, a)")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    def forward(self, z: Array) -> Array:
        """Return a = f(z). (E2)"""
        return python_call(self._value, (z,), (z,), self._reason) if self.opaque else self._value(z)

    def backward(self, z: Array, a: Array, grad_a: Array) -> Array:
        """Return δ = f′(z) ⊙ ∂C/∂a. (E4, E5)"""
        given = (z, a, grad_a)
        return python_call(self._delta, given, (grad_a,), self._reason) if self.opaque else self._delta(*given)

    @property
    def _reason(self) -> str:
        return f"activation {self.name} is Python code"

    def _value(self, z: Array) -> Array:
        return _checked(named_call(self, "f", z), z, f"{type(self).__name__}.f")

    def _delta(self, z: Array, a: Array, grad_a: Array) -> Array:
        found = named_call(self, "derivative", z, a)
        return _checked(found, z, f"{type(self).__name__}.derivative") * grad_a


# defined here because subclasses register themselves
REGISTRY: Registry[Activation] = Registry("activation", Activation, __name__)


def _checked(result: Array, like: Array, function: str) -> Array:
    """Return a function's result. ValueError if it has not the shape of `like`."""
    if getattr(result, "shape", None) != like.shape:
        got = getattr(result, "shape", result)
        raise ValueError(f"{function} must return an array of shape {like.shape}, got {got!r}")
    return result


class KernelActivation(Activation):
    """An activation with kernels, which compute f(z) and f′(z) ⊙ ∂C/∂a in one pass each.

    A subclass sets `kernels`. One that overrides `f` or `derivative` instead uses its own functions, since the kernels
    do not know them.
    """

    kernels: ActivationKernels
    uses_kernels = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kernels" in vars(cls):
            cls.uses_kernels = True
        elif {"f", "derivative"} & vars(cls).keys():
            cls.uses_kernels = False

    def f(self, z: Array) -> Array:
        return self.kernels.value(z, **self.get_config())

    def derivative(self, z: Array, a: Array) -> Array:
        _, d = self.kernels.with_derivative(z, **self.get_config())
        return d

    def forward(self, z: Array) -> Array:
        return self.kernels.value(z, **self.get_config()) if self.uses_kernels else super().forward(z)

    def backward(self, z: Array, a: Array, grad_a: Array) -> Array:
        if not self.uses_kernels:
            return super().backward(z, a, grad_a)
        stored = z if self.kernels.stored == "z" else a
        return self.kernels.backward(stored, grad_a, **self.get_config())


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


class SELU(KernelActivation):
    """Scaled exponential linear unit, f(z) = λz for z > 0, else λα(eᶻ − 1), with λ ≈ 1.0507 and α ≈ 1.6733. (E2)

    Outputs keep mean 0 and variance 1 from layer to layer if the inputs have them and the weights have variance 1/n_in.
    So it is no rectifier for the default initial weights. (E10)

    References
    ----------
    Klambauer, Unterthiner, Mayr and Hochreiter 2017.
    """

    names = ("selu",)
    kernels = activation_kernels("selu")


class Mish(KernelActivation):
    """Mish, f(z) = z tanh(log(1 + eᶻ)), a smooth form of ReLU that is negative for z < 0. (E2)

    References
    ----------
    Misra 2019.
    """

    names = ("mish",)
    rectifier = True
    kernels = activation_kernels("mish")


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

    def forward(self, z: Array) -> Array:
        return z if self.uses_kernels else super().forward(z)

    def backward(self, z: Array, a: Array, grad_a: Array) -> Array:
        return grad_a if self.uses_kernels else super().backward(z, a, grad_a)


class Softmax(Activation):
    """Softmax, aₖ = e^zₖ / Σⱼ e^zⱼ in each row. The backward pass multiplies by the transposed Jacobian. (E2, E4)"""

    names = ("softmax",)
    elementwise = False

    def f(self, z: Array) -> Array:
        return kernel("softmax")(z)

    def derivative(self, z: Array, a: Array) -> Array:
        raise TypeError("softmax has no elementwise derivative: its derivative is one matrix per row (E4)")

    def backward(self, z: Array, a: Array, grad_a: Array) -> Array:
        """Return δ = a ⊙ (g − Σₖ aₖgₖ), g = ∂C/∂a. (E4)"""
        return kernel("softmax_backward")(a, grad_a)


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
    "SELU",
    "Activation",
    "Exponential",
    "Identity",
    "LeakyReLU",
    "Mish",
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


def __dir__() -> list[str]:
    return __all__
