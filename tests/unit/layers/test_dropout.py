"""Dropout: both forms, the dropped fraction, and a mask that is a function of seed, step, layer and element."""

import numpy as np
import pytest
from helpers.messages import naming
from helpers.networks import network_builder
from helpers.snapshots import bits

import gpunn
from gpunn.kernels.state import SIZE, StateEntry
from gpunn.layers import Quantities

ONES = np.ones((50, 40), np.float32)
_net = network_builder(input_shape=40, seed=1, optimizer=gpunn.SGD(1e-3), loss="half_squared_error", device="auto")


def _dropped(net, x=ONES, layer=0):
    """Return the output of a dropout layer in training."""
    return net.trace(x, training=True)[layer].a


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75])
def test_the_inverted_form_scales_in_training(rate):
    net = _net(gpunn.Dropout(rate))
    a = _dropped(net)
    assert set(np.unique(a)) == {0, np.float32(1 / (1 - rate))}
    assert (a == 0).mean() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / a.size) ** 0.5)
    assert bits(net.predict(ONES)) == bits(ONES)


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75])
def test_the_textbook_form_scales_in_prediction(rate):
    net = _net(gpunn.Dropout(rate, form="textbook"))
    a = _dropped(net)
    assert set(np.unique(a)) == {0, 1}
    np.testing.assert_array_equal(net.predict(3 * ONES), np.full((50, 40), 3 * (1 - rate), np.float32))
    # the same elements are dropped as in the other form
    np.testing.assert_array_equal(a == 0, _dropped(_net(gpunn.Dropout(rate))) == 0)


def test_the_backward_pass_uses_the_same_mask():
    for form, factor in (("inverted", 2.0), ("textbook", 1.0)):
        net = _net(gpunn.Dropout(0.5, form=form))
        a = _dropped(net)
        # half squared error with y = a − 1 gives ∂C/∂a = 1/n
        np.testing.assert_allclose(net.input_gradient(ONES, a - 1), np.where(a == 0, 0, factor) / 50, rtol=1e-6)
        # in prediction the gradient is that of the scale only
        scale = 1.0 if form == "inverted" else 0.5
        found = net.input_gradient(ONES, scale * ONES - 1, training=False)
        np.testing.assert_allclose(found, scale / 50 * ONES, rtol=1e-6)


def test_the_mask_is_a_function_of_seed_step_layer_and_element():
    net = _net(gpunn.Dropout(0.5), gpunn.Dropout(0.5))
    first = _dropped(net)
    assert bits(_dropped(net)) == bits(first) == bits(_dropped(_net(gpunn.Dropout(0.5), gpunn.Dropout(0.5))))
    assert bits(_dropped(_net(gpunn.Dropout(0.5), seed=2))) != bits(first)
    both = _dropped(net, layer=1)
    assert ((first != 0) & (both == 0)).mean() == pytest.approx(0.25, abs=0.05), "another layer, another mask"
    net.train_on_batch(ONES, ONES)
    assert bits(_dropped(net)) != bits(first)
    # element = row · width + column, so that the mask of fewer rows is a prefix
    fresh = _net(gpunn.Dropout(0.5))
    assert bits(_dropped(fresh, ONES[:7])) == bits(np.ascontiguousarray(first[:7]))


def test_high_seeds_differ_from_low_ones():
    low, high = _net(gpunn.Dropout(0.5), seed=5), _net(gpunn.Dropout(0.5), seed=5 + 2**32)
    assert bits(_dropped(low)) != bits(_dropped(high))


def test_rate_zero_is_the_identity():
    net = _net(gpunn.Dropout(0), gpunn.Dense(3), gpunn.Dropout(0.0, form="textbook"))
    twin = _net(gpunn.Dense(3))
    twin.set_weights(net.get_weights())
    y = np.zeros((50, 3))
    assert bits(net.predict(ONES)) == bits(twin.predict(ONES))
    assert net.fit(ONES, y, epochs=2, verbose=0).history == twin.fit(ONES, y, epochs=2, verbose=0).history


def test_a_rate_near_one_drops_nearly_all_elements():
    a = _dropped(_net(gpunn.Dropout(0.999)), np.ones((500, 40)))
    assert 0 < (a != 0).sum() < 60
    assert not _dropped(_net(gpunn.Dropout(1 - 1e-12))).any()


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7])
def test_every_shape_is_covered(width):
    """The generator draws four elements per call, across the ends of rows."""
    net = _net(gpunn.Dropout(0.5), input_shape=width)
    many = _dropped(net, np.ones((64, width)))
    assert (many == 0).mean() == pytest.approx(0.5, abs=0.3)
    for rows in (1, 2, 3, 5, 6, 9):
        assert bits(_dropped(net, np.ones((rows, width)))) == bits(np.ascontiguousarray(many[:rows]))


def _rows_of_a_batch(rows, width, first):
    """Return a dropout layer's output for the rows from `first` on of a batch of ones."""
    state = np.zeros(SIZE)
    state[StateEntry.FIRST_ROW] = first
    t = Quantities(index=0, a_prev=np.ones((rows, width)), state=state, training=True)
    gpunn.Dropout(0.5).forward(t)
    assert (t.a_prev == 1).all()
    return t.a


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "numpy"])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 15, 17, 18, 33])
def test_a_shard_has_the_masks_of_its_rows_in_the_full_batch(monkeypatch, width, compiled):
    """A shard may begin and end within the four elements of one draw."""
    if not compiled:
        monkeypatch.setenv("GPUNN_COMPILE", "0")
    whole = _rows_of_a_batch(27, width, 0)
    assert set(np.unique(whole)) == {0, 2}
    for first in range(1, 9):
        for rows in range(1, 20):
            np.testing.assert_array_equal(_rows_of_a_batch(rows, width, first), whole[first : first + rows])


def test_repr():
    assert repr(gpunn.Dropout(0.5)) == "Dropout(0.5)"
    assert repr(gpunn.Dropout(np.float32(0.25), form="textbook")) == "Dropout(0.25, form='textbook')"


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan"), True, "0.5", None])
def test_invalid_rates_are_rejected(rate):
    with pytest.raises(ValueError, match=naming("rate", f"got {rate!r}")):
        gpunn.Dropout(rate)


def test_invalid_forms_are_rejected():
    with pytest.raises(ValueError, match="form must be 'inverted' or 'textbook'"):
        gpunn.Dropout(0.5, form="gaussian")
