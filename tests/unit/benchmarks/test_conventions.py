"""The conventions that make all objectives equal, compared with hand calculations and other libraries."""

import dataclasses
import math

import numpy as np
import pytest
from helpers.oracles import oracle

from benchmarks import contestants, conventions
from benchmarks.comparison import References, Settings, Workers, compare
from benchmarks.nets import NETS, SWEEPS, Net
from benchmarks.peers import numpy_plain
from gpunn import input_checks

pytestmark = pytest.mark.slow

NET_OF = {
    "crossentropy": Net("c", (5, 7, 6, 3), 32, 1024, learning_rate=0.01),
    "half_squared_error": Net("h", (5, 7, 1), 32, 1024, "sgd", 0.05, "half_squared_error"),
}


@pytest.fixture(scope="module", params=list(NET_OF))
def net(request):
    return NET_OF[request.param]


def test_nets_are_as_specified():
    assert {n.name: (n.sizes, n.batch, n.rule) for n in NETS.values()} == {
        "seed": ((8, 16, 1), 1, "sgd"),
        "tabular": ((16, 64, 64, 1), 32, "adam"),
        "digits": ((64, 100, 10), 200, "adam"),
        "mnist": ((784, 512, 256, 10), 128, "adam"),
        "wide": ((1024, 1024, 1024, 1024, 10), 512, "adam"),
    }
    assert [n.loss for n in NETS.values()] == ["half_squared_error"] * 2 + ["crossentropy"] * 3
    assert NETS["digits"].parameters == 64 * 100 + 100 + 100 * 10 + 10
    assert all(n.steps >= 20 for points in SWEEPS.values() for n in points.values())


@pytest.mark.parametrize("batch, rows", [(64, 1024), (3, 1024), (32, 1056)])
def test_too_few_or_uneven_batches_are_refused(batch, rows):
    with pytest.raises(ValueError, match="at least 20 full batches"):
        Net("n", (2, 1), batch, rows)


def test_orders_equal_those_of_fit():
    task = conventions.task(NET_OF["crossentropy"], 3, "float32")
    for epoch in range(3):
        np.testing.assert_array_equal(task.order(epoch), input_checks.epoch_permutation(1024, 3, epoch, True))


def test_data_is_the_same_in_both_precisions(net):
    single, double = (conventions.task(net, 1, p) for p in ("float32", "float64"))
    np.testing.assert_array_equal(single.X, double.X)
    np.testing.assert_array_equal(single.y, double.y)
    assert single.in_float64().X.dtype == double.X.dtype == np.float64


def test_initial_weights_equal_those_of_scikit_learn():
    neural = oracle("sklearn.neural_network")
    X, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 3
    estimator = neural.MLPClassifier((5, 6), random_state=9, learning_rate_init=1e-300)
    estimator.partial_fit(X, y, classes=[0, 1, 2])
    drawn = conventions.initial_weights((4, 5, 6, 3), 9, np.float64)
    for ours, theirs in zip(drawn[0::2] + drawn[1::2], estimator.coefs_ + estimator.intercepts_, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_losses_and_first_steps_by_hand():
    """One unit without a hidden layer: x = (1, 2), θ = (1/2, −1/4, 1/4), y = 1, so a = 1/4, ℓ = 9/32, g = −(3/4, 3/2,
    3/4) for (W, b)."""
    net = Net("n", (2, 1), 1, 1024, "adam", 0.5, "half_squared_error")
    x, y = np.array([[1.0, 2.0]]), np.array([[1.0]])
    start = [np.array([[0.5], [-0.25]]), np.array([0.25])]
    steps = {}
    for rule in ("pytorch", "scikit-learn"):
        task = conventions.Task(net, 0, "float64", x, y, start)
        prepared = numpy_plain.prepare(task, 1, rule)
        assert prepared.step(x, y) == 9 / 32
        steps[rule] = [(a - b).ravel() for a, b in zip(prepared.weights(), start, strict=True)]
    # m = g/10, v = g²/1000, both corrected to g and g²
    g = np.array([0.75, 1.5])
    root = math.sqrt(0.001)
    np.testing.assert_allclose(steps["pytorch"][0], 0.5 * g / (g + 1e-7), rtol=1e-12)
    np.testing.assert_allclose(steps["scikit-learn"][0], 0.5 * g / (g + 1e-7 / root), rtol=1e-12)
    assert abs(steps["pytorch"][0] - steps["scikit-learn"][0]).min() > 1e-7


def test_crossentropy_by_hand():
    """Equal logits of four classes: ℓ = log 4, δ = (1/4 − 1, 1/4, 1/4, 1/4) over the rows."""
    task = conventions.task(Net("n", (2, 4), 32, 1024), 0, "float64")
    loss, delta = numpy_plain.prepare(task, 1).output_error(np.full((2, 4), 700.0), np.array([0, 3]))
    assert loss == pytest.approx(math.log(4), rel=1e-15)
    np.testing.assert_allclose(delta, np.array([[-3, 1, 1, 1], [1, 1, 1, -3]]) / 8, rtol=1e-15)


def test_disagreement_is_relative_to_the_largest_loss():
    assert conventions.disagreement([4.0, 1.0], [4.0, 1.5]) == 0.125
    assert conventions.disagreement([4.0, math.nan], [4.0, 1.5]) == math.inf
    assert conventions.disagreement([4.0], [4.0, 1.5]) == math.inf


@pytest.mark.parametrize("name", ["tabular", "digits"])
def test_the_two_forms_of_adam_disagree(name):
    """They differ by more than the tolerance."""
    task = conventions.task(NETS[name], 0, "float32").in_float64()
    found = [numpy_plain.prepare(task, 1, rule).losses(20) for rule in ("pytorch", "scikit-learn")]
    assert conventions.disagreement(*found) > conventions.LOSS_TOLERANCE["float32"]


NEEDED = {
    "gpunn-watched": "tqdm",
    "gpunn-estimator": "sklearn",
    "scikit-learn": "sklearn",
    "torch-eager": "torch",
    "jax-jit": "jax",
    "jax-scan": "jax",
}


@pytest.mark.parametrize(
    "name, precision",
    [*((name, "float32") for name in ("gpunn", "numpy", *NEEDED)), ("gpunn", "float64"), ("jax-jit", "float64")],
)
def test_all_contestants_agree_and_are_timed(name, precision):
    """Losses of 20 steps and predictions of all contestants except torch-compiled, which compiles too slowly."""
    if name in NEEDED:
        oracle(NEEDED[name])
    nets = dict(NET_OF) if precision == "float32" else {"crossentropy": NET_OF["crossentropy"]}
    settings = Settings(precision=precision, rounds=2, seconds=1e-4, new_processes=False)
    workers = Workers(1, {}, {}, lambda line: None)
    try:
        for net in nets.values():
            references = _References(settings)
            (entry,) = compare(net, [_everywhere(name)], workers, references, settings, lambda line: None)
            assert not entry.notes
            assert {mode: len(times) for mode, times in entry.times.items()} == dict.fromkeys(entry.contestant.modes, 2)
            assert entry.disagreement <= {"float32": 1e-6, "float64": 1e-14}[precision]
    finally:
        workers.close()


def _everywhere(name):
    return dataclasses.replace(contestants.CPU[name], nets=())


class _References(References):
    """The reference, computed in this process."""

    def __init__(self, settings):
        super().__init__(settings, 1)

    def losses(self, net, rule):
        task = conventions.task(net, self.settings.seed, self.settings.precision).in_float64()
        return numpy_plain.prepare(task, 1, rule).losses(20)
