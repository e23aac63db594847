"""The cache of recorded steps: equal structures share a program, and everything that changes it separates them."""

import copy
import threading

import numpy as np
import pytest
from helpers import internals
from helpers.networks import build_network
from helpers.user_classes import Doubled, Square, UserSigmoid, user_loss

import gpunn
from gpunn import activations, losses, metrics, optimizers

ROWS = 9
STEP = {"training": True, "loss": True, "backward": True, "update": True}


@pytest.fixture(autouse=True)
def _empty_cache():
    internals.forget_recorded_steps()
    yield
    internals.forget_recorded_steps()


BASE = {
    "n_in": 6,
    "units": 5,
    "activation": activations.LeakyReLU(0.1),
    "use_bias": True,
    "l2": 0.01,
    "l1": 0.02,
    "max_norm": 2.0,
    "trainable": True,
    "rate": 0.25,
    "form": "inverted",
    "momentum": 0.9,
    "epsilon": 1e-3,
    "norm_trainable": True,
    "layer_epsilon": 1e-5,
    "out": "identity",
    "n_out": 3,
    "optimizer": gpunn.Adam(0.01, beta_1=0.8, clipvalue=0.5, clipnorm=1.0),
    "loss": losses.Huber(0.5),
    "metrics": ["mae"],
    "dtype": "float32",
    "seed": 1,
}


def build(**changes):
    """A network with all layers, and the attributes of BASE as far as they are not changed."""
    c = BASE | changes
    dense = gpunn.Dense(
        c["units"], c["activation"], use_bias=c["use_bias"], l2=c["l2"], l1=c["l1"], max_norm=c["max_norm"]
    )
    norm = gpunn.BatchNormalization(momentum=c["momentum"], epsilon=c["epsilon"])
    dense.trainable, norm.trainable = c["trainable"], c["norm_trainable"]
    layers = [
        dense,
        gpunn.Dropout(c["rate"], form=c["form"]),
        norm,
        gpunn.LayerNormalization(epsilon=c["layer_epsilon"]),
        gpunn.Dense(c["n_out"], c["out"]),
    ]
    options = {name: c[name] for name in ("optimizer", "loss", "metrics", "dtype", "seed")}
    return build_network(*layers, input_shape=c["n_in"], **options)


def step_of(net, rows):
    """The program of a training step, from the cache if it is there."""
    return internals.program_of(net, rows, **STEP)


CHANGES = {
    "n_in": 7,
    "units": 4,
    "activation": activations.LeakyReLU(0.2),
    "use_bias": False,
    "l2": 0.03,
    "l1": 0.0,
    "max_norm": None,
    "trainable": False,
    "rate": 0.5,
    "form": "textbook",
    "momentum": 0.8,
    "epsilon": 1e-2,
    "norm_trainable": False,
    "layer_epsilon": 1e-4,
    "out": "tanh",
    "n_out": 2,
    "loss": losses.Huber(2.0),
    "metrics": ["mae", "r2"],
    "dtype": "float64",
}
VARIANTS = [pytest.param({name: value}, id=name) for name, value in CHANGES.items()]
VARIANTS += [
    pytest.param({"max_norm": 1.0}, id="another max_norm"),
    pytest.param({"activation": "elu"}, id="another activation"),
    pytest.param({"activation": activations.ELU(0.1)}, id="another activation with this constant"),
    pytest.param({"rate": 0.0}, id="no dropout"),
    pytest.param({"loss": "mse"}, id="another loss"),
    pytest.param({"metrics": []}, id="no metric"),
    pytest.param({"metrics": ["mse"]}, id="another metric"),
]
OPTIMIZERS = [
    gpunn.Adam(0.01, beta_1=0.7, clipvalue=0.5, clipnorm=1.0),
    gpunn.Adam(0.01, beta_1=0.8, beta_2=0.9, clipvalue=0.5, clipnorm=1.0),
    gpunn.Adam(0.01, beta_1=0.8, epsilon=1e-5, clipvalue=0.5, clipnorm=1.0),
    gpunn.Adam(0.01, beta_1=0.8, clipnorm=1.0),
    gpunn.Adam(0.01, beta_1=0.8, clipvalue=0.5),
    gpunn.Adam(0.01, beta_1=0.8, clipvalue=0.25, clipnorm=1.0),
    gpunn.Adam(0.01, beta_1=0.8, clipvalue=0.5, clipnorm=2.0),
    gpunn.Adam(0.01, beta_1=1e-31, clipvalue=0.5, clipnorm=1.0),
    gpunn.AdamW(0.01, weight_decay=0.1),
    gpunn.AdamW(0.01, weight_decay=0.2),
    gpunn.AdamW(0.01, weight_decay=0.2, decay_weights_only=True),
    gpunn.SGD(0.01),
    gpunn.Momentum(0.01, 0.9),
    gpunn.Momentum(0.01, 0.8),
    gpunn.Nesterov(0.01, 0.9),
    gpunn.RMSprop(0.01),
    gpunn.RMSprop(0.01, rho=0.8),
    gpunn.Adagrad(0.01),
]
VARIANTS += [pytest.param({"optimizer": rule}, id=repr(rule)) for rule in OPTIMIZERS]
CLASSES = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], "n_out": 3, "out": "softmax"}
CLASS_VARIANTS = [
    {"out": "identity"},
    {"loss": losses.SparseCategoricalCrossentropy(from_logits=True), "out": "tanh"},
    {"loss": losses.SparseCategoricalCrossentropy(label_smoothing=0.1)},
    {"loss": losses.SparseCategoricalCrossentropy(label_smoothing=0.2)},
    {"loss": "categorical_crossentropy"},
    {"loss": "binary_crossentropy", "out": "sigmoid"},
    {"metrics": [metrics.TopKCategoricalAccuracy(2)]},
    {"metrics": [metrics.TopKCategoricalAccuracy(1)]},
    {"metrics": [metrics.Precision()]},
    {"metrics": [metrics.F1Score()]},
]


