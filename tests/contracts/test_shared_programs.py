"""Networks of one structure share the programs of their steps. What a program depends on is never shared wrongly."""

import types

import numpy as np
import pytest
from helpers import internals

import gpunn

RNG = np.random.default_rng(13)
X, Y = RNG.normal(size=(16, 8)), RNG.normal(size=(16, 8))


def trained(change=lambda net: None, hidden=None, optimizer=None):
    """The parameters after two epochs of a network that was changed before."""
    net = gpunn.Sequential([hidden or gpunn.Dense(8, "relu"), gpunn.Dense(8)], input_shape=8, seed=1, dtype="float64")
    net.compile(optimizer or gpunn.SGD(0.05), "mse", device="cpu")
    change(net)
    net.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    return np.array(internals.parameters(net))


def test_a_replaced_method_of_one_object_is_used_by_it_alone():
    def change(net):
        layer = net.layers[0]
        original = layer.backward

        def backward(t):
            original(t)
            t.dW = t.dW * 0.0

        layer.backward = backward

    before = trained()
    assert (trained(change) != before).any()
    assert (trained() == before).all()


def test_a_replaced_method_of_a_class_is_used(monkeypatch):
    before = trained()
    original = gpunn.losses.MeanSquaredError.evaluate

    def evaluate(self, a, y, w):
        grad_a, row_losses = original(self, a, y, w)
        return grad_a * 2.0, row_losses

    with monkeypatch.context() as patch:
        patch.setattr(gpunn.losses.MeanSquaredError, "evaluate", evaluate)
        assert (trained() != before).any()
    assert (trained() == before).all()


def test_a_replaced_rule_is_used():
    changed = gpunn.Momentum(0.05)
    changed.rule = gpunn.Nesterov.rule
    assert (trained(optimizer=gpunn.Momentum(0.05)) != trained(optimizer=changed)).any()
    assert (trained(optimizer=changed) == trained(optimizer=gpunn.Nesterov(0.05))).all()


@pytest.mark.parametrize("module", ["plugin", "gpunn.plugin", "gpunn_plugin"])
def test_attributes_of_a_users_class_are_not_shared(module):
    """The module's name may begin with that of the package."""
    defined = types.ModuleType(module)
    source = (
        "import gpunn\n"
        "class ScaledDense(gpunn.Dense):\n"
        "    scale = 1.0\n"
        "    def forward(self, t):\n"
        "        super().forward(t)\n"
        "        t.a = t.a * self.scale\n"
    )
    exec(source, vars(defined))
    one, three = defined.ScaledDense(8, "relu"), defined.ScaledDense(8, "relu")
    three.scale = 3.0
    assert (trained(hidden=one) != trained(hidden=three)).any()
