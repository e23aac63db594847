"""Executables: the step of a network, bound to buffers and to a caller's arrays, and run any number of times."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..backend.executor import Executor, Launch
from ..kernels import bind_all
from ..kernels import get as kernel
from ..layers import Quantities
from ..program import Array
from ..program.csr import CompressedBatch
from ..program.groups import BatchShard
from .batch_io import Arrays, Table, advance, by_address, compressed_table, gather, load, store_rows
from .bound_step import BoundStep
from .recorded import structure, variable_layout
from .state import CompiledState
from .step import StepOptions

WINDOWS = ("x", "output", "largest")  # what `run_blocks` replaces
PROFILE_FIRST, PROFILE_SECONDS, PROFILE_ROUNDS = 10, 2e-3, 5  # runs of a launch, then seconds per round, and rounds


@dataclass(frozen=True)
class ExecutableSpec:
    """The description of an executable: what it computes, for any network and arrays.

    Attributes
    ----------
    options : StepOptions
    shards : tuple of BatchShard
        The rows of a batch, for each batch size.
    """

    options: StepOptions
    shards: tuple[BatchShard, ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.options, self.shards))

    def reading(self, compressed: CompressedBatch | None) -> ExecutableSpec:
        """The same steps on batches that they read from a table in CSR format; itself for None."""
        if compressed is None:
            return self
        return ExecutableSpec(dataclasses.replace(self.options, compressed=compressed), self.shards)


class Executable:
    """A step on batches of one size or several, which runs on a device.

    It owns the buffers of the step. The network's variables and the caller's arrays are bound by address.

    Parameters
    ----------
    net : CompiledState
    spec : ExecutableSpec
    arrays : mapping of str to array
        The caller's arrays by name, see `batch_io`. With "X" each step gathers its batch, and without it the step uses
        the batch that `load` copied. With "epoch_log" the end of the last batch size ends an epoch.

    Attributes
    ----------
    x, y, output, grad_x, layers
        Buffers and results of the (first) batch size, as in `BoundStep`. x is None if the steps read a CSR table.
    state, gradient, metric_sums : array
        The network's if the spec updates parameters, otherwise its own.
    bytes : int
        The size of its buffers.
    reusable : bool
        It can be used for other arrays of the same layouts.
    largest : array (1,) or None
        max |x| of the batch of a prediction.
    slow_path_reasons : list of str
        The reasons for Python code in the step.
    """

    def __init__(self, net: CompiledState, spec: ExecutableSpec, arrays: Arrays) -> None:
        self.spec = spec
        self.backend = net.backend
        variables = _network_variables(net, spec.options)
        layout = variable_layout(net, spec.options)
        self._owned = {name: self.backend.zeros(*each) for name, each in layout.items() if name not in variables}
        variables |= self._owned
        self.steps = [
            BoundStep(net, shard, spec.options, variables, compressed_table(spec.options, shard, arrays))
            for shard in spec.shards
        ]
        self.state, self.gradient = variables["state"], variables.get("gradient")
        self.metric_sums: Array = variables.get("metric_sums")
        first = self.steps[0]
        self.x: Array = getattr(first, "x", None)
        self.y: Array = getattr(first, "y", None)
        self.output, self.grad_x = first.output, first.grad_x
        self.largest: Array = None
        if self.x is not None and not spec.options.loss and "X" not in arrays and self.x.dtype.kind == "f":
            # a prediction: a finite maximum of |x| shows that no number is invalid
            self.largest = self.backend.zeros((1,), np.float64)
        self._executor: Executor | None = self._new_executor(net, arrays)
        self.rebindable = self._executor.rebindable
        # other arrays cannot be exchanged in the launches of a step
        self.reusable = not net.eager and (self.rebindable or spec.options.compressed is None)
        self._l2: list[float] | None = None
        self.slow_path_reasons = list(dict.fromkeys(r for step in self.steps for r in step.slow_path_reasons))
        self.bytes = sum(step.bytes for step in self.steps) + sum(a.nbytes for a in self._owned.values())

    def _new_executor(self, net: CompiledState, arrays: Arrays) -> Executor:
        """The executor of the steps on these arrays."""
        external = {**_network_variables(net, self.spec.options), **by_address(arrays)}
        phases = [self._launches(step, arrays) for step in self.steps]
        if self.largest is not None:
            phases[0] = bind_all([(kernel("max_abs"), (self.x,), self.largest, None, {})]) + phases[0]
            external |= {name: getattr(self, name) for name in WINDOWS}
        end: list[Launch] = []
        log = arrays.get("epoch_log")
        if log is not None:
            sums = self.metric_sums.shape[0]
            assert log.shape[1] == 2 + sums, "the log of epochs was made for other metrics"
            end = [kernel("end_epoch").bind(out=(log, self.metric_sums, self.state), count=1, totals_n=sums)]
        return self.backend.executor(
            phases,
            self.state,
            end,
            flush=self.spec.options.update,
            arrays=external,
            on_fallback=net.capture_errors.setdefault,
        )

    def _launches(self, step: BoundStep, arrays: Arrays) -> list[Launch]:
        """The launches of one step."""
        *before, update = step.sections
        computed = [launch for each in before for launch in each]
        if "X" not in arrays:
            return [*computed, *update]
        return [*gather(step, arrays), *computed, *store_rows(step, arrays), *update, *advance(step)]

    @property
    def _bound(self) -> Executor:
        assert self._executor is not None, "the executable was returned"
        return self._executor

    @property
    def layers(self) -> list[Quantities]:
        """The quantities of the layers that the options keep."""
        return self.steps[0].layers

    def bind(self, net: CompiledState, arrays: Arrays) -> None:
        """Use the variables of a network and arrays of the layouts with which the executable was made.

        If the arrays cannot be exchanged, the network must be the one for which it was made.
        """
        if self._executor is None:
            self._executor = self._new_executor(net, arrays)
        elif self.rebindable:
            self._executor.rebind({**_network_variables(net, self.spec.options), **by_address(arrays)})
            if self.spec.options.update:
                self.state, self.gradient, self.metric_sums = net.state, net.gradient, net.metric_sums
                for step in self.steps:
                    step.state = net.state
            l2 = [p.l2 for p in net.penalties()] if self.spec.options.loss else []
            if l2 != self._l2:
                for step in self.steps:
                    step.set_l2(l2)
                self._l2 = l2
        if self.spec.options.update:
            # no step writes the gradient of a frozen layer, but clipping and the non-finite check read it
            net.gradient.fill(0)

    def release(self) -> None:
        """Drop the references to the caller's arrays, and to the network's if others can be bound. `bind` sets them."""
        if self._executor is None or not self.rebindable:
            self._executor = None
            return
        self._executor.release()
        if self.spec.options.update:
            self.state = self.gradient = self.metric_sums = None
            for step in self.steps:
                step.state = None

    def profile(self, arrays: Arrays) -> list[tuple[str, float]]:
        """Time each launch of a step of the first batch size alone: its name with the shapes, and microseconds.

        The launches run many times, so variables and state change.
        """
        found = []
        for launch in self._launches(self.steps[0], arrays):
            self.backend.time_launch(launch, 1)
            once = self.backend.time_launch(launch, PROFILE_FIRST) / PROFILE_FIRST
            times = max(PROFILE_FIRST, int(PROFILE_SECONDS / max(once, 1e-9)))
            best = min(self.backend.time_launch(launch, times) for _ in range(PROFILE_ROUNDS))
            found.append((launch_label(launch), 1e6 * best / times))
        return found

    def load(self, X: Table, y: Array = None, w: Array = None, start: int = 0) -> None:
        """Copy a batch, the rows of X from `start` on, to the first rows of the buffers."""
        with np.errstate(all="ignore"):
            load(self.steps[0], X, y, w, start)

    def set_times(self, times: Sequence[int], done: int = 0) -> None:
        """Set how many steps of each batch size follow one another, and how many of all of them are done."""
        self._bound.set_times(times, done)

    def run(
        self, steps: int = 1, *, deadline: float = math.inf, learning_rates: NDArray[np.float64] | None = None
    ) -> int:
        """Run steps and return their number; see `Executor.run`."""
        return self._bound.run(steps, deadline=deadline, learning_rates=learning_rates)

    def run_blocks(self, steps: int, X: Table, result: Array, largest: Array) -> bool:
        """Predict the blocks of X in place: `result` gets aᴸ, and `largest` max |x| of each block.

        X is contiguous, in the type of x. False, with nothing done, if that is not possible.
        """
        if not self.rebindable or self.largest is None or self.output is self.x:
            return False
        return self._bound.run_blocks(steps, {"x": X, "output": result, "largest": largest})


def launch_label(launch: Launch) -> str:
    """The name of a launch, with the shapes of its arrays."""
    function = getattr(launch, "function", launch)
    name = str(getattr(function, "__name__", type(function).__name__)).split("__")[0]
    shapes = " ".join("×".join(map(str, a.shape)) or "1" for a in getattr(launch, "arrays", ()))
    return f"{name} {shapes}".rstrip()


def shared_key(net: CompiledState, spec: ExecutableSpec, arrays: Arrays) -> Hashable:
    """Everything that an executable depends on, except addresses and λ. None if that is unknown."""
    if net.eager:
        return None
    steps = net.structures.get(spec)
    if steps is None:
        steps = tuple(structure(net, shard, spec.options, with_l2=False) for shard in spec.shards)
        net.structures[spec] = steps
    return None if None in steps else (net.backend.executor_key(), steps, layouts(arrays))


def layouts(arrays: Arrays) -> Hashable:
    """The types and strides of arrays by name."""
    return tuple((name, a.dtype, a.strides) for name, a in by_address(arrays).items())


def _network_variables(net: CompiledState, options: StepOptions) -> dict[str, Array]:
    """The variables of a network that a step reads, and those that an update changes."""
    found = {"theta": net.theta, "running": net.running}
    if options.update:
        found |= {"state": net.state, "gradient": net.gradient, "metric_sums": net.metric_sums, **net.slots}
    return found
