"""Optimizers: by hand, against PyTorch, with schedules, clipping and frozen layers; their configurations as JSON."""

import copy
import json
from fractions import Fraction

import numpy as np
import pytest
from helpers.messages import naming
from helpers.oracles import oracle

import gpunn
from gpunn import SGD, Adagrad, Adam, AdamW, Momentum, Nesterov, RMSprop, optimizers, schedules

RULES = [SGD, Momentum, Nesterov, RMSprop, Adagrad, Adam, AdamW]


def test_the_table_contains_every_optimizer():
    classes = {getattr(optimizers, name) for name in optimizers.__all__ if name[0].isupper()}
    assert classes - {optimizers.Optimizer} == set(RULES) == {type(rule) for rule in CONFIGURATIONS}


# --- by hand ---------------------------------------------------------------------------------------------------------


def given(y, a):
    """Return ℓ = ya and g = y. For x = 1, the gradient of a single weight is then the target."""
    return (y * a).sum(axis=1), y


def _single_weight_net(rule, dtype="float64", theta=1.0, **layer):
    net = gpunn.Sequential([gpunn.Dense(1, use_bias=False, **layer)], input_shape=1, seed=0, dtype=dtype)
    net.set_weights([[[theta]]])
    net.compile(rule, given, device="cpu")
    return net


def _trajectory(net, gradients):
    """Return θ after each step with the given gradients."""
    found = []
    for g in gradients:
        net.train_on_batch([[1.0]], [[float(g)]])
        found.append(net.get_weights()[0].item())
    return found


# θ₀ = 1, η = ½; all numbers, also the intermediate ones, are dyadic fractions
EXACT = {
    # 1 − ½·2, 0 + ½·1
    "SGD": (SGD(0.5), [2, -1], [0, 0.5]),
    # v = 2, ½·2 − 2 = −1
    "Momentum": (Momentum(0.5, 0.5), [2, -2], [0, 0.5]),
    # v = 2, θ = 1 − ½(2 + ½·2); v = ½·2 − 2 = −1, θ = −½ − ½(−2 − ½)
    "Nesterov": (Nesterov(0.5, 0.5), [2, -2], [-0.5, 0.75]),
    # v = ¼·16 = 4, θ = 1 − ½·4/(2 + 2); v = ¾·4 + ¼·4 = 4, θ = ½ − ½·2/(2 + 2)
    "RMSprop": (RMSprop(0.5, 0.75, 2.0), [4, 2], [0.5, 0.25]),
    # v = 9 + 16 = 5², θ = 1 − ½·4/(5 + 3); v = 25 + 144 = 13², θ = ¾ − ½·12/(13 + 3)
    "Adagrad": (Adagrad(0.5, 9.0, 3.0), [4, 12], [0.75, 0.375]),
    # no decay of v: m = 2, m̂ = 4, θ = 1 − ½·4/(4 + 4); v = 4² before the second step is forgotten by β₂ = 0
    "Adam": (Adam(0.5, 0.0, 0.0, 4.0), [4, -12], [0.75, 1.125]),
    # as in Adam, with θ first multiplied by 1 − ½·½
    "AdamW": (AdamW(0.5, 0.5, 0.0, 0.0, 4.0), [4, -12], [0.5, 0.75]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_two_steps_by_hand(name, dtype):
    rule, gradients, wanted = EXACT[name]
    assert _trajectory(_single_weight_net(rule, dtype), gradients) == wanted


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        # g = 5, 1; β₁ = ½, β₂ = 24/25, ε = 5, η = ½. t = 1: m = 5/2, v = 25/25, √v/√(1 − β₂) = 5,
        # θ = 1 − (½/½)·(5/2)/(5 + 5). t = 2: m = 7/4, v = 24/25 + 1/25 = 1, √(1 − β₂²) = 7/25,
        # θ = ¾ − (½/¾)·(7/4)/(25/7 + 5) = ¾ − 49/360
        (Adam(0.5, 0.5, 0.96, 5.0), [Fraction(3, 4), Fraction(221, 360)]),
        # the same steps, after θ is multiplied by 1 − ½·½
        (AdamW(0.5, 0.5, 0.5, 0.96, 5.0), [Fraction(1, 2), Fraction(43, 180)]),
    ],
)
def test_the_bias_correction_of_adam_by_hand(rule, wanted):
    assert _trajectory(_single_weight_net(rule), [5, 1]) == pytest.approx([float(f) for f in wanted], rel=1e-14)


