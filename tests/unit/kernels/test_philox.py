"""Philox4x32-10 against the known answers of Random123, and the dropout masks that use it, bit for bit."""

from itertools import pairwise

import numpy as np
import pytest
from helpers.kernel_cases import state_array

from gpunn.kernels.state import StateEntry

# tests/kat_vectors of Random123 (D. E. Shaw Research): philox4x32 10, counter[4] key[2] answer[4]
KNOWN_ANSWERS = """
00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1
"""
ANSWERS = [[int(word, 16) for word in line.split()] for line in KNOWN_ANSWERS.split("\n") if line]
SEED = (0xDEADBEEF, 0x12345678)
DTYPES = ["float32", "float64"]


@pytest.mark.parametrize("words", ANSWERS, ids=["zeros", "ones", "pi"])
def test_known_answers(words, any_implementation):
    counter, key, answer = np.array(words[:4]), np.array(words[4:6]), np.array(words[6:])
    drawn = np.zeros((3, 4), np.uint32)
    any_implementation("philox", np.tile(counter, (3, 1)).astype(np.uint32), key.astype(np.uint32), out=drawn)
    np.testing.assert_array_equal(drawn, np.tile(answer, (3, 1)))


def _bits(any_implementation, rows, width, *, first_row=0, step=3, layer=5, seed=SEED):
    """The 32 bits of each element by their definition.

    The counter is (block low, block high, step, layer), where block = element // 4 and element = row · width + column.
    """
    elements = (first_row + np.arange(rows, dtype=object))[:, None] * width + np.arange(width, dtype=object)
    blocks = elements.ravel() // 4
    words = [blocks & 0xFFFFFFFF, blocks >> 32, blocks * 0 + step, blocks * 0 + layer]
    drawn = np.empty((blocks.size, 4), np.uint32)
    any_implementation("philox", np.stack(words, axis=1).astype(np.uint32), np.array(seed, np.uint32), out=drawn)
    return np.array([d[e % 4] for d, e in zip(drawn, elements.ravel(), strict=True)], np.uint32).reshape(rows, width)


def _state(first_row=0, step=3, seed=SEED):
    return state_array(FIRST_ROW=first_row, STEP=step, SEED_LOW=seed[0], SEED_HIGH=seed[1])


def _dropout(any_implementation, x, threshold, *, factor=1.0, layer=5, **state):
    y = np.full_like(x, 77)
    n, width = x.shape
    any_implementation(
        "dropout",
        x,
        _state(**state),
        out=y,
        count=x.size // 4 + 2,
        threshold=threshold,
        factor=factor,
        layer=layer,
        width=width,
        elements=n * width,
    )
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 3), (3, 4), (33, 7), (5, 1), (17, 130)])
@pytest.mark.parametrize("first_row", [0, 1, 6, 2**33 + 1])
def test_a_mask_equals_its_definition(rows, width, first_row, dtype, any_implementation):
    """An element is kept if its bits are ≥ the threshold, also after 2³² blocks of four elements."""
    threshold = 0x60000000
    kept = _bits(any_implementation, rows, width, first_row=first_row) >= threshold
    x = np.random.default_rng(0).normal(size=(rows, width)).astype(dtype)
    y = _dropout(any_implementation, x, threshold, factor=1.6, first_row=first_row)
    np.testing.assert_array_equal(y, np.where(kept, x * x.dtype.type(1.6), 0))


