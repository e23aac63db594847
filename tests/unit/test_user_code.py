"""Losses, metrics and optimizers of users: by operators and as Python code, in training and files, with mistakes."""

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.networks import network_builder
from helpers.snapshots import weights_of
from helpers.summaries import slow_path

import gpunn
from gpunn.kernels import get as kernel

RNG = np.random.default_rng(8)
X, Y = RNG.normal(size=(30, 4)), RNG.normal(size=(30, 3))
W = RNG.uniform(0, 2, 30) * (RNG.random(30) < 0.8)
_net = network_builder(gpunn.Dense(5, "tanh"), gpunn.Dense(3), input_shape=4, seed=2, dtype="float64", loss="mse")


@pytest.fixture(autouse=True, params=["compiled", "eager"])
def _mode(request, monkeypatch):
    """Run each test on recorded programs and in eager mode."""
    internals.keep_optimizer_names(monkeypatch)
    if request.param == "eager":
        monkeypatch.setenv("GPUNN_EAGER", "1")
    return request.param


def reasons(net):
    """The reasons that summary() gives for Python code."""
    return [reason for reason in slow_path(net.summary()) if "eager mode" not in reason]


def assert_equal_training(nets, *, rtol=1e-12, **options):
    """The networks have equal weights and histories after a few steps."""
    histories = [net.fit(X, Y, epochs=3, batch_size=7, verbose=0, **options).history for net in nets]
    for other, history in zip(nets[1:], histories[1:], strict=True):
        for a, b in zip(other.get_weights(), nets[0].get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-14)
        for (name, a), (_, b) in zip(history.items(), histories[0].items(), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, err_msg=name)


# --- losses ----------------------------------------------------------------------------------------------------------


class Weighted(gpunn.losses.Loss):
    """ℓ = ½c Σ (a − y)², by a kernel and operators."""

    def __init__(self, c=1.0):
        self.c = c

    def evaluate(self, a, y, w):
        grad_a, row_losses = kernel("half_squared_error")(a, y, w)
        return self.c * grad_a, self.c * row_losses

    def get_config(self):
        return {"c": self.c}


class OpaqueWeighted(Weighted):
    """The same loss in NumPy."""

    opaque = True

    def evaluate(self, a, y, w):
        e = a - y
        return self.c * w[:, None] * e, 0.5 * self.c * w * np.square(e).sum(axis=1)


def function(y, a):
    e = a - y
    return 0.5 * np.square(e).sum(axis=1), e


@pytest.mark.parametrize("weights", [None, W])
def test_a_loss_gives_the_same_numbers_in_all_forms(weights):
    nets = [_net(loss=loss) for loss in ("half_squared_error", Weighted(), OpaqueWeighted(), function)]
    assert_equal_training(nets, sample_weight=weights)
    for net in nets:
        assert gpunn.check_gradients(net, X, Y).ok


def test_a_constant_of_a_loss_takes_effect_at_the_next_step():
    for make in (Weighted, OpaqueWeighted):
        net, other = _net(loss=make(1.0)), _net(loss=make(3.0))
        before = net.evaluate(X, Y)["loss"]
        net.loss.c = 3.0
        assert net.evaluate(X, Y)["loss"] == other.evaluate(X, Y)["loss"] == pytest.approx(3 * before, rel=1e-13)
        net.fit(X, Y, verbose=0)
        other.fit(X, Y, verbose=0)
        assert weights_of(net) == weights_of(other)


def test_the_summary_names_losses_in_python(_mode):
    expected = [] if _mode == "eager" else ["loss OpaqueWeighted is Python code"]
    assert reasons(_net(loss=OpaqueWeighted())) == expected
    assert reasons(_net(loss=Weighted())) == []


def test_a_loss_is_saved_and_loaded(tmp_path):
    net = _net(loss=OpaqueWeighted(2.5))
    net.fit(X, Y, verbose=0)
    net.save(tmp_path / "net")
    again = gpunn.load(tmp_path / "net", custom={"OpaqueWeighted": OpaqueWeighted})
    assert again.loss.c == 2.5 and again.evaluate(X, Y) == net.evaluate(X, Y)
    with pytest.raises(ValueError, match=naming("'OpaqueWeighted'", "custom={'OpaqueWeighted'")):
        gpunn.load(tmp_path / "net")


class Missing(gpunn.losses.Loss):
    """A loss without equations."""


def test_a_loss_without_equations_is_reported():
    net = _net(loss=Missing())
    before = weights_of(net)
    with pytest.raises(NotImplementedError, match=r"Missing must define evaluate\(self, a, y, w\)"):
        net.fit(X, Y, verbose=0)
    assert weights_of(net) == before


