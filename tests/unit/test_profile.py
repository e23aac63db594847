"""`Sequential.profile`: the duration of every launch of a step, which changes nothing."""

import numpy as np
import pytest
from helpers.networks import build_network

import gpunn

RNG = np.random.default_rng(4)
X = RNG.normal(size=(40, 6))
Y = RNG.integers(0, 3, 40)


def net(seed=0, **options):
    layers = gpunn.Dense(5, "relu"), gpunn.Dropout(0.5), gpunn.BatchNormalization(), gpunn.Dense(3)
    return build_network(*layers, seed=seed, loss="sparse_categorical_crossentropy", device="cpu", **options)


@pytest.mark.parametrize("compiled", [True, False])
def test_every_launch_has_a_duration(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setenv("GPUNN_COMPILE", "0")
    profile = net().profile(X, Y, batch_size=8)
    names = [name.split()[0] for name, _ in profile.rows]
    assert all(duration > 0 for _, duration in profile.rows)
    assert profile.total == sum(duration for _, duration in profile.rows)
    if compiled and gpunn.backend.get("cpu").kernel_report().startswith("compiled"):
        assert {"gather", "softmax_crossentropy", "end_step"} <= set(names)
        assert "gather 40×6 40 32 8×6" in [name for name, _ in profile.rows]
    text = str(profile)
    assert text == repr(profile) and text.splitlines()[-1].startswith(f"{len(names)} launches, 8 rows")


def test_a_profile_changes_nothing():
    one, other = net(), net()
    for each in (one, other):
        each.fit(X, Y, epochs=1, batch_size=8, verbose=0)
    one.profile(X, Y, batch_size=8)
    histories = [each.fit(X, Y, epochs=2, batch_size=8, verbose=0).history for each in (one, other)]
    assert histories[0] == histories[1]
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_profile_changes_no_other_network_of_this_structure():
    one, other = net(), net(seed=1)
    one.fit(X, Y, epochs=1, batch_size=8, verbose=0)
    one.profile(X, Y, batch_size=8)
    before = one.get_weights()
    other.profile(X, Y, batch_size=8)
    for a, b in zip(before, one.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_rows_than_there_are_are_refused():
    with pytest.raises(ValueError, match="at least batch_size rows, got 40 rows and batch_size=41"):
        net().profile(X, Y, batch_size=41)
    with pytest.raises(RuntimeError, match="profile"):
        gpunn.Sequential([gpunn.Dense(3)], input_shape=6).profile(X, Y)
