"""The equations of the losses on NumPy arrays: values and gradients by hand, by differences, of extreme logits."""

import math

import numpy as np
import pytest
from helpers import internals

from gpunn import activations, losses, theory

RNG = np.random.default_rng(4)
N, M = 6, 3
W = RNG.uniform(0.1, 2, N)
W /= W.sum()
LABELS = np.arange(N, dtype=np.int32) % M
SHARES = RNG.dirichlet(np.ones(M), N)
BUILT_IN = sorted({cls.names[0]: cls for cls in internals.classes_by_name(losses).values()}.items())
CROSS_ENTROPIES = {
    "sparse_categorical_crossentropy": ("softmax", LABELS),
    "categorical_crossentropy": ("softmax", SHARES),
    "binary_crossentropy": ("sigmoid", RNG.uniform(0, 1, (N, M))),
}


def targets_of(loss):
    return CROSS_ENTROPIES[loss.name][1] if loss.name in CROSS_ENTROPIES else RNG.uniform(0.5, 2, (N, M))


def outputs_of(loss):
    if loss.name in CROSS_ENTROPIES:
        return RNG.dirichlet(np.ones(M), N)
    return RNG.uniform(0.5, 2, (N, M))


def of_probabilities(name):
    """A cross-entropy whose `paired_activation` is not that of the last layer, so that it takes a."""
    other = {"softmax": "sigmoid", "sigmoid": "softmax"}[CROSS_ENTROPIES[name][0]]
    return resolved(name, other, from_logits=False)


def resolved(name, activation, **options):
    return type(losses.get(name))(**options).resolve(activations.get(activation))


