"""Initial values: moments against E10, orthogonality, reproducibility, configurations, invalid arguments."""

import json
import math

import numpy as np
import pytest
from helpers.messages import naming

import gpunn
from gpunn import initializers

SHAPE = (300, 200)
DRAWS = 300 * 200
# σ² for n_in = 300 and n_out = 200
VARIANCES = {
    "lecun_normal": 1 / 300,
    "lecun_uniform": 1 / 300,
    "glorot_normal": 2 / 500,
    "glorot_uniform": 2 / 500,
    "he_normal": 2 / 300,
    "he_uniform": 2 / 300,
    "normal": 0.05**2,
    "random_normal": 0.05**2,
    "uniform": 0.1**2 / 12,
    "random_uniform": 0.1**2 / 12,
}
EVERY = [
    initializers.Zeros(),
    initializers.Ones(),
    initializers.Constant(-0.75),
    initializers.Normal(mean=0.5, stddev=2.0),
    initializers.Uniform(minval=-3.0, maxval=1.0),
    initializers.LecunNormal(),
    initializers.LecunUniform(),
    initializers.GlorotNormal(),
    initializers.GlorotUniform(),
    initializers.HeNormal(),
    initializers.HeUniform(),
    initializers.Orthogonal(gain=1.5),
]


def _draw(initializer, shape=SHAPE, seed=0):
    return initializers.get(initializer)(shape, np.random.default_rng(seed))


# --- the numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANCES)
def test_e10_mean_and_variance(name):
    """The mean of N draws is within 6 standard errors σ/√N of 0, the mean square within 6 standard errors of σ². (E10)

    The standard error of a mean square is σ²√((κ − 1)/N), with κ = 3 for the normal and 9/5 for the uniform
    distribution.
    """
    values, variance = _draw(name), VARIANCES[name]
    assert values.shape == SHAPE and values.dtype == np.float64
    assert abs(values.mean()) <= 6 * math.sqrt(variance / DRAWS)
    kurtosis = 9 / 5 if "uniform" in name else 3
    assert abs((values**2).mean() - variance) <= 6 * variance * math.sqrt((kurtosis - 1) / DRAWS)


@pytest.mark.parametrize("name", [name for name in VARIANCES if "uniform" in name])
def test_uniform_values_cover_their_interval(name):
    """The bounds are ±√(3σ²). The largest of N draws is within 20/N of the bound, except with probability e⁻¹⁰."""
    values, bound = _draw(name), math.sqrt(3 * VARIANCES[name])
    assert (1 - 20 / DRAWS) * bound <= values.max() <= bound * (1 + 1e-15)
    assert -bound * (1 + 1e-15) <= values.min() <= -(1 - 20 / DRAWS) * bound


@pytest.mark.parametrize("name", [name for name in VARIANCES if "normal" in name])
def test_e10_normal_values_are_not_truncated(name):
    """0.0455 N of N normal values are beyond 2σ, where Keras truncates, within 6 standard errors √(0.0455 N). (E10)"""
    beyond = (np.abs(_draw(name)) > 2 * math.sqrt(VARIANCES[name])).sum()
    expected = math.erfc(math.sqrt(2)) * DRAWS
    assert abs(beyond - expected) <= 6 * math.sqrt(expected)


def test_constants():
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    for name, value in (("zeros", 0.0), ("ones", 1.0), (initializers.Constant(0.25), 0.25), ("constant", 0.0)):
        values = initializers.get(name)((3, 2), generator)
        np.testing.assert_array_equal(values, np.full((3, 2), value))
        assert values.dtype == np.float64
    assert generator.bit_generator.state == before, "a constant draws nothing"


