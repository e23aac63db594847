"""The standardization of numeric targets."""

import json

import numpy as np
import pytest
from helpers.messages import naming

from gpunn.tabular.target_scale import TargetScale, mean_and_deviation


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit", [1.0, 1e300, 1e-300])
def test_no_square_overflows_or_underflows(unit):
    # of 1, 2, 2, 5 the mean is 5/2 and the variance (9/4 + 1/4 + 1/4 + 25/4)/4 = 9/4
    mean, deviation = mean_and_deviation(np.array([1, 2, 2, 5]) * unit)
    assert mean == pytest.approx(2.5 * unit, rel=1e-15) and deviation == pytest.approx(1.5 * unit, rel=1e-15)


@pytest.mark.filterwarnings("error")
def test_equal_numbers_have_no_deviation():
    assert mean_and_deviation(np.full(3, 0.1)) == (0.1, 0.0) and mean_and_deviation(np.zeros(3)) == (0.0, 0.0)


def test_targets_are_standardized_and_predictions_stay_in_their_range():
    y = np.array([1.0, 2.0, 2.0, 5.0])
    scale = TargetScale.fit(y)
    assert scale == TargetScale(2.5, 1.5, 1.0, 5.0)
    np.testing.assert_array_equal(scale.standardize(y), [[-1], [-1 / 3], [-1 / 3], [5 / 3]])
    np.testing.assert_array_equal(scale.restore(np.array([[0.0, 9.0], [-9.0, 1.0]])), [[2.5, 5], [1, 4]])
    assert TargetScale.from_config(json.loads(json.dumps(scale.get_config()))) == scale
    assert TargetScale.fit(np.full(3, 7.0)) == TargetScale(7.0, 1.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"mean": float("nan")}, ["mean", "finite"]),
        ({"scale": 0.0}, ["scale"]),
        ({"range": [2.0, 1.0]}, ["range", "increase"]),
        ({"range": [0.0, float("inf")]}, ["range", "finite"]),
    ],
)
def test_invalid_scales_are_refused(changes, names):
    with pytest.raises(ValueError, match=naming(*names)):
        TargetScale.from_config({"mean": 0.0, "scale": 1.0, "range": [0.0, 1.0]} | changes)
