"""Schedules: values by hand, the unit of t, round trips through JSON, invalid arguments."""

import json
import math

import numpy as np
import pytest
from helpers import internals
from helpers.messages import naming

import gpunn
from gpunn import optimizers, schedules
from gpunn.schedules import (
    Constant,
    CosineDecay,
    ExponentialDecay,
    InverseTimeDecay,
    PiecewiseConstant,
    StepDecay,
    Warmup,
)

# each schedule with {t: η(t)} by hand
VALUES = [
    (Constant(0.1), {0: 0.1, 1: 0.1, 10**9: 0.1}),
    # halves every 10 steps
    (StepDecay(0.8, 10, 0.5), {0: 0.8, 9: 0.8, 10: 0.4, 19: 0.4, 20: 0.2, 35: 0.1}),
    (StepDecay(1.0, 3), {2: 1.0, 3: 0.1, 6: 0.01}),
    # a quarter every 2 steps is a half every step
    (ExponentialDecay(0.8, 2, 0.25), {0: 0.8, 1: 0.4, 2: 0.2, 3: 0.1, 4: 0.05}),
    (ExponentialDecay(0.8, 2, 0.25, staircase=True), {0: 0.8, 1: 0.8, 2: 0.2, 3: 0.2, 4: 0.05}),
    # 0.6/(1 + t/2)
    (InverseTimeDecay(0.6, 2, 1), {0: 0.6, 1: 0.4, 2: 0.3, 4: 0.2, 10: 0.1}),
    (InverseTimeDecay(0.6, 4, 2), {0: 0.6, 2: 0.3, 4: 0.2}),
    (InverseTimeDecay(0.6, 2, 1, staircase=True), {0: 0.6, 1: 0.6, 2: 0.3, 3: 0.3, 4: 0.2}),
    # cos 0 = 1, cos 60° = ½, cos 90° = 0, cos 120° = −½, cos 180° = −1
    (CosineDecay(1.0, 6), {0: 1.0, 2: 0.75, 3: 0.5, 4: 0.25, 6: 0.0, 7: 0.0, 100: 0.0}),
    (CosineDecay(2.0, 6, alpha=0.2), {0: 2.0, 2: 1.6, 3: 1.2, 4: 0.8, 6: 0.4, 7: 0.4}),
    # a boundary belongs to the preceding piece
    (PiecewiseConstant([2, 5], [1.0, 0.5, 0.25]), {0: 1.0, 2: 1.0, 3: 0.5, 5: 0.5, 6: 0.25, 99: 0.25}),
    (PiecewiseConstant([], [0.3]), {0: 0.3, 7: 0.3}),
    # a line from η/4 at t = 0 to η at t = 3; then the first step of the schedule
    (Warmup(0.8, 4), {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 0.8, 50: 0.8}),
    (Warmup(StepDecay(0.8, 2, 0.5), 4), {0: 0.2, 3: 0.8, 4: 0.8, 5: 0.8, 6: 0.4, 8: 0.2}),
    (Warmup(Warmup(0.8, 2), 2), {0: 0.2, 1: 0.4, 2: 0.4, 3: 0.8, 4: 0.8}),
]
EVERY = [
    *(schedule for schedule, _ in VALUES),
    StepDecay(0.8, 10, 0.5, per="epoch"),
    ExponentialDecay(0.8, 2, 0.25, True, "epoch"),
    InverseTimeDecay(0.6, 2, 1, per="epoch"),
    CosineDecay(1.0, 6, 0.1, per="epoch"),
    PiecewiseConstant([2], [1.0, 0.5], per="epoch"),
    Warmup(0.8, 4, per="epoch"),
    Warmup(CosineDecay(1.0, 6, per="epoch"), 4),
]


@pytest.mark.parametrize(("schedule", "values"), VALUES, ids=[repr(s) for s, _ in VALUES])
def test_values_by_hand(schedule, values):
    for t, wanted in values.items():
        assert schedule(t) == pytest.approx(wanted, rel=1e-14, abs=1e-16), t
        assert type(schedule(t)) is float


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_a_configuration_survives_json(schedule):
    again = schedules.from_config(json.loads(json.dumps(schedule.get_config())))
    assert type(again) is type(schedule) and again.get_config() == schedule.get_config()
    assert again.per == schedule.per
    assert [again(t) for t in range(20)] == [schedule(t) for t in range(20)]


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_a_configuration_survives_within_an_optimizer(schedule):
    config = json.loads(json.dumps(optimizers.to_config(gpunn.Adam(schedule))))
    again = optimizers.from_config(config).schedule
    assert type(again) is type(schedule) and again.get_config() == schedule.get_config()


def test_get_config_returns_copies():
    schedule = PiecewiseConstant([2, 5], [1.0, 0.5, 0.25])
    schedule.get_config()["values"][0] = 9.0
    assert schedule(0) == 1.0


def test_get():
    cosine = CosineDecay(1.0, 6)
    assert schedules.get(cosine) is cosine
    for number in (0.5, np.float32(0.5), np.float64(0.5), np.array(0.5)):
        assert type(schedules.get(number)) is Constant and schedules.get(number)(3) == 0.5
    assert schedules.get(1)(0) == 1.0
    for wrong in ("0.1", None, True, [0.1], 1j):
        with pytest.raises(TypeError, match=naming("learning_rate", "gpunn.schedules")):
            schedules.get(wrong)


