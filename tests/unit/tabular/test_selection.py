"""Probabilities and weights of an ensemble, worked out by hand."""

import math

import numpy as np
import pytest

from gpunn.tabular import criteria
from gpunn.tabular.ensemble import softmax
from gpunn.tabular.selection import select

OF_CLASSES, OF_NUMBERS = (criteria.get(None, classes=classes) for classes in (True, False))
Y = np.array([[2.0], [-1.0]])


def test_softmax_by_hand():
    a = softmax(np.array([[0, math.log(3)], [1000, 0], [-1000, -1000]], np.float32))
    assert a.dtype == np.float64
    np.testing.assert_allclose(a, [[1 / 4, 3 / 4], [1, 0], [1 / 2, 1 / 2]], rtol=1e-7)


@pytest.mark.parametrize(
    ("errors", "weights"),
    [
        # one more, one less: their mean is exact
        ((1, -1), [1 / 2, 1 / 2]),
        # 1, then (1 − 2)/2, then (1 − 2 + 1)/3 = 0
        ((1, -2), [2 / 3, 1 / 3]),
        ((0, 1), [1, 0]),
        ((3, 0, -2), [0, 1, 0]),
        # equal losses: the first
        ((1, 1), [1, 0]),
        ((5,), [1]),
        # −1, then (−1 + 4)/2 is worse than −1 again
        ((4, -1), [1 / 5, 4 / 5]),
    ],
)
def test_weights_by_hand(errors, weights):
    np.testing.assert_allclose(select(OF_NUMBERS, Y + np.array(errors, float)[:, None, None], Y), weights, rtol=1e-12)


def test_weights_of_classes_by_hand():
    """Two networks that are sure of one row each, and one that is not.

    The smallest log loss has the largest product of the two probabilities. Round 1: 0.5 · 0.5 of the third exceeds
    0.9 · 0.2. Round 2: the third again, since 0.7 · 0.35 is less. Round 3: (1.9/3) · (1.2/3) of the first exceeds it.
    """
    p = np.array([[0.9, 0.2], [0.2, 0.9], [0.5, 0.5]])
    outputs, y = np.stack([p, 1 - p], axis=2), np.array([0, 0])
    np.testing.assert_allclose(select(OF_CLASSES, outputs, y, rounds=3), [1 / 3, 0, 2 / 3], rtol=1e-12)
    for rounds in (1, 2):
        np.testing.assert_array_equal(select(OF_CLASSES, outputs, y, rounds=rounds), [0, 0, 1])


def test_rows_of_weight_0_do_not_count():
    outputs = Y + np.array([[[0.0], [9.0]], [[1.0], [0.0]]])
    np.testing.assert_array_equal(select(OF_NUMBERS, outputs, Y, np.array([1.0, 0.0])), [1, 0])
    np.testing.assert_array_equal(select(OF_NUMBERS, outputs, Y, np.array([0.0, 2.0])), [0, 1])


@pytest.mark.parametrize("name", [*criteria.OF_CLASSES, *criteria.OF_NUMBERS])
def test_the_selected_average_is_the_best_of_the_greedy_sequence(name):
    classes = name in criteria.OF_CLASSES
    criterion = criteria.get(name, classes=classes)
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(5, 30, 3 if classes else 1))
    outputs = softmax(outputs) if classes else outputs
    y = rng.integers(0, 3, 30) if classes else rng.normal(size=(30, 1))
    w = rng.uniform(size=30)
    weights = select(criterion, outputs, y, w, rounds=4)

    def rank(average):
        loss, metric = (float(value(average, y, w)) for value in (criterion.loss, criterion.metric))
        return (loss,) if criterion.score is None else (-metric, loss)

    chosen = []
    for _ in range(4):
        chosen.append(min(range(5), key=lambda k: rank(outputs[[*chosen, k]].mean(axis=0))))
    ranks = [rank(outputs[chosen[: k + 1]].mean(axis=0)) for k in range(4)]
    found = rank(np.tensordot(weights, outputs, 1))
    assert found == pytest.approx(min(ranks), rel=1e-12) and min(ranks) < ranks[0]
    assert weights.sum() == pytest.approx(1) and found[0] <= min(rank(each)[0] for each in outputs) + 1e-12
