"""Logits of ±200 and ±10⁴: finite, exact losses and gradients in every mode, by formulas in longdouble."""

import numpy as np
import pytest
from helpers import internals
from helpers.networks import build_network

import gpunn
from gpunn import losses

MODES = ("compiled", "numpy", "eager")
LOGITS = np.array([[200.0, -200.0, 0.0], [-1e4, 1e4, 3.0], [1e4, 1e4, -1e4], [-200.0, 0.0, 200.0]])
LABELS = np.array([0, 0, 2, 2])


def exact(kind, z, y):
    """Row losses, ∂ℓ/∂z by E3 and E4, computed in longdouble from the form that does not overflow."""
    z = z.astype(np.longdouble)
    if kind == "binary":
        loss = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
        e = np.exp(-np.abs(z))
        return loss.sum(axis=1), np.where(z >= 0, 1, e) / (1 + e) - y
    shifted = z - z.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    return ((np.log(total) - shifted) * y).sum(axis=1), np.exp(shifted) / total - y


CROSS_ENTROPIES = [
    ("sparse_categorical_crossentropy", "softmax", "softmax", LABELS),
    (losses.SparseCategoricalCrossentropy(), "identity", "softmax", LABELS),
    (losses.SparseCategoricalCrossentropy(from_logits=True), "identity", "softmax", LABELS),
    ("categorical_crossentropy", "softmax", "softmax", np.eye(3)[LABELS]),
    (losses.CategoricalCrossentropy(from_logits=True), "identity", "softmax", np.full((4, 3), 1 / 3)),
    ("binary_crossentropy", "sigmoid", "binary", np.eye(3)[LABELS]),
    (losses.BinaryCrossentropy(from_logits=True), "identity", "binary", np.full((4, 3), 0.25)),
]


def logit_network(loss, last, dtype, mode, monkeypatch):
    """A network whose z is its input."""
    monkeypatch.setenv("GPUNN_COMPILE", "0" if mode == "numpy" else "1")
    net = build_network(
        gpunn.Dense(3, last), input_shape=3, loss=loss, optimizer="sgd", dtype=dtype, eager=mode == "eager"
    )
    net.set_weights([np.eye(3), np.zeros(3)])
    return net


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "last", "kind", "y"), CROSS_ENTROPIES, ids=str)
def test_extreme_logits_give_exact_losses_and_gradients(monkeypatch, loss, last, kind, y, dtype, mode):
    net = logit_network(loss, last, dtype, mode, monkeypatch)
    dense = y if np.ndim(y) == 2 else np.eye(3)[y]
    row_losses, delta = exact(kind, LOGITS, dense)
    bound = {"float32": 1e-6, "float64": 1e-14}[dtype]
    cost, (dW, db) = net.loss_and_gradients(LOGITS, y)
    np.testing.assert_allclose(cost, float(row_losses.mean()), rtol=bound)
    np.testing.assert_allclose(db, (delta / 4).sum(axis=0), rtol=0, atol=bound)
    np.testing.assert_allclose(dW, LOGITS.T @ (delta / 4), rtol=bound, atol=1e4 * bound)
    np.testing.assert_allclose(net.input_gradient(LOGITS, y), delta / 4, rtol=0, atol=bound)
    np.testing.assert_allclose(net.evaluate(LOGITS, y)["loss"], float(row_losses.mean()), rtol=bound)
    (trace,) = net.trace(LOGITS, y)
    np.testing.assert_allclose(trace.z, LOGITS, rtol=0)
    np.testing.assert_allclose(trace.delta, delta / 4, rtol=0, atol=bound)
    assert np.isfinite(trace.a).all()
    for k in range(len(LOGITS)):  # the loss of one row, however small
        one = net.loss_and_gradients(LOGITS[k : k + 1], y[k : k + 1])[0]
        np.testing.assert_allclose(one, float(row_losses[k]), rtol=bound, atol=1e-300)


SKLEARN = {
    "log_loss": ("ScikitLearnLogLoss", "softmax", "softmax", LABELS),
    "binary log_loss": ("ScikitLearnBinaryLogLoss", "sigmoid", "binary", np.eye(3)[LABELS]),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SKLEARN)
def test_extreme_logits_of_scikit_learns_losses(monkeypatch, name, dtype, mode):
    """The gradient is exact; the reported loss clips probabilities to [ε, 1 − ε]."""
    pytest.importorskip("sklearn")
    from gpunn.estimators import sklearn_conventions

    kind_of_loss, last, kind, y = SKLEARN[name]
    net = logit_network(getattr(sklearn_conventions, kind_of_loss)(), last, dtype, mode, monkeypatch)
    dense = y if np.ndim(y) == 2 else np.eye(3)[y]
    _, delta = exact(kind, LOGITS, dense)
    eps = float(np.finfo(dtype).eps)
    z = LOGITS.astype(np.longdouble)
    if kind == "binary":
        p = np.where(z >= 0, 1, np.exp(-np.abs(z))) / (1 + np.exp(-np.abs(z)))
        q = np.clip(np.where(dense > 0, p, 1 - p), eps, 1 - eps)
        row_losses = -np.log(q).sum(axis=1)
    else:
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        row_losses = -np.log(np.clip((p * dense).sum(axis=1), eps, 1 - eps))
    bound = {"float32": 2e-6, "float64": 1e-14}[dtype]
    cost, (_, db) = net.loss_and_gradients(LOGITS, y)
    np.testing.assert_allclose(cost, float(row_losses.mean()), rtol=bound)
    np.testing.assert_allclose(db, (delta / 4).sum(axis=0), rtol=0, atol=bound)
    (trace,) = net.trace(LOGITS, y)
    np.testing.assert_allclose(trace.delta, delta / 4, rtol=0, atol=bound)


@pytest.mark.parametrize("mode", MODES)
def test_extreme_exponents_of_scikit_learns_poisson_loss(monkeypatch, mode):
    pytest.importorskip("sklearn")
    from gpunn.estimators.sklearn_conventions import ScikitLearnPoisson

    net = logit_network(ScikitLearnPoisson(), "exponential", "float64", mode, monkeypatch)
    z = np.array([[200.0, -200.0, 0.0], [-1e4, 10.0, -700.0]])
    y = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    a = np.exp(z)
    row_losses = (np.where(y > 0, y * (np.log(np.where(y > 0, y, 1)) - z), 0) - y + a).sum(axis=1)
    cost, (_, db) = net.loss_and_gradients(z, y)
    np.testing.assert_allclose(cost, row_losses.mean(), rtol=1e-14)
    np.testing.assert_allclose(db, ((a - y) / 2).sum(axis=0), rtol=1e-14)


def test_a_step_at_extreme_logits_is_finite_in_every_mode(monkeypatch):
    found = []
    for mode in MODES:
        net = logit_network("sparse_categorical_crossentropy", "softmax", "float64", mode, monkeypatch)
        net.fit(LOGITS, LABELS, batch_size=2, epochs=2, verbose=0)
        found.append(internals.parameters(net).copy())
    assert np.isfinite(found[0]).all()
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-12, atol=1e-12)
