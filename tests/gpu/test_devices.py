"""The same run on a CPU and on a GPU, and simulated: on the fake CuPy, which runs the GPU's kernel sources on a CPU.

What passes on the fake is simulated, never a GPU result.
"""

import numpy as np
import pytest
from helpers import internals
from helpers.array_protocols import OnlyDLPack
from helpers.networks import network_builder
from helpers.oracles import strided_tensor
from helpers.user_classes import quartic

import gpunn
from gpunn.backend import to_host

_net = network_builder(
    gpunn.Dense(7, activation="relu", l2=0.01, max_norm=2.0),
    gpunn.BatchNormalization(),
    gpunn.Dropout(0.3),
    gpunn.Dense(6, activation="gelu", l1=0.001),
    gpunn.LayerNormalization(),
    gpunn.Dense(4, activation="softmax"),
    seed=7,
    dtype="float64",
    optimizer=gpunn.Adam(0.01, clipnorm=1.0),
    metrics=["accuracy"],
)


def _data(rows=37):
    rng = np.random.default_rng(5)
    return rng.normal(size=(rows, 5)), rng.integers(0, 4, size=rows), rng.uniform(0.5, 2, size=rows)


@pytest.mark.slow
def test_fits_on_both_devices_agree(cuda):
    X, y, w = _data()
    histories, weights, predictions = [], [], []
    for device in ("cpu", "cuda"):
        net = _net(device=device)
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


