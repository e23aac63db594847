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

import gpunn
from gpunn.layers import Parameter

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


class Scale(gpunn.Layer):
    """a = s ⊙ a_prev, with one parameter s per column, in Python."""

    def __init__(self, start=1.0):
        self.start = start

    def parameters(self):
        return [Parameter("s", (self.n_in,), gpunn.initializers.Constant(self.start))]

    def forward(self, ops, t, training):
        def scale():
            t.a[...] = t.a_prev * t.s

        ops.call_python(scale, reason="Scale is written in Python")

    def backward(self, ops, t, training):
        def gradients():
            if self.trainable:
                t.ds[...] = (t.grad_a * t.a_prev).sum(axis=0)
            if t.grad_prev is not None:
                t.grad_prev[...] = t.grad_a * t.s

        ops.call_python(gradients, reason="Scale is written in Python")

    def get_config(self):
        return {"start": self.start}


class Both(gpunn.Layer):
    """a = (a_prev, −a_prev), recorded as matrix products. Its width is known only after build."""

    def build(self, n_in):
        self.n_in, self.n_out = n_in, 2 * n_in
        return self.n_out

    def allocate(self, t, new, n, trace):
        super().allocate(t, new, n, trace)
        eye = np.eye(self.n_in)
        t.M = new((self.n_in, 2 * self.n_in))
        t.M[...] = _on(t.M, np.hstack([eye, -eye]))

    def forward(self, ops, t, training):
        ops.matmul(t.a_prev, t.M, out=t.a)

    def backward(self, ops, t, training):
        if t.grad_prev is not None:
            ops.matmul(t.grad_a, t.M.T, out=t.grad_prev)


def _on(like, values):
    return gpunn.backend.array_module(like).asarray(values, dtype=like.dtype)


_net = network_builder(seed=2, dtype="float64", optimizer=gpunn.Adam(0.05), loss="half_squared_error", metrics=["mae"])


def _all():
    return [gpunn.Dense(5, Cubic(0.25)), Scale(1.5), Both(), gpunn.Dense(3)]


@pytest.mark.parametrize("training", [True, False])
def test_their_derivatives_are_right(training):
    for layers in ([Scale(), gpunn.Dense(3)], [gpunn.Dense(3, Cubic())], _all(), [Both(), gpunn.Dense(3), Scale()]):
        report = gpunn.check_gradients(_net(*layers), X, Y, training=training)
        assert report.ok, report


def test_they_train():
    net = _net(*_all())
    loss = net.fit(X, Y, epochs=60, batch_size=8, verbose=0).history["loss"]
    assert loss[-1] < 0.5 * loss[0]
    assert [w.shape for w in net.get_weights()] == [(4, 5), (5,), (5,), (10, 3), (3,)]
    assert (net.get_weights()[2] != 1.5).all()


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
    text = _net(*_all()).build(4).summary()
    assert "leaves the fast path: Scale is written in Python" in text
    assert "leaves the fast path: activation Cubic is a Python function" in text
    assert "nothing leaves the fast path" in _net(Both(), gpunn.Dense(3)).build(4).summary()


def test_a_custom_width_is_known_before_the_network_is_built():
    net = _net(gpunn.Dense(2), Both())
    with pytest.raises(ValueError, match=r"y must have shape \(20, 4\)"):
        net.fit(X, Y, verbose=0)
    with pytest.raises(RuntimeError, match="no weights yet"):
        net.get_weights()
    net.fit(X, np.ones((20, 4)), verbose=0)


def test_a_custom_layer_can_be_frozen():
    net = _net(*_all()).build(4)
    net[1].trainable = False
    net.fit(X, Y, epochs=2, verbose=0)
    assert (net.get_weights()[2] == 1.5).all()
    assert not net.loss_and_gradients(X, Y)[1][2].any()


def test_a_custom_layer_that_ignores_trainable_can_be_frozen():
    class IgnoresTrainable(Scale):
        def backward(self, ops, t, training):
            def gradients():
                t.ds[...] = (t.grad_a * t.a_prev).sum(axis=0)
                t.grad_prev[...] = t.grad_a * t.s

            ops.call_python(gradients, reason="a test")

    net = _net(gpunn.Dense(3), IgnoresTrainable(), gpunn.Dense(3)).build(4)
    net[1].trainable = False
    net.fit(X, Y, verbose=0)
    assert (net.get_weights()[2] == 1).all()
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
        def forward(self, ops, t, training):
            ops.copy(t.a_prev, out=t.a)

    class Nothing(gpunn.activations.Activation):
        pass

    net = _net(gpunn.Dense(3), Half())
    assert net.predict(X).shape == (20, 3)
    with pytest.raises(NotImplementedError, match=r"Half must define backward\(self, ops, t, training\)"):
        net.fit(X, Y, verbose=0)
    with pytest.raises(NotImplementedError, match=r"Nothing must define f\(self, z\)"):
        _net(gpunn.Dense(3, Nothing())).predict(X)


@pytest.mark.parametrize("method", ["f", "derivative"])
def test_results_of_the_wrong_shape_are_reported(method):
    class Wrong(Cubic):
        pass

    setattr(Wrong, method, lambda self, z, *a: z[:, :1])
    net = _net(gpunn.Dense(3, Wrong()))
    with pytest.raises(ValueError, match=naming(f"Wrong.{method}", (20, 3), (20, 1))):
        net.fit(X, Y, verbose=0)
