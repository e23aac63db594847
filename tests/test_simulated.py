"""The network on the fake CuPy: the device-agnostic code and the GPU's own kernel strings, simulated on a CPU."""

import numpy as np
import pytest

import gpunn


def _net(device, dtype="float64", **layers):
    net = gpunn.Sequential(
        [
            gpunn.Dense(7, activation="relu", l2=0.01, max_norm=2.0),
            gpunn.BatchNormalization(),
            gpunn.Dropout(0.3),
            gpunn.Dense(6, activation="gelu", l1=0.001),
            gpunn.LayerNormalization(),
            gpunn.Dense(4, activation="softmax"),
        ],
        seed=7,
        dtype=dtype,
    )
    net.compile(
        gpunn.Adam(0.01, clipnorm=1.0),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        device=device,
    )
    return net


def _data(rows=37):
    rng = np.random.default_rng(5)
    return rng.normal(size=(rows, 5)), rng.integers(0, 4, size=rows), rng.uniform(0.5, 2, size=rows)


def test_the_same_fit_on_numpy_and_on_the_fake_cupy(fake_cupy):
    X, y, w = _data()
    histories, weights, predictions = [], [], []
    for device in ("cpu", "cuda"):
        net = _net(device)
        assert net.device == ("cpu" if device == "cpu" else "cuda:0")
        # 37 rows in batches of 8: the last batch has 5
        fitted = net.fit(X, y, batch_size=8, epochs=4, sample_weight=w, verbose=0, validation_split=0.2)
        histories.append(fitted.history)
        weights.append(net.get_weights())
        predictions.append(net.predict(X))
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-10, err_msg=name)
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(predictions[1], predictions[0], rtol=1e-9)


def test_a_step_on_the_device_only_launches(fake_cupy):
    """Nothing is read back, copied over or allocated in a step: what capture forbids, but for CuPy's own products."""
    from gpunn.kernels.state import Slot

    from gpunn.training import loop

    X, y, _ = _data(16)
    net = _net("cuda", "float32")
    net.train_on_batch(X, y)
    inner = net._net
    data = net._on_device(X, y.astype(np.int32), None)
    before = net.get_weights()
    with loop.training_plan(inner, 16, weighted=False) as plan:
        step = loop.whole_step(plan, plan.source(data.X, data.y))
        inner.state[Slot.OFFSET] = 0
        fake_cupy.state.calls.clear()
        for launch in step:
            launch()
    seen = set(fake_cupy.state.calls)
    assert {s for s in seen if not s.startswith("kernel ")} == {"matmul"}
    assert any((a != b).any() for a, b in zip(before, net.get_weights(), strict=True))


@pytest.mark.parametrize("name", ["SGD", "Momentum", "Nesterov", "RMSprop", "Adagrad", "Adam", "AdamW"])
def test_every_rule_takes_the_same_steps(fake_cupy, name):
    X, y, _ = _data(12)
    results = []
    for device in ("cpu", "cuda"):
        net = gpunn.Sequential([gpunn.Dense(6, "tanh"), gpunn.Dense(4)], seed=3, dtype="float64")
        rule = getattr(gpunn, name)(0.01)
        net.compile(rule, "sparse_categorical_crossentropy", device=device)
        results.append([net.train_on_batch(X, y) for _ in range(5)])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-12)


def test_arrays_come_back_as_the_kind_that_went_in(fake_cupy):
    import cupy

    X, y, _ = _data()
    net = _net("cuda", "float32")
    net.fit(cupy.asarray(X), cupy.asarray(y), verbose=0)
    assert isinstance(net.predict(cupy.asarray(X)), cupy.ndarray)
    assert isinstance(net.predict(X), np.ndarray)
    np.testing.assert_array_equal(net.predict(cupy.asarray(X)).get(), net.predict(X))
    assert net.predict_classes(X).shape == (37,)


def test_moving_a_network_keeps_its_state(fake_cupy):
    X, y, _ = _data()
    there, here = _net("cuda"), _net("cpu")
    for net in (there, here):
        net.fit(X, y, batch_size=8, epochs=2, verbose=0)
    there.to("cpu")
    assert there.device == "cpu"
    for net in (there, here):
        net.fit(X, y, batch_size=8, epochs=2, verbose=0)
    for a, b in zip(there.get_weights(), here.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_trace_and_gradients_on_the_device(fake_cupy):
    X, y, w = _data(9)
    found = []
    for device in ("cpu", "cuda"):
        net = _net(device)
        loss, gradients = net.loss_and_gradients(X, y, sample_weight=w)
        found.append([np.float64(loss), *gradients, *(r.delta for r in net.trace(X, y))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-13)
