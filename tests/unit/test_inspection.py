"""Single batches of a network: train_on_batch, evaluate, gradients, traces, and the summary."""

import numpy as np
import pytest
from helpers import hand_worked as hand
from helpers.small_nets import classifier, data, hand_worked_net, small_layers
from helpers.snapshots import assert_unchanged, bits
from helpers.summaries import slow_path
from helpers.user_classes import UserSigmoid

import gpunn

X, Y = data()


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_train_on_batch_returns_the_loss_before_the_step(dtype):
    net = hand_worked_net(dtype)
    loss = net.train_on_batch(hand.X, hand.Y)
    assert type(loss) is float and loss == hand.GRADIENTS[0, 1, 2, 3][0]
    for w, exact in zip(net.get_weights(), hand.AFTER[0, 1, 2, 3], strict=True):
        assert bits(w) == bits(np.array(exact, dtype))


def test_evaluate_returns_a_dict_of_floats_and_changes_nothing():
    net = classifier()
    net.fit(X, Y, verbose=0)
    with assert_unchanged(net, X):
        found = net.evaluate(X, Y)
    assert list(found) == ["loss", "accuracy"] and all(type(v) is float for v in found.values())
    p = net.predict(X).astype(np.float64)
    W1, W2 = net.get_weights()[0], net.get_weights()[4]
    expected = -np.log(p[np.arange(20), Y]).mean() + 0.005 * (W1.astype(np.float64) ** 2).sum()
    assert W2.any() and found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["accuracy"] == pytest.approx((net.predict_classes(X) == Y).mean(), abs=1e-6)
    w = np.arange(20.0)
    weighted = net.evaluate(X, Y, sample_weight=w)
    picked = -np.log(p[np.arange(20), Y])
    assert weighted["loss"] == pytest.approx(
        (w * picked).sum() / w.sum() + 0.005 * (W1.astype(np.float64) ** 2).sum(), rel=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20, 1000])
def test_evaluate_does_not_depend_on_the_batch_size(batch_size):
    net = classifier(dtype="float64")
    w = np.arange(20.0)
    whole = net.evaluate(X, Y, sample_weight=w, batch_size=20)
    parts = net.evaluate(X, Y, sample_weight=w, batch_size=batch_size)
    assert parts == pytest.approx(whole, rel=1e-12)


def test_loss_and_gradients_repeats_its_bits_and_changes_nothing():
    net = classifier()
    net.fit(X, Y, verbose=0)
    with assert_unchanged(net, X):
        loss, gradients = net.loss_and_gradients(X, Y)
        again, same = net.loss_and_gradients(X, Y)
    assert type(loss) is float and loss == again
    assert [bits(g) for g in gradients] == [bits(g) for g in same]
    assert [g.shape for g in gradients] == [w.shape for w in net.get_weights()]
    for g in same:
        g[...] = 0
    assert [bits(g) for g in net.loss_and_gradients(X, Y)[1]] == [bits(g) for g in gradients]


def test_loss_and_gradients_are_those_of_the_next_step():
    """θ changes by −η times these gradients, with dropout masks, batch statistics and penalties."""
    net = classifier(gpunn.SGD(0.5), dtype="float64", device="cpu")
    net.fit(X, Y, batch_size=10, verbose=0)
    loss, gradients = net.loss_and_gradients(X, Y)
    before = net.get_weights()
    assert net.train_on_batch(X, Y) == loss
    for g, a, b in zip(gradients, before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(b, a - 0.5 * g)


def test_dropout_masks_change_with_each_step():
    frozen = [gpunn.Dropout(0.5), gpunn.Dense(3, "softmax")]
    net = gpunn.Sequential(frozen, input_shape=4, seed=1)
    net.compile(gpunn.SGD(1e-30), "sparse_categorical_crossentropy")
    losses = []
    for _ in range(4):
        losses.append(net.loss_and_gradients(X, Y)[0])
        assert losses[-1] == net.loss_and_gradients(X, Y)[0]
        assert net.train_on_batch(X, Y) == losses[-1]
    assert len(set(losses)) == 4
    assert {net.loss_and_gradients(X, Y, training=False)[0] for _ in range(2)} == {net.evaluate(X, Y)["loss"]}
    assert net.loss_and_gradients(X, Y, False)[0] == net.evaluate(X, Y)["loss"]


def test_loss_and_gradients_include_penalties():
    net = gpunn.Sequential([gpunn.Dense(1, l2=0.5, l1=0.25)], input_shape=2)
    net.set_weights([[[2.0], [-4.0]], [1.0]])
    net.compile("sgd", "half_squared_error")
    # a = 2·1 − 4·1 + 1 = −1, e = −1 − 1 = −2: ½·4 = 2; ½·½·(4 + 16) = 5; ¼·(2 + 4) = 1½
    loss, (dW, db) = net.loss_and_gradients([[1.0, 1.0]], [[1.0]])
    assert loss == 8.5 == net.evaluate([[1.0, 1.0]], [[1.0]])["loss"]
    # e·x + λW + λ₁ sign W
    np.testing.assert_array_equal(dW, [[-2 + 1 + 0.25], [-2 - 2 - 0.25]])
    np.testing.assert_array_equal(db, [-2])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_trace_gives_the_hand_worked_quantities(dtype):
    net = hand_worked_net(dtype)
    with assert_unchanged(net, hand.X):
        first, second = net.trace(hand.X, hand.Y)
    _, dW1, db1, dW2, db2 = hand.GRADIENTS[0, 1, 2, 3]
    expected = {
        "z": (hand.Z1, hand.Z2),
        "a": (hand.A1, hand.Z2),
        "delta": (np.array(hand.DELTA1) / 4, np.array(hand.DELTA2) / 4),
        "dW": (dW1, dW2),
        "db": (db1, db2),
    }
    for name, (one, two) in expected.items():
        for record, exact in ((first, one), (second, two)):
            found = getattr(record, name)
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, exact, err_msg=name)
    assert first.layer == "Dense(2, activation='relu')" and set(first.gradients) == {"W", "b"}
    first.z[...] = first.a[...] = first.delta[...] = first.dW[...] = 99
    assert bits(net.trace(hand.X, hand.Y)[0].z) == bits(np.array(hand.Z1, dtype))