def test_the_threshold_is_exact(any_implementation):
    """Bits equal to the threshold are kept, bits one below it are not, at every position of a block of four."""
    x = np.ones((6, 5))
    bits = _bits(any_implementation, 6, 5)
    for at in np.ndindex(x.shape):
        assert _dropout(any_implementation, x, int(bits[at]))[at] == 1
        assert _dropout(any_implementation, x, int(bits[at]) + 1)[at] == 0
    assert _dropout(any_implementation, x, 0).all()
    assert _dropout(any_implementation, x, 2**32 - 1).sum() == (bits == 2**32 - 1).sum()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_the_fraction_of_kept_elements(p, any_implementation):
    """1 − p within five standard deviations, and E[y] = E[x] with the factor 1/(1 − p). (E11)"""
    n, width = 251, 401
    y = _dropout(any_implementation, np.ones((n, width)), round(p * 2**32), factor=1 / (1 - p))
    deviation = np.sqrt(p * (1 - p) / (n * width))
    assert abs((y != 0).mean() - (1 - p)) < 5 * deviation
    assert abs(y.mean() - 1) < 5 * deviation / (1 - p)


@pytest.mark.parametrize("width", [1, 3, 4, 7, 30])
def test_shards_of_a_batch_have_its_masks(width, any_implementation):
    """FIRST_ROW is the index in the global batch, for any division into shards."""
    x = np.ones((29, width))
    whole = _dropout(any_implementation, x, 2**31, first_row=4)
    for cuts in ([0, 29], [0, 1, 2, 29], [0, 13, 28, 29], [0, 10, 20, 29]):
        parts = [_dropout(any_implementation, x[a:b].copy(), 2**31, first_row=4 + a) for a, b in pairwise(cuts)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_backward_pass_draws_the_same_mask(dtype, any_implementation):
    rng = np.random.default_rng(1)
    x, g = (rng.normal(size=(31, 5)).astype(dtype) for _ in range(2))
    forward, backward = (_dropout(any_implementation, v, 2**31, factor=2) for v in (x, g))
    np.testing.assert_array_equal(forward != 0, backward != 0)
    np.testing.assert_array_equal(backward[backward != 0], 2 * g[backward != 0])


def test_masks_differ_between_steps_layers_and_seeds(any_implementation):
    x = np.ones((16, 16))
    changes = [{}, {"step": 4}, {"layer": 6}, {"seed": (SEED[0] + 1, SEED[1])}, {"seed": (SEED[0], SEED[1] + 1)}]
    changes += [{"first_row": 16}]
    masks = [_dropout(any_implementation, x, 2**31, **c) for c in changes]
    for k, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, _dropout(any_implementation, x, 2**31, **changes[k]))
        for other in masks[:k]:
            # two independent masks agree in half of their elements
            assert abs((mask == other).mean() - 0.5) < 0.15


def test_the_state_array_stores_32_bit_seeds_and_steps_exactly(any_implementation):
    """A float64 entry represents every 32-bit key and step."""
    state = _state(step=2**32 - 1, seed=(2**32 - 1, 2**32 - 2))
    assert [int(state[s]) for s in (StateEntry.SEED_LOW, StateEntry.SEED_HIGH)] == [2**32 - 1, 2**32 - 2]
    where = {"step": 2**32 - 1, "seed": (2**32 - 1, 2**32 - 2)}
    kept = _bits(any_implementation, 9, 5, **where) >= 2**31
    np.testing.assert_array_equal(_dropout(any_implementation, np.ones((9, 5)), 2**31, **where) != 0, kept)


def test_dropped_elements_are_zero(any_implementation):
    """Also if they were NaN or infinite."""
    x = np.full((40, 3), np.nan)
    x[::2] = np.inf
    y = _dropout(any_implementation, x, 2**31)
    kept = _bits(any_implementation, 40, 3) >= 2**31
    assert (y[~kept] == 0).all() and not np.isfinite(y[kept]).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_in_place(dtype, any_implementation):
    x = np.random.default_rng(2).normal(size=(13, 7)).astype(dtype)
    separate = _dropout(any_implementation, x, 2**31)
    options = {"threshold": 2**31, "factor": 1, "layer": 5, "width": 7, "elements": 91, "count": 91 // 4 + 2}
    any_implementation("dropout", x, _state(), out=x, **options)
    np.testing.assert_array_equal(x, separate)
