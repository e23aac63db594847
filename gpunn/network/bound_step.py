"""A bound step: the step of a network on the rows of one batch, as launches on buffers of its own.

Creating one records the step as a program, optimizes and binds it. Executing it only writes into existing buffers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from numpy.typing import DTypeLike

from ..backend import Backend
from ..backend.errors import OpRefused
from ..backend.executor import Launch
from ..kernels._compiler.compiled_launch import CompiledLaunch
from ..layers import Quantities
from ..program import Array
from ..program.groups import BatchShard
from ..program.tensor import ShapeAndType
from .binding import BoundProgram
from .recorded import RecordedStep, batch_layout, recorded_step
from .state import CompiledState
from .step import Step, StepOptions
from .values import ArrayValues


class BoundStep:
    """The step of a network on this rank's `shard` of a batch, in the order of `gpunn.theory.train_step`.

    Attributes
    ----------
    sections : list of list of callable
        The launches of normalized weights, (1) and (2) forward, (3) loss, (4) and (5) backward, (6) update. Sections
        that the options lack are empty.
    x, y, sample_weight : array
        The batch. A step that reads a table in CSR format has no x.
    output : array (n, n_out)
        aᴸ.
    grad_x : array (n, n_in) or None
        ∂C/∂x, with the option `input_gradient`.
    layers : list of Quantities
        The quantities that the options keep.
    slow_path_reasons : list of str
        The reasons for Python code in the step.
    """

    x: Array
    y: Array
    sample_weight: Array
    w: Array

    def __init__(
        self,
        net: CompiledState,
        shard: BatchShard,
        options: StepOptions,
        variables: Mapping[str, Array],
        table: Mapping[str, Array],
    ) -> None:
        self.n = shard.n
        self.shard = shard
        self.options = options
        self.backend: Backend = net.backend
        self.dtype = net.dtype
        self.state = variables["state"]
        self.class_labels = options.loss and net.loss.targets == "class_index"
        self._buffers: list[Array] = []
        self.grad_x: Array = None
        self.layers: list[Quantities] = []
        self._penalties: list[tuple[int, CompiledLaunch]] = []  # the launches with λ: index of the range, launch
        if net.eager:
            self.sections, self.slow_path_reasons = self._bind_eager(net, variables)
        else:
            self.sections, self.slow_path_reasons = self._bind_program(net, variables, table)

    @property
    def bytes(self) -> int:
        """The size of its buffers."""
        return sum(int(buffer.nbytes) for buffer in self._buffers)

    def new(self, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
        """A buffer of zeros, which lives as long as the step."""
        made = self.backend.zeros(shape, dtype or self.dtype)
        self._buffers.append(made)
        return made

    def set_l2(self, values: Sequence[float]) -> None:
        """Set λ of every penalty range, in order, in compiled launches."""
        for index, launch in self._penalties:
            launch.scalars[0] = values[index]

    def _allocate_batch(self, layout: Mapping[str, ShapeAndType]) -> dict[str, Array]:
        """Allocate x and, for a loss, y and the weights, which are those of a batch without sample weights."""
        found = {name: self.new(*each) for name, each in layout.items()}
        vars(self).update(found)
        if "w" in found:
            self.sample_weight.fill(1)
            self.w.fill(1 / self.shard.rows)  # mutate: E3 mean
        return found

    # --- recorded ---

    def _bind_program(
        self, net: CompiledState, variables: Mapping[str, Array], table: Mapping[str, Array]
    ) -> tuple[list[list[Launch]], list[str]]:
        """Record the step as a program, or find it in the cache, and bind it to buffers and to a table."""
        recorded, bound = self._record_and_bind(net, variables, table)
        self._buffers += bound.owned
        self.output = bound.array(recorded.output)
        self.grad_x = None if recorded.grad_x is None else bound.array(recorded.grad_x)
        self.layers = [Quantities(**{k: bound.array(x) for k, x in kept.items()}) for kept in recorded.kept]
        ranges = net.penalties()
        for name in ("penalty", net.loss_convention.penalty_gradient):
            for op, launch in bound.launches_of(name):
                place = op.inputs[0].base.place
                if place is not None and isinstance(launch, CompiledLaunch):
                    index = next(k for k, p in enumerate(ranges) if p.start <= place.start < p.stop)
                    self._penalties.append((index, launch))
        return bound.launches, bound.slow_path_reasons

    def _record_and_bind(
        self, net: CompiledState, variables: Mapping[str, Array], table: Mapping[str, Array]
    ) -> tuple[RecordedStep, BoundProgram]:
        """The step and its launches. It is recorded again without a fusion that the device refuses for its arrays."""
        while True:
            recorded = recorded_step(net, self.shard, self.options)
            program = recorded.program
            self._buffers.clear()
            batch = self._allocate_batch({x.name: (x.shape, x.dtype) for x in program.inputs if x.name not in table})
            inputs = {x: table[x.name] if x.name in table else batch[x.name] for x in program.inputs}
            try:
                return recorded, BoundProgram(
                    program, recorded.arena, self.backend, self.shard.group, inputs, variables
                )
            except OpRefused:
                continue

    # --- eager ---

    def _bind_eager(self, net: CompiledState, variables: Mapping[str, Array]) -> tuple[list[list[Launch]], list[str]]:
        """One launch per section, which calls the step's method on arrays."""
        batch = self._allocate_batch(batch_layout(net, self.n, loss=self.options.loss))
        step = Step(net, self.n, self.shard, ArrayValues(batch, variables), self.options)
        self.output = self.new((self.n, net.n_out))
        if self.options.input_gradient:
            self.grad_x = self.new((self.n, net.n_in))

        def store_results() -> None:
            self.output[...] = step.output
            if step.grad_x is not None:
                self.grad_x[...] = step.grad_x
            *before, last = step.quantities
            self.layers = [*before, Quantities(**vars(last) | {"a": self.output})]

        methods = (step.weights, step.forward, step.loss, step.backward, step.update)
        sections: list[list[Launch]] = [
            [m] if wanted else [] for m, wanted in zip(methods, self.options.sections, strict=True)
        ]
        last_before_update = max(k for k in range(4) if sections[k])
        sections[last_before_update].append(store_results)
        return sections, ["eager mode computes every operation from Python"]
