"""Parameters in flat buffers: weights first, then intercepts, γ and β, which have no penalty.

Gradients and optimizer slots have the same layout, and layers use views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .. import backend as backends
from ..backend import Backend
from ..kernels.state import SIZE, StateEntry
from ..layers import Layer, Parameter
from ..program import Array

FloatDType = np.dtype[np.float32] | np.dtype[np.float64]
RESERVED = ("a_prev", "z", "a", "grad_a", "delta", "grad_prev", "state", "index", "training", "rows", "opaque")


class ParameterSlice(NamedTuple):
    """The range of the flat buffer that holds one parameter."""

    layer: int
    parameter: Parameter
    start: int
    stop: int

    def of(self, flat: Array) -> Array:
        """The parameter's view of a flat buffer."""
        return flat[self.start : self.stop].reshape(self.parameter.shape)


class PenaltyRange(NamedTuple):
    """A range of the flat buffer with the same l2 and l1."""

    start: int
    stop: int
    l2: float
    l1: float


class UpdateRange(NamedTuple):
    """A range of trainable parameters that one call of an optimizer updates.

    `are_weights` is None if weights and other parameters are not separated.
    """

    start: int
    stop: int
    learning_rate_factor: float
    are_weights: bool | None


def _check_names(layer: Layer, parameters: list[Parameter]) -> None:
    """Raise ValueError if a name of a parameter or running statistic is used twice, or is that of another quantity."""
    names = [p.name for p in parameters] + [r.name for r in layer.running()]
    for name in names:
        if name in RESERVED or names.count(name) > 1:
            raise ValueError(
                f"{type(layer).__name__}: t.{name} would be several quantities; give each parameter and each running "
                f"statistic a name of its own, other than {', '.join(RESERVED)}"
            )


class FlatParameters:
    """Layers with their parameters, gradients, running statistics and step state on a device."""

    def __init__(self, layers: Sequence[Layer], seed: int, dtype: FloatDType) -> None:
        self.layers = list(layers)
        self.seed = seed
        self.dtype = dtype
        self.backend: Backend = backends.get("cpu")
        self.n_in = self.n_out = 0
        self.slices: list[ParameterSlice] = []
        self._slices_of: dict[int, list[ParameterSlice]] = {}  # by layer
        self.theta: Array = None
        self.running: Array = None
        self.gradient: Array = None
        self.state: Array = None

    @property
    def is_built(self) -> bool:
        """True once the number of inputs is known and the weights are drawn."""
        return self.theta is not None

    @property
    def size(self) -> int:
        """The number of parameters."""
        return int(self.theta.shape[0])

    def build(self, n_in: int, *, draw: bool = True) -> None:
        """Allocate the parameters and draw them on the host. (E10)

        Each layer has a Philox generator keyed by (seed, layer), so its weights do not depend on other layers. Without
        `draw` the parameters are zeros.
        """
        width = n_in
        for layer in self.layers:
            width = layer.build(width)
        self.n_in, self.n_out = n_in, width
        listed = []
        for k, layer in enumerate(self.layers):
            parameters = layer.parameters()
            _check_names(layer, parameters)
            listed += [(k, p) for p in parameters]
        at = 0
        placed: dict[tuple[int, str], ParameterSlice] = {}
        for k, p in sorted(listed, key=lambda pair: not pair[1].penalized):
            size = math.prod(p.shape)
            placed[k, p.name] = ParameterSlice(k, p, at, at + size)
            at += size
        self.slices = list(placed.values())
        self._slices_of = {k: [] for k in range(len(self.layers))}
        for k, p in listed:
            self._slices_of[k].append(placed[k, p.name])
        theta = np.zeros(at, self.dtype)
        for k in range(len(self.layers) if draw else 0):
            generator = keyed_generator(self.seed, 2**64 - 1 - k)
            for piece in self.slices_of(k):
                parameter = piece.parameter
                piece.of(theta)[...] = parameter.initializer(parameter.shape, generator)
        statistics = [r for layer in self.layers for r in layer.running()]
        running = np.concatenate(
            [np.full(r.shape, r.initial_value, self.dtype).ravel() for r in statistics] or [theta[:0]]
        )
        self.theta, self.running = self.backend.asarray(theta), self.backend.asarray(running)
        self.gradient = self.backend.zeros((at,), self.dtype)
        self.state = self.backend.zeros((SIZE,), np.float64)
        self._set_seed()

    def _set_seed(self) -> None:
        with self.backend.activate():
            self.state[StateEntry.SEED_LOW] = float(self.seed & 0xFFFFFFFF)
            self.state[StateEntry.SEED_HIGH] = float(self.seed >> 32 & 0xFFFFFFFF)

    def slices_of(self, layer: int) -> list[ParameterSlice]:
        """The slices of one layer's parameters, in the layer's order."""
        return self._slices_of.get(layer, [])

    def slices_in_order(self) -> list[ParameterSlice]:
        """All slices in the order of `get_weights`: W1, b1, W2, b2, …"""
        return [p for k in range(len(self.layers)) for p in self.slices_of(k)]

    def running_slices_of(self, layer: int) -> dict[str, tuple[int, tuple[int, ...]]]:
        """(first element, shape) of one layer's running statistics in their flat buffer."""
        found, at = {}, 0
        for k, each in enumerate(self.layers[: layer + 1]):
            for r in each.running():
                if k == layer:
                    found[r.name] = at, r.shape
                at += int(np.prod(r.shape))
        return found

    def running_stats_of(self, layer: int) -> dict[str, Array]:
        """One layer's running statistics, as views of their flat buffer."""
        return {
            name: self.running[start : start + int(np.prod(shape))].reshape(shape)
            for name, (start, shape) in self.running_slices_of(layer).items()
        }

    def update_ranges(self, *, separate_weights: bool = False) -> list[UpdateRange]:
        """The ranges of the flat buffer whose layers are trainable, each with one factor of the learning rate.

        It is one range if no layer is frozen and all factors are equal. `separate_weights`: no range has weights and
        other parameters.
        """
        found: list[UpdateRange] = []
        for p in self.slices:
            layer = self.layers[p.layer]
            if not layer.trainable:
                continue
            are_weights = p.parameter.penalized if separate_weights else None
            piece = UpdateRange(p.start, p.stop, layer.learning_rate_factor, are_weights)
            if found and found[-1].stop == p.start and found[-1][2:] == piece[2:]:
                piece = piece._replace(start=found.pop().start)
            found.append(piece)
        return found

    def penalties(self, *, trainable_only: bool = False) -> list[PenaltyRange]:
        """The ranges with a penalty: one range if all layers have the same l2 and l1. (E9)"""
        found: list[PenaltyRange] = []
        current = {k: {q.name: q for q in self.layers[k].parameters()} for k in {p.layer for p in self.slices}}
        for p in self.slices:
            now = current[p.layer][p.parameter.name]
            l2, l1 = now.l2, now.l1
            if (l2 == 0 and l1 == 0) or (trainable_only and not self.layers[p.layer].trainable):
                continue
            if found and (found[-1].stop, found[-1].l2, found[-1].l1) == (p.start, l2, l1):
                found[-1] = PenaltyRange(found[-1].start, p.stop, l2, l1)
            else:
                found.append(PenaltyRange(p.start, p.stop, l2, l1))
        return found


def keyed_generator(seed: int, purpose: int) -> np.random.Generator:
    """A new Philox generator on the host, keyed by (seed, purpose)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64)))
