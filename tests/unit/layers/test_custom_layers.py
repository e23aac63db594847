"""Custom layers and a custom activation, written from the documented contract only."""

import copy
import pickle

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.networks import network_builder
from helpers.processes import run_python
from helpers.snapshots import bits, state_of, weights_of
from helpers.summaries import slow_path

import gpunn
from gpunn.layers import Parameter, RunningStat

RNG = np.random.default_rng(6)
X, Y = RNG.normal(size=(20, 4)), RNG.normal(size=(20, 3))


class Cubic(gpunn.activations.Activation):
    """f(z) = cz³."""

    def __init__(self, c=0.5):
        self.c = c

    def f(self, z):
        return self.c * z * z * z

    def derivative(self, z, a):
        return 3 * self.c * z * z

    def get_config(self):
        return {"c": self.c}


class OpaqueCubic(Cubic):
    """The same function as Python code."""

    opaque = True


class Scale(gpunn.Layer):
    """a = s ⊙ a_prev, with one parameter s per column."""

    def __init__(self, start=1.0):
        self.start = start

    def parameters(self):
        return [Parameter("s", (self.n_in,), gpunn.initializers.Constant(self.start))]

    def forward(self, t):
        t.a = t.a_prev * t.s

    def backward(self, t):
        t.ds = (t.grad_a * t.a_prev).sum(axis=0)
        t.grad_prev = t.grad_a * t.s

    def get_config(self):
        return {"start": self.start}


class OpaqueScale(Scale):
    """The same layer as Python code."""

    opaque = True


class Both(gpunn.Layer):
    """a = (a_prev, −a_prev), as Python code. Its width is known only after build."""

    opaque = True

    def build(self, n_in):
        self.n_in, self.n_out = n_in, 2 * n_in
        return self.n_out

    def forward(self, t):
        t.a = np.concatenate([t.a_prev, -t.a_prev], axis=1)

    def backward(self, t):
        t.grad_prev = t.grad_a[:, : self.n_in] - t.grad_a[:, self.n_in :]


_net = network_builder(seed=2, dtype="float64", optimizer=gpunn.Adam(0.05), loss="half_squared_error", metrics=["mae"])


def _all():
    return [gpunn.Dense(5, Cubic(0.25)), Scale(1.5), Both(), gpunn.Dense(3)]


def _opaque():
    return [gpunn.Dense(5, OpaqueCubic(0.25)), OpaqueScale(1.5), Both(), gpunn.Dense(3)]


@pytest.mark.parametrize("training", [True, False])
def test_their_derivatives_are_right(training):
    pair = [Both(), gpunn.Dense(3), Scale()]
    for layers in ([Scale(), gpunn.Dense(3)], [gpunn.Dense(3, Cubic())], _all(), _opaque(), pair):
        report = gpunn.check_gradients(_net(*layers), X, Y, training=training)
        assert report.ok, report


def test_they_train():
    net = _net(*_all())
    loss = net.fit(X, Y, epochs=60, batch_size=8, verbose=0).history["loss"]
    assert loss[-1] < 0.5 * loss[0]
    assert [w.shape for w in net.get_weights()] == [(4, 5), (5,), (5,), (10, 3), (3,)]
    assert (net.get_weights()[2] != 1.5).all()