def test_trace_without_y_is_the_forward_pass_of_any_network():
    net = gpunn.Sequential(small_layers(), seed=3)
    records = net.trace(X)
    assert len(records) == 4
    assert all(r.delta is r.dW is r.db is None and r.gradients == {} for r in records)
    assert bits(records[-1].a) == bits(net.predict(X))
    assert (records[0].z < 0).any() and bits(records[0].a) == bits(np.maximum(records[0].z, 0))
    # the softmax is not fused with the loss
    e = np.exp(records[3].z.astype(np.float64))
    np.testing.assert_allclose(records[3].a, e / e.sum(axis=1, keepdims=True), rtol=1e-5)
    assert bits(records[2].a) == bits(records[1].a), "dropout passes through"


def test_trace_in_training_uses_the_masks_of_the_step():
    net = gpunn.Sequential([gpunn.Dropout(0.5), gpunn.Dense(3, "softmax")], input_shape=4, seed=1)
    net.compile("sgd", "sparse_categorical_crossentropy")
    dropped = net.trace(X, Y, training=True)[0].a
    assert set(np.unique(dropped == 0)) == {False, True}
    np.testing.assert_array_equal(dropped[dropped != 0], 2 * X[dropped != 0])
    assert bits(net.trace(X, training=True)[0].a) == bits(dropped)
    assert bits(net.trace(X, Y, training=False)[0].a) == bits(net.trace(X)[0].a) == bits(X)
    net.train_on_batch(X, Y)
    assert bits(net.trace(X, Y, training=True)[0].a) != bits(dropped)


def test_trace_and_the_gradient_methods_have_the_same_default():
    net = gpunn.Sequential([gpunn.Dropout(0.5), gpunn.Dense(3, "softmax")], input_shape=4, seed=1)
    net.compile("sgd", "sparse_categorical_crossentropy")
    _, gradients = net.loss_and_gradients(X, Y)
    np.testing.assert_allclose(net.trace(X, Y)[1].dW, gradients[0], rtol=1e-5, atol=1e-7)


# --- summary ---------------------------------------------------------------------------------------------------------


def test_summary_shows_parameters_and_bytes():
    net = classifier()
    text = net.summary()
    assert "Dense(6, activation='relu', l2=0.01)" in text and "Dropout(0.4)" in text
    total = 4 * 6 + 6 + 6 + 6 + 6 * 3 + 3
    assert f"parameters {total} ({total} trained), float32" in text
    assert f"device {net.device}: " in text
    assert slow_path(text) == []
    assert repr(text) == str(text)

    def plan_bytes(batch_size):
        (line,) = [s for s in net.summary(batch_size).splitlines() if "training step" in s]
        assert f"on {batch_size} rows" in line
        number, unit = line.split()[-2:]
        return float(number) * {"bytes": 1, "KiB": 1024, "MiB": 1024**2}[unit]

    assert plan_bytes(64) > 1.5 * plan_bytes(32) > plan_bytes(16)
    with assert_unchanged(net, X):
        net.summary()
    net[0].trainable = False
    assert f"({total - 30} trained)" in net.summary() and "frozen" in net.summary()
    assert "not built" in gpunn.Sequential(small_layers()).summary()


def test_summary_gives_the_reasons_for_leaving_the_fast_path():
    def user_loss(y, a):
        return ((a - y) ** 2).sum(axis=1) / 2, a - y

    net = gpunn.Sequential([gpunn.Dense(2, UserSigmoid())], input_shape=4).compile("sgd", user_loss)
    text = net.summary()
    assert "leaves the fast path: loss user_loss is Python code" in text
    assert "leaves the fast path: activation UserSigmoid is Python code" in text
    assert slow_path(text) != []