def assert_own_program(base, changed):
    """The changed network gets the program that it records alone, with the other one in the cache before."""
    before = str(step_of(base(), ROWS))
    found = str(step_of(changed(), ROWS))
    internals.forget_recorded_steps()
    assert found == str(step_of(changed(), ROWS)) != before


@pytest.mark.parametrize("change", VARIANTS)
def test_every_attribute_separates_programs(change):
    assert_own_program(build, lambda: build(**change))


@pytest.mark.parametrize("change", CLASS_VARIANTS, ids=str)
def test_every_attribute_of_a_classifier_separates_programs(change):
    assert_own_program(lambda: build(**CLASSES), lambda: build(**CLASSES | change))


def test_an_attribute_set_later_gives_the_program_of_a_network_made_with_it():
    for name, value in {"rate": 0.5, "l2": 0.03, "epsilon": 1e-2, "trainable": False}.items():
        net = build()
        before = str(step_of(net, ROWS))
        owner = net[{"rate": 1, "epsilon": 2}.get(name, 0)]
        setattr(owner, name, value)
        assert str(step_of(net, ROWS)) == str(step_of(build(**{name: value}), ROWS)) != before


MODES = [
    {"training": False},
    {"training": True},
    {"training": False, "trace": True},
    {"training": True, "loss": True},
    {"training": False, "loss": True},
    {"training": False, "loss": True, "weighted": True},
    {"training": True, "loss": True, "backward": True},
    {"training": True, "loss": True, "backward": True, "input_gradient": True},
    {"training": True, "loss": True, "backward": True, "trace": True},
    {"training": True, "loss": True, "backward": True, "rewritten": False},
    {"training": True, "loss": True, "keep_activations": True},
    STEP,
    STEP | {"weighted": True},
    STEP | {"rewritten": False},
]


def test_every_mode_has_its_program():
    net, seen = build(units=64, n_in=64), {}
    for rows in (8, 9):
        for mode in MODES:
            program = internals.program_of(net, rows, **mode)
            program.verify()
            seen.setdefault(str(program), []).append((rows, mode))
    assert [each for each in seen.values() if len(each) > 1] == []
    assert internals.recorded_steps() == 2 * len(MODES)


def test_networks_of_one_structure_share_a_program():
    first = step_of(build(), ROWS)
    others = [
        build(seed=2),
        build(optimizer=gpunn.Adam(0.5, beta_1=0.8, clipvalue=0.5, clipnorm=1.0)),  # the rate is in the state array
        build().fit(np.ones((20, 6)), np.ones((20, 3)), batch_size=ROWS, verbose=0) and build(),
        copy.deepcopy(build()),
    ]
    assert all(step_of(net, ROWS) is first for net in others)


