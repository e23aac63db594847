"""The code of layers, losses and optimizers, which may be a user's: checks of its results, and calls on arrays.

The methods of a class with ``opaque = True`` get arrays, also while a step is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..kernels.state import StateEntry
from ..layers import Layer, Quantities
from ..losses import Loss
from ..optimizers import Optimizer
from ..program import Array, ArrayFunction, TensorSpec, as_tuple, named_call, python_call


def forward_opaque(layer: Layer, t: Quantities, n: int) -> None:
    """Set t.a by the layer's forward pass on arrays. Values that it stores on its t survive to the backward pass."""
    inner = t.opaque = Quantities(index=t.index, training=t.training, rows=t.rows)
    names = ["a_prev", "state", *_variables(layer)]
    results = {"a": TensorSpec((n, layer.n_out or 0), t.a_prev.dtype)}

    def forward(*arrays: Array) -> tuple[Array, ...]:
        vars(inner).update(zip(names, arrays, strict=True))
        layer.forward(inner)
        return _collect(layer, inner, "forward", results)

    _call(layer, t, forward, [getattr(t, name) for name in names], results)


def backward_opaque(layer: Layer, t: Quantities) -> None:
    """Set t.grad_prev and the gradients of the parameters by the layer's backward pass on arrays."""
    inner, dtype = t.opaque, t.a_prev.dtype
    results = {"grad_prev": TensorSpec(t.a_prev.shape, dtype)}
    if layer.trainable:
        results |= {f"d{p.name}": TensorSpec(p.shape, dtype, batch=False) for p in layer.parameters()}

    def backward(grad_a: Array, *_: Array) -> tuple[Array, ...]:
        inner.grad_a = grad_a
        layer.backward(inner)
        return _collect(layer, inner, "backward", results)

    # the layer may have stored parts of its input, so the input's memory must last. t.a orders the two passes
    _call(layer, t, backward, [t.grad_a, t.a, t.a_prev], results)


def after_update_opaque(layer: Layer, t: Quantities) -> None:
    """Set the parameters and running statistics that the layer's after_update changes."""
    inner = t.opaque
    given = {name: getattr(t, name) for name in _variables(layer)}
    results = {name: TensorSpec(x.shape, x.dtype, batch=False, partial=False) for name, x in given.items()}

    def after_update(*arrays: Array) -> tuple[Array, ...]:
        vars(inner).update(zip(given, arrays[: len(given)], strict=True))
        layer.after_update(inner)
        return _collect(layer, inner, "after_update", results)

    # the last two are read because the layer may have stored parts of them
    _call(layer, t, after_update, [*given.values(), t.a_prev, t.grad_a], results)


def update_opaque(rule: Optimizer, t: Quantities) -> None:
    """Set θ and the slots by the optimizer's update on arrays, which also gets t.learning_rate and t.step."""
    written = ("theta", *rule.slots)
    names = (*written, "g")
    results = {name: TensorSpec(t.theta.shape, t.theta.dtype, batch=False) for name in written}

    def update(state: Array, *arrays: Array) -> tuple[Array, ...]:
        inner = Quantities(learning_rate=float(state[StateEntry.LR]), step=int(state[StateEntry.STEP]))
        inner.are_weights = t.are_weights
        vars(inner).update(zip(names, arrays, strict=True))
        rule.update(inner)
        return _collect(rule, inner, "update", results)

    _call(rule, t, update, [t.state, *(getattr(t, name) for name in names)], results)


def _variables(layer: Layer) -> list[str]:
    """The names of a layer's parameters and running statistics."""
    return [p.name for p in layer.parameters()] + [r.name for r in layer.running()]


def _call(
    owner: object, t: Quantities, method: ArrayFunction, inputs: list[Array], results: dict[str, TensorSpec]
) -> None:
    """Set the results of a method on arrays as attributes of t, by name."""
    reason = f"{type(owner).__name__} is Python code (opaque = True)"
    found = python_call(method, inputs, list(results.values()), reason)
    vars(t).update(zip(results, as_tuple(found), strict=True))


def _collect(owner: object, inner: Quantities, method: str, results: dict[str, TensorSpec]) -> tuple[Array, ...]:
    """The quantities that a method has set on its t, of the expected shapes."""
    return tuple(checked(owner, inner, name, method, spec.shape) for name, spec in results.items())


def checked(owner: object, t: Quantities, name: str, method: str, shape: Sequence[int]) -> Array:
    """A quantity that a method of a layer or an optimizer must have set, of this shape."""
    found = getattr(t, name, None)
    if found is None:
        raise AttributeError(f"{type(owner).__name__}.{method} must set t.{name}")
    check_shape(owner, method, f"set t.{name}", found, shape)
    return found


def check_shape(owner: object, method: str, what: str, found: object, shape: Sequence[int]) -> None:
    """Raise ValueError if a value of user code has another shape."""
    got = getattr(found, "shape", found)
    if got != tuple(shape):
        raise ValueError(f"{type(owner).__name__}.{method} must {what} of shape {tuple(shape)}, got {got}")


def evaluate_loss(loss: Loss, a: Array, y: Array, w: Array) -> tuple[Array, Array]:
    """∂C/∂a and the row losses. ValueError if the loss returns something else."""
    found = named_call(loss, "evaluate", a, y, w)
    if not isinstance(found, tuple) or len(found) != 2:
        got = f"{len(found)} values" if isinstance(found, tuple) else type(found).__name__
        raise ValueError(f"{type(loss).__name__}.evaluate must return (∂C/∂a, row losses), got {got}")
    grad_a, row_losses = found
    check_shape(loss, "evaluate", "return ∂C/∂a", grad_a, a.shape)
    check_shape(loss, "evaluate", "return row losses", row_losses, w.shape)
    return grad_a, row_losses


def loss_from_z(loss: Loss, z: Array, y: Array, w: Array) -> tuple[Array, Array, Array]:
    """a, δ and the row losses. ValueError if the loss returns other shapes."""
    a, delta, row_losses = named_call(loss, "from_z", z, y, w)
    for what, found, like in (("a", a, z), ("δ", delta, z), ("row losses", row_losses, w)):
        check_shape(loss, "from_z", f"return {what}", found, like.shape)
    return a, delta, row_losses
