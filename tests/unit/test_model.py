"""Sequential: building, compiling, copying, freezing and predicting."""

import copy
import pickle

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming
from helpers.small_nets import classifier, data, small_layers
from helpers.snapshots import assert_unchanged, bits, state_of, weights_of
from helpers.user_classes import UserSigmoid

import gpunn
from gpunn.backend import to_host

# --- building --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", ["get_weights", "set_weights", "save", "to_tensors"])
def test_there_are_no_weights_before_the_number_of_inputs_is_known(ask, tmp_path):
    net = gpunn.Sequential(small_layers(), seed=1)
    arguments = {"set_weights": [[]], "save": [tmp_path / "net.safetensors"]}.get(ask, [])
    with pytest.raises(RuntimeError, match="number of inputs"):
        getattr(net, ask)(*arguments)
    assert not list(tmp_path.iterdir())
    net.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(RuntimeError, match="give input_shape=, call build"):
        net.get_weights()


X, Y = data()
WAYS = {
    "input_shape=(4,)": lambda layers: gpunn.Sequential(layers, input_shape=(4,), seed=5),
    "build": lambda layers: gpunn.Sequential(layers, seed=5).build(4),
    "predict": lambda layers: _after(layers, lambda net: net.predict(X)),
    "trace": lambda layers: _after(layers, lambda net: net.trace(X)),
    "evaluate": lambda layers: _after(layers, lambda net: net.evaluate(X, Y), True),
    "loss_and_gradients": lambda layers: _after(layers, lambda net: net.loss_and_gradients(X, Y), True),
    "trace with y": lambda layers: _after(layers, lambda net: net.trace(X, Y), True),
}


def _after(layers, ask, compiled=False):
    net = gpunn.Sequential(layers, seed=5)
    if compiled:
        net.compile("adam", "sparse_categorical_crossentropy")
    ask(net)
    return net


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_build_draws_the_same_weights(way):
    first = gpunn.Sequential(small_layers(), input_shape=4, seed=5)
    assert weights_of(WAYS[way](small_layers())) == weights_of(first)


@pytest.mark.parametrize("call", ["fit", "train_on_batch"])
def test_training_builds_the_network(call):
    early, late = classifier(), classifier(input_shape=None)
    for net in (early, late):
        getattr(net, call)(X, Y, **({"verbose": 0} if call == "fit" else {}))
    assert weights_of(early) == weights_of(late)


def test_a_network_is_built_once():
    net = gpunn.Sequential(small_layers(), input_shape=4)
    with assert_unchanged(net), pytest.raises(RuntimeError, match="already built, for 4 inputs"):
        net.build(5)