def test_numpy_scalars_are_accepted():
    """They are stored as Python numbers, which JSON can write."""
    numpy = [
        StepDecay(np.float32(0.5), np.int64(4), np.float64(0.5)),
        CosineDecay(np.float32(0.5), np.int32(4), np.float32(0.5)),
        PiecewiseConstant(np.array([1, 2]), np.array([1, 0.5, 0.25])),
        Warmup(np.float32(0.5), np.int64(2)),
    ]
    python = [
        StepDecay(0.5, 4, 0.5),
        CosineDecay(0.5, 4, 0.5),
        PiecewiseConstant([1, 2], [1, 0.5, 0.25]),
        Warmup(0.5, 2),
    ]
    for a, b in zip(numpy, python, strict=True):
        assert json.dumps(a.get_config()) == json.dumps(b.get_config())


def test_warmup_counts_in_the_unit_of_its_schedule():
    assert Warmup(0.1, 3).per == "step"
    assert Warmup(0.1, 3, per="epoch").per == "epoch"
    assert Warmup(CosineDecay(1.0, 6, per="epoch"), 3).per == "epoch"
    assert Warmup(CosineDecay(1.0, 6, per="epoch"), 3, per="epoch").per == "epoch"
    with pytest.raises(ValueError, match=naming("per", "'epoch'", "'step'")):
        Warmup(CosineDecay(1.0, 6, per="epoch"), 3, per="step")


@pytest.mark.parametrize(
    ("per", "values", "wanted"),
    [
        # two epochs of three steps: η(t) for t = 0 … 5
        ("step", [1.0, 0.5, 0.25], 1 + 1 + 0.5 + 0.5 + 0.25 + 0.25),
        # η(0) three times, η(1) three times: neither is after the boundary at 1
        ("epoch", [1.0, 0.5, 0.25], 6 * 1.0),
    ],
)
def test_t_counts_steps_or_epochs_in_training(per, values, wanted):
    """A loss with derivative 1 in an intercept makes it the negated sum of the learning rates."""

    def derivative_of_one(y, a):
        return a[:, 0], np.ones_like(a)

    net = gpunn.Sequential([gpunn.Dense(1, kernel_initializer="zeros")], seed=0, dtype="float64")
    net.compile(gpunn.SGD(PiecewiseConstant([1, 3], values, per=per)), derivative_of_one, device="cpu")
    net.fit(np.zeros((6, 1)), np.zeros((6, 1)), batch_size=2, epochs=2, verbose=0)
    assert net.get_weights()[1] == -wanted
    # a second fit continues to count steps
    net.fit(np.zeros((6, 1)), np.zeros((6, 1)), batch_size=2, epochs=1, verbose=0)
    assert per == "epoch" or net.get_weights()[1] == -wanted - 3 * 0.25


def test_a_custom_schedule():
    class Sawtooth(schedules.Schedule):
        name = "sawtooth of a test"

        def __init__(self, top):
            self.top = top

        def __call__(self, t):
            return self.top / (1 + t % 4)

    try:
        again = schedules.from_config(json.loads(json.dumps(Warmup(Sawtooth(2.0), 1).get_config())))
        assert [again(t) for t in range(6)] == [2.0, 2.0, 1.0, 2 / 3, 0.5, 2.0]
    finally:
        internals.forget_schedule(Sawtooth.name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0), naming("learning_rate", "got 0")),
        (lambda: Constant(-0.1), naming("learning_rate", -0.1)),
        (lambda: schedules.get(math.nan), naming("learning_rate", "nan")),
        (lambda: schedules.get(math.inf), naming("learning_rate", "inf")),
        (lambda: StepDecay(math.nan, 10), "initial_learning_rate must be"),
        (lambda: StepDecay(0.1, 0), naming("decay_steps", 0)),
        (lambda: StepDecay(0.1, 5, 0), naming("decay_rate", "got 0")),
        (lambda: StepDecay(0.1, 5, per="batch"), "per must be 'step' or 'epoch', got 'batch'"),
        (lambda: ExponentialDecay(0.1, 5, -1), naming("decay_rate", -1)),
        (lambda: ExponentialDecay(0.1, 5, 0.5, staircase="yes"), naming("staircase", "'yes'")),
        (lambda: InverseTimeDecay(0.1, 5, math.inf), "decay_rate must be"),
        (lambda: InverseTimeDecay("0.1", 5, 1), naming("initial_learning_rate", "'0.1'")),
        (lambda: CosineDecay(0.1, 5, alpha=1.5), naming("alpha", 1.5)),
        (lambda: CosineDecay(0.1, 5, alpha=math.nan), naming("alpha", "nan")),
        (lambda: CosineDecay(0.1, -5), naming("decay_steps", -5)),
        (lambda: PiecewiseConstant([5, 2], [1, 0.5, 0.25]), r"boundaries must increase, got \[5, 2\]"),
        (lambda: PiecewiseConstant([2, 2], [1, 0.5, 0.25]), r"boundaries must increase, got \[2, 2\]"),
        (
            lambda: PiecewiseConstant([2], [1, 0.5, 0.25]),
            naming("values", "boundaries", "3 and 1"),
        ),
        (lambda: PiecewiseConstant([2], [1, -0.5]), naming("values[1]", -0.5)),
        (lambda: Warmup(0.1, 0), naming("warmup_steps", 0)),
        (lambda: Warmup(-0.1, 5), naming("learning_rate", -0.1)),
        (lambda: schedules.from_config({"name": "cosine"}), naming("schedule", "'cosine'", "cosine_decay")),
        (lambda: schedules.from_config({}), naming("schedule", None)),
    ],
)
def test_invalid_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepDecay(0.1, 2.5), naming("decay_steps", 2.5)),
        (lambda: StepDecay(0.1, True), naming("decay_steps", True)),
        (lambda: PiecewiseConstant([0.5], [1, 0.5]), naming("boundaries[0]", 0.5)),
    ],
)
def test_counts_that_are_not_integers_are_rejected(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_custom_must_contain_a_class():
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        schedules.from_config({"name": "mine", "learning_rate": 0.1}, {"mine": Constant(0.5)})
