"""Values assigned to attributes: validated as in the constructor, normalized, and read back from files."""

import numpy as np
import pytest
from helpers.snapshots import bits, weights_of

import gpunn
from gpunn import losses, metrics, optimizers, schedules

RNG = np.random.default_rng(13)
X, Y = RNG.normal(size=(40, 4)), RNG.integers(0, 3, size=40)

TRUTHS = [(True, True), (0, False), (1, True), (np.False_, False), (np.True_, True), (np.array(False), False)]
NO_TRUTHS = [None, "no", 2, 0.5, np.array([True, False]), []]


def _numbers(*accepted):
    kinds = (float, np.float64, np.float32, np.float16, np.array)
    return [(kind(x), float(np.asarray(kind(x)))) for x in accepted for kind in kinds]


NOT_NUMBERS = ["a", True, np.True_, np.nan, 1j, [0.5], np.array([0.5]), np.array(True)]
BELOW_1, NOT_BELOW_1 = [*_numbers(0.25), (0, 0.0)], [*NOT_NUMBERS, None, 1.0, 1, np.float32(1), -0.1]
POSITIVE, NOT_POSITIVE = [*_numbers(0.25), (3, 3.0), (np.int64(3), 3.0)], [*NOT_NUMBERS, 0, -1, np.inf, None]
NOT_NEGATIVE, NEGATIVE = [*POSITIVE, (0, 0.0)], [*NOT_NUMBERS, -1, np.inf, None]


def _with_none(accepted, refused):
    return [*accepted, (None, None)], [value for value in refused if value is not None]


ASSIGNED = {
    "Dense.trainable": (lambda: gpunn.Dense(3), TRUTHS, NO_TRUTHS),
    "Dense.learning_rate_factor": (lambda: gpunn.Dense(3), POSITIVE, NOT_POSITIVE),
    "Dense.l2": (lambda: gpunn.Dense(3), NOT_NEGATIVE, NEGATIVE),
    "Dense.l1": (lambda: gpunn.Dense(3), NOT_NEGATIVE, NEGATIVE),
    "Dense.max_norm": (lambda: gpunn.Dense(3), *_with_none(POSITIVE, NOT_POSITIVE)),
    "Dense.use_bias": (lambda: gpunn.Dense(3), TRUTHS, NO_TRUTHS),
    "Dropout.rate": (lambda: gpunn.Dropout(0.5), BELOW_1, NOT_BELOW_1),
    "Dropout.form": (lambda: gpunn.Dropout(0.5), [("textbook", "textbook")], ["upside down", None, 1]),
    "Dropout.trainable": (lambda: gpunn.Dropout(0.5), TRUTHS, NO_TRUTHS),
    "Embedding.l2": (lambda: gpunn.Embedding([0], [2], 1), NOT_NEGATIVE, NEGATIVE),
    "BatchNormalization.momentum": (gpunn.BatchNormalization, [*_numbers(0.25), (1, 1.0)], [*NOT_NUMBERS, 2, None]),
    "BatchNormalization.epsilon": (gpunn.BatchNormalization, _numbers(0.25), [*NOT_NUMBERS, 0, 1, None]),
    "LayerNormalization.epsilon": (gpunn.LayerNormalization, _numbers(0.25), [*NOT_NUMBERS, 0, 1, None]),
    "PeriodicEmbedding.scale": (lambda: gpunn.PeriodicEmbedding([0], 2), POSITIVE, NOT_POSITIVE),
    "SGD.clipnorm": (optimizers.SGD, *_with_none(POSITIVE, NOT_POSITIVE)),
    "SGD.clipvalue": (optimizers.SGD, *_with_none(POSITIVE, NOT_POSITIVE)),
    "Momentum.momentum": (optimizers.Momentum, BELOW_1, NOT_BELOW_1),
    "Adam.beta_1": (optimizers.Adam, BELOW_1, NOT_BELOW_1),
    "Adam.beta_2": (optimizers.Adam, BELOW_1, NOT_BELOW_1),
    "Adam.epsilon": (optimizers.Adam, POSITIVE, NOT_POSITIVE),
    "AdamW.weight_decay": (optimizers.AdamW, NOT_NEGATIVE, NEGATIVE),
    "AdamW.decay_weights_only": (optimizers.AdamW, TRUTHS, NO_TRUTHS),
    "Adagrad.initial_accumulator_value": (optimizers.Adagrad, NOT_NEGATIVE, NEGATIVE),
    "Adagrad.epsilon": (optimizers.Adagrad, POSITIVE, NOT_POSITIVE),
    "RMSprop.rho": (optimizers.RMSprop, BELOW_1, NOT_BELOW_1),
    "RMSprop.epsilon": (optimizers.RMSprop, POSITIVE, NOT_POSITIVE),
    "Huber.delta": (losses.Huber, POSITIVE, NOT_POSITIVE),
    "BinaryCrossentropy.from_logits": (losses.BinaryCrossentropy, *_with_none(TRUTHS, NO_TRUTHS)),
    "SparseCategoricalCrossentropy.label_smoothing": (losses.SparseCategoricalCrossentropy, BELOW_1, NOT_BELOW_1),
    "CategoricalCrossentropy.label_smoothing": (losses.CategoricalCrossentropy, BELOW_1, NOT_BELOW_1),
    "LeakyReLU.alpha": (gpunn.activations.LeakyReLU, NOT_NEGATIVE, NEGATIVE),
    "ELU.alpha": (gpunn.activations.ELU, NOT_NEGATIVE, NEGATIVE),
    "F1Score.threshold": (metrics.F1Score, _numbers(0.25), [*NOT_NUMBERS, 0, 1, None]),
    "F1Score.average": (metrics.F1Score, [("micro", "micro")], ["weighted", None, 1]),
    "TopKCategoricalAccuracy.k": (metrics.TopKCategoricalAccuracy, [(np.int64(2), 2)], [0, 2.5, True, None, "2"]),
}


