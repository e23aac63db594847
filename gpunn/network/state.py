"""The state of a compiled network: loss, optimizer, metrics, and the buffers that training needs."""

from __future__ import annotations

import copy
import itertools
import math
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..activations import Activation
from ..backend import Backend
from ..layers import Dense, Layer
from ..losses import Loss
from ..metrics import Metric
from ..optimizers import Optimizer
from ..program import Array
from ..program.groups import SINGLE_PROCESS, ProcessGroup
from ..registry import Versioned, attribute_versions
from .parameters import FlatParameters, FloatDType

# above these magnitudes a finite gradient may overflow in the update, which is then checked before it is written
OVERFLOW_LIMITS = {"float32": 2.0**50, "float64": 2.0**400}
_versions = itertools.count(1)


@dataclass(frozen=True)
class RowBuffer:
    """Outputs (n, n_out), targets and weights (n,) of all rows of an epoch or data set; weights may be None."""

    a: Array
    y: Array
    w: Array | None

    def rows(self, start: int, stop: int) -> RowBuffer:
        """The buffer of a range of rows."""
        return RowBuffer(self.a[start:stop], self.y[start:stop], None if self.w is None else self.w[start:stop])


@dataclass(frozen=True)
class LossConvention:
    """The kernels that add a penalty to the cost and a batch to the mean over an epoch.

    By default the whole penalty of E9 is added, and batches count by their weight.
    """

    penalty_gradient: str = "add_penalty_gradient"
    after_penalty: str | None = None
    end_step: str = "end_step"

    def mean_penalty(self, penalty: float, batch: float, weight: float) -> float:
        """The penalty in the mean loss over rows of a total weight, from the penalty in the loss of one batch."""
        return penalty if self.after_penalty is None else penalty * batch / weight


class DeviceGroup(ProcessGroup, Protocol):
    """A process group that trains on devices."""

    def backend(self, backend: Backend, requested: object) -> Backend:
        """The device of this process: one GPU per process if no number was requested. DeviceError if the machine has
        fewer GPUs."""

    def set_device(self, backend: Backend) -> None:
        """Set the device whose arrays are all-reduced."""


