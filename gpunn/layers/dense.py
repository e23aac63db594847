"""The fully connected layer."""

from __future__ import annotations

from typing import Any

from .. import activations, initializers
from ..activations import Activation
from ..kernels import get as kernel
from ..registry import call_text
from ..validation import Checked, boolean, nonnegative, optional, positive, positive_integer
from .base import Layer, Parameter, Quantities


class Dense(Layer):
    """The fully connected layer: z = a_prev W + b, a = f(z). (E1, E2)

    a_prev is (n, n_in), W (n_in, units), b (units,), z and a (n, units).

    Parameters
    ----------
    units : int
        The number ≥ 1 of outputs.
    activation : str, Activation or None
        f; None is the identity.
    use_bias : bool
        False leaves out the intercepts b.
    kernel_initializer : str, Initializer, callable or None
        The initial values of W. None is N(0, 2/n_in) if f is a rectifier, else N(0, 1/n_in). (E10)
    bias_initializer : str, Initializer or callable
        The initial values of b.
    l2 : float
        λ ≥ 0 of the penalty ½λ Σ W². (E9)
    l1 : float
        λ ≥ 0 of the penalty λ Σ |W|.
    max_norm : float or None
        After an update, the weights into each neuron are scaled back to this Euclidean norm if theirs is larger.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid. The message names it.
    """

    units = Checked(positive_integer)
    activation = Checked(lambda _, value: activations.get(value))
    use_bias = Checked(boolean)
    kernel_initializer = Checked(lambda _, value: initializers.get(value))
    bias_initializer = Checked(lambda _, value: initializers.get(value))
    l2 = Checked(nonnegative)
    l1 = Checked(nonnegative)
    max_norm = Checked(optional(positive))

    def __init__(
        self,
        units: int,
        activation: str | Activation | None = None,
        *,
        use_bias: bool = True,
        kernel_initializer: Any = None,
        bias_initializer: Any = "zeros",
        l2: float = 0.0,
        l1: float = 0.0,
        max_norm: float | None = None,
    ) -> None:
        self.units = units
        self.activation = activation
        self.use_bias = use_bias
        self.kernel_initializer = self._default_initializer() if kernel_initializer is None else kernel_initializer
        self.bias_initializer = bias_initializer
        self.l2, self.l1 = l2, l1
        self.max_norm = max_norm

    def _default_initializer(self) -> str:
        return "he_normal" if self.activation.rectifier else "lecun_normal"

    def build(self, n_in: int) -> int:
        self.n_in, self.n_out = n_in, self.units
        return self.units

    def parameters(self) -> list[Parameter]:
        assert self.n_in is not None
        shape = (self.n_in, self.units)
        weights = Parameter(
            "W", shape, self.kernel_initializer, penalized=True, l2=self.l2, l1=self.l1, max_norm=self.max_norm
        )
        return [weights, Parameter("b", (self.units,), self.bias_initializer)] if self.use_bias else [weights]

    def forward(self, t: Quantities) -> None:
        t.z = t.a_prev @ t.W  # E1
        if self.use_bias:
            t.z = t.z + t.b  # mutate: E1 dense
        t.a = self.activation.forward(t.z)  # E2

    def backward(self, t: Quantities) -> None:
        t.delta = self.activation.backward(t.z, t.a, t.grad_a)  # E4, E5
        t.dW = t.a_prev.T @ t.delta  # mutate: E6 dense
        if self.use_bias:
            t.db = t.delta.sum(axis=0)  # mutate: E7 dense
        t.grad_prev = t.delta @ t.W.T  # mutate: E5 dense

    def after_update(self, t: Quantities) -> None:
        """Scale the columns of W that are longer than `max_norm`."""
        if self.max_norm is not None and self.trainable:
            squares = kernel("column_dot")(t.W, t.W)
            t.W = kernel("max_norm")(squares, t.state, t.W, limit=self.max_norm)

    def step_key(self) -> Any:
        if type(self).get_config is not Dense.get_config:
            return super().step_key()
        # a recorded step does not depend on the initializers; the network knows the penalties
        f = self.activation
        return self.trainable, self.units, self.use_bias, self.max_norm, type(f), repr(f.get_config())

    def get_config(self) -> dict[str, Any]:
        return {
            "units": self.units,
            "activation": activations.to_config(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.to_config(self.kernel_initializer),
            "bias_initializer": initializers.to_config(self.bias_initializer),
            "l2": self.l2,
            "l1": self.l1,
            "max_norm": self.max_norm,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom: dict[str, Any]) -> Dense:
        return cls(
            **config
            | {
                "activation": activations.from_config(config["activation"], custom),
                "kernel_initializer": initializers.from_config(config["kernel_initializer"], custom),
                "bias_initializer": initializers.from_config(config["bias_initializer"], custom),
            }
        )

    def __repr__(self) -> str:
        shown = {k: getattr(self, k, v) for k, v in self.get_config().items()}
        if self.activation.name == "identity":
            shown["activation"] = None
        if self.kernel_initializer.as_argument() == repr(self._default_initializer()):
            shown["kernel_initializer"] = None
        return call_text(type(self), shown)