def test_a_step_on_a_gpu_only_launches(fake_cupy):
    """A step reads nothing back, copies nothing and allocates nothing, all of which a capture forbids."""

    X, y, _ = _data(16)
    net = _net(device="cuda", dtype="float32")
    net.train_on_batch(X, y)
    before = net.get_weights()
    with internals.training_step(net, X, y.astype(np.int32)) as step:
        fake_cupy.state.calls.clear()
        for launch in step:
            launch()
    assert internals.only_launches(fake_cupy) and internals.products_run(fake_cupy)
    assert any((a != b).any() for a, b in zip(before, net.get_weights(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["SGD", "Momentum", "Nesterov", "RMSprop", "Adagrad", "Adam", "AdamW"])
def test_all_optimizers_agree(cuda, name, dtype):
    X, y, _ = _data(12)
    results = []
    for device in ("cpu", "cuda"):
        net = gpunn.Sequential([gpunn.Dense(6, "tanh"), gpunn.Dense(4)], seed=3, dtype=dtype)
        rule = getattr(gpunn, name)(0.01)
        net.compile(rule, "sparse_categorical_crossentropy", device=device)
        results.append([net.train_on_batch(X, y) for _ in range(5)])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-12 if dtype == "float64" else 1e-5)


def test_predictions_have_the_array_type_of_the_input(cuda):
    cupy = cuda
    X, y, _ = _data()
    net = _net(device="cuda", dtype="float32")
    net.fit(cupy.asarray(X), cupy.asarray(y), verbose=0)
    assert isinstance(net.predict(cupy.asarray(X)), cupy.ndarray)
    assert isinstance(net.predict(X), np.ndarray)
    np.testing.assert_array_equal(net.predict(cupy.asarray(X)).get(), net.predict(X))
    assert net.predict_classes(X).shape == (37,)


def test_moving_a_network_keeps_its_state(cuda):
    X, y, _ = _data()
    there, here = _net(device="cuda"), _net(device="cpu")
    for net in (there, here):
        net.fit(X, y, batch_size=8, epochs=2, verbose=0)
    there.to("cpu")
    assert there.device == "cpu"
    for net in (there, here):
        net.fit(X, y, batch_size=8, epochs=2, verbose=0)
    for a, b in zip(there.get_weights(), here.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["adam", "adagrad"])
def test_a_network_on_the_second_gpu_while_the_first_is_current(rule, monkeypatch):
    """CuPy launches on the current GPU and refuses arrays of another one. The fake does the same."""
    from helpers import fake_cupy

    cupy = fake_cupy.install(monkeypatch, devices=2)
    X, y, w = _data()
    here, there = _net(device="cpu"), _net(device="cuda:1")
    given = []
    for number in (0, 1):
        with cupy.cuda.Device(number):
            given.append([cupy.asarray(a) for a in (X, y.astype(np.int32), w)])
    for net in (here, there):
        net.compile(rule, "sparse_categorical_crossentropy", device=net.device)
    for k, (a, b, c) in enumerate([(X, y, w), *given]):
        on = {} if k % 2 else {"validation_data": (a, b)}
        there.fit(a, b, sample_weight=c, epochs=2, batch_size=8, verbose=0, **on)
        here.fit(X, y, sample_weight=w, epochs=2, batch_size=8, verbose=0)
        assert cupy.state.current == 0
        np.testing.assert_allclose(there.predict(a) if k == 0 else there.predict(a).get(), here.predict(X), atol=1e-12)
        assert (gpunn.backend.to_host(there.predict_classes(a)) == here.predict_classes(X)).all()
        there.train_on_batch(a, b)
        here.train_on_batch(X, y)
    assert "cuda:1" in str(there.summary()) and there.evaluate(*given[0][:2])
    for ours, theirs in zip(there.get_weights(), here.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_folds_and_probabilities_on_the_second_gpu(monkeypatch):
    from helpers import fake_cupy

    cupy = fake_cupy.install(monkeypatch, devices=2)
    X, y, _ = _data()
    folds = [(np.arange(20), np.arange(20, 37))]
    found = []
    for device, number in (("cpu", None), ("cuda:1", 0), ("cuda:1", 1)):

        def build(device=device):
            net = gpunn.Sequential([gpunn.Dense(4)], seed=2, dtype="float64")
            return net.compile("sgd", "sparse_categorical_crossentropy", device=device)

        with cupy.cuda.Device(number or 0):
            a, b = (X, y) if number is None else (cupy.asarray(X), cupy.asarray(y.astype(np.int32)))
        ((net, _),) = gpunn.fit_many(build, a, b, [{"lr": 0.1}], splits=folds)
        assert net.device == device
        found.append(gpunn.backend.to_host(net.predict_proba(a)))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-12)


def test_trace_and_gradients_agree(cuda):
    X, y, w = _data(9)
    found = []
    for device in ("cpu", "cuda"):
        net = _net(device=device)
        loss, gradients = net.loss_and_gradients(X, y, sample_weight=w)
        found.append([np.float64(loss), *gradients, *(r.delta for r in net.trace(X, y))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-13)


def test_dropout_masks_have_the_same_bits(cuda):
    X, _, _ = _data(33)
    masks = []
    for device in ("cpu", "cuda"):
        net = gpunn.Sequential([gpunn.Dropout(0.3), gpunn.Dense(2)], input_shape=5, seed=123456789012345)
        net.compile("sgd", "mse", device=device)
        masks.append(net.trace(np.ones_like(X), training=True)[0].a)
    np.testing.assert_array_equal(masks[0], masks[1])
    assert 0 < (masks[0] == 0).mean() < 1


def test_initial_weights_and_shuffles_have_the_same_bits(cuda):
    seen = {}

    def loss(y, a):
        seen[current].append(np.asarray(y.get() if hasattr(y, "get") else y)[:, 0].copy())
        return 0.5 * ((a - y) ** 2).sum(axis=1), a - y

    weights = []
    for current in ("cpu", "cuda"):
        seen[current] = []
        net = gpunn.Sequential([gpunn.Dense(1)], input_shape=5, seed=9)
        net.compile("sgd", loss, device=current)
        weights.append(net.get_weights())
        net.fit(_data(20)[0], np.arange(20.0)[:, None], batch_size=6, epochs=2, verbose=0)
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.concatenate(seen["cpu"]), np.concatenate(seen["cuda"]))


def test_divergence_keeps_the_last_finite_weights(cuda):
    nets = []
    for device in ("cpu", "cuda"):
        net = gpunn.Sequential([gpunn.Dense(1, kernel_initializer="ones")], input_shape=1, seed=0, dtype="float64")
        net.compile(gpunn.Momentum(1e200), "half_squared_error", device=device)
        with pytest.raises(gpunn.DivergenceError) as caught:
            net.fit([[1.0], [2.0]], [[3.0], [5.0]], batch_size=1, epochs=9, shuffle=False, verbose=0)
        nets.append((str(caught.value), *net.get_weights()))
    assert nets[0][0] == nets[1][0]
    for a, b in zip(nets[0][1:], nets[1][1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
        assert np.isfinite(a).all()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_derivative_and_its_column_sums_are_one_pass(fake_cupy, activation):
    """δ = f′(z) ⊙ ∂C/∂a and ∂C/∂b = Σ δ of a hidden layer (E5, E7): no launch reads δ only for its sums, unless a user
    defined the derivative."""

    class UserDefined(type(gpunn.activations.get(activation))):
        names = ()

        def derivative(self, z, a):
            return super().derivative(z, a)

    X, y, _ = _data(16)
    gradients = []
    for f, launches in ((activation, 1), (UserDefined(), 2)):
        net = gpunn.Sequential([gpunn.Dense(8, f), gpunn.Dense(4)], input_shape=5, seed=2, dtype="float64")
        net.compile("sgd", "sparse_categorical_crossentropy", device="cuda")
        fake_cupy.state.calls.clear()
        gradients.append(net.loss_and_gradients(X, y)[1])
        seen = [c for c in internals.kernels_run(fake_cupy) if c.startswith("column_sum") and "combine" not in c]
        assert len(seen) == launches
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-15)


# --- out of memory ----------------------------------------------------------------------------------------------------


class MemoryShortage(gpunn.Callback):
    """Copies the model's state after each step; after step `last` of the fit no memory is free on the device."""

    def __init__(self, cupy, last):
        self.cupy, self.last, self.steps, self.state = cupy, last, 0, None

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.state = _state(self.model)
        if self.steps == self.last:
            self.cupy.state.free = 0


def _state(net):
    arrays = [internals.parameters(net), internals.running(net), *internals.optimizer_state(net).values()]
    return [to_host(a).copy() for a in arrays]


_small = network_builder(
    *[gpunn.Dense(6, "relu"), gpunn.Dense(4)],
    **{"input_shape": 5, "seed": 4, "optimizer": gpunn.Adam(0.01), "metrics": ["accuracy"]},
)
_with_own_loss = network_builder(
    *[gpunn.Dense(4, "tanh"), gpunn.BatchNormalization(), gpunn.Dense(2)],
    **{"input_shape": 5, "seed": 1, "dtype": "float64", "optimizer": gpunn.Adam(0.01), "loss": quartic},
)


# a built-in loss allocates nothing within an epoch, so the plan of the validation fails
@pytest.mark.parametrize(
    ("loss", "last", "steps"), [("own", 1, 1), ("own", 5, 5), ("own", 7, 7), ("built in", 1, 6), ("built in", 6, 6)]
)
def test_out_of_memory_within_a_fit(fake_cupy, loss, last, steps):
    """Memory runs out in a step (a user's loss allocates), in the plan of a shorter batch or in that of the validation.

    The message contains the bytes needed, the bytes free and the remedy. The model is as after its last complete step,
    and the pool is released.
    """
    X, labels, _ = _data(21)
    y = labels if loss == "built in" else np.stack([labels, -labels], axis=1) / 4.0
    options = {"batch_size": 4, "epochs": 2, "verbose": 0, "shuffle": False, "validation_data": (X, y)}
    make = _net if loss == "built in" else _with_own_loss
    net = make(device="cuda")
    shortage = MemoryShortage(fake_cupy, last)
    with pytest.raises(MemoryError) as caught:
        net.fit(X, y, callbacks=[shortage], **options)
    message = str(caught.value)
    assert "were needed" in message and "0 bytes of 8.0 GiB are free" in message
    assert "use a smaller batch_size" in message
    assert fake_cupy.state.calls[-1] == "free"
    assert shortage.steps == steps
    for a, b in zip(_state(net), shortage.state, strict=True):
        np.testing.assert_array_equal(a, b)
    fake_cupy.state.free = 7 << 30
    assert internals.steps_taken(net) == steps
    net.fit(X, y, **options)
    assert internals.steps_taken(net) == steps + 12 and all(np.isfinite(w).all() for w in net.get_weights())


@pytest.mark.parametrize("call", ["predict", "evaluate", "train_on_batch", "fit"])
def test_out_of_memory_from_the_start(fake_cupy, call):
    X, y, _ = _data(21)
    net = _net(device="cuda")
    net.predict(X[:1])
    before = net.get_weights()
    fake_cupy.state.free = 0
    run = {
        "predict": lambda: net.predict(X),
        "evaluate": lambda: net.evaluate(X, y),
        "train_on_batch": lambda: net.train_on_batch(X, y),
        "fit": lambda: net.fit(X, y, verbose=0),
    }[call]
    with pytest.raises(MemoryError, match=r"were needed, 0 bytes of 8.0 GiB are free.*batch_size"):
        run()
    fake_cupy.state.free = 7 << 30
    for a, b in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    run()


def test_a_fit_releases_the_memory_pool(fake_cupy):
    X, y, _ = _data(21)
    net = _net(device="cuda")
    net.fit(X, y, verbose=0)
    assert fake_cupy.state.calls[-2:] == ["free", "free"]


# --- arrays of several kinds ------------------------------------------------------------------------------------------


def _kinds(cupy):
    """Converters of one table to several kinds of array, and the kind of the result: that of the input, or NumPy's."""
    pandas = pytest.importorskip("pandas")

    return {
        "numpy": (np.asarray, np.ndarray),
        "cupy": (cupy.asarray, cupy.ndarray),
        "pandas": (lambda x: pandas.DataFrame(x) if x.ndim == 2 else pandas.Series(x), np.ndarray),
        "dlpack": (OnlyDLPack, np.ndarray),
        "list": (lambda x: x.tolist(), np.ndarray),
        "torch": (strided_tensor, np.ndarray),
    }


@pytest.mark.slow
@pytest.mark.parametrize("y_kind", ["numpy", "cupy", "pandas", "dlpack", "list", "torch"])
@pytest.mark.parametrize("X_kind", ["numpy", "cupy", "pandas", "dlpack", "list", "torch"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_mixed_kinds_of_arrays(cuda, device, X_kind, y_kind):
    """The same fit, bit for bit, for every kind of X, y and weights. The result has the kind of X."""
    X, y, w = _data(12)
    kinds = _kinds(cuda)
    (make_X, out), (make_y, _) = kinds[X_kind], kinds[y_kind]
    seen = []
    for as_X, as_y, as_w in ((np.asarray,) * 3, (make_X, make_y, make_X), (make_X, make_y, make_y)):
        net = _small(device=device)
        history = net.fit(
            as_X(X), as_y(y), sample_weight=as_w(w), epochs=2, verbose=0, validation_data=(as_X(X), as_y(y))
        )
        got = net.predict(as_X(X))
        assert type(got) is (np.ndarray if as_X is np.asarray else out)
        host = got if isinstance(got, np.ndarray) else got.get()
        scores = net.evaluate(as_X(X), as_y(y), sample_weight=as_w(w))
        columns = {k: v for k, v in history.history.items() if "time" not in k and "second" not in k}
        loss = net.train_on_batch(as_X(X), as_y(y), sample_weight=as_w(w))
        seen.append((columns, host.tobytes(), scores, loss))
    assert seen[0] == seen[1] == seen[2]
