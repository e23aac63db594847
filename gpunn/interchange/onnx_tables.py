"""Columns and numeric targets of a table as inputs and nodes of an ONNX graph.

The protocols describe the members of the table encoder that are used here; its module imports this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from .onnx_graph import Graph


class NumericColumn(Protocol):
    """A column that is encoded as (x − mean) / scale, and an indicator of missing cells."""

    @property
    def name(self) -> str:
        """The column's name."""

    @property
    def median(self) -> float:
        """The value for missing cells."""

    @property
    def mean(self) -> float:
        """The mean of the training rows."""

    @property
    def scale(self) -> float | None:
        """The standard deviation of the training rows; None for a constant column."""

    @property
    def indicator(self) -> bool:
        """True if a training cell was missing."""


@runtime_checkable
class CategoricalColumn(Protocol):
    """A column that is encoded one-hot; None is the category of a missing cell."""

    @property
    def name(self) -> str:
        """The column's name."""

    @property
    def values(self) -> tuple[str | None, ...]:
        """The categories."""


@runtime_checkable
class ClassTarget(Protocol):
    """A target with one label per output."""

    @property
    def labels(self) -> tuple[object, ...]:
        """The labels in the order of the outputs."""


class NumericTarget(Protocol):
    """A target that is learned as (y − mean) / scale."""

    @property
    def mean(self) -> float:
        """The mean of the training rows."""

    @property
    def scale(self) -> float:
        """The standard deviation of the training rows."""


class TableEncoder(Protocol):
    """The columns of a table and its target."""

    @property
    def columns(self) -> Sequence[NumericColumn | CategoricalColumn]:
        """The encoded columns."""

    @property
    def target(self) -> ClassTarget | NumericTarget:
        """The target."""


def add_inputs(graph: Graph, columns: Sequence[NumericColumn | CategoricalColumn]) -> str:
    """Add one input (N, 1) per column; return the encoded columns (N, n_in) as float32."""
    # all inputs before any node, so that each gets its column's name
    inputs = [_add_input(graph, column) for column in columns]
    encoded = []
    for x, column in zip(inputs, columns, strict=True):
        graph.prefix = f"{column.name}."
        if isinstance(column, CategoricalColumn):
            encoded.append(_encode_categories(graph, x, column))
        else:
            encoded.append(_encode_numbers(graph, x, column))
        graph.prefix = ""
    return graph("Concat", *encoded, axis=1)


def add_values(graph: Graph, a: str, target: NumericTarget) -> None:
    """Add the output "variable" (N,), a · scale + mean in float64."""
    value = graph.cast(graph.squeeze(a), np.float64)
    scaled = graph("Mul", value, graph.constant("scale", np.float64(target.scale)))
    graph.output("variable", graph("Add", scaled, graph.constant("mean", np.float64(target.mean))), np.float64)


def _add_input(graph: Graph, column: NumericColumn | CategoricalColumn) -> str:
    if not isinstance(column, CategoricalColumn):
        return graph.input(column.name, np.float64, 1, "a number; NaN if missing")
    if {"", None} <= {*column.values}:
        raise ValueError(
            f"column {column.name!r} must not have both empty strings and missing cells, which ONNX cannot "
            "distinguish: train on a table that has only one of them"
        )
    return graph.input(column.name, object, 1, "a category; the empty string if missing")


def _encode_numbers(graph: Graph, x: str, column: NumericColumn) -> str:
    """(x − mean) / scale, with the median where x is NaN, and an indicator of NaN"""
    missing = graph("IsNaN", x)
    parts = []
    if column.scale is not None:
        filled = graph("Where", missing, graph.constant("median", np.float64(column.median)), x)
        centered = graph("Sub", filled, graph.constant("mean", np.float64(column.mean)))
        scaled = graph("Div", centered, graph.constant("scale", np.float64(column.scale)))
        parts.append(graph.cast(scaled, np.float32))
    if column.indicator:
        parts.append(graph.cast(missing, np.float32))
    return parts[0] if len(parts) == 1 else graph("Concat", *parts, axis=1)


def _encode_categories(graph: Graph, x: str, column: CategoricalColumn) -> str:
    """1 for the cell's category, 0 for all others; all 0 for a category that training did not see"""
    words = [value or "" for value in column.values]
    one_hot = graph("OneHotEncoder", x, domain="ai.onnx.ml", cats_strings=words, zeros=1)
    return graph.squeeze(one_hot)