def test_clipping_by_hand():
    """Clipping by value comes first, then by the norm over all parameters: (6, 8) → (6, 6) → (6, 6) · 3/√72."""

    def loss(y, a):
        return (y * a).sum(axis=1), y

    def step(**clipping):
        net = gpunn.Sequential([gpunn.Dense(2, use_bias=False)], input_shape=1, seed=0, dtype="float64")
        net.set_weights([[[0.0, 0.0]]])
        net.compile(SGD(1.0, **clipping), loss, device="cpu")
        net.train_on_batch([[1.0]], [[6.0, -8.0]])
        return net.get_weights()[0].ravel().tolist()

    assert step() == [-6, 8]
    assert step(clipvalue=6.0) == [-6, 6]
    assert step(clipnorm=5.0) == [-3, 4]
    assert step(clipnorm=10.0) == [-6, 8]
    assert step(clipnorm=3.0, clipvalue=6.0) == pytest.approx([-3 / 2**0.5, 3 / 2**0.5], rel=1e-15)


# --- against PyTorch -------------------------------------------------------------------------------------------------

PEERS = {
    "sgd": (SGD(0.1), lambda optim, p: optim.SGD(p, 0.1)),
    "momentum": (Momentum(0.05, 0.85), lambda optim, p: optim.SGD(p, 0.05, momentum=0.85)),
    "nesterov": (Nesterov(0.05, 0.85), lambda optim, p: optim.SGD(p, 0.05, momentum=0.85, nesterov=True)),
    "rmsprop": (RMSprop(0.01, 0.8, 1e-6), lambda optim, p: optim.RMSprop(p, 0.01, alpha=0.8, eps=1e-6)),
    "adagrad": (
        Adagrad(0.05, 0.2, 1e-6),
        lambda optim, p: optim.Adagrad(p, 0.05, initial_accumulator_value=0.2, eps=1e-6),
    ),
    "adam": (Adam(0.02, 0.8, 0.95, 1e-6), lambda optim, p: optim.Adam(p, 0.02, betas=(0.8, 0.95), eps=1e-6)),
    "adamw": (
        AdamW(0.02, 0.1, 0.8, 0.95, 1e-6),
        lambda optim, p: optim.AdamW(p, 0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
    "adamw of weights": (
        AdamW(0.02, 0.1, 0.8, 0.95, 1e-6, decay_weights_only=True),
        lambda optim, p: optim.AdamW(
            [{"params": p[::2]}, {"params": p[1::2], "weight_decay": 0}],
            0.02,
            betas=(0.8, 0.95),
            eps=1e-6,
            weight_decay=0.1,
        ),
    ),
    # the defaults, which are Keras's, in PyTorch's parameters
    "default adam": (Adam(), lambda optim, p: optim.Adam(p, 1e-3, eps=1e-7)),
    "default adamw": (AdamW(), lambda optim, p: optim.AdamW(p, 1e-3, eps=1e-7, weight_decay=0.004)),
    "default rmsprop": (RMSprop(), lambda optim, p: optim.RMSprop(p, 1e-3, alpha=0.9, eps=1e-7)),
    "default adagrad": (
        Adagrad(),
        lambda optim, p: optim.Adagrad(p, 1e-3, initial_accumulator_value=0.1, eps=1e-7),
    ),
    "default momentum": (Momentum(), lambda optim, p: optim.SGD(p, 0.01, momentum=0.9)),
    "default sgd": (SGD(), lambda optim, p: optim.SGD(p, 0.01)),
}
STEPS = 30


class Comparison:
    """A regression problem with a network of gpunn and the same network in PyTorch."""

    def __init__(self, rule):
        self.torch = oracle("torch")
        rng = np.random.default_rng(6)
        layers = [gpunn.Dense(6, "tanh"), gpunn.Dense(5, "sigmoid"), gpunn.Dense(3)]
        self.net = gpunn.Sequential(layers, input_shape=4, seed=2, dtype="float64")
        self.net.compile(rule, "half_squared_error", device="cpu")
        self.batches = [(rng.normal(size=(8, 4)), rng.normal(size=(8, 3))) for _ in range(3)]
        self.leaves = [self.torch.tensor(w, requires_grad=True) for w in self.net.get_weights()]

    def gradients(self, step):
        """Compute the gradients by automatic differentiation in PyTorch."""
        torch = self.torch
        x, y = map(torch.from_numpy, self.batches[step % 3])
        W1, b1, W2, b2, W3, b3 = self.leaves
        a = torch.sigmoid(torch.tanh(x @ W1 + b1) @ W2 + b2) @ W3 + b3
        for leaf in self.leaves:
            leaf.grad = None
        (((a - y) ** 2).sum() / 16).backward()

    def step(self, step):
        return self.net.train_on_batch(*self.batches[step % 3])

    def assert_same(self):
        for mine, leaf in zip(self.net.get_weights(), self.leaves, strict=True):
            wanted = leaf.detach().numpy()
            np.testing.assert_allclose(mine, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("name", PEERS)
def test_thirty_steps_against_torch(name):
    rule, make = PEERS[name]
    side = Comparison(rule)
    peer = make(side.torch.optim, side.leaves)
    start = side.net.get_weights()
    for step in range(STEPS):
        side.gradients(step)
        peer.step()
        side.step(step)
        side.assert_same()
    assert all((a != b).all() for a, b in zip(start, side.net.get_weights(), strict=True))


@pytest.mark.parametrize("clipping", [{"clipvalue": 0.02}, {"clipnorm": 0.1}, {"clipvalue": 0.05, "clipnorm": 0.1}])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_clipping_against_torch(name, clipping):
    rule, make = PEERS[name]
    side = Comparison(optimizers.from_config(optimizers.to_config(rule) | clipping))
    peer = make(side.torch.optim, side.leaves)
    clipped = 0
    for step in range(STEPS):
        side.gradients(step)
        if "clipvalue" in clipping:
            side.torch.nn.utils.clip_grad_value_(side.leaves, clipping["clipvalue"])
        if "clipnorm" in clipping:
            # PyTorch's own clip_grad_norm_ adds 1e-6 to the norm
            norm = sum((leaf.grad**2).sum() for leaf in side.leaves).sqrt().item()
            clipped += norm > clipping["clipnorm"]
            for leaf in side.leaves:
                leaf.grad *= min(1.0, clipping["clipnorm"] / norm)
        peer.step()
        side.step(step)
        side.assert_same()
    assert clipped >= STEPS // 2 or "clipnorm" not in clipping


SCHEDULES = {
    "step": (schedules.StepDecay(0.2, 7, 0.5), lambda s, peer: s.StepLR(peer, 7, 0.5)),
    "exponential": (schedules.ExponentialDecay(0.2, 1, 0.9), lambda s, peer: s.ExponentialLR(peer, 0.9)),
    "inverse time": (
        schedules.InverseTimeDecay(0.2, 5, 0.7),
        lambda s, peer: s.LambdaLR(peer, lambda t: 1 / (1 + 0.7 * t / 5)),
    ),
    "cosine": (schedules.CosineDecay(0.2, 40, 0.1), lambda s, peer: s.CosineAnnealingLR(peer, 40, 0.02)),
    # PyTorch's milestones belong to the piece after them, Keras's boundaries to the piece before
    "piecewise": (
        schedules.PiecewiseConstant([4, 14], [0.2, 0.1, 0.05]),
        lambda s, peer: s.MultiStepLR(peer, [5, 15], 0.5),
    ),
    "warm-up": (schedules.Warmup(0.2, 10), lambda s, peer: s.LinearLR(peer, 0.1, total_iters=9)),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_schedules_against_torch(name, kind):
    schedule, make = SCHEDULES[name]
    side = Comparison(kind(schedule))
    if kind is SGD:
        peer = side.torch.optim.SGD(side.leaves, 0.2)
    else:
        peer = side.torch.optim.AdamW(side.leaves, 0.2, eps=1e-7, weight_decay=0.004)
    rates = make(side.torch.optim.lr_scheduler, peer)
    seen = set()
    for step in range(STEPS):
        seen.add(round(peer.param_groups[0]["lr"], 12))
        side.gradients(step)
        peer.step()
        rates.step()
        side.step(step)
        side.assert_same()
    assert len(seen) > 2


@pytest.mark.parametrize("frozen", [[0], [1], [2], [0, 2], [0, 1]])
@pytest.mark.parametrize("name", ["sgd", "nesterov", "rmsprop", "adam", "adamw", "adamw of weights"])
def test_frozen_layers_against_torch(name, frozen):
    """A frozen layer does not change, despite slots and weight decay; the others train as if it were constant."""
    rule, make = PEERS[name]
    side = Comparison(rule)
    for k in frozen:
        side.net.layers[k].trainable = False
    trained = [leaf for i, leaf in enumerate(side.leaves) if i // 2 not in frozen]
    peer = make(side.torch.optim, trained)
    start = side.net.get_weights()
    for step in range(10):
        side.gradients(step)
        peer.step()
        side.step(step)
        side.assert_same()
    for i, (before, after) in enumerate(zip(start, side.net.get_weights(), strict=True)):
        assert np.array_equal(before, after) == (i // 2 in frozen)


def test_a_layer_frozen_for_a_while_keeps_its_velocity():
    side = Comparison(PEERS["momentum"][0])
    peer = PEERS["momentum"][1](side.torch.optim, side.leaves)
    for step in range(STEPS):
        away = 10 <= step < 20
        side.net.layers[1].trainable = not away
        side.gradients(step)
        if away:
            side.leaves[2].grad = side.leaves[3].grad = None
        peer.step()
        side.step(step)
        side.assert_same()


# --- frozen, bit for bit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", RULES)
def test_frozen_layers_stay_bit_for_bit(kind, dtype):
    """The slots are not zero, and a penalty, max-norm, running statistics and clipping are active."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(30, 4)), rng.integers(0, 3, size=30)
    layers = [
        gpunn.Dense(6, "relu", l2=0.1, max_norm=0.3),
        gpunn.BatchNormalization(),
        gpunn.Dense(5, "tanh", l1=0.1),
        gpunn.LayerNormalization(),
        gpunn.Dense(3, "softmax", l2=0.1),
    ]
    net = gpunn.Sequential(layers, seed=0, dtype=dtype)
    extra = {"weight_decay": 0.5} if kind is AdamW else {}
    net.compile(kind(0.05, clipnorm=1.0, **extra), "sparse_categorical_crossentropy", device="cpu")
    net.fit(X, y, batch_size=8, verbose=0)
    for layer in layers[:4]:
        layer.trainable = False
    before = net.to_tensors()[0]
    net.fit(X, y, batch_size=8, epochs=2, verbose=0)
    for name, after in net.to_tensors()[0].items():
        assert (after.tobytes() == before[name].tobytes()) == (not name.startswith("layers.4.")), name


@pytest.mark.parametrize("eager", [False, True])
def test_an_update_that_overflows_in_one_range_changes_no_other(eager):
    """A frozen layer divides the parameters into ranges. The update of the last range is infinite."""

    class Doubling(optimizers.Optimizer):
        opaque = True

        def update(self, t):
            t.theta = t.theta * (2 if t.theta.size > 10 else np.inf)

    layers = [gpunn.Dense(6, "tanh"), gpunn.Dense(3, "tanh"), gpunn.Dense(2)]
    net = gpunn.Sequential(layers, input_shape=4, seed=0)
    net.set_weights([w + 0.5 for w in net.get_weights()])
    net.compile(Doubling(0.1), "mse", device="cpu", eager=eager)
    layers[1].trainable = False
    before = net.get_weights()
    with pytest.raises(ArithmeticError, match="an update would overflow"):
        net.fit(np.ones((5, 4)), np.ones((5, 2)), verbose=0)
    for was, now in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


# --- the learning rate -----------------------------------------------------------------------------------------------


def test_learning_rates_per_step():
    """A step of SGD with gradients of 1 is −η(t). t counts updates across fits and calls."""
    net = _single_weight_net(SGD(schedules.InverseTimeDecay(1.0, 1, 1.0)), theta=0.0)
    net.fit(np.ones((5, 1)), np.ones((5, 1)), batch_size=2, verbose=0)
    assert net.get_weights()[0].item() == pytest.approx(-(1 + 1 / 2 + 1 / 3), rel=1e-15)
    assert _trajectory(net, [1])[0] == pytest.approx(-(1 + 1 / 2 + 1 / 3 + 1 / 4), rel=1e-15)
    net.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0)
    assert net.get_weights()[0].item() == pytest.approx(-(1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5), rel=1e-15)


def test_learning_rates_per_epoch():
    """Two steps use η = 1, two ½, two ¼. A second fit continues to count; `compile` resets t."""
    net = _single_weight_net(SGD(schedules.ExponentialDecay(1.0, 1, 0.5, per="epoch")), theta=0.0)
    net.fit(np.ones((4, 1)), np.ones((4, 1)), batch_size=2, epochs=3, verbose=0)
    assert net.get_weights()[0].item() == -(2 + 1 + 0.5)
    net.fit(np.ones((4, 1)), np.ones((4, 1)), batch_size=2, verbose=0)
    assert net.get_weights()[0].item() == -(2 + 1 + 0.5 + 0.25)
    net.compile(net.optimizer, given, device="cpu")
    net.fit(np.ones((4, 1)), np.ones((4, 1)), batch_size=2, verbose=0)
    assert net.get_weights()[0].item() == -(2 + 1 + 0.5 + 0.25 + 2)


def test_networks_can_share_an_optimizer():
    """An optimizer has no state: two networks that share one train like two networks with one each."""
    shared = Adam(0.1)
    a, b = _single_weight_net(shared), _single_weight_net(shared)
    alone = _single_weight_net(Adam(0.1))
    gradients = [3, -1, 2]
    found = [(_trajectory(a, [g])[0], _trajectory(b, [-g])[0]) for g in gradients]
    assert [first for first, _ in found] == _trajectory(alone, gradients)


# --- configurations --------------------------------------------------------------------------------------------------

CONFIGURATIONS = [
    SGD(0.25),
    SGD(schedules.CosineDecay(0.5, 20, 0.125), clipvalue=0.5),
    Momentum(0.25, 0.75, clipnorm=2.0),
    Nesterov(schedules.Warmup(schedules.StepDecay(0.5, 3, per="epoch"), 4), 0.625),
    RMSprop(0.125, 0.875, 1e-5, clipvalue=0.25, clipnorm=1.5),
    Adagrad(0.0625, 0.375, 1e-6),
    Adam(0.03125, 0.75, 0.9375, 1e-4),
    Adam(schedules.PiecewiseConstant([2, 5], [0.5, 0.25, 0.125])),
    AdamW(0.03125, 0.5, 0.625, 0.96875, 1e-3, clipnorm=3.0),
]


@pytest.mark.parametrize("rule", CONFIGURATIONS, ids=repr)
def test_configurations_survive_json(rule):
    config = optimizers.to_config(rule)
    back = optimizers.from_config(json.loads(json.dumps(config)))
    assert type(back) is type(rule)
    assert optimizers.to_config(back) == config
    gradients = [3, -1, 2, 0.5, -4]
    assert _trajectory(_single_weight_net(back), gradients) == _trajectory(_single_weight_net(rule), gradients)


@pytest.mark.parametrize("kind", RULES)
def test_numpy_scalars_are_accepted(kind):
    ones = dict.fromkeys(TAKES[kind], np.float32(0.5))
    assert optimizers.to_config(kind(np.float32(0.5), **ones)) == optimizers.to_config(
        kind(0.5, **dict.fromkeys(ones, 0.5))
    )
    assert kind(np.array(0.25)).learning_rate == 0.25


@pytest.mark.parametrize(
    "rule", [r for r in CONFIGURATIONS if not isinstance(r.learning_rate, schedules.Warmup)], ids=repr
)
def test_repr(rule):
    names = {name: getattr(optimizers, name) for name in optimizers.__all__}
    names |= {name: getattr(schedules, name) for name in schedules.__all__}
    assert optimizers.to_config(eval(repr(rule), names)) == optimizers.to_config(rule)


def test_configurations_in_the_table_differ():
    """No two configurations in the table give the same trajectory, so that the round trip is a real test."""
    gradients = [3, -1, 2, 0.5, -4]
    walks = [tuple(_trajectory(_single_weight_net(copy.deepcopy(rule)), gradients)) for rule in CONFIGURATIONS]
    assert len(set(walks)) == len(walks)


@pytest.mark.parametrize("kind", RULES)
def test_get_by_name_and_class(kind):
    for given_as in (kind, kind.__name__, kind.__name__.lower(), kind()):
        found = optimizers.get(given_as)
        assert type(found) is kind
        assert optimizers.to_config(found) == optimizers.to_config(kind())


def test_invalid_optimizers_are_rejected():
    with pytest.raises(ValueError, match=naming("'adamm'", "adam", "momentum")):
        optimizers.get("adamm")
    with pytest.raises(TypeError, match="got float"):
        optimizers.get(0.1)
    with pytest.raises(ValueError, match="'lion' is not built in"):
        optimizers.from_config({"name": "lion", "learning_rate": 0.1})


INVALID = {
    "learning_rate": [0, -0.1, float("nan"), float("inf"), "fast", None, True, [0.1]],
    "clipvalue": [0, -1.0, float("nan"), float("inf"), "1", True],
    "clipnorm": [0, -1.0, float("nan"), float("inf"), "1", True],
    "momentum": [1, 1.5, -0.1, float("nan"), "0.9", None, True],
    "rho": [1, -0.1, float("nan"), None],
    "beta_1": [1, -0.1, float("nan"), None],
    "beta_2": [1, -0.1, float("nan"), None],
    "epsilon": [0, -1e-7, float("nan"), float("inf"), None],
    "initial_accumulator_value": [-0.1, float("nan"), float("inf"), None, True],
    "weight_decay": [-0.1, float("nan"), float("inf"), None, True],
}
TAKES = {
    SGD: (),
    Momentum: ("momentum",),
    Nesterov: ("momentum",),
    RMSprop: ("rho", "epsilon"),
    Adagrad: ("initial_accumulator_value", "epsilon"),
    Adam: ("beta_1", "beta_2", "epsilon"),
    AdamW: ("beta_1", "beta_2", "epsilon", "weight_decay"),
}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (kind, name, value)
        for kind, names in TAKES.items()
        for name in ("learning_rate", "clipvalue", "clipnorm", *names)
        for value in INVALID[name]
    ],
)
def test_invalid_arguments_are_rejected_by_name(kind, name, value):
    with pytest.raises((ValueError, TypeError), match=f"{name} must be") as caught:
        kind(**{name: value})
    assert repr(value) in str(caught.value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        assert caught.type is ValueError


def test_names_in_any_case():
    assert type(optimizers.get("ADAM")) is optimizers.Adam
    with pytest.raises(ValueError, match=naming("optimizer", "'Adamant'", "adam")):
        optimizers.get("Adamant")


def test_custom_must_contain_a_class():
    with pytest.raises(TypeError, match="'SGD' object is not callable"):
        optimizers.from_config({"name": "mine", "learning_rate": 0.1}, {"mine": SGD(0.5)})


def test_an_unknown_optimizer_is_reported_before_its_schedule():
    with pytest.raises(ValueError, match=naming("optimizer", "'mine'")):
        optimizers.from_config({"name": "mine", "learning_rate": {"name": "other"}})


def test_a_configuration_must_have_a_name():
    with pytest.raises(KeyError, match="'name'"):
        optimizers.from_config({"learning_rate": 0.1})