def test_arguments_in_keras_order():
    values = _draw(initializers.Normal(3.0, 0.5))
    assert values.mean() == pytest.approx(3, abs=6 * 0.5 / math.sqrt(DRAWS))
    assert values.std() == pytest.approx(0.5, rel=6 / math.sqrt(2 * DRAWS))
    values = _draw(initializers.Uniform(2.0, 4.0))
    assert values.min() == pytest.approx(2, abs=0.001) and values.max() == pytest.approx(4, abs=0.001)
    np.testing.assert_array_equal(_draw(initializers.Normal(0.5, 0), (2, 2)), np.full((2, 2), 0.5))


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (1, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_orthogonal_columns_or_rows(shape, gain):
    """QᵀQ = gain² I if there are at least as many rows as columns, else QQᵀ = gain² I."""
    q = _draw(initializers.Orthogonal(gain), shape)
    assert q.shape == shape and q.dtype == np.float64
    product = q.T @ q if shape[0] >= shape[1] else q @ q.T
    np.testing.assert_allclose(product, gain**2 * np.eye(min(shape)), atol=1e-14)


def test_orthogonal_is_uniform_over_the_orthogonal_matrices():
    """Each entry of a 3 × 3 matrix has mean 0 and mean square 1/3. QR without the correction fixes signs.

    The mean of 400 draws has the standard error √(1/3/400).
    """
    generator = np.random.default_rng(1)
    drawn = np.array([initializers.Orthogonal()((3, 3), generator) for _ in range(400)])
    assert np.abs(drawn.mean(axis=0)).max() <= 5 * math.sqrt(1 / 3 / 400)
    # q² of an entry has variance 3/15 − 1/9 = 4/45
    assert np.abs((drawn**2).mean(axis=0) - 1 / 3).max() <= 5 * math.sqrt(4 / 45 / 400)


# --- reproducible ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("initializer", EVERY, ids=repr)
def test_values_depend_on_the_generator_alone(initializer):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    generator = np.random.default_rng(5)
    first, second = initializer((4, 3), generator), initializer((4, 3), generator)
    np.testing.assert_array_equal(initializer((4, 3), np.random.default_rng(5)), first)
    if not isinstance(initializer, (initializers.Zeros, initializers.Ones, initializers.Constant)):
        assert (first != second).any(), "the second draw continues the sequence of the first"
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("initializer", EVERY, ids=repr)
def test_a_configuration_survives_json(initializer):
    config = json.loads(json.dumps(initializers.to_config(initializer)))
    again = initializers.from_config(config)
    assert type(again) is type(initializer) and again.get_config() == initializer.get_config()
    np.testing.assert_array_equal(_draw(again, (4, 3)), _draw(initializer, (4, 3)))


# --- by name, object, class or function -----------------------------------------------------------------------------


def test_get():
    he = initializers.HeNormal()
    assert initializers.get(he) is he
    for key, kind in {
        "he_normal": initializers.HeNormal,
        "random_normal": initializers.Normal,
        "orthogonal": initializers.Orthogonal,
        initializers.GlorotUniform: initializers.GlorotUniform,
    }.items():
        assert type(initializers.get(key)) is kind


def test_a_custom_function():
    def ramp(shape, generator):
        return np.arange(math.prod(shape), dtype="float32").reshape(shape)

    values = _draw(ramp, (2, 3))
    np.testing.assert_array_equal(values, [[0, 1, 2], [3, 4, 5]])
    assert values.dtype == np.float64
    net = gpunn.Sequential([gpunn.Dense(3, kernel_initializer=ramp)], input_shape=2, seed=0)
    np.testing.assert_array_equal(net.get_weights()[0], [[0, 1, 2], [3, 4, 5]])
    config = json.loads(json.dumps(initializers.to_config(initializers.get(ramp))))
    np.testing.assert_array_equal(_draw(initializers.from_config(config, {"ramp": ramp}), (1, 2)), [[0, 1]])
    with pytest.raises(ValueError, match=naming("'ramp'", "not built in")):
        _draw(initializers.from_config(config), (1, 2))


def test_a_custom_class_defined_after_loading_is_not_drawn_from(monkeypatch):
    monkeypatch.setattr(initializers.REGISTRY, "classes", dict(initializers.REGISTRY.classes))
    loaded = initializers.from_config({"name": "late"})

    class Late(initializers.Initializer):
        names = ("late",)

        def __call__(self, shape, generator):
            return np.ones(shape)

    assert initializers.REGISTRY.find("late") is Late
    with pytest.raises(ValueError, match=naming("initializer", "'late'", "custom={'late'")):
        _draw(loaded, (1, 2))
    for wrong in (lambda shape, generator: np.zeros(3), lambda shape, generator: np.full(shape, np.nan)):
        with pytest.raises(ValueError, match=naming("(2, 3)")):
            _draw(wrong, (2, 3))


# --- invalid arguments ----------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_built_in_names():
    with pytest.raises(ValueError, match="'he_norml' is unknown") as refused:
        initializers.get("he_norml")
    for name in ("zeros", "constant", "orthogonal", *VARIANCES):
        assert name in str(refused.value)
    with pytest.raises(TypeError, match=naming("initializer", "int")):
        initializers.get(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: initializers.Normal(stddev=-1), naming("stddev", -1)),
        (lambda: initializers.Normal(stddev=math.nan), naming("stddev", "nan")),
        (lambda: initializers.Normal(mean=math.inf), naming("mean", "inf")),
        (lambda: initializers.Normal("1"), naming("mean", "'1'")),
        (lambda: initializers.Uniform(1, -1), naming("minval", "maxval", 1, -1)),
        (lambda: initializers.Uniform(maxval=math.nan), naming("maxval", "nan")),
        (lambda: initializers.Constant(math.nan), naming("value", "nan")),
        (lambda: initializers.Constant(True), naming("value", True)),
        (lambda: initializers.Orthogonal(math.inf), naming("gain", "inf")),
        (lambda: _draw("orthogonal", (3,)), naming("(3,)")),
    ],
)
def test_invalid_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numpy_scalars_are_accepted():
    """They are stored as Python floats, which JSON can write."""
    for initializer in (initializers.Normal(np.int64(1), np.float32(0.5)), initializers.Constant(np.float32(0.5))):
        json.dumps(initializer.get_config())
        assert {type(v) for v in initializer.get_config().values()} == {float}
