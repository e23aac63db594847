"""Launches that consist of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .arguments import BoundArguments, check_arguments
from .definition import DEFINITIONS, KernelDefinition


def split_summed(
    kernel: KernelDefinition, bound: BoundArguments
) -> tuple[tuple[KernelDefinition, BoundArguments], tuple[KernelDefinition, BoundArguments]]:
    """A kernel with column sums as two: the elementwise kernel, and column_sum of its output."""
    assert kernel.base is not None
    *arrays, sums = bound.arrays
    column_sum = DEFINITIONS["column_sum"]
    return (
        (kernel.base, replace(bound, arrays=arrays)),
        (column_sum, check_arguments(column_sum, (arrays[-1],), sums, {}, None)),
    )


def in_order(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    """A launch that runs two launches."""

    def run_both() -> None:
        first()
        second()

    return run_both


def with_input_copies(copies: list[tuple[Any, Any]], launch: Callable[[], None]) -> Callable[[], None]:
    """Prepend copies (destination, source) to a launch: it reads the inputs as they are when it runs."""

    def copy_and_launch() -> None:
        for destination, source in copies:
            destination[...] = source
        launch()

    return copy_and_launch
