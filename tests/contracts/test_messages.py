"""`naming` matches a message by the parts that it must have."""

import re

import pytest
from helpers.messages import naming

MESSAGE = "batch_size must be an integer ≥ 1, got 2.5;\nuse 'auto' (or None) instead of [0, 1)"


@pytest.mark.parametrize(
    "parts",
    [
        ("batch_size", 2.5),
        (2.5, "batch_size"),
        ("batch_size", 1, None, "'auto'"),
        ("got 2.5", "[0, 1)", "(or None)"),
        ("must be an", "instead"),
    ],
)
def test_a_message_with_every_part_matches_in_any_order(parts):
    assert re.search(naming(*parts), MESSAGE)


@pytest.mark.parametrize(
    "part",
    ["batch", "size", "batch_sizes", 2, 5, 0.5, 12.5, 2.51, "auto'x", "'batch_size'", "got 2", True, (0, 1), -1],
)
def test_a_message_without_one_part_does_not_match(part):
    assert not re.search(naming("batch_size", part), MESSAGE)


def test_patterns_add_up():
    assert re.search(naming("batch_size") + ".*got 2", MESSAGE)
    assert not re.search(naming("batch_sizes") + ".*got 2", MESSAGE)
    assert re.search(naming("batch_size") + naming(2.5), MESSAGE)


def test_the_name_of_an_element_or_a_member_is_another_name():
    assert not re.search(naming("weights"), "net.weights must be a list")
    assert re.search(naming("weights[0]"), "weights[0] must be an array")
    assert not re.search(naming("weights[1]"), "weights[0] must be an array")