def test_a_loss_cannot_change_the_outputs():
    class Spoil(OpaqueWeighted):
        def evaluate(self, a, y, w):
            a += 1
            return super().evaluate(a, y, w)

    with pytest.raises(ValueError, match="read-only"):
        _net(loss=Spoil()).fit(X, Y, verbose=0)


@pytest.mark.parametrize("base", [Weighted, OpaqueWeighted])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g, row_losses: (row_losses, row_losses), naming("return ∂C/∂a of shape", (30, 3), "got", (30,))),
        (lambda g, row_losses: (g, g), naming("return row losses of shape", (30,), "got", (30, 3))),
        (lambda g, row_losses: g, naming("return (∂C/∂a, row losses)", "got")),
    ],
    ids=("gradient", "row losses", "one value"),
)
def test_results_of_a_loss_of_the_wrong_shape_are_reported(base, change, message):
    class Wrong(base):
        def evaluate(self, a, y, w):
            return change(*super().evaluate(a, y, w))

    with pytest.raises(ValueError, match=message) as caught:
        _net(loss=Wrong()).fit(X, Y, batch_size=30, verbose=0)
    assert str(caught.value).startswith("Wrong.evaluate must ")


# --- metrics ---------------------------------------------------------------------------------------------------------


class SquaredError(gpunn.metrics.Metric):
    """w · mean over the outputs of (a − y)², by a kernel."""

    def rows(self, a, y, w):
        _, squares = kernel("mean_squared_error")(a, y, w)
        return squares


class OpaqueSquaredError(SquaredError):
    """The same metric in NumPy."""

    opaque = True

    def rows(self, a, y, w):
        return w * np.square(a - y).mean(axis=1)


class PerColumn(gpunn.metrics.Metric):
    """The largest mean error of a column."""

    opaque = True

    def n_sums(self, n_out):
        return n_out

    def rows(self, a, y, w):
        return w[:, None] * (a - y)

    def compute(self, mean):
        return float(np.abs(mean).max())


@pytest.mark.parametrize("weights", [None, W])
def test_a_metric_gives_the_same_numbers_in_all_forms(weights):
    net = _net(metrics=["mse", SquaredError(), OpaqueSquaredError(), PerColumn()])
    for found in (
        net.fit(X, Y, batch_size=7, epochs=2, sample_weight=weights, verbose=0).history,
        {k: [v] for k, v in net.evaluate(X, Y, sample_weight=weights, batch_size=7).items()},
    ):
        np.testing.assert_allclose(found["SquaredError"], found["mse"], rtol=1e-13)
        np.testing.assert_allclose(found["OpaqueSquaredError"], found["mse"], rtol=1e-13)
    w = np.ones(30) if weights is None else weights
    mean = (w[:, None] * (net.predict(X) - Y)).sum(axis=0) / w.sum()
    found = net.evaluate(X, Y, sample_weight=weights, batch_size=7)["PerColumn"]
    assert found == pytest.approx(np.abs(mean).max(), rel=1e-12)


def test_the_summary_names_metrics_in_python(_mode):
    expected = [] if _mode == "eager" else ["metric PerColumn is Python code"]
    assert reasons(_net(metrics=[PerColumn(), SquaredError()])) == expected


def test_a_metric_is_saved_and_loaded(tmp_path):
    net = _net(metrics=[PerColumn(name="worst")])
    net.fit(X, Y, verbose=0)
    net.save(tmp_path / "net")
    again = gpunn.load(tmp_path / "net", custom={"PerColumn": PerColumn})
    assert again.evaluate(X, Y) == net.evaluate(X, Y) and "worst" in again.evaluate(X, Y)
    with pytest.raises(ValueError, match=naming("'PerColumn'", "custom={'PerColumn'")):
        gpunn.load(tmp_path / "net")


def test_results_of_a_metric_of_the_wrong_shape_or_type_are_reported():
    class Wrong(PerColumn):
        def rows(self, a, y, w):
            return w

    class Narrow(gpunn.metrics.Metric):
        def n_sums(self, n_out):
            return n_out

        def rows(self, a, y, w):
            return a - y

    class Nothing(gpunn.metrics.Metric):
        pass

    for metric, dtype, error, message in (
        (Wrong(), "float64", ValueError, r"Wrong.rows must return an array of shape \(30, 3\), got \(30,\)"),
        (Narrow(), "float32", TypeError, r"Narrow.rows must return float64, got a matrix of float32"),
        (Nothing(), "float64", NotImplementedError, r"Nothing must define rows\(self, a, y, w\)"),
    ):
        net = _net(metrics=[metric], dtype=dtype)
        with pytest.raises(error, match=message):
            net.fit(X, Y, batch_size=30, verbose=0)