@pytest.mark.parametrize(("name", "cls"), BUILT_IN)
def test_the_gradient_is_that_of_the_value(name, cls):
    """∂C/∂a of C = Σ wᵢℓᵢ by central differences, each row on its own. (E3)"""
    loss = of_probabilities(name) if name in CROSS_ENTROPIES else cls()
    assert not loss.takes_z and not loss.opaque
    a, y, h = outputs_of(loss), targets_of(loss), 1e-6
    grad_a, row_losses = loss.evaluate(a, y, W)
    assert grad_a.shape == a.shape and row_losses.shape == (N,)
    for k in range(M):
        step = h * np.eye(M)[k]
        numeric = (loss.evaluate(a + step, y, W)[1] - loss.evaluate(a - step, y, W)[1]) / (2 * h)
        np.testing.assert_allclose(grad_a[:, k], numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_the_shortcut_equals_the_chain_rule(name):
    """a, δ and wℓ from z equal activation, loss and E4 one after another; logits give the same δ and wℓ."""
    f, y = CROSS_ENTROPIES[name]
    z = RNG.normal(size=(N, M))
    shortcut = resolved(name, f)
    assert shortcut.takes_z and not shortcut.takes_logits
    a, delta, row_losses = shortcut.from_z(z, y, W)
    np.testing.assert_allclose(a, theory.activate(z, f), rtol=1e-14)
    grad_a, wanted = shortcut.evaluate(a, y, W)
    np.testing.assert_allclose(delta, theory.output_error(z, grad_a, f), rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(row_losses, wanted, rtol=1e-13)
    logits = resolved(name, "identity")
    assert logits.takes_logits and not logits.takes_z
    for got, same in zip(logits.evaluate(z, y, W), (delta, row_losses), strict=True):
        np.testing.assert_array_equal(got, same)


@pytest.mark.parametrize(("name", "kind"), [("categorical_crossentropy", "softmax_crossentropy"),
                                            ("binary_crossentropy", "sigmoid_crossentropy"),
                                            ("half_squared_error", "half_squared_error")])  # fmt: skip
def test_losses_against_the_theory(name, kind):
    a, y = outputs_of(losses.get(name)), targets_of(losses.get(name))
    loss = of_probabilities(name) if name in CROSS_ENTROPIES else losses.get(name)
    grad_a, row_losses = loss.evaluate(a, y, W)
    np.testing.assert_allclose(grad_a, theory.loss_gradient(y, a, kind, W), rtol=1e-13)
    np.testing.assert_allclose(row_losses, W * theory.row_losses(y, a, kind), rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [200, 1e4])
@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_extreme_logits_have_exact_losses_and_gradients(name, size, dtype):
    """z = (s, 0, −s): softmax is (1, 0, 0) and −log softmax is (0, s, 2s); sigmoid is (1, ½, 0)."""
    f, _ = CROSS_ENTROPIES[name]
    z = np.tile(np.array([size, 0, -size], dtype), (3, 1))
    w = np.ones(3, dtype)
    eye = np.eye(3, dtype=dtype)
    y = np.arange(3, dtype=np.int32) if losses.get(name).targets == "class_index" else eye
    if f == "softmax":
        wanted_a, wanted = np.tile(eye[0], (3, 1)), [0, size, 2 * size]
    else:
        # targets (1, 0, 0), (0, 1, 0), (0, 0, 1): log 2 for z = 0, and s for each wrong side
        wanted_a, wanted = np.tile(np.array([1, 0.5, 0], dtype), (3, 1)), np.array([0, size, 2 * size]) + np.log(2)
    loss = resolved(name, f)
    a, delta, row_losses = loss.from_z(z, y, w)
    np.testing.assert_allclose(a, wanted_a, atol=1e-37)
    np.testing.assert_allclose(delta, wanted_a - eye, atol=1e-37)
    np.testing.assert_allclose(row_losses, wanted, rtol=1e-6 if dtype == "float32" else 1e-13, atol=1e-37)
    assert {x.dtype for x in (a, delta, row_losses)} == {np.dtype(dtype)}


def test_resolving_leaves_the_loss_unchanged():
    loss = losses.BinaryCrossentropy()
    assert loss.resolve(activations.get("sigmoid")).takes_z and not loss.takes_z
    assert loss.resolve(activations.get("identity")).takes_logits and not loss.takes_logits
    huber = losses.Huber()
    assert huber.resolve(activations.get("softmax")) is huber


def test_the_constants_of_a_loss_are_used():
    """Huber with κ = ¼: ¼(1 − ⅛) and the derivative ¼."""
    one = np.ones((1, 1))
    grad_a, row_losses = losses.Huber(0.25).evaluate(2 * one, one, np.ones(1))
    assert (grad_a.item(), row_losses.item()) == (0.25, 7 / 32)


def test_a_loss_must_define_its_values():
    class Empty(losses.Loss):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty must define evaluate\(self, a, y, w\)"):
        Empty().evaluate(None, None, None)
    with pytest.raises(NotImplementedError, match="Empty does not compute the activation"):
        Empty().from_z(None, None, None)


# --- functions -------------------------------------------------------------------------------------------------------


def test_a_function_is_opaque_and_weighted():
    def cubes(y, a):
        e = a - y
        y[...] = a[...] = math.nan  # copies
        return (e**3).sum(axis=1), 3 * e**2

    loss = losses.get(cubes)
    a, y = RNG.normal(size=(N, M)), RNG.normal(size=(N, M))
    grad_a, row_losses = loss.evaluate(a, y, W)
    assert loss.opaque and loss.resolve(activations.get("relu")) is loss
    np.testing.assert_allclose(grad_a, W[:, None] * 3 * (a - y) ** 2, rtol=1e-14)
    np.testing.assert_allclose(row_losses, W * ((a - y) ** 3).sum(axis=1), rtol=1e-14)


@pytest.mark.parametrize(("result", "error"), [((0, 0), ValueError), (None, TypeError), ((0, 0, 0), TypeError)])
def test_a_function_with_another_result_is_reported(result, error):
    with pytest.raises(error, match="must return"):
        losses.get(lambda y, a: result).evaluate(np.ones((2, 1)), np.ones((2, 1)), np.ones(2))