def test_initializers_do_not_separate_programs():
    def net(initializer):
        return build_network(
            gpunn.Dense(4, "relu", kernel_initializer=initializer), gpunn.Dense(2), input_shape=3, loss="mse"
        )

    assert step_of(net("zeros"), ROWS) is step_of(net("glorot_uniform"), ROWS)


class OwnDense(gpunn.Dense):
    """A layer whose equations the cache cannot know."""


class OwnHuber(losses.Huber):
    """A loss, likewise."""


class OwnMetric(metrics.MeanAbsoluteError):
    """A metric, likewise."""


class OwnAdam(optimizers.Adam):
    """An optimizer, likewise."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: [gpunn.Dense(4), OwnDense(3)],
        lambda: [gpunn.Dense(4, Square()), gpunn.Dense(3)],
        lambda: [gpunn.Dense(4, UserSigmoid()), gpunn.Dense(3)],
        lambda: [gpunn.Dense(3), Doubled()],
    ],
)
def test_layers_and_activations_of_users_are_recorded_each_time(make):
    options = {"input_shape": 6, "loss": "mse"}
    if isinstance(make()[-1], Doubled):  # it has no backward pass
        nets = [gpunn.Sequential(make(), input_shape=6) for _ in range(2)]
        for net in nets:
            net.predict(np.ones((3, 6)))
    else:
        first, second = (step_of(build_network(*make(), **options), ROWS) for _ in range(2))
        assert first is not second and str(first) == str(second)
    assert internals.recorded_steps() == 0


@pytest.mark.parametrize(
    "change",
    [{"loss": OwnHuber()}, {"loss": user_loss}, {"metrics": [OwnMetric()]}, {"optimizer": OwnAdam()}],
    ids=("loss", "function", "metric", "optimizer"),
)
def test_losses_metrics_and_optimizers_of_users_are_recorded_each_time(change):
    first, second = (step_of(build(**change), ROWS) for _ in range(2))
    assert first is not second and internals.recorded_steps() == 0


def test_a_user_class_of_the_same_name_has_its_own_equations():
    """Two classes may differ in their equations only."""
    texts = []
    for factor in (2, 3):

        class Scaled(activations.Activation):
            names = (f"scaled{factor}",)

            def f(self, z, factor=factor):
                return factor * z

            def derivative(self, z, a, factor=factor):
                return z * 0 + factor

        texts.append(str(step_of(build(activation=Scaled()), ROWS)))
    assert texts[0] != texts[1]


def test_the_cache_is_limited(monkeypatch):
    internals.limit_recorded_steps(monkeypatch, 3)
    net = build()
    programs = [step_of(net, rows) for rows in range(2, 8)]
    assert internals.recorded_steps() == 3
    assert step_of(net, 7) is programs[-1] and step_of(net, 2) is not programs[0]


def test_numpy_references_have_their_own_programs(monkeypatch):
    """Without compiled products nothing is fused into them."""
    net = build_network(gpunn.Dense(4, "relu"), gpunn.Dense(2), input_shape=3, loss="mse")
    monkeypatch.setenv("GPUNN_COMPILE", "1")
    compiled = str(step_of(net, ROWS))
    monkeypatch.setenv("GPUNN_COMPILE", "0")
    numpy = str(step_of(net, ROWS))
    monkeypatch.setenv("GPUNN_COMPILE", "1")
    assert "gemm_bias_relu" not in numpy and "bias_relu" in numpy
    assert str(step_of(net, ROWS)) == compiled


def test_threads_get_valid_programs(monkeypatch):
    """Networks of several structures in several threads, with a cache that is too small for them."""
    internals.limit_recorded_steps(monkeypatch, 2)
    expected = {units: str(step_of(build(units=units), ROWS)) for units in range(2, 6)}
    failures = []

    def work(start):
        for k in range(12):
            units = 2 + (start + k) % 4
            if str(step_of(build(units=units), ROWS)) != expected[units]:
                failures.append(units)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_networks_that_share_a_program_do_not_share_results():
    X, y = np.random.default_rng(0).normal(size=(40, 6)), np.random.default_rng(1).normal(size=(40, 3))
    alone = build(seed=5).fit(X, y, batch_size=ROWS, epochs=3, verbose=0).history["loss"]
    nets = [build(seed=5), build(seed=6)]
    for _ in range(3):
        for net in nets:
            net.fit(X, y, batch_size=ROWS, verbose=0)
    together = build(seed=5).fit(X, y, batch_size=ROWS, epochs=3, verbose=0).history["loss"]
    assert alone == together
