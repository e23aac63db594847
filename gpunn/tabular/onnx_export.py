"""An ensemble with the encoding of its table as one ONNX graph."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..interchange import onnx
from ..interchange.onnx_graph import Graph
from ..model import Sequential
from .features import MAX_SCALED, CategoricalColumn, Column, DateColumn, NumericColumn, Part
from .target_scale import TargetScale

CALENDAR_DAYS = 719_468  # from 0000-03-01 to 1970-01-01
DAYS_OF_ERA = 146_097  # days of 400 years


def write(
    path: str | os.PathLike[str],
    columns: Sequence[Column],
    networks: Sequence[Sequential],
    weights: np.ndarray,
    finish: Callable[[Graph, list[str], np.ndarray], None],
) -> None:
    """Write the graph. `finish` adds the outputs from those of the networks and their weights.

    Raises
    ------
    ImportError
        onnx is not installed (extra `onnx`).
    ValueError
        A column has empty texts and missing cells, or the networks are larger than a file can be.
    OSError
        The file cannot be written.
    """
    graph = Graph(np.dtype(np.float32))
    # all inputs before any node, so that each gets its column's name
    inputs = [_add_input(graph, column) for column in columns]
    parts = []
    for x, column in zip(inputs, columns, strict=True):
        graph.prefix = f"{column.name}."
        parts += _encode(graph, x, column)
        graph.prefix = ""
    encoded = graph("Concat", *parts, axis=1)
    finish(graph, [onnx.forward(graph, net, encoded) for net in networks], weights)
    onnx.write(graph, path)


def add_classes(graph: Graph, outputs: list[str], weights: np.ndarray, labels: np.ndarray) -> None:
    """Add the outputs "label" (N,) and "probabilities" (N, number of labels), Σ wₖ softmax(zₖ)."""
    shares = [graph("Softmax", graph.cast(z, np.float64), axis=1) for z in outputs]
    p = _weighted_sum(graph, shares, weights)
    index = graph("ArgMax", p, axis=1, keepdims=0)
    classes = onnx.onnx_labels(labels)
    graph.output("label", graph("Gather", graph.constant("labels", classes), index, axis=0), classes.dtype)
    graph.output("probabilities", graph.cast(p, np.float32), np.float32, len(classes))


def add_values(graph: Graph, outputs: list[str], weights: np.ndarray, scale: TargetScale) -> None:
    """Add the output "variable" (N,), Σ wₖ min(max(aₖ · deviation + mean, low), high) in float64."""
    number = partial(_number, graph)
    values = []
    for a in outputs:
        product = graph("Mul", graph.cast(graph.squeeze(a), np.float64), number(scale.deviation))
        value = graph("Add", product, number(scale.mean))
        values.append(graph("Clip", value, number(scale.low), number(scale.high)))
    graph.output("variable", _weighted_sum(graph, values, weights), np.float64)


def _weighted_sum(graph: Graph, values: list[str], weights: np.ndarray) -> str:
    terms = [graph("Mul", x, _number(graph, w)) for x, w in zip(values, weights, strict=True)]
    return graph("Sum", *terms)


def _number(graph: Graph, value: float) -> str:
    return graph.constant("number", np.float64(value))


def _add_input(graph: Graph, column: Column) -> str:
    if isinstance(column, NumericColumn):
        return graph.input(column.name, np.float64, 1, "a number; NaN if missing")
    if isinstance(column, DateColumn):
        return graph.input(column.name, np.float64, 1, "days since 1970-01-01 in UTC; NaN if missing")
    return graph.input(column.name, object, 1, "a category; the empty string if missing")


def _encode(graph: Graph, x: str, column: Column) -> list[str]:
    """The inputs of a column as values (N, …), float32."""
    if isinstance(column, NumericColumn):
        return _encode_numbers(graph, x, column)
    if isinstance(column, CategoricalColumn):
        return _encode_categories(graph, x, column)
    found = []
    for key, part in column.parts:
        quantity = x if key == "day" else _quantity(graph, x, key)
        if isinstance(part, NumericColumn):
            found += _encode_numbers(graph, quantity, part)
        else:
            found += _encode_whole_numbers(graph, quantity, part)
    return found


def _encode_numbers(graph: Graph, x: str, column: NumericColumn) -> list[str]:
    """The scaled number, its bins and the indicator of a missing cell, as `NumericColumn.encode`"""
    number = partial(_number, graph)
    missing = graph("IsNaN", x)
    x = graph("Where", missing, number(column.median), x)
    found = []
    if column.scale is not None:
        z = graph("Div", graph("Sub", x, number(column.center)), number(column.scale))
        if column.clip is not None:
            z = graph("Clip", z, number(-MAX_SCALED), number(MAX_SCALED))
            ratio = graph("Div", z, number(column.clip))
            z = graph("Div", z, graph("Sqrt", graph("Add", number(1), graph("Mul", ratio, ratio))))
        found.append(graph.cast(z, np.float32))
    if column.edges:
        edges = np.array(column.edges)
        low, width = graph.constant("low", edges[:-1]), graph.constant("width", edges[1:] - edges[:-1])
        share = graph("Clip", graph("Div", graph("Sub", x, low), width), number(0), number(1))
        found.append(graph.cast(share, np.float32))
    if column.indicator:
        found.append(graph.cast(missing, np.float32))
    return found


def _encode_categories(graph: Graph, x: str, column: CategoricalColumn) -> list[str]:
    """1 for the cell's category, 0 for all others"""
    if {"", None} <= {*column.values}:
        raise ValueError(
            f"column {column.name!r} must not have both empty strings and missing cells, which ONNX cannot "
            "distinguish: train on a table that has only one of them"
        )
    words = [value or "" for value in column.values]
    if column.binary:
        return [_one_hot(graph, x, words[1:])]
    one_hot = _one_hot(graph, x, words)
    return [one_hot, _rest(graph, one_hot)] if column.rare_input else [one_hot]


