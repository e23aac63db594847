"""Factors of the learning rate of single layers, with every optimizer."""

import numpy as np
import pytest
from helpers import internals
from helpers.oracles import oracle
from helpers.snapshots import bits

import gpunn
from gpunn import schedules
from gpunn.kernels import get as kernel
from gpunn.kernels.state import StateEntry

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(12, 5)), RNG.normal(size=(12, 3))


class OpaqueDescent(gpunn.Optimizer):
    opaque = True

    def __init__(self, learning_rate=0.1, **clipping):
        super().__init__(learning_rate, **clipping)

    def update(self, t):
        t.theta = t.theta - t.learning_rate * t.g


class KernelDescent(OpaqueDescent):
    opaque = False

    def update(self, t):
        t.theta = kernel("sgd")(t.g, t.state, t.theta)


RULES = [
    gpunn.SGD(0.5, clipnorm=0.5),
    gpunn.Momentum(0.5),
    gpunn.Nesterov(0.5),
    gpunn.Adagrad(0.5),
    gpunn.RMSprop(0.5),
    gpunn.Adam(0.5),
    gpunn.AdamW(0.5, weight_decay=0.125),
    gpunn.AdamW(0.5, weight_decay=0.125, decay_weights_only=True),
    OpaqueDescent(0.5),
    KernelDescent(0.5),
]


def network(rule, dtype="float64", **options):
    layers = [gpunn.Dense(4, "tanh"), gpunn.LayerNormalization(), gpunn.Dense(3)]
    net = gpunn.Sequential(layers, input_shape=5, seed=1, dtype=dtype)
    return net.compile(rule, "mse", **{"device": "cpu", **options})


def after_a_step(rule, factors, learning_rate, dtype, **options):
    """The parameters of each layer after a step with these factors and this η, which follows two steps with 0.5."""
    net = network(rule, dtype, **options)
    for _ in range(2):
        net.train_on_batch(X, Y)
    for layer, factor in zip(net.layers, factors, strict=True):
        layer.learning_rate_factor = factor
    rule.learning_rate = learning_rate
    net.train_on_batch(X, Y)
    rule.learning_rate = 0.5
    weights = net.get_weights()
    return [weights[:2], weights[2:4], weights[4:]]


def assert_factors_apply(rule, dtype, **options):
    """A layer is updated as in a network whose η is its factor times η, to the bit."""
    factors = (0.25, 1.0, 3.0)
    mixed = after_a_step(rule, factors, 0.5, dtype, **options)
    for k, factor in enumerate(factors):
        alone = after_a_step(rule, (1.0, 1.0, 1.0), factor * 0.5, dtype, **options)
        for found, wanted in zip(mixed[k], alone[k], strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_layer_is_updated_with_its_factor_of_the_learning_rate(rule, eager, dtype):
    assert_factors_apply(rule, dtype, eager=eager)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_factors_on_a_simulated_gpu(rule, fake_cupy):
    assert_factors_apply(rule, "float32", device="cuda")


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_factors_are_the_parameter_groups_of_torch(name):
    """Twenty steps with learning rates of ¼η, η and 3η."""
    torch = oracle("torch")
    net = network({"SGD": gpunn.SGD(0.05), "Adam": gpunn.Adam(0.05, epsilon=1e-6)}[name])
    W1, b1, gamma, beta, W2, b2 = leaves = [torch.tensor(w, requires_grad=True) for w in net.get_weights()]
    net[0].learning_rate_factor, net[2].learning_rate_factor = 0.25, 3
    groups = [{"params": leaves[2 * k : 2 * k + 2], "lr": 0.05 * factor} for k, factor in enumerate((0.25, 1, 3))]
    peer = getattr(torch.optim, name)(groups, **({"eps": 1e-6} if name == "Adam" else {}))
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    for _ in range(20):
        peer.zero_grad()
        a = torch.nn.functional.layer_norm(torch.tanh(x @ W1 + b1), (4,), gamma, beta)
        ((a @ W2 + b2 - y) ** 2).mean().backward()
        peer.step()
        net.train_on_batch(X, Y)
    for found, leaf in zip(net.get_weights(), leaves, strict=True):
        np.testing.assert_allclose(found, leaf.detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("eager", [False, True])
def test_the_schedule_is_that_of_the_step(eager):
    """η(t) = 1/(1 + t) times the factor ½, for gradients of 1; the state array has η itself afterwards."""

    def one(y, a):
        return a[:, 0], np.ones_like(a)

    net = gpunn.Sequential([gpunn.Dense(1, use_bias=False, kernel_initializer="ones")], input_shape=1, dtype="float64")
    net.compile(gpunn.SGD(schedules.InverseTimeDecay(1.0, 1, 1.0)), one, device="cpu", eager=eager)
    net[0].learning_rate_factor = 0.5
    net.fit(np.ones((4, 1)), np.ones((4, 1)), batch_size=1, shuffle=False, verbose=0)
    assert net.get_weights()[0].item() == pytest.approx(1 - 0.5 * (1 + 1 / 2 + 1 / 3 + 1 / 4), rel=1e-15)
    assert internals.step_state(net)[StateEntry.LR] == 1 / 4


@pytest.mark.parametrize("eager", [False, True])
def test_a_scaled_update_that_overflows_changes_no_parameter(eager):
    net = network(gpunn.SGD(1e30), "float32", eager=eager)
    net[2].learning_rate_factor = 1e30
    before = bits(internals.parameters(net))
    with pytest.raises(gpunn.DivergenceError, match="would overflow"):
        net.fit(X, Y, verbose=0)
    assert bits(internals.parameters(net)) == before


def test_equal_factors_do_not_divide_the_parameters():
    net = network(gpunn.Adam(0.1))
    plain = str(net.program(8))
    assert "scale_lr" not in plain
    net[0].learning_rate_factor = 1
    assert str(net.program(8)) == plain
    for layer in net.layers:
        layer.learning_rate_factor = 2.0
    updates = [op for op in net.program(8).ops if op.name == "adam"]
    assert len(updates) == 1


def test_the_summary_shows_factors():
    net = network(gpunn.Adam(0.1))
    assert "learning rate" not in net.summary()
    net[2].learning_rate_factor = 0.25
    assert "learning rate × 0.25" in net.summary()


def test_factors_are_stored_in_files(tmp_path):
    net = network(gpunn.Adam(0.1))
    net[0].learning_rate_factor = 0.25
    net.fit(X, Y, verbose=0, callbacks=[gpunn.ModelCheckpoint(tmp_path / "c.safetensors")])
    net.save(tmp_path / "m.safetensors")
    for name in "mc":
        loaded = gpunn.load(tmp_path / f"{name}.safetensors")
        assert [layer.learning_rate_factor for layer in loaded.layers] == [0.25, 1, 1]


def test_a_file_without_factors_has_factors_of_1():
    """Files of earlier versions."""
    net = network(gpunn.Adam(0.1))
    net[0].learning_rate_factor = 0.25
    tensors, metadata = net.to_tensors()
    for layer in metadata["layers"]:
        del layer["learning_rate_factor"]
    loaded = gpunn.Sequential.from_tensors(tensors, metadata)
    assert [layer.learning_rate_factor for layer in loaded.layers] == [1, 1, 1]
