"""Plans and parameters: memory, types, determinism, penalties and non-finite checks of a step."""

import copy
import signal
import threading
import tracemalloc

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.networks import build_network
from helpers.processes import run_python

import gpunn
from gpunn.network import StepOptions

WIDE = (1024, 1024, 1024, 1024, 10)


def _classifier(sizes, dtype="float32", **options):
    layers = [*(gpunn.Dense(width, "relu") for width in sizes[1:-1]), gpunn.Dense(sizes[-1], "softmax")]
    options = {"seed": 0, "optimizer": gpunn.Adam(1e-3), "metrics": ["accuracy"], "device": "auto"} | options
    return build_network(*layers, dtype=dtype, **options)


def _rows(n, d, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(np.float32), rng.integers(0, classes, size=n)


class _Peaks(gpunn.Callback):
    """The peak of tracemalloc in each step of a fit, above the memory at its begin."""

    def on_train_begin(self, logs=None):
        self.peaks = []

    def on_train_batch_begin(self, batch, logs=None):
        tracemalloc.start()
        self.start, _ = tracemalloc.get_traced_memory()

    def on_train_batch_end(self, batch, logs=None):
        self.peaks.append(tracemalloc.get_traced_memory()[1] - self.start)
        tracemalloc.stop()


def _peak_of_a_step(sizes, batch):
    net, peaks = _classifier(sizes), _Peaks()
    X, y = _rows(2 * batch, sizes[0])
    net.fit(X, y, batch_size=batch, epochs=2, callbacks=[peaks], verbose=0)
    return max(peaks.peaks[1:])


@pytest.mark.slow
def test_the_memory_of_a_step_does_not_grow_with_its_sizes():
    # NumPy references work in blocks of 8192 elements, some 200 KiB together
    assert _peak_of_a_step(WIDE, 512) < 256 * 1024
    narrow, wide, tall = (_peak_of_a_step(s, n) for s, n in (((256,) * 3, 512), ((1024,) * 3, 512), ((256,) * 3, 2048)))
    assert max(narrow, wide, tall) < 256 * 1024
    assert abs(wide - narrow) < 64 * 1024 and abs(tall - narrow) < 64 * 1024


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_arrays_have_the_dtype(dtype):
    net = _classifier((6, 5, 4), dtype)
    X, y = _rows(20, 6, 4)
    net.fit(X.astype(np.float64), y, batch_size=8, epochs=2, verbose=0, sample_weight=np.linspace(0.5, 2, 20))
    inner = internals.network(net)
    options = StepOptions(training=True, loss=True, backward=True, update=True, weighted=True)
    program = internals.program_of(net, 8, **vars(options))
    tensors = [x for op in program.ops for x in op.outputs if len(x.shape) == 2 or x.name == "row_losses"]
    assert len(tensors) >= 7 and {x.dtype for x in tensors} == {np.dtype(dtype)}
    assert inner.gradient.dtype == dtype
    assert {m.dtype for m in inner.slots.values()} == {np.dtype(dtype)}
    assert net.predict(X).dtype == dtype
    assert {w.dtype for w in net.get_weights()} == {np.dtype(dtype)}


def test_all_parameters_share_one_buffer_weights_first():
    net = gpunn.Sequential([gpunn.Dense(4, "relu"), gpunn.BatchNormalization(), gpunn.Dense(2)], seed=0, input_shape=3)
    inner = internals.network(net)
    assert inner.theta.size == 3 * 4 + 4 * 2 + 4 + 4 + 4 + 2
    assert [p.parameter.name for p in inner.slices] == ["W", "W", "b", "gamma", "beta", "b"]
    assert [p.parameter.name for p in inner.slices_in_order()] == ["W", "b", "gamma", "beta", "W", "b"]
    for place, weights in zip(inner.slices_in_order(), net.get_weights(), strict=True):
        view = place.of(inner.theta)
        assert np.shares_memory(view, inner.theta)
        assert not np.shares_memory(weights, inner.theta)
        np.testing.assert_array_equal(view, weights)


def test_two_processes_give_the_same_bits():
    script = (
        "import numpy as np, gpunn, hashlib\n"
        "rng = np.random.default_rng(1)\n"
        "X, y = rng.normal(size=(203, 8)), rng.integers(0, 3, size=203)\n"
        "net = gpunn.Sequential([gpunn.Dense(33, 'relu'), gpunn.Dropout(0.4), gpunn.BatchNormalization(),\n"
        "                        gpunn.Dense(3, 'softmax')], seed=11)\n"
        "net.compile('adam', 'sparse_categorical_crossentropy', device='cpu')\n"
        "h = net.fit(X, y, epochs=5, verbose=0)\n"
        "print(h.history['loss'], hashlib.sha256(b''.join(w.tobytes() for w in net.get_weights())).hexdigest())\n"
    )
    runs = [run_python(script, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1] != ""


def test_the_order_of_an_epoch_depends_only_on_seed_and_epoch():
    from gpunn.input_checks import epoch_permutation

    first = epoch_permutation(100, 5, 3, True)
    np.testing.assert_array_equal(np.sort(first), np.arange(100))
    np.testing.assert_array_equal(first, epoch_permutation(100, 5, 3, True))
    assert (first != epoch_permutation(100, 5, 4, True)).any()
    assert (first != epoch_permutation(100, 6, 3, True)).any()
    np.testing.assert_array_equal(epoch_permutation(4, 5, 3, False), [0, 1, 2, 3])


def test_no_global_generator_is_used():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    net = _classifier((6, 5, 4))
    X, y = _rows(20, 6, 4)
    net.fit(X, y, verbose=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_an_epoch_uses_every_row_once_and_the_last_batch_is_smaller():
    # the loss function records the targets of each batch, which identify its rows
    seen = []

    def loss(y, a):
        seen.append(y[:, 0].copy())
        return 0.5 * ((a - y) ** 2).sum(axis=1), a - y

    net = gpunn.Sequential([gpunn.Dense(1)], seed=0)
    net.compile(gpunn.SGD(1e-6), loss)
    y = np.arange(23.0)[:, None]
    net.fit(np.ones((23, 2)), y, batch_size=5, epochs=2, verbose=0)
    assert [len(s) for s in seen] == [5, 5, 5, 5, 3] * 2
    for epoch in (seen[:5], seen[5:]):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(23))
    assert (np.concatenate(seen[:5]) != np.concatenate(seen[5:])).any()


def test_the_loss_of_an_epoch_is_the_mean_over_its_rows():
    # with a frozen network the loss of an epoch is the mean over all rows for any batch size
    X, y = _rows(23, 6, 4)
    losses = []
    for batch in (23, 5, 7):
        net = _classifier((6, 5, 4), "float64")
        net.build(6)
        for layer in net.layers:
            layer.trainable = False
        losses.append(net.fit(X, y, batch_size=batch, verbose=0).history["loss"][0])
        assert losses[-1] == pytest.approx(net.evaluate(X, y)["loss"], rel=1e-13)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-13)


def test_a_batch_without_weight_changes_nothing():
    X, y = _rows(8, 6, 4)
    nets = []
    for zeros in (0, 8):
        net = _classifier((6, 5, 4), "float64", optimizer=gpunn.AdamW(0.01, weight_decay=0.1))
        rows = np.concatenate([X] + [X + 1] * (zeros // 8))
        labels = np.concatenate([y] + [y] * (zeros // 8))
        w = np.concatenate([np.ones(8), np.zeros(zeros)])
        history = net.fit(rows, labels, batch_size=8, shuffle=False, sample_weight=w, verbose=0)
        nets.append((net, history))
    for a, b in zip(nets[0][0].get_weights(), nets[1][0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert nets[0][1].history == nets[1][1].history
    assert internals.steps_taken(nets[1][0]) == 1


def test_a_weight_of_two_counts_a_row_twice():
    X, y = _rows(12, 6, 4)
    w = np.array([2.0, 1.0] * 6)
    twice = np.repeat(np.arange(12), w.astype(int))
    a, b = _classifier((6, 5, 4), "float64"), _classifier((6, 5, 4), "float64")
    for _ in range(5):
        assert a.train_on_batch(X, y, sample_weight=w) == pytest.approx(b.train_on_batch(X[twice], y[twice]), rel=1e-13)
    for u, v in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(u, v, rtol=1e-12, atol=1e-15)


def test_a_frozen_layer_keeps_its_weights_and_others_train():
    X, y = _rows(16, 6, 4)
    net = _classifier((6, 5, 5, 4), optimizer=gpunn.AdamW(0.01, weight_decay=0.1))
    net.build(6)
    net.train_on_batch(X, y)
    net[1].trainable = False
    before = net.get_weights()
    net.fit(X, y, epochs=3, batch_size=8, verbose=0)
    moved = [(a != b).any() for a, b in zip(before, net.get_weights(), strict=True)]
    assert moved == [True, True, False, False, True, True]
    _, gradients = net.loss_and_gradients(X, y)
    assert not gradients[2].any() and not gradients[3].any() and gradients[0].any()
    net[1].trainable = True
    net.fit(X, y, epochs=1, batch_size=8, verbose=0)
    assert (net.get_weights()[2] != before[2]).any()


def test_max_norm_holds_after_every_step():
    X, y = _rows(16, 6, 4)
    net = gpunn.Sequential([gpunn.Dense(5, "relu", max_norm=0.5), gpunn.Dense(4, "softmax")], seed=0, dtype="float64")
    net.compile(gpunn.SGD(0.5), "sparse_categorical_crossentropy")
    for _ in range(5):
        net.train_on_batch(X, y)
        norms = np.linalg.norm(net.get_weights()[0], axis=0)
        assert norms.max() <= 0.5 * (1 + 1e-15)
        assert norms.max() > 0.49


def test_penalties_with_equal_lambda_are_one_range():
    def slices(*l2):
        layers = [gpunn.Dense(3, "relu", l2=v) for v in l2]
        net = gpunn.Sequential([*layers, gpunn.Dense(2)], seed=0, input_shape=3)
        return internals.penalties(net)

    assert slices(0.0, 0.0) == []
    assert slices(0.1, 0.1) == [(0, 18, 0.1)]
    assert slices(0.1, 0.2) == [(0, 9, 0.1), (9, 18, 0.2)]
    assert slices(0.0, 0.2) == [(9, 18, 0.2)]


def test_the_reported_loss_includes_the_penalty():
    X, y = _rows(16, 6, 4)
    plain, penalized = _classifier((6, 5, 4), "float64"), None
    penalized = gpunn.Sequential(
        [gpunn.Dense(5, "relu", l2=0.25), gpunn.Dense(4, "softmax", l1=0.5)], seed=0, dtype="float64"
    )
    penalized.compile("adam", "sparse_categorical_crossentropy")
    base, loss = plain.evaluate(X, y)["loss"], penalized.evaluate(X, y)["loss"]
    W1, _, W2, _ = penalized.get_weights()
    expected = base + 0.125 * (W1**2).sum() + 0.5 * np.abs(W2).sum()
    assert loss == pytest.approx(expected, rel=1e-13)
    assert penalized.train_on_batch(X, y) == pytest.approx(expected, rel=1e-13)


def test_threads_can_predict_with_one_network_concurrently():
    net = _classifier((20, 30, 4))
    X, y = _rows(400, 20, 4)
    net.fit(X, y, verbose=0)
    wanted = net.predict(X, batch_size=64)
    wrong = []

    def ask():
        for _ in range(20):
            if not np.array_equal(net.predict(X, batch_size=64), wanted):
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_memory_of_free_executables_is_limited(monkeypatch):
    net = _classifier((6, 5, 4))
    X, y = _rows(64, 6, 4)
    net.train_on_batch(X[:30], y[:30])
    assert internals.executables_kept(net) == 1
    internals.limit_executables(monkeypatch, net, 1 << 15)
    for n in range(1, 40):
        net.train_on_batch(X[:n], y[:n])
    assert 1 < internals.executables_kept(net) < 20
    internals.limit_executables(monkeypatch, net, 0)
    net.fit(X, y, batch_size=10, verbose=0)
    for n in (3, 4, 5):
        net.train_on_batch(X[:n], y[:n])
    assert internals.executables_kept(net) == 2  # the network's own of the last two sizes


def test_a_copy_trains_independently():
    net = _classifier((6, 5, 4))
    X, y = _rows(16, 6, 4)
    net.train_on_batch(X, y)
    reference = copy.deepcopy(net)
    assert net.train_on_batch(X, y) == reference.train_on_batch(X, y)
    before = net.get_weights()
    reference.train_on_batch(X, y)
    for a, b in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_that_would_overflow_writes_nothing():
    # in float32 θ − ηg overflows for η = 10³⁸ and |g| ≈ 10: loss and gradient are finite, the update is not
    net = gpunn.Sequential([gpunn.Dense(1, kernel_initializer="ones")], seed=0, input_shape=1)
    net.compile(gpunn.SGD(1e38), "half_squared_error")
    before = net.get_weights()
    with pytest.raises(gpunn.DivergenceError, match="an update would overflow"):
        net.train_on_batch([[1.0]], [[11.0]])
    for a, b in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert internals.steps_taken(net) == 0
    # with a learning rate that does not overflow, the same step is taken
    net.compile(gpunn.SGD(1e-3), "half_squared_error")
    assert net.train_on_batch([[1.0]], [[11.0]]) == 50.0


def test_the_device_reason_names_the_environment_variable_or_request(monkeypatch):
    monkeypatch.setenv("GPUNN_DEVICE", "cpu")
    net = _classifier((6, 5, 4), device="auto")
    assert (net.device, "GPUNN_DEVICE" in net.device_reason) == ("cpu", True)
    net.compile("adam", "sparse_categorical_crossentropy", device="cpu")
    assert net.device_reason == "asked for"


def test_ctrl_c_stops_after_a_complete_step():
    X, y = _rows(40, 6, 4)

    class Interrupt(gpunn.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                signal.raise_signal(signal.SIGINT)

    net, reference = _classifier((6, 5, 4)), _classifier((6, 5, 4))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, y, batch_size=8, shuffle=False, callbacks=[Interrupt()], verbose=0)
    assert signal.getsignal(signal.SIGINT) is handler
    # the interrupt came before the fourth step, which was completed
    reference.fit(X[:32], y[:32], batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(net.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert internals.steps_taken(net) == internals.steps_taken(reference) == 4


def test_gradients_of_several_threads_do_not_mix():
    net = _classifier((20, 30, 4))
    net.build(20)
    batches = [_rows(16, 20, 4, seed) for seed in range(4)]
    wanted = [net.loss_and_gradients(*batch) for batch in batches]
    wrong = []

    def ask(k):
        for _ in range(30):
            loss, gradients = net.loss_and_gradients(*batches[k])
            same = all(np.array_equal(a, b) for a, b in zip(gradients, wanted[k][1], strict=True))
            if loss != wanted[k][0] or not same:
                wrong.append(k)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class _NaNFromStep3(gpunn.schedules.Schedule):
    name = "nan_from_step_3"

    def __call__(self, t):
        return 0.1 if t < 3 else float("nan")


@pytest.mark.parametrize("case", ["a schedule's NaN", "a decay that overflows"])
def test_an_update_that_is_not_finite_is_never_written(case):
    X, y = _rows(32, 6, 4)
    rule = gpunn.SGD(_NaNFromStep3()) if case == "a schedule's NaN" else gpunn.AdamW(1.0, weight_decay=1e38)
    steps = 3 if case == "a schedule's NaN" else 0
    net, reference = _classifier((6, 5, 4), optimizer=rule), _classifier((6, 5, 4), optimizer=gpunn.SGD(0.1))
    net.build(6).set_weights([w * 100 for w in net.get_weights()])
    reference.build(6).set_weights(net.get_weights())
    with pytest.raises(gpunn.DivergenceError, match="an update"):
        net.fit(X, y, batch_size=8, shuffle=False, verbose=0)
    for k in range(steps):
        reference.train_on_batch(X[8 * k : 8 * k + 8], y[8 * k : 8 * k + 8])
    for a, b in zip(net.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("rule", "name"), [(gpunn.Adam(epsilon=1e-50), "epsilon"), (gpunn.AdamW(weight_decay=1e45), "weight_decay")]
)
def test_a_hyperparameter_that_float32_cannot_represent_is_refused(rule, name):
    with pytest.raises(ValueError, match=f"{name}=.* in float32"):
        _classifier((6, 5, 4), optimizer=rule)
    _classifier((6, 5, 4), "float64", optimizer=rule)


def test_a_variance_that_overflows_stops_the_fit():
    X, y = _rows(32, 6, 4)
    for layer in (gpunn.BatchNormalization(), gpunn.LayerNormalization()):
        net = gpunn.Sequential([layer, gpunn.Dense(4, "softmax")], seed=0)
        net.compile("adam", "sparse_categorical_crossentropy")
        with pytest.raises(gpunn.DivergenceError):
            net.fit(X * np.float32(1e25), y, verbose=0)
        assert all(np.isfinite(w).all() for w in net.get_weights())
        assert np.isfinite(internals.running(net)).all()


def test_clipping_by_a_norm_whose_square_overflows():
    # ∂C/∂W = x(Wx − y) = 10²⁰⁰, its square beyond float64; the clipped gradient is 1
    net = gpunn.Sequential([gpunn.Dense(1, use_bias=False, kernel_initializer="ones")], input_shape=1, dtype="float64")
    net.compile(gpunn.SGD(0.125, clipnorm=1.0), "half_squared_error")
    net.train_on_batch([[1e100]], [[0.0]])
    assert net.get_weights()[0][0, 0] == pytest.approx(0.875, rel=1e-15)


def test_a_layers_attribute_takes_effect_at_the_next_call():
    X, y = _rows(32, 6, 4)
    net = _classifier((6, 5, 4), "float64")
    plain = net.evaluate(X, y)["loss"]
    net[0].l2 = 2.0
    W = net.get_weights()[0]
    assert net.evaluate(X, y)["loss"] == pytest.approx(plain + (W**2).sum(), rel=1e-13)

    class Freeze(gpunn.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model[0].trainable = False
            self.weights = self.model.get_weights()

    freeze = Freeze()
    net.fit(X, y, batch_size=8, epochs=1, callbacks=[freeze], verbose=0)
    net[0].trainable = True
    net.fit(X, y, batch_size=8, epochs=2, callbacks=[freeze], verbose=0)
    before = freeze.weights
    assert (net.get_weights()[2] == before[2]).all(), "the callback saw the last epoch's weights"
    moved = net.get_weights()
    net.fit(X, y, batch_size=8, epochs=1, verbose=0)
    assert (net.get_weights()[0] == moved[0]).all() and (net.get_weights()[2] != moved[2]).any()


@pytest.mark.parametrize("last", [gpunn.Dropout(0.5), gpunn.BatchNormalization()])
def test_probabilities_are_never_interpreted_as_logits(last):
    net = gpunn.Sequential([gpunn.Dense(3, "softmax"), last], seed=0)
    with pytest.raises(ValueError, match=naming("probabilities", "logits")):
        net.compile("adam", "sparse_categorical_crossentropy")


def test_a_removed_penalty_no_longer_counts_in_the_loss():
    X, y = _rows(32, 6, 4)
    net = _classifier((6, 5, 4), "float64")
    net.build(6)[0].l2 = 2.0
    net.train_on_batch(X, y)
    net[0].l2 = 0.0
    wanted = net.evaluate(X, y)["loss"]
    assert net.loss_and_gradients(X, y)[0] == pytest.approx(wanted, rel=1e-13)
    assert net.train_on_batch(X, y) == pytest.approx(wanted, rel=1e-13)