class CompiledState(FlatParameters):
    """Parameters with the loss, optimizer and metrics they are trained with, and the state of training."""

    def __init__(self, layers: Sequence[Layer], seed: int, dtype: FloatDType) -> None:
        super().__init__(layers, seed, dtype)
        self.slots: dict[str, Array] = {}
        self.metric_sums: Array = None
        self.given_loss: Loss | None = None  # the argument of compile; None before
        self.given_metrics: list[Metric] = []
        self.loss: Loss  # resolved for the last activation
        self.metrics: list[Metric] = []  # resolved for the loss
        self.optimizer: Optimizer
        self.loss_convention = LossConvention()
        self.precision: str | None = None  # of matrix products on a GPU; None for the dtype
        self.group: DeviceGroup = SINGLE_PROCESS  # the processes that share its steps
        self.eager = False  # compute every operation from Python, on arrays
        self.learning_rate_override: float | None = None  # η instead of the schedule's value
        self.capture_errors: dict[str, None] = {}  # reasons for steps without a CUDA graph, since compile
        self._recorded: list[object] | None = None  # the attribute values that loss, metrics, executables were made for
        self._versions: list[object] | None = None
        self._reset_executables()

    def build(self, n_in: int, *, draw: bool = True) -> None:
        """Allocate the parameters and draw them; see `FlatParameters.build`."""
        super().build(n_in, draw=draw)
        self._reset_executables()

    def _reset_executables(self) -> None:
        """Drop the network's own executables. `version` differs from the one that all executables were made for."""
        self.structures: dict[Hashable, tuple[Hashable, ...]] = {}  # what executables depend on, by task
        self.version = next(_versions)

    def compile(
        self,
        optimizer: Optimizer,
        given: tuple[Loss, list[Metric]],
        resolved: tuple[Loss, list[Metric]],
        *,
        precision: str | None,
        eager: bool,
    ) -> None:
        """Set optimizer, loss, metrics, precision and eager mode, and reset the optimizer to step 0.

        `resolved` is what `resolve` returned for the given loss and metrics.
        """
        self.loss, self.metrics = resolved
        self.given_loss, self.given_metrics = given
        self.optimizer, self.loss_convention = optimizer, LossConvention()
        self.precision, self.eager = precision, eager
        self.learning_rate_override = None
        self.slots, self.metric_sums, self.capture_errors = {}, None, {}
        if self.is_built:
            self._reset_state()
        self._recorded, self._versions = self.step_key(), self._attribute_versions()
        self._reset_executables()

    def resolve(self, loss: Loss, metrics: Sequence[Metric]) -> tuple[Loss, list[Metric]]:
        """The loss for the last activation, and copies of the metrics for that loss.

        ValueError if they do not fit each other, or the layers do not fit the weights.
        """
        if self.is_built:
            self._check_parameters()
        resolved = loss.resolve(self._last_activation(loss))
        names = [metric.name for metric in metrics]
        if len(set(names)) != len(names) or "loss" in names:
            raise ValueError(f"metrics must have different names, none of them 'loss', got {names}")
        copies = [copy.copy(metric) for metric in metrics]
        for metric in copies:
            metric.resolve(resolved, self.output_width())
        return resolved, copies

    def output_width(self, n_in: int | None = None) -> int:
        """n_out for n_in inputs; before n_in is known, the units of the last layer with a fixed width, or 0."""
        if self.is_built:
            return self.n_out
        if n_in is not None:
            width = n_in
            for layer in copy.deepcopy(self.layers):
                width = layer.build(width)
            return width
        for layer in reversed(self.layers):
            if type(layer).build is not Layer.build:
                return getattr(layer, "units", 0)
        return 0

    def _last_activation(self, loss: Loss) -> Activation:
        """The last layer's activation, the identity if it has none.

        ValueError if a cross-entropy would interpret probabilities after dropout or normalization as logits.
        """
        *before, last = self.layers
        for layer in reversed(before):
            if last.activation.name != "identity" or isinstance(last, Dense):
                break
            if layer.activation.name in ("softmax", "sigmoid") and hasattr(loss, "from_logits"):
                raise ValueError(
                    f"loss {loss.name!r} needs probabilities or logits, but {last!r} follows "
                    f"{layer.activation.name}: move {type(last).__name__} before the layer with {layer.activation.name}"
                )
            if isinstance(layer, Dense):
                break
        return last.activation

    def set_precision(self, precision: str | None) -> None:
        """Set the precision of matrix products on a GPU."""
        if precision != self.precision:
            self.precision = precision
            self._reset_executables()

    def set_group(self, group: DeviceGroup) -> None:
        """Set the processes that share the steps."""
        if group is not self.group:
            self.group = group
            self._reset_executables()

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Raise ValueError if a hyperparameter becomes 0 or infinite in the network's dtype."""
        for name, value in optimizer.hyperparameters().items():
            with np.errstate(over="ignore", under="ignore"):
                rounded = float(self.dtype.type(value))
            if not math.isfinite(rounded) or (rounded == 0) != (value == 0):
                raise ValueError(f"{name}={value!r} is {rounded} in {self.dtype}: change it, or use dtype='float64'")

    def reset_optimizer(self) -> None:
        """Set the optimizer's slots to their initial values, and t to 0."""
        count = self.theta.shape[0]
        self.slots = {}
        with self.backend.activate():
            for name in self.optimizer.slots:
                self.slots[name] = self.backend.zeros((count,), self.dtype)
                self.slots[name].fill(self.optimizer.initial_value(name))
            self.metric_sums = self.backend.zeros((max(1, self.n_metric_sums),), np.float64)
        self._reset_state()
        self._reset_executables()

    def _reset_state(self) -> None:
        """Set the state array to step 0."""
        with self.backend.activate():
            self.state.fill(0)
        self._set_seed()

    def metric_slices(self) -> list[tuple[Metric, slice[int, int, int]]]:
        """Every metric with the slice of its sums in `metric_sums`."""
        ends = np.cumsum([metric.n_sums(self.n_out) for metric in self.metrics], dtype=int)
        return [
            (metric, slice(int(end) - metric.n_sums(self.n_out), int(end)))
            for metric, end in zip(self.metrics, ends, strict=True)
        ]

    @property
    def n_metric_sums(self) -> int:
        """The number of sums of all metrics."""
        return sum(metric.n_sums(self.n_out) for metric in self.metrics)

    def weights_checksum(self) -> int | None:
        """A CRC-32 of parameters and running statistics; None before `build`."""
        if not self.is_built:
            return None
        theta, running = (np.ascontiguousarray(self.backend.to_host(a)) for a in (self.theta, self.running))
        return zlib.crc32(running.data, zlib.crc32(theta.data))

    def new_row_buffer(self, n: int, *, weighted: bool) -> RowBuffer | None:
        """A buffer for n rows if a metric needs all rows together, else None."""
        if not any(metric.needs_all_rows for metric in self.metrics):
            return None
        new, labels = self.backend.empty, self.loss.targets == "class_index"
        y = new((n,), np.int32) if labels else new((n, self.n_out), self.dtype)
        return RowBuffer(new((n, self.n_out), self.dtype), y, new((n,), np.float64) if weighted else None)

    def prepare_training(self) -> None:
        """Create the optimizer's state if it does not exist."""
        if self.metric_sums is None:
            self.reset_optimizer()

    def apply_attribute_changes(self) -> None:
        """Apply attributes that were set on layers, optimizer, loss and metrics since the last call.

        If one changed, resolve loss and metrics again and drop the executables, which changes `version`. ValueError if
        the attributes do not fit each other or the weights; nothing is changed.
        """
        versions = self._attribute_versions()
        if versions == self._versions:
            return
        key = self.step_key()
        if key != self._recorded:
            if self.given_loss is not None:
                self.check_optimizer(self.optimizer)
                self.loss, self.metrics = self.resolve(self.given_loss, self.given_metrics)
                if self.metric_sums is not None and self.metric_sums.shape[0] != max(1, self.n_metric_sums):
                    self.metric_sums = self.backend.zeros((max(1, self.n_metric_sums),), np.float64)
            elif self.is_built:
                self._check_parameters()
            self._recorded = key
            self._reset_executables()
        self._versions = versions

    def _attribute_versions(self) -> list[object]:
        """The attribute versions of each layer and activation, of optimizer, loss and metrics."""
        owners: list[Versioned] = [*self.layers, *(layer.activation for layer in self.layers)]
        if self.given_loss is not None:
            owners += [self.optimizer, self.given_loss, *self.given_metrics]
        return attribute_versions(owners)

    def step_key(self) -> list[object]:
        """The attribute values of layers, optimizer, loss and metrics that a step depends on."""
        layers = self.layers if self.is_built else ()
        return [*self.attribute_values(), [(p.l2, p.l1) for layer in layers for p in layer.parameters()]]

    def attribute_values(self) -> list[object]:
        """The attribute values that a step depends on, except l1 and l2 of gpunn's layers."""
        found: list[object] = [(layer.step_key(), layer.learning_rate_factor) for layer in self.layers]
        if self.given_loss is not None:
            found += [self.optimizer.step_key(), self.given_loss.step_key()]
            found += [metric.step_key() for metric in self.given_metrics]
        return found

    def _check_parameters(self) -> None:
        """Raise ValueError if an attribute was set that changes a layer's parameters after `build`."""
        for k, layer in enumerate(self.layers):
            built = {p.parameter.name: p.parameter.shape for p in self.slices_of(k)}
            now = {p.name: p.shape for p in layer.parameters()}
            if now != built:
                raise ValueError(
                    f"layers[{k}] ({layer!r}) has parameters of shapes {now}, but was built with {built}: restore its "
                    "attribute, or create a new network"
                )

    def overflow_limit(self) -> float:
        """The magnitude above which an update is checked before it is written; 0 for extreme hyperparameters."""
        if not self.optimizer.uses_rule:
            return -1.0  # no limit is known
        factors = [layer.learning_rate_factor for layer in self.layers]
        numbers = [*self.optimizer.hyperparameters().values(), *factors]
        plain = all(number == 0 or 1e-30 <= abs(number) <= 1e6 for number in numbers)
        return OVERFLOW_LIMITS[self.dtype.name] if plain else 0.0