# --- optimizers ------------------------------------------------------------------------------------------------------


class OwnMomentum(gpunn.Optimizer):
    """v ← μv + g, θ ← θ − ηv, in NumPy."""

    opaque = True
    slots = ("v",)

    def __init__(self, learning_rate=0.01, momentum=0.9, **clipping):
        super().__init__(learning_rate, **clipping)
        self.momentum = momentum

    def update(self, t):
        t.v = self.momentum * t.v + t.g
        t.theta = t.theta - t.learning_rate * t.v

    def get_config(self):
        return super().get_config() | {"momentum": self.momentum}


def reference_momentum(net, steps, learning_rate=0.05, momentum=0.9):
    """The weights after full-batch steps of momentum, by the network's own gradients."""
    v = [np.zeros_like(w) for w in net.get_weights()]
    for _ in range(steps):
        _, gradients = net.loss_and_gradients(X, Y)
        v = [momentum * a + g for a, g in zip(v, gradients, strict=True)]
        net.set_weights([w - learning_rate * a for w, a in zip(net.get_weights(), v, strict=True)])
    return net.get_weights()


def test_an_optimizer_in_python_follows_its_equations():
    net = _net(optimizer=OwnMomentum(0.05))
    net.fit(X, Y, batch_size=30, epochs=4, verbose=0)
    for a, b in zip(net.get_weights(), reference_momentum(_net(), 4), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_frozen_layers_are_no_part_of_an_update():
    net = _net(optimizer=OwnMomentum(0.05))
    net[0].trainable = False
    before = net.get_weights()
    net.fit(X, Y, verbose=0)
    after = net.get_weights()
    assert all((a == b).all() for a, b in zip(after[:2], before[:2], strict=True))
    assert all((a != b).any() for a, b in zip(after[2:], before[2:], strict=True))


def test_the_summary_names_optimizers_in_python(_mode):
    expected = [] if _mode == "eager" else ["OwnMomentum is Python code"]
    assert [reason.partition(" (")[0] for reason in reasons(_net(optimizer=OwnMomentum()))] == expected


def test_a_fit_with_an_optimizer_in_python_resumes_with_the_same_bits(tmp_path):
    whole = _net(optimizer=OwnMomentum(gpunn.schedules.StepDecay(0.05, 7)))
    whole.fit(X, Y, batch_size=7, epochs=5, verbose=0)
    first = _net(optimizer=OwnMomentum(gpunn.schedules.StepDecay(0.05, 7)))
    path = tmp_path / "checkpoint"
    first.fit(X, Y, batch_size=7, epochs=2, verbose=0, callbacks=[gpunn.ModelCheckpoint(path)])
    again = gpunn.load(path, custom={"OwnMomentum": OwnMomentum})
    again.fit(X, Y, batch_size=7, epochs=5, verbose=0, resume=path)
    assert weights_of(again) == weights_of(whole)
    np.testing.assert_array_equal(internals.optimizer_state(again)["v"], internals.optimizer_state(whole)["v"])


def test_an_optimizer_is_saved_and_loaded(tmp_path):
    net = _net(optimizer=OwnMomentum(0.05, momentum=0.5))
    net.fit(X, Y, verbose=0)
    net.save(tmp_path / "net")
    again = gpunn.load(tmp_path / "net", custom={"OwnMomentum": OwnMomentum})
    assert again.optimizer.momentum == 0.5 and type(again.optimizer) is OwnMomentum


def test_mistakes_of_an_optimizer_are_reported():
    class Nothing(gpunn.Optimizer):
        pass

    class InPlace(OwnMomentum):
        def update(self, t):
            t.theta -= t.learning_rate * t.g

    class Wrong(OwnMomentum):
        def update(self, t):
            t.theta = t.theta[:-1]

    for rule, error, message in (
        (Nothing(0.1), NotImplementedError, "Nothing must define rule, or opaque = True and update"),
        (InPlace(0.1), ValueError, "read-only"),
        (Wrong(0.1), ValueError, r"Wrong.update must set t.theta of shape"),
    ):
        net = _net(optimizer=rule)
        before = weights_of(net)
        with pytest.raises(error, match=message):
            net.fit(X, Y, verbose=0)
        assert weights_of(net) == before