def test_the_seed_determines_the_weights_and_is_stored():
    drawn, other = gpunn.Sequential(small_layers(), input_shape=4), gpunn.Sequential(small_layers(), input_shape=4)
    assert drawn.seed != other.seed and 0 <= drawn.seed < 2**64
    assert weights_of(drawn) != weights_of(other)
    again = gpunn.Sequential(small_layers(), input_shape=4, seed=drawn.seed)
    assert weights_of(again) == weights_of(drawn)
    assert weights_of(gpunn.Sequential(small_layers(), input_shape=4, seed=2**64 - 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_and_predictions_have_the_dtype(dtype):
    net = classifier(dtype=dtype)
    assert net.dtype == dtype
    net.train_on_batch(X, Y)
    assert {w.dtype for w in net.get_weights()} == {np.dtype(dtype)} == {net.predict(X).dtype}
    assert gpunn.Sequential([gpunn.Dense(1)]).dtype == np.float32


class _Shift(gpunn.Layer):
    """A layer of a user whose arguments are an activation and a number."""

    def __init__(self, activation="relu", by=0.0):
        self.activation, self.by = gpunn.activations.get(activation), by

    def get_config(self):
        return {"activation": gpunn.activations.to_config(self.activation), "by": self.by}


REPEATED = [
    gpunn.Dense(5, use_bias=False, kernel_initializer="he_uniform"),
    gpunn.Dense(5, gpunn.activations.LeakyReLU(0.3), kernel_initializer=gpunn.initializers.Normal(0.0, 0.3)),
    gpunn.Dense(5, "leaky_relu", bias_initializer=gpunn.initializers.Constant(0.1), l1=1 / 3, l2=0.1, max_norm=2),
    gpunn.Dense(5, "elu", kernel_initializer="lecun_normal"),
    gpunn.Activation(gpunn.activations.ELU(0.5)),
    gpunn.Dropout(1 / 3, form="textbook"),
    gpunn.BatchNormalization(0.2),
    gpunn.LayerNormalization(epsilon=1e-3),
    gpunn.Embedding([2, 0], [3, 5], [1, 2], l2=0.1),
    gpunn.Embedding([0], [3], 2, initializer="zeros"),
    gpunn.PeriodicEmbedding([2, 0], 3, scale=0.25),
    _Shift(gpunn.activations.ELU(0.5), by=2.5),
]


@pytest.mark.parametrize("layer", REPEATED, ids=repr)
def test_the_repr_of_a_layer_makes_an_equal_layer(layer):
    names = {**vars(gpunn.activations), **vars(gpunn.initializers), **vars(gpunn.layers), "_Shift": _Shift}
    again = eval(repr(layer), names)
    assert type(again) is type(layer) and gpunn.layers.to_config(again) == gpunn.layers.to_config(layer)


def test_layers_len_index_iteration_and_repr():
    layers = small_layers()
    net = gpunn.Sequential(layers, input_shape=4, seed=1)
    assert len(net) == 4
    assert net[0] is layers[0] and net[-1] is layers[3] and list(net) == net.layers == layers
    assert net[1:3] == layers[1:3]
    net.layers.clear()
    assert len(net) == len(net.layers) == 4
    with pytest.raises(IndexError):
        net[4]
    names = {name: getattr(gpunn, name) for name in ("Sequential", "Dense", "BatchNormalization", "Dropout")}
    again = eval(repr(net), names)
    assert repr(again) == repr(net) and weights_of(again) == weights_of(net)
    assert "input_shape" not in repr(gpunn.Sequential(small_layers()))


def test_a_layer_belongs_to_one_network():
    layer = gpunn.Dense(2)
    with pytest.raises(ValueError, match=r"layers\[1\] .* already in use"):
        gpunn.Sequential([layer, layer])
    net = gpunn.Sequential([layer], input_shape=3, seed=0)
    with pytest.raises(ValueError, match=r"layers\[0\] .* already in use; .* copy.deepcopy it"):
        gpunn.Sequential([layer])
    other = gpunn.Sequential([copy.deepcopy(layer)], input_shape=2, seed=0)
    assert [w.shape for w in other.get_weights()] == [(2, 2), (2,)]
    assert net[0].n_in == 3
    for duplicate in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        with pytest.raises(ValueError, match="already in use"):
            gpunn.Sequential(duplicate.layers)


def test_a_failed_constructor_does_not_use_the_layers():
    layer = gpunn.Dense(2)
    for wrong in ({"seed": -1}, {"dtype": "float16"}, {"input_shape": 0}):
        with pytest.raises(ValueError):
            gpunn.Sequential([layer], **wrong)
    assert len(gpunn.Sequential([layer])) == 1


# --- weights ---------------------------------------------------------------------------------------------------------


def test_weights_are_numpy_copies_in_the_layers_order():
    net = classifier()
    weights = net.get_weights()
    assert [w.shape for w in weights] == [(4, 6), (6,), (6,), (6,), (6, 3), (3,)]
    before = weights_of(net)
    for w in weights:
        w[...] = 7
    assert weights_of(net) == before
    net.set_weights(weights)
    weights[0][...] = 0
    assert all((w == 7).all() for w in net.get_weights())


def test_set_weights_accepts_results_of_get_weights_and_lists():
    net, other = classifier(), classifier(seed=8)
    other.set_weights(net.get_weights())
    assert weights_of(other) == weights_of(net)
    small = gpunn.Sequential([gpunn.Dense(1)], input_shape=2)
    small.set_weights([[[0.5], [2]], np.array([1], dtype=">i2")])
    np.testing.assert_array_equal(small.predict([[2, 4]]), [[10]])
    assert bits(small.get_weights()[1]) == bits(np.ones(1, np.float32))


# --- compiling -------------------------------------------------------------------------------------------------------


def test_a_second_compile_keeps_the_weights_and_resets_the_optimizer():
    net = classifier()
    net.fit(X, Y, epochs=3, verbose=0)
    weights = net.get_weights()
    assert internals.steps_taken(net) == 3 and to_host(internals.optimizer_state(net)["v"]).any()
    net.compile(gpunn.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    for a, b in zip(weights, net.get_weights(), strict=True):
        assert bits(a) == bits(b)
    # the next fit equals that of a new network with these weights
    fresh = classifier()
    fresh.set_weights(weights)
    internals.running(fresh)[...] = internals.running(net)
    assert net.fit(X, Y, verbose=0).history == fresh.fit(X, Y, verbose=0).history
    assert state_of(net) == state_of(fresh)


def test_a_second_compile_may_change_optimizer_loss_and_metrics():
    net = classifier()
    net.compile("sgd", gpunn.losses.CategoricalCrossentropy())
    assert isinstance(net.optimizer, gpunn.SGD) and net.loss.name == "categorical_crossentropy"
    assert set(net.evaluate(X, np.eye(3)[Y])) == {"loss"}
    assert net.compile("adam", "mse") is net


@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch", "loss_and_gradients", "trace"])
def test_calls_that_need_a_loss_raise_before_compile(call):
    net = gpunn.Sequential(small_layers(), input_shape=4)
    with (
        assert_unchanged(net),
        pytest.raises(RuntimeError, match=rf"{call}.*call compile\(optimizer=…, loss=…\) first"),
    ):
        getattr(net, call)(X, Y)
    for name in ("optimizer", "loss"):
        with pytest.raises(RuntimeError, match="compile"):
            getattr(net, name)


@pytest.mark.parametrize("threads", [1, np.int64(1)])
def test_a_fit_uses_at_most_the_given_threads(threads):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    seen = []
    callback = gpunn.Callback()
    callback.on_epoch_end = lambda epoch, logs=None: seen.extend(
        pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"
    )
    net = classifier().compile("adam", "sparse_categorical_crossentropy", threads=threads)
    net.fit(X, Y, callbacks=[callback], verbose=0)
    assert set(seen) == {1}


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_numpy_integers_are_accepted_as_sizes(kind):
    """Integers of a type that cannot represent the number of rows are accepted too."""
    net, x, y = classifier(), np.resize(X, (300, 4)), np.resize(Y, 300)
    net.fit(x, y, batch_size=kind(200), epochs=kind(1), verbose=0)
    assert bits(net.predict(x, batch_size=kind(200))) == bits(net.predict(x, batch_size=200))
    assert net.evaluate(x, y, batch_size=kind(200)) == net.evaluate(x, y, batch_size=200)
    fits = [gpunn.fit_many(classifier, x, y, [{}], batch_size=of(200), epochs=of(1))[0][0] for of in (int, kind)]
    assert weights_of(fits[0]) == weights_of(fits[1])


def test_threads_without_threadpoolctl_raises_at_compile(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    net = classifier()
    with assert_unchanged(net), pytest.raises(ImportError, match=r"pip install \"gpunn\[threads\]\""):
        net.compile("adam", "sparse_categorical_crossentropy", threads=2)


def test_moving_to_a_device():
    net = classifier()
    assert net.to("cpu") is net and net.device == "cpu"
    before = state_of(net)
    for wrong in ("gpu", "cuda:-1", "", "cpu:1"):
        with pytest.raises(ValueError, match="device"):
            net.to(wrong)
    assert state_of(net) == before
    net.fit(X, Y, verbose=0)


def test_one_metric_object_can_be_used_by_two_networks():
    accuracy = gpunn.metrics.Accuracy()
    one = gpunn.Sequential([gpunn.Dense(3, "softmax")], input_shape=4, seed=0)
    one.compile("sgd", "sparse_categorical_crossentropy", metrics=[accuracy])
    alone = one.evaluate(X, Y)
    other = gpunn.Sequential([gpunn.Dense(1, "sigmoid")], input_shape=4, seed=0)
    other.compile("sgd", "binary_crossentropy", metrics=[accuracy])
    other.evaluate(X, Y[:, None] > 1)
    assert one.evaluate(X[:7], Y[:7])["accuracy"] == pytest.approx((one.predict_classes(X[:7]) == Y[:7]).mean())
    assert one.evaluate(X, Y) == alone
    assert set(vars(accuracy)) == {"name", "_attribute_version"} and accuracy.name == "accuracy"


# --- copies ----------------------------------------------------------------------------------------------------------

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "oldest pickle": lambda net: pickle.loads(pickle.dumps(net, protocol=2)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_continues_from_the_same_state_independently(copied):
    net = classifier(device="cpu")
    net.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    duplicate = copied(net)
    assert state_of(duplicate) == state_of(net) and repr(duplicate) == repr(net)
    before, predicted = state_of(net), bits(net.predict(X))
    history = duplicate.fit(X, Y, batch_size=8, epochs=2, verbose=0).history
    assert state_of(net) == before and bits(net.predict(X)) == predicted
    assert net.fit(X, Y, batch_size=8, epochs=2, verbose=0).history == history
    assert state_of(net) == state_of(duplicate)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_of_networks_that_are_not_compiled_or_not_built(copied):
    built = gpunn.Sequential(small_layers(), input_shape=4, seed=2)
    assert weights_of(copied(built)) == weights_of(built)
    with pytest.raises(RuntimeError, match="compile"):
        copied(built).evaluate(X, Y)
    unbuilt = gpunn.Sequential(small_layers(), seed=2)
    duplicate = copied(unbuilt)
    with pytest.raises(RuntimeError, match="the number of inputs"):
        duplicate.get_weights()
    assert weights_of(duplicate.build(4)) == weights_of(built)
    compiled = copied(classifier(input_shape=None, device="cpu"))
    assert compiled.train_on_batch(X, Y) == classifier(device="cpu").train_on_batch(X, Y)


def test_freezing_a_copy_does_not_freeze_the_original():
    net = classifier()
    duplicate = copy.deepcopy(net)
    duplicate[0].trainable = False
    before = net.get_weights()
    net.train_on_batch(X, Y)
    duplicate.train_on_batch(X, Y)
    assert (net.get_weights()[0] != before[0]).any()
    assert bits(duplicate.get_weights()[0]) == bits(before[0])


# --- freezing --------------------------------------------------------------------------------------------------------


def test_a_frozen_layer_keeps_its_weights_and_its_running_statistics():
    net = classifier(gpunn.AdamW(0.01, weight_decay=0.1))
    net.fit(X, Y, verbose=0)
    net[1].trainable = False
    before, running = net.get_weights(), bits(internals.running(net))
    net.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    moved = [bits(a) != bits(b) for a, b in zip(before, net.get_weights(), strict=True)]
    assert moved == [True, True, False, False, True, True]
    assert bits(internals.running(net)) == running
    net[1].trainable = True
    net.fit(X, Y, verbose=0)
    assert bits(net.get_weights()[2]) != bits(before[2]) and bits(internals.running(net)) != running


def test_a_layer_may_be_frozen_before_there_are_weights():
    layers = small_layers()
    layers[0].trainable = False
    net = gpunn.Sequential(layers, seed=3).compile("sgd", "sparse_categorical_crossentropy")
    first = gpunn.Sequential(small_layers(), seed=3, input_shape=4).get_weights()
    net.fit(X, Y, verbose=0)
    moved = [bits(a) != bits(b) for a, b in zip(first, net.get_weights(), strict=True)]
    assert moved[:2] == [False, False] and all(moved[4:])
    for layer in net:
        layer.trainable = False
    with assert_unchanged(net):
        _, gradients = net.loss_and_gradients(X, Y)
    assert not any(g.any() for g in gradients)


def test_freezing_takes_effect_in_the_next_trace():
    """A frozen BatchNormalization uses its running values, so an older plan must not be reused."""
    net = gpunn.Sequential([gpunn.BatchNormalization()], input_shape=4)
    free = net.trace(X, training=True)[0].a
    net[0].trainable = False
    frozen = net.trace(X, training=True)[0].a
    np.testing.assert_allclose(free.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(frozen, X / np.sqrt(1 + 1e-5), rtol=1e-6)


# --- prediction ------------------------------------------------------------------------------------------------------


def test_predict_returns_the_output_of_the_last_layer():
    W, b = np.array([[1.0, -2.0], [0.5, 4.0]]), np.array([0.25, -1.0])
    x = np.array([[2.0, 1.0], [-1.0, 3.0]])
    z = x @ W + b
    for activation, a in (("identity", z), ("relu", np.maximum(z, 0)), (None, z)):
        net = gpunn.Sequential([gpunn.Dense(2, activation)], input_shape=2)
        net.set_weights([W, b])
        assert bits(net.predict(x)) == bits(a.astype(np.float32))
    logits = gpunn.Sequential([gpunn.Dense(2)], input_shape=2)
    logits.set_weights([W, b])
    logits.compile("sgd", "sparse_categorical_crossentropy")
    assert bits(logits.predict(x)) == bits(z.astype(np.float32)), "logits stay logits"
    e = np.exp(z - z.max(axis=1, keepdims=True))
    np.testing.assert_allclose(logits.predict_proba(x), e / e.sum(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(logits.predict_classes(x), z.argmax(axis=1))


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_predict_in_batches(batch_size):
    net = classifier(dtype="float64")
    np.testing.assert_allclose(net.predict(X, batch_size=batch_size), net.predict(X), rtol=1e-13)
    np.testing.assert_allclose(net.predict(X, batch_size), net.predict_proba(X, batch_size), rtol=1e-13)
    np.testing.assert_array_equal(net.predict_classes(X, batch_size), net.predict_classes(X))
    assert net.predict(X[:1], batch_size=batch_size).shape == (1, 3)


def test_predictions_share_no_memory():
    net = classifier()
    first = net.predict(X)
    expected = first.copy()
    second = net.predict(X)
    assert first.flags.writeable and not np.shares_memory(first, second)
    first[...] = 5
    assert bits(net.predict(X)) == bits(second) == bits(expected)
    # an identity layer's output is not the input itself
    passing = gpunn.Sequential([gpunn.Dropout(0.5)], input_shape=4)
    given = X.copy()
    passing.predict(given)[...] = 9
    assert bits(given) == bits(X)


def _ce(name, **options):
    return getattr(gpunn.losses, name)(**options)


@pytest.mark.parametrize(
    ("activation", "loss", "meaning"),
    [
        ("softmax", None, "softmax given"),
        ("sigmoid", None, "sigmoid given"),
        ("softmax", "sparse_categorical_crossentropy", "softmax given"),
        ("sigmoid", "binary_crossentropy", "sigmoid given"),
        ("sigmoid", "mse", "sigmoid given"),
        (None, "sparse_categorical_crossentropy", "softmax of logits"),
        (None, "categorical_crossentropy", "softmax of logits"),
        (None, "binary_crossentropy", "sigmoid of logits"),
        ("tanh", _ce("SparseCategoricalCrossentropy", from_logits=True), "softmax of logits"),
        ("sigmoid", _ce("SparseCategoricalCrossentropy", from_logits=True), "softmax of logits"),
        (UserSigmoid(), _ce("BinaryCrossentropy", from_logits=False), "sigmoid given"),
        ("sigmoid", _ce("CategoricalCrossentropy", from_logits=False), "softmax given"),
    ],
    ids=str,
)
@pytest.mark.parametrize("outputs", [1, 3])
def test_probabilities_and_classes(activation, loss, meaning, outputs):
    net = gpunn.Sequential([gpunn.Dense(outputs, activation)], input_shape=4, seed=6, dtype="float64")
    if loss is not None:
        net.compile("sgd", loss, device="cpu")
    a, p, classes = net.predict(X), net.predict_proba(X), net.predict_classes(X)
    if meaning == "softmax of logits":
        e = np.exp(a - a.max(axis=1, keepdims=True))
        np.testing.assert_allclose(p, e / e.sum(axis=1, keepdims=True), rtol=1e-14)
    elif meaning == "sigmoid of logits":
        np.testing.assert_allclose(p, 1 / (1 + np.exp(-a)), rtol=1e-14)
    else:
        assert bits(p) == bits(a)
    if meaning.startswith("softmax"):
        np.testing.assert_array_equal(classes, p.argmax(axis=1))
    elif outputs == 1:
        np.testing.assert_array_equal(classes, (p[:, 0] > 0.5).astype(int))
    else:
        np.testing.assert_array_equal(classes, (p > 0.5).astype(int))
    assert classes.dtype.kind == "i"


@pytest.mark.parametrize(("activation", "loss"), [("relu", None), (None, "mse"), ("tanh", "half_squared_error")])
@pytest.mark.parametrize("ask", ["predict_proba", "predict_classes"])
def test_networks_without_probabilities_raise(activation, loss, ask):
    net = gpunn.Sequential([gpunn.Dense(2, activation)], input_shape=4)
    if loss:
        net.compile("sgd", loss)
    with pytest.raises(ValueError, match=naming("probabilities", "softmax", "sigmoid")):
        getattr(net, ask)(X)