def test_opaque_code_gives_the_same_numbers():
    nets = [_net(*layers) for layers in (_all(), _opaque())]
    assert weights_of(nets[0].build(4)) == weights_of(nets[1].build(4))
    for net in nets:
        net.fit(X, Y, epochs=3, batch_size=8, verbose=0)
    for a, b in zip(nets[0].get_weights(), nets[1].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_custom_activation_computes_its_formula():
    net = _net(gpunn.Dense(3, Cubic(2.0)), gpunn.Activation(Cubic(1.0)))
    first, second = net.trace(X, Y)
    np.testing.assert_array_equal(first.a, 2 * first.z * first.z * first.z)
    np.testing.assert_array_equal(second.z, first.a)
    np.testing.assert_allclose(second.delta, 3 * second.z**2 * (second.a - Y) / 20, rtol=1e-13)
    np.testing.assert_allclose(first.delta, 6 * first.z**2 * second.delta, rtol=1e-13)


def test_trace_shows_a_custom_layer():
    record = _net(gpunn.Dense(3), Scale(2.0)).trace(X, Y)[1]
    assert record.layer == "Scale(start=2.0)" and set(record.gradients) == {"s"}
    np.testing.assert_array_equal(record.z, record.a)
    np.testing.assert_allclose(record.delta, (record.a - Y) / 20, rtol=1e-13)
    np.testing.assert_allclose(record.gradients["s"], (record.delta * record.a / 2).sum(axis=0), rtol=1e-12)


def test_summary_reports_layers_that_leave_the_fast_path():
    text = _net(*_opaque()).build(4).summary()
    assert "leaves the fast path: OpaqueScale is Python code" in text
    assert "leaves the fast path: activation OpaqueCubic is Python code" in text
    assert slow_path(_net(Scale(), gpunn.Dense(3, Cubic())).build(4).summary()) == []


def test_a_custom_width_is_known_before_the_network_is_built():
    net = _net(gpunn.Dense(2), Both())
    with pytest.raises(ValueError, match=r"y must have shape \(20, 4\)"):
        net.fit(X, Y, verbose=0)
    with pytest.raises(RuntimeError, match="no weights yet"):
        net.get_weights()
    net.fit(X, np.ones((20, 4)), verbose=0)


def test_a_custom_layer_can_be_frozen():
    for layers in (_all(), _opaque()):
        net = _net(*layers).build(4)
        net[1].trainable = False
        net.fit(X, Y, epochs=2, verbose=0)
        assert (net.get_weights()[2] == 1.5).all()
        assert not net.loss_and_gradients(X, Y)[1][2].any()


def test_copies_contain_custom_layers():
    net = _net(*_all())
    net.fit(X, Y, epochs=2, verbose=0)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert state_of(twin) == state_of(net)
        assert twin.fit(X, Y, verbose=0).history == copy.deepcopy(net).fit(X, Y, verbose=0).history


CUSTOM = {"Cubic": Cubic, "Scale": Scale, "Both": Both}


def test_saving_and_loading(tmp_path):
    net = _net(*_all())
    net.fit(X, Y, epochs=2, verbose=0)
    net.save(tmp_path / "own.safetensors")
    again = gpunn.load(tmp_path / "own.safetensors", custom=CUSTOM)
    assert weights_of(again) == weights_of(net) and repr(again) == repr(net)
    assert again[0].activation == Cubic(0.25) and again[1].start == 1.5
    assert bits(again.predict(X)) == bits(net.predict(X)) and again.evaluate(X, Y) == net.evaluate(X, Y)
    with pytest.raises(ValueError, match=naming("'Cubic'", "custom={'Cubic'")):
        gpunn.load(tmp_path / "own.safetensors")


def test_loading_without_the_custom_classes_names_them(tmp_path):
    _net(Scale(), Both(), gpunn.Dense(3)).build(4).save(tmp_path / "own.safetensors")
    script = f"import gpunn; gpunn.load({str(tmp_path / 'own.safetensors')!r})"
    done = run_python(script)
    assert "ValueError: layer 'Scale' is not built in: pass custom={'Scale': its class}" in done.stderr


def test_built_in_names_are_reserved():
    """Files store names, so another class of the same name would silently replace the built-in one."""
    bases = [gpunn.Layer, gpunn.activations.Activation, gpunn.losses.Loss, gpunn.metrics.Metric]
    for base, taken in zip(bases, ["Dense", "softmax", "huber", "accuracy"], strict=True):
        with pytest.raises(TypeError, match=naming(taken, "already")):
            type(taken, (base,), {})
    with pytest.raises(TypeError, match="activation 'swish' exists already in gpunn"):
        type("Mine", (gpunn.activations.Activation,), {"names": ("mine", "swish")})
    assert type(gpunn.activations.get("swish")) is gpunn.activations.SiLU
    with pytest.raises(ValueError, match="activation 'mine' is unknown"):
        gpunn.Dense(3, "mine")
    assert type(gpunn.metrics.get("accuracy")) is gpunn.metrics.Accuracy


def test_a_subclass_of_a_built_in_class_is_not_treated_as_its_parent(tmp_path, monkeypatch):
    """A cross-entropy is not fused with a sigmoid that is twice as steep, and a file restores that class."""
    internals.keep_optimizer_names(monkeypatch)

    class Steep(gpunn.activations.Sigmoid):
        def f(self, z):
            return super().f(2 * z)

        def derivative(self, z, a):
            return 2 * a * (1 - a)

    class Patient(gpunn.Adam):
        pass

    assert Steep().name == "Steep" and type(gpunn.activations.get("sigmoid")) is gpunn.activations.Sigmoid
    assert type(gpunn.optimizers.get("adam")) is gpunn.Adam
    net = gpunn.Sequential([gpunn.Dense(1, Steep())], input_shape=4, seed=0, dtype="float64")
    with pytest.raises(ValueError, match=r"needs sigmoid .*got Steep"):
        net.compile("sgd", "binary_crossentropy")
    net.compile(Patient(0.5), gpunn.losses.BinaryCrossentropy(from_logits=False), device="cpu")
    assert gpunn.check_gradients(net, X, Y[:, :1] > 0).ok
    net.save(tmp_path / "steep.safetensors")
    with pytest.raises(ValueError, match=naming("'Steep'", "not built in")):
        gpunn.load(tmp_path / "steep.safetensors")
    again = gpunn.load(tmp_path / "steep.safetensors", custom={"Steep": Steep})
    assert bits(again.predict(X)) == bits(net.predict(X)) and type(again.optimizer) is Patient


def test_missing_methods_are_reported():
    class Half(gpunn.Layer):
        def forward(self, t):
            t.a = t.a_prev

    class Nothing(gpunn.activations.Activation):
        pass

    net = _net(gpunn.Dense(3), Half())
    assert net.predict(X).shape == (20, 3)
    with pytest.raises(NotImplementedError, match=r"Half must define backward\(self, t\)"):
        net.fit(X, Y, verbose=0)
    with pytest.raises(NotImplementedError, match=r"Nothing must define f\(self, z\)"):
        _net(gpunn.Dense(3, Nothing())).predict(X)


class WideRectifier(gpunn.activations.Activation):
    """A leaky rectifier that computes in float64."""

    opaque = True

    def f(self, z):
        return self.derivative(z, None) * z

    def derivative(self, z, a):
        return np.where(z > 0, np.float64(1), np.float64(0.125))


class WideScale(OpaqueScale):
    """A layer that computes in float64."""

    def forward(self, t):
        t.a = t.a_prev.astype(np.float64) * t.s

    def backward(self, t):
        super().backward(t)
        t.grad_prev = t.grad_prev.astype(np.float64)


@pytest.mark.parametrize("eager", [False, True])
def test_opaque_code_may_compute_in_another_type(eager):
    def loss(y, a):
        e = a.astype(np.float64) - y
        return (e * e).sum(axis=1) / 2, e

    layers = [gpunn.Dense(3, WideRectifier()), WideScale(), gpunn.Dense(3)]
    net = _net(*layers, dtype="float32", loss=loss, eager=eager)
    built_in = [gpunn.Dense(3, gpunn.activations.LeakyReLU(0.125)), Scale(), gpunn.Dense(3)]
    peer = _net(*built_in, dtype="float32")
    net.build(4).set_weights(peer.build(4).get_weights())
    for w in (net, peer):
        w.fit(X, Y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(net.get_weights(), peer.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert a.dtype == np.float32


class Centered(gpunn.Layer):
    """a = a_prev − m; after each update m moves halfway to the mean of the batch."""

    def running(self):
        return [RunningStat("m", (self.n_in,), 0.0)]

    def forward(self, t):
        t.a = t.a_prev - t.m

    def backward(self, t):
        t.grad_prev = t.grad_a

    def after_update(self, t):
        t.m = t.m + 0.5 * (t.a_prev.sum(axis=0) * (1 / t.rows) - t.m)


class OpaqueCentered(Centered):
    """The same layer as Python code."""

    opaque = True


@pytest.mark.parametrize("layer", [Centered, OpaqueCentered])
def test_a_custom_layer_may_have_running_statistics(layer):
    net = _net(layer(), gpunn.Dense(3))
    m = np.zeros(4)
    for _ in range(3):
        net.train_on_batch(X, Y)
        m = m + 0.5 * (X.mean(axis=0) - m)
        np.testing.assert_allclose(internals.running_stats_of(net, 0)["m"], m, rtol=1e-13)
    np.testing.assert_allclose(net.trace(X)[0].a, X - m, rtol=1e-13)
    # a batch without weight changes nothing
    before = weights_of(net)
    net.train_on_batch(X, Y, sample_weight=np.zeros(20))
    assert weights_of(net) == before
    np.testing.assert_allclose(internals.running_stats_of(net, 0)["m"], m, rtol=1e-13)


class Sorted(gpunn.Layer):
    """Sort each row. The permutation that the forward pass stores is that of the backward pass."""

    opaque = True

    def forward(self, t):
        t.order = np.argsort(t.a_prev, axis=1)
        t.a = np.take_along_axis(t.a_prev, t.order, axis=1)

    def backward(self, t):
        t.grad_prev = np.take_along_axis(t.grad_a, np.argsort(t.order, axis=1), axis=1)


def test_an_opaque_layer_may_store_values_for_its_backward_pass():
    net = _net(gpunn.Dense(5), Sorted(), gpunn.Dense(3))
    assert gpunn.check_gradients(net, X, Y).ok
    np.testing.assert_allclose(net.trace(X)[1].a, np.sort(net.trace(X)[0].a, axis=1), rtol=0)
    net.fit(X, Y, batch_size=6, verbose=0)


@pytest.mark.parametrize("name", ["a_prev", "s", "grad_a"])
def test_an_opaque_layer_cannot_change_its_inputs(name):
    class Spoil(OpaqueScale):
        def backward(self, t):
            getattr(t, name)[...] = 0

    with pytest.raises(ValueError, match="read-only"):
        _net(gpunn.Dense(3), Spoil()).train_on_batch(X, Y)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (np.sin, r"numpy\.sin"),
        (np.sort, r"numpy\.sort"),
        (lambda z: z**2, r"\*\*"),
        (lambda z: z[:, :1], "indexing"),
        (lambda z: z.mean(), "mean"),
        (lambda z: z + np.ones(3), "an array"),
    ],
)
def test_other_functions_of_numpy_need_opaque_code(function, named):
    class Function(gpunn.activations.Activation):
        def f(self, z):
            return function(z)

    with pytest.raises(TypeError, match=rf"{named}.*opaque = True"):
        _net(gpunn.Dense(3, Function())).predict(X)


@pytest.mark.parametrize("base", [Scale, OpaqueScale])
def test_what_a_layer_forgets_to_set_is_reported(base):
    class NoOutput(base):
        def forward(self, t):
            t.b = t.a_prev

    class NoGradient(base):
        def backward(self, t):
            t.grad_prev = t.grad_a

    class Wide(base):
        def forward(self, t):
            t.a = t.a_prev.T @ t.a_prev

    class NotSummed(base):
        def backward(self, t):
            t.ds = t.grad_a * t.a_prev
            t.grad_prev = t.grad_a

    for layer, error, message in (
        (NoOutput(), AttributeError, "NoOutput.forward must set t.a"),
        (NoGradient(), AttributeError, "NoGradient.backward must set t.ds"),
        (Wide(), ValueError, r"Wide.forward must set t.a of shape \(20, 3\), got \(3, 3\)"),
        (NotSummed(), ValueError, r"NotSummed.backward must set t.ds of shape \(3,\), got \(20, 3\)"),
    ):
        with pytest.raises(error, match=message):
            _net(gpunn.Dense(3), layer).fit(X, Y, verbose=0)


@pytest.mark.parametrize("method", ["f", "derivative"])
def test_results_of_the_wrong_shape_are_reported(method):
    class Wrong(OpaqueCubic):
        pass

    setattr(Wrong, method, lambda self, z, *a: z[:, :1])
    net = _net(gpunn.Dense(3, Wrong()))
    with pytest.raises(ValueError, match=naming(f"Wrong.{method}", (20, 3), (20, 1))):
        net.fit(X, Y, verbose=0)


@pytest.mark.parametrize("base", [Scale, OpaqueScale])
@pytest.mark.parametrize("eager", [False, True])
def test_gradients_of_the_wrong_shape_are_reported(base, eager):
    """Otherwise they would overwrite the gradients of other parameters."""

    class Long(base):
        def backward(self, t):
            super().backward(t)
            t.ds = t.grad_a.T @ t.grad_a

    class Square(base):
        def backward(self, t):
            super().backward(t)
            t.grad_prev = t.grad_a.T @ t.grad_a

    class Short(OpaqueScale):
        def after_update(self, t):
            t.s = t.s[:-1]

    for layer, message in (
        (Long(), r"Long.backward must set t.ds of shape \(3,\), got \(3, 3\)"),
        (Square(), r"Square.backward must set t.grad_prev of shape \(20, 3\), got \(3, 3\)"),
        (Short(), r"Short.after_update must set t.s of shape \(3,\), got \(2,\)"),
    ):
        net = _net(gpunn.Dense(3), layer, eager=eager).build(4)
        with pytest.raises(ValueError, match=message):
            net.train_on_batch(X, Y)
