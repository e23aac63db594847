"""The fully connected layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import activations, initializers
from ..activations import Activation
from ..kernels import get as kernel
from ..recording import Array, Recorder
from ..validation import Checked, boolean, nonnegative, optional, positive, positive_integer
from .base import Buffers, Layer, Parameter


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
        default = "he_normal" if self.activation.rectifier else "lecun_normal"
        self.kernel_initializer = default if kernel_initializer is None else kernel_initializer
        self.bias_initializer = bias_initializer
        self.l2, self.l1 = l2, l1
        self.max_norm = max_norm

    @property
    def can_fuse_backward(self) -> bool:
        """False for subclasses that override a pass: they cannot take part in fusion, nor in bfloat16 storage."""
        passes = ("forward", "forward_to_z", "backward", "after_update")
        return all(getattr(type(self), name) is getattr(Dense, name) for name in passes)

    @property
    def supports_bf16(self) -> bool:
        """True if every method that writes the buffers is known to support bfloat16."""
        return self.can_fuse_backward and type(self).allocate is Dense.allocate and self.activation.supports_bf16

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

    def allocate(self, t: Buffers, new: Callable[..., Array], n: int, trace: bool) -> None:
        t.a = new((n, self.units), t.storage_dtype)
        # if f′ is computed from a, one buffer serves for the product, z and a
        t.z = new((n, self.units), t.storage_dtype) if trace or self.activation.backward_needs_z else t.a

    def forward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record z = a_prev W + b (E1) and a = f(z) (E2)."""
        if not self.use_bias or ops.trace:
            self.forward_to_z(ops, t, training)
            self.activation.record(ops, t.z, t.a)
            return
        f = self.activation.name
        t.f, t.wants_db = f, self.trainable
        # `done` is "a" or "z" if one launch computed the product and that, and "" if the device has no such launch
        done, t.aux = ops.forward_epilogue(t.a_prev, t.W, t.b, t.z, t.a, f, nan_checked=training, save_aux=t.save_aux)
        if done == "z":
            self.activation.record(ops, t.z, t.a)
        elif not done:
            ops.matmul(t.a_prev, t.W, out=t.z)
            self.activation.record_with_bias(ops, t.z, t.b, t.a)

    def forward_to_z(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record z = a_prev W + b. (E1)"""
        if self.use_bias and ops.forward_epilogue(t.a_prev, t.W, t.b, t.z, t.z, "identity")[0]:
            return
        ops.matmul(t.a_prev, t.W, out=t.z)
        if self.use_bias:
            ops(kernel("bias_identity"), t.z, t.b, out=t.z)

    def backward(self, ops: Recorder, t: Buffers, training: bool) -> None:
        """Record δ = f′(z) ⊙ ∂C/∂a (E4, E5), ∂C/∂W = a_prevᵀ δ (E6), ∂C/∂b = Σ δ (E7), ∂C/∂a_prev = δ Wᵀ (E5)."""
        summed = False
        if not t.delta_is_known:
            given = (ops, t.z, t.a, t.grad_a, t.delta)
            summed = self.trainable and self.use_bias and self.activation.record_backward_and_sum(*given, t.db)
            if not summed:
                self.activation.record_backward(*given)
        if self.trainable:
            wants_db = self.use_bias and not (summed or t.db_is_known)
            if not (wants_db and ops.wgrad_epilogue(t.a_prev.T, t.delta, out=t.dW, sums=t.db)):  # mutate: E6 cublaslt
                ops.matmul(t.a_prev.T, t.delta, out=t.dW)  # mutate: E6 dense
                if wants_db:
                    ops(kernel("column_sum"), t.delta, out=t.db)
        if t.grad_prev is not None and not self._fuse_with_preceding_layer(ops, t):
            ops.matmul(t.delta, t.W.T, out=t.grad_prev)  # mutate: E5 dense

    def _fuse_with_preceding_layer(self, ops: Recorder, t: Buffers) -> bool:
        """Record δˡ⁻¹ = f′(zˡ⁻¹) ⊙ (δ Wᵀ) (E5) and Σ δˡ⁻¹ (E7) as one matrix product with an epilogue.

        Returns False if the preceding layer did not save the operand of f′, or if the backend has no such epilogue.
        """
        below = t.below
        if below is None or below.aux is None:
            return False
        given = (t.delta, t.W.T, t.grad_prev, below.f, below.aux)  # mutate: E5 cublaslt
        below.db_is_known = below.wants_db and ops.dgrad_epilogue(*given, below.db)  # mutate: E7 cublaslt
        below.delta_is_known = below.db_is_known or ops.dgrad_epilogue(*given)
        return bool(below.delta_is_known)

    def after_update(self, ops: Recorder, t: Buffers) -> None:
        """Record the scaling of columns of W that are longer than `max_norm`."""
        if self.max_norm is not None and self.trainable:
            squares = ops.new((self.units,), t.W.dtype)
            ops(kernel("column_dot"), t.W, t.W, out=squares)
            ops(kernel("max_norm"), squares, t.state, out=t.W, limit=self.max_norm)

    def plan_key(self) -> Any:
        if type(self).get_config is not Dense.get_config:
            return super().plan_key()
        # a recorded step does not depend on the initializers
        f = self.activation
        return self.trainable, self.units, self.use_bias, self.l2, self.l1, self.max_norm, type(f), f.get_config()

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
        named = "" if self.activation.name == "identity" else f", activation={self.activation.name!r}"
        extra = "".join(f", {k}={v!r}" for k in ("l2", "l1", "max_norm") if (v := getattr(self, k)))
        return f"Dense({self.units}{named}{extra})"
