"""A plan: the step of a network for a number of rows, as launches on buffers of its own.

Creating a plan records the step as a program, optimizes and binds it. Executing it only writes into existing buffers.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from ..backend.errors import OpRefused
from ..kernels import Launch
from ..kernels._compiler.compiled_launch import CompiledLaunch
from ..kernels.state import SIZE
from ..layers import Quantities
from ..program import Array
from ..program.groups import BatchShard
from ..program.tensor import ShapeAndType
from .batch_io import BatchIO
from .executable import BoundProgram
from .recorded import RecordedStep, batch_layout, recorded_step, variable_layout
from .state import CompiledState
from .step import Step, StepOptions
from .values import ArrayValues


class Plan(BatchIO):
    """The step of a network on n rows: its buffers, and its sections as lists of launches.

    With a process group, the n rows are this rank's `shard` of the batch. The sections follow the procedure of
    `gpunn.theory.train_step`:

    normalize_weights  wᵢ ← wᵢ/Σw
    forward            (1), (2): x to aᴸ
    loss               (3): C, and δᴸ or ∂C/∂aᴸ
    backward           (4), (5): δ down to the first layer, gradients, penalties
    update             (6): check for non-finite values, clipping, optimizer, constraints, end of the step

    They are executed in this order, from the first one: a section may reuse the memory of earlier ones.
    """

    def __init__(self, network: CompiledState, n: int, options: StepOptions, shard: BatchShard | None = None) -> None:
        # the network references its plans: a cycle would delay the release of all buffers
        self._network = weakref.ref(network)
        self.n = n
        self.options = options
        self.shard = BatchShard.of(n) if shard is None else shard
        self.backend = network.backend
        self.bytes = 0
        self.batch_step: list[Launch] | None = None  # the whole step on the batch of `load_batch`
        self.forward_step: list[Launch] | None = None  # the compiled forward pass
        self.block_program: Any = None
        self.state = network.state if options.update else self.new((SIZE,), np.float64)
        # a plan without update may run in parallel to others, so it has its own gradients
        self.gradient: Array = network.gradient if options.update else None
        if options.backward and not options.update:
            self.gradient = self.new((network.size,))
        self.batch_metrics = self.new((max(1, network.n_metric_sums),), np.float64) if options.loss else None
        self.layers: list[Quantities] = []  # the quantities that are read after the step
        sections = self._eager_sections() if network.eager else self._bound_sections()
        self.normalize_weights, self.forward, self.loss, self.backward, self.update = sections

    @property
    def network(self) -> CompiledState:
        """The network of this plan."""
        found = self._network()
        assert found is not None
        return found

    def new(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """A buffer of zeros; it counts among the plan's bytes."""
        made = self.backend.zeros(shape, dtype or self.network.dtype)
        self.bytes += made.nbytes
        return made

    def variables(self) -> dict[str, Array]:
        """The flat arrays that the step reads and writes, by name."""
        net = self.network
        arrays = {"theta": net.theta, "running": net.running, "metric_sums": net.metric_sums, **net.slots}
        arrays |= {"state": self.state, "gradient": self.gradient, "batch_metrics": self.batch_metrics}
        layout = variable_layout(net, self.options)
        return {name: arrays[name] if name in arrays else self.new(*each) for name, each in layout.items()}

    def _allocate_batch(self, layout: dict[str, ShapeAndType]) -> dict[str, Array]:
        """Allocate x and, for a loss, y and the weights, which are those of a batch without sample weights."""
        found = {name: self.new(*each) for name, each in layout.items()}
        vars(self).update(found)
        if "w" in found:
            self.sample_weight.fill(1)
            self.w.fill(1 / self.shard.rows)  # mutate: E3 mean
        return found

    # --- recorded ---

    def _bound_sections(self) -> list[list[Launch]]:
        """Record the step as a program, or find it in the cache, and bind it to buffers."""
        recorded, bound = self._record_and_bind(self.variables())
        self.program = recorded.program
        self._bound = bound
        self.bytes += bound.bytes
        self._penalties = self.network.penalties()
        self._penalty_kernels = ("penalty", self.network.loss_convention.penalty_gradient)
        self.slow_path_reasons = bound.slow_path_reasons
        self.output = bound.array(recorded.output)
        self.grad_x = None if recorded.grad_x is None else bound.array(recorded.grad_x)
        self.layers = [Quantities(**{k: bound.array(x) for k, x in kept.items()}) for kept in recorded.kept]
        return bound.launches

    def _record_and_bind(self, variables: dict[str, Array]) -> tuple[RecordedStep, BoundProgram]:
        """The step and its launches. It is recorded again without a fusion that the device refuses for its arrays."""
        before = self.bytes
        while True:
            recorded = recorded_step(self.network, self.n, self.shard, self.options)
            program = recorded.program
            batch = self._allocate_batch({x.name: (x.shape, x.dtype) for x in program.inputs})
            inputs = {x: batch[x.name] for x in program.inputs}
            try:
                bound = BoundProgram(program, recorded.arena, self.backend, self.shard.group, inputs, variables)
            except OpRefused:
                self.bytes = before
            else:
                return recorded, bound

    def set_l2(self, values: list[float]) -> None:
        """Set λ of every penalty range, in order, in compiled launches."""
        # the network may no longer exist: compiled steps are shared by networks of one structure
        for name in self._penalty_kernels:
            for op, launch in self._bound.launches_of(name):
                place = op.inputs[0].base.place
                assert place is not None and isinstance(launch, CompiledLaunch)
                index = next(k for k, p in enumerate(self._penalties) if p.start <= place.start < p.stop)
                launch.scalars[0] = values[index]

    # --- eager ---

    def _eager_sections(self) -> list[list[Launch]]:
        """One launch per section, which calls the step's method on arrays."""
        batch = self._allocate_batch(batch_layout(self.network, self.n, loss=self.options.loss))
        net, options = self.network, self.options
        step = Step(net, self.n, self.shard, ArrayValues(batch, self.variables()), options)
        self.output = self.new((self.n, net.n_out))
        self.grad_x = self.new((self.n, net.n_in)) if options.input_gradient else None
        self.slow_path_reasons = ["eager mode computes every operation from Python"]

        def store_results() -> None:
            self.output[...] = step.output
            *before, last = step.quantities
            self.layers = [*before, Quantities(**vars(last) | {"a": self.output})]

        def forward() -> None:
            step.forward()
            store_results()

        def loss() -> None:
            step.loss()
            store_results()

        def backward() -> None:
            step.backward()
            store_results()
            if self.grad_x is not None:
                self.grad_x[...] = step.grad_x

        launches: list[Launch] = [step.weights, forward, loss, backward, step.update]
        return [[launch] if wanted else [] for launch, wanted in zip(launches, options.sections, strict=True)]
