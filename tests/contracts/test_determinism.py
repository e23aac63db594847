"""The same fit on both devices: weights, shuffles, masks, losses, scores and errors.

Simulated: on the fake CuPy, at small sizes; what passes there is no GPU result.
"""

import numpy as np
import pytest
from helpers import tolerances
from helpers.random_nets import LOSSES, random_case

import gpunn


@pytest.fixture(params=["simulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def on(request):
    """The device that is compared with the CPU: the fake GPU or a real one."""
    if request.param == "simulated":
        request.getfixturevalue("fake_cupy")
    return request.param


class Losses(gpunn.Callback):
    """The loss of every step, from the running mean over an epoch with batches of equal size."""

    def on_epoch_begin(self, epoch, logs=None):
        self.sum = 0.0

    def on_train_batch_end(self, batch, logs=None):
        so_far = logs["loss"] * (batch + 1)
        self.seen = [*getattr(self, "seen", []), so_far - self.sum]
        self.sum = so_far


# sizes, batch, rows, optimizer: networks whose 100 steps take a CPU at most a second
NETS = {
    "tabular": ((16, 64, 64, 1), 32, 1600, lambda: gpunn.Adam(1e-3)),
    "digits": ((64, 100, 10), 200, 4000, lambda: gpunn.Adam(1e-3)),
    "sgd": ((8, 16, 1), 32, 1600, lambda: gpunn.SGD(1e-2)),
}
SMALL = {"tabular": ((6, 12, 12, 1), 8, 200), "digits": ((9, 11, 3), 20, 500), "sgd": ((4, 7, 1), 8, 200)}


def _set(sizes, rows):
    """A data set that can be learned: outputs of a fixed random network."""
    rng = np.random.default_rng(11)
    X = rng.normal(size=(rows, sizes[0]))
    hidden = np.tanh(X @ rng.normal(size=(sizes[0], 5)))
    out = hidden @ rng.normal(size=(5, sizes[-1]))
    return X, (out.argmax(axis=1) if sizes[-1] > 1 else out)


def _run(name, on, device, activation, dtype, order=None):
    """(losses of 100 steps, score on the data set). `order` permutes inputs and hidden neurons: the same network with
    sums in another order."""
    sizes, batch, rows = NETS[name][:3] if on == "gpu" else SMALL[name]
    X, y = _set(sizes, rows)
    classes = sizes[-1] > 1
    layers = [gpunn.Dense(m, activation) for m in sizes[1:-1]]
    net = gpunn.Sequential(
        [*layers, gpunn.Dense(sizes[-1], "softmax" if classes else None)], input_shape=sizes[0], seed=3, dtype=dtype
    )
    loss = "sparse_categorical_crossentropy" if classes else "half_squared_error"
    net.compile(NETS[name][3](), loss, ["accuracy"] if classes else ["mse"], device=device)
    if order is not None:
        X, weights = _renamed(X, net.get_weights(), order)
        net.set_weights(weights)
    losses = Losses()
    steps = rows // batch
    net.fit(X, y, batch_size=batch, epochs=-(-100 // steps), verbose=0, callbacks=[losses])
    found = net.evaluate(X, y)
    return np.array(losses.seen), found["accuracy" if classes else "mse"]


def _renamed(X, weights, seed):
    rng = np.random.default_rng(seed)
    inputs = rng.permutation(X.shape[1])
    X, before = X[:, inputs], inputs
    renamed = []
    for k in range(0, len(weights), 2):
        W, b = weights[k][before], weights[k + 1]
        before = rng.permutation(len(b)) if k + 2 < len(weights) else np.arange(len(b))
        renamed += [W[:, before], b[before]]
    return X, renamed


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("name", NETS)
def test_100_steps_in_float64(on, name, activation):
    cpu, gpu = (_run(name, on, device, activation, "float64") for device in ("cpu", "cuda"))
    assert len(cpu[0]) >= 100
    np.testing.assert_allclose(gpu[0], cpu[0], rtol=1e-9, atol=1e-9 * cpu[0].max())
    assert gpu[1] == pytest.approx(cpu[1], rel=1e-9)
    assert cpu[0][-10:].mean() < cpu[0][:10].mean()


@pytest.mark.parametrize("name", NETS)
def test_100_steps_in_float32_of_smooth_networks(on, name):
    """Within 64·u·√K of the largest loss, K the longest reduction: rows of a batch, or inputs of a layer."""
    cpu, gpu = (_run(name, on, device, "tanh", "float32") for device in ("cpu", "cuda"))
    sizes, batch, rows = NETS[name][:3] if on == "gpu" else SMALL[name]
    allowed = tolerances.sums(np.float32, max(*sizes, batch), cpu[0].max())
    assert np.abs(gpu[0] - cpu[0]).max() <= allowed
    assert gpu[1] == pytest.approx(cpu[1], rel=1e-3, abs=2 / rows)


@pytest.mark.parametrize("name", NETS)
def test_100_steps_in_float32_of_rectifiers(on, name):
    """A rectifier's kink amplifies rounding: the tolerance is ten times the difference that another order of summation
    makes on the CPU."""
    cpu, gpu = (_run(name, on, device, "relu", "float32") for device in ("cpu", "cuda"))
    control = max(np.abs(_run(name, on, "cpu", "relu", "float32", order)[0] - cpu[0]).max() for order in (1, 2))
    assert 0 < control < 1e-2 * cpu[0].max()
    assert np.abs(gpu[0] - cpu[0]).max() <= 10 * control
    rows = (NETS if on == "gpu" else SMALL)[name][2]
    assert gpu[1] == pytest.approx(cpu[1], rel=1e-2, abs=2 / rows)


# --- every layer, activation and loss --------------------------------------------------------------------------------

CASES = range(len(LOSSES))


@pytest.mark.slow
@pytest.mark.parametrize("number", CASES)
def test_every_layer_activation_and_loss(on, number):
    """Gradients, losses and outputs of random networks in float64, to rounding."""
    case = random_case(number)
    options = {"sample_weight": case.w, "training": case.training}
    found = []
    for device in ("cpu", "cuda"):
        case.net.to(device)
        loss, gradients = case.net.loss_and_gradients(case.x, case.y, **options)
        found.append([np.float64(loss), *gradients, case.net.predict(case.x)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-11 * max(1.0, float(np.abs(a).max(initial=0))))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 31, 32, 33])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_inputs_of_any_size_and_layout(on, dtype, rows, layout):
    rng = np.random.default_rng(rows)
    X, y = rng.normal(size=(rows, 6)).astype(dtype), rng.integers(0, 3, size=rows)
    X = {"C": X, "F": np.asfortranarray(X), "strided": np.repeat(X, 2, axis=1)[:, ::2]}[layout]
    runs = []
    for device in ("cpu", "cuda"):
        layers = [gpunn.Dense(33, "tanh"), gpunn.LayerNormalization(), gpunn.Dropout(0.2), gpunn.Dense(3, "softmax")]
        net = gpunn.Sequential(layers, input_shape=6, seed=1, dtype=dtype)
        net.compile(gpunn.Adam(1e-3), "sparse_categorical_crossentropy", device=device)
        history = net.fit(X, y, batch_size=32, epochs=2, verbose=0, validation_data=(X, y))
        runs.append([np.array(history.history["loss"] + history.history["val_loss"]), net.predict(X)])
    for a, b in zip(*runs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=1e-10 if dtype == "float64" else 1e-4, atol=1e-6)


# --- the same errors -------------------------------------------------------------------------------------------------

X, Y = np.ones((6, 5)), np.array([0, 1, 2, 0, 1, 2])
WRONG = {
    "no rows": lambda net: net.fit(X[:0], Y[:0], verbose=0),
    "NaN": lambda net: net.fit(np.full_like(X, np.nan), Y, verbose=0),
    "infinity": lambda net: net.predict(np.full_like(X, np.inf)),
    "columns": lambda net: net.predict(X[:, :4]),
    "rows": lambda net: net.fit(X, Y[:5], verbose=0),
    "label above": lambda net: net.fit(X, Y + 1, verbose=0),
    "label below": lambda net: net.train_on_batch(X, Y - 1),
    "text": lambda net: net.fit(np.full((6, 5), "a"), Y, verbose=0),
    "complex": lambda net: net.predict(X * 1j),
    "weights": lambda net: net.fit(X, Y, sample_weight=-np.ones(6), verbose=0),
    "weights' rows": lambda net: net.evaluate(X, Y, sample_weight=np.ones(5)),
    "one dimension": lambda net: net.predict(X[0]),
    "too large": lambda net: net.predict(X * 1e300),
    "batch": lambda net: net.fit(X, Y, batch_size=0, verbose=0),
    "set_weights": lambda net: net.set_weights([np.ones(3)]),
}


@pytest.mark.parametrize("given", ["numpy", "cupy"])
@pytest.mark.parametrize("what", WRONG)
def test_the_same_error_on_both_devices(on, what, given, monkeypatch):
    """Class and message are the same for NumPy and CuPy arrays, and nothing is changed."""
    import cupy

    said = []
    for device in ("cpu", "cuda"):
        net = gpunn.Sequential([gpunn.Dense(3, "softmax")], input_shape=5, seed=0)
        net.compile("sgd", "sparse_categorical_crossentropy", device=device)
        before = net.get_weights()
        if given == "cupy" and device == "cuda" and what not in ("text", "set_weights"):
            for call in ("fit", "predict", "evaluate", "train_on_batch"):
                monkeypatch.setattr(net, call, _with_device_arrays(getattr(net, call), cupy))
        with pytest.raises((ValueError, TypeError)) as caught:
            WRONG[what](net)
        said.append((type(caught.value), str(caught.value)))
        for a, b in zip(net.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)
    assert said[0] == said[1]


def _with_device_arrays(call, cupy):
    def with_arrays_of_the_device(*arrays, **options):
        options = {k: cupy.asarray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        return call(*(cupy.asarray(a) if a.dtype.kind in "if" else a for a in arrays), **options)

    return with_arrays_of_the_device