def _encode_whole_numbers(graph: Graph, x: str, column: Part) -> list[str]:
    """1 for the number's category, 0 for all others and for NaN"""
    assert isinstance(column, CategoricalColumn)
    values = np.array([[float(value or "nan") for value in column.values]])
    one_hot = graph.cast(graph("Equal", x, graph.constant("values", values)), np.float32)
    if column.binary:
        return [graph("Slice", one_hot, *(graph.constant("index", np.array([k])) for k in (1, 2, 1)))]
    return [one_hot, _rest(graph, one_hot)] if column.rare_input else [one_hot]


def _one_hot(graph: Graph, x: str, words: list[str]) -> str:
    return graph.squeeze(graph("OneHotEncoder", x, domain="ai.onnx.ml", cats_strings=words, zeros=1))


def _rest(graph: Graph, one_hot: str) -> str:
    """1 where no category is set"""
    total = graph("ReduceSum", one_hot, graph.constant("axes", np.array([1])), keepdims=1)
    return graph("Sub", 1, total)


def _quantity(graph: Graph, days: str, key: str) -> str:
    """The year, month, weekday or hour of days since 1970-01-01, in the proleptic Gregorian calendar.

    Years begin on 1 March here, so that the leap day is the last one, and 400 years are an era.
    """
    number = partial(_number, graph)

    def floor_division(x: str, y: float) -> str:
        return graph("Floor", graph("Div", x, number(y)))

    whole = graph("Floor", days)
    if key == "hour":
        # a microsecond is added, since a time in days is rounded
        rest = graph("Mul", graph("Sub", days, whole), number(24))
        return graph("Floor", graph("Add", rest, number(1e-6)))
    if key == "weekday":
        shifted = graph("Add", whole, number(3))
        return graph("Add", graph("Sub", shifted, graph("Mul", floor_division(shifted, 7), number(7))), number(1))
    z = graph("Add", whole, number(CALENDAR_DAYS))
    era = floor_division(z, DAYS_OF_ERA)
    day_of_era = graph("Sub", z, graph("Mul", era, number(DAYS_OF_ERA)))
    corrected = graph("Sub", day_of_era, floor_division(day_of_era, 1460))
    corrected = graph("Add", corrected, floor_division(day_of_era, 36_524))
    corrected = graph("Sub", corrected, floor_division(day_of_era, DAYS_OF_ERA - 1))
    year_of_era = floor_division(corrected, 365)
    days_before = graph("Mul", year_of_era, number(365))
    days_before = graph("Add", days_before, floor_division(year_of_era, 4))
    days_before = graph("Sub", days_before, floor_division(year_of_era, 100))
    day_of_year = graph("Sub", day_of_era, days_before)
    from_march = floor_division(graph("Add", graph("Mul", day_of_year, number(5)), number(2)), 153)
    in_next_year = graph("Greater", from_march, number(9))
    month = graph("Where", in_next_year, graph("Sub", from_march, number(9)), graph("Add", from_march, number(3)))
    if key == "month":
        return month
    year = graph("Add", year_of_era, graph("Mul", era, number(400)))
    return graph("Where", in_next_year, graph("Add", year, number(1)), year)