@pytest.mark.parametrize("what", ASSIGNED)
def test_an_assigned_value_is_converted_as_in_the_constructor(what):
    make, accepted, refused = ASSIGNED[what]
    thing, name = make(), what.partition(".")[2]
    for value, stored in accepted:
        setattr(thing, name, value)
        assert getattr(thing, name) == stored and type(getattr(thing, name)) is type(stored), repr(value)
    for value in refused:
        with pytest.raises((ValueError, TypeError), match=name) as caught:
            setattr(thing, name, value)
        assert repr(value) in str(caught.value)
        assert getattr(thing, name) == stored


def test_an_activation_may_be_assigned_by_name():
    layer = gpunn.Dense(3)
    layer.activation = "tanh"
    assert layer.activation == gpunn.activations.Tanh()
    with pytest.raises(ValueError, match="activation 'tahn'"):
        layer.activation = "tahn"
    assert layer.activation == gpunn.activations.Tanh()


@pytest.mark.parametrize("value, frozen", [(value, not kept) for value, kept in TRUTHS], ids=repr)
def test_a_layers_assigned_values_are_restored_from_a_file(value, frozen, tmp_path):
    layers = [gpunn.Dense(8, "relu"), gpunn.Dropout(0.25), gpunn.Dense(3)]
    net = gpunn.Sequential(layers, seed=2, input_shape=4).compile("sgd", "sparse_categorical_crossentropy")
    net[0].trainable, net[0].l2, net[1].rate = value, np.float32(0.25), np.array(0.5)
    before = net.get_weights()[0]
    net.fit(X, Y, verbose=0, callbacks=[gpunn.ModelCheckpoint(tmp_path / "c.safetensors")])
    assert (bits(net.get_weights()[0]) == bits(before)) == frozen
    net.save(tmp_path / "m.safetensors")
    for name in ("m", "c"):
        loaded = gpunn.load(tmp_path / f"{name}.safetensors")
        assert [loaded[0].trainable, loaded[0].l2, loaded[1].rate] == [not frozen, 0.25, 0.5]
        assert weights_of(loaded) == weights_of(net)


def test_trainable_of_a_user_defined_class_is_saved_as_a_boolean(tmp_path):
    class Fixed(gpunn.Dense):
        trainable = 0

    net = gpunn.Sequential([Fixed(3)], seed=0, input_shape=4)
    net.save(tmp_path / "m.safetensors")
    assert gpunn.load(tmp_path / "m.safetensors", custom={"Fixed": gpunn.Dense})[0].trainable is False


def test_numpy_booleans_and_zero_dimensional_arrays_are_accepted():
    decay = schedules.ExponentialDecay(np.array(0.5), np.array(3), np.float32(0.5), staircase=np.True_)
    assert decay.get_config() == schedules.ExponentialDecay(0.5, 3, 0.5, staircase=True).get_config()
    assert gpunn.SGD(np.array(0.25), clipnorm=np.array(0.5)).get_config() == gpunn.SGD(0.25, clipnorm=0.5).get_config()
    for value in (np.True_, np.array(True), np.array("a"), np.array([0.1])):
        with pytest.raises(TypeError, match="learning_rate"):
            gpunn.SGD(value)


@pytest.mark.parametrize("name", ["kernel_initializer", "bias_initializer"])
def test_an_initializer_is_validated_when_it_is_set(name, tmp_path):
    net = gpunn.Sequential([gpunn.Dense(3)], seed=0, input_shape=4)
    before = getattr(net.layers[0], name)
    for bad, error in (("nonsense", ValueError), (3, TypeError)):
        with pytest.raises(error, match="initializer"):
            setattr(net.layers[0], name, bad)
        assert getattr(net.layers[0], name) is before
    setattr(net.layers[0], name, "he_uniform")
    net.save(tmp_path / "net.safetensors")
    assert repr(getattr(gpunn.load(tmp_path / "net.safetensors").layers[0], name)) == repr(getattr(net.layers[0], name))


@pytest.mark.parametrize("name", ["learning_rate", "schedule"])
def test_a_learning_rate_set_on_the_optimizer_applies_to_the_next_step(name):
    fits = []
    for rate in (0.5, 0.125):
        optimizer = optimizers.SGD(0.5)
        net = gpunn.Sequential([gpunn.Dense(3)], seed=0, input_shape=4, dtype="float64")
        net.compile(optimizer, "sparse_categorical_crossentropy", device="cpu").train_on_batch(X, Y)
        setattr(optimizer, name, rate)
        with pytest.raises(ValueError, match="learning_rate"):
            setattr(optimizer, name, -1)
        before = net.get_weights()
        net.train_on_batch(X, Y)
        fits.append([a - b for a, b in zip(net.get_weights(), before, strict=True)])
    for long, short in zip(*fits, strict=True):
        np.testing.assert_allclose(short, long / 4, rtol=1e-12, atol=1e-15)
