"""From a recorded program to launches: collectives, rewriting, bfloat16 storage, and binding to buffers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping

import numpy as np

from ..backend import Backend
from ..kernels import KernelCall, Launch, bind_all
from ..kernels import get as kernel
from ..kernels._compiler.compiled_launch import address_of
from ..program import SECTIONS, Array, Op, Program, Tensor, rewrite, unpacked
from ..program.bfloat16 import store_in_bfloat16
from ..program.buffers import ALIGNMENT, Arena
from ..program.collectives import CollectiveBinder, insert_all_reduces
from ..program.csr import bind_rows, multiply_stored_values
from ..program.groups import SINGLE_PROCESS, ProcessGroup
from ..program.op import COLLECTIVES, CSR_ROWS
from ..program.tensor import View, checked_results, read_only

VERIFY = os.environ.get("GPUNN_VERIFY") == "1"


def optimize(program: Program, backend: Backend, group: ProcessGroup, *, rewritten: bool) -> None:
    """Apply all passes before memory is assigned. With GPUNN_VERIFY=1 the program is verified after each of them."""
    passes: list[Callable[[], None]] = [program.eliminate_dead_code]
    if group is not SINGLE_PROCESS:
        passes.append(functools.partial(insert_all_reduces, program, group))
    if rewritten:
        passes.append(functools.partial(multiply_stored_values, program))
        passes.append(functools.partial(rewrite, program, backend.rewrite_rules(), verify=VERIFY))
    if backend.stores_bfloat16(program.precision):
        passes.append(functools.partial(store_in_bfloat16, program))
    for apply in passes:
        apply()
        if VERIFY:
            program.verify()


class BoundProgram:
    """A program with memory for every tensor, and its launches by section.

    Attributes
    ----------
    launches : list of list of callable
        The launches of each section, in order.
    owned : list of array
        The memory that the program owns.
    slow_path_reasons : list of str
        The reasons for Python code in the step.
    """

    def __init__(
        self,
        program: Program,
        arena: Arena,
        backend: Backend,
        group: ProcessGroup,
        inputs: Mapping[Tensor, Array],
        variables: Mapping[str, Array],
    ) -> None:
        self.program = program
        self._backend = backend
        self._collectives = CollectiveBinder(group)
        self._variables = dict(variables)
        self._arrays: dict[Tensor, Array] = dict(inputs)
        self._offsets = arena.offsets
        self._memory = _aligned(backend, arena.size)
        self.owned = [self._memory]
        for name, variable in program.variables.items():
            if name not in variables:  # one that a pass added
                self._variables[name] = backend.zeros((variable.size,), variable.dtype)
                self.owned.append(self._variables[name])
        self.slow_path_reasons = list(dict.fromkeys(op.reason for op in program.ops if op.reason))
        self._launch_of: dict[Op, Launch] = {}
        self.launches = self._bind()

    def array(self, x: View) -> Array:
        """The memory of a tensor."""
        if x.transposed:
            return self.array(x.base).T
        tensor = x.base
        found = self._arrays.get(tensor)
        if found is None:
            if tensor.place is not None:
                variable, start, stop = tensor.place
                found = self._variables[variable.name][start:stop]
                found = found if len(tensor.shape) == 1 else found.reshape(tensor.shape)
            else:
                offset = self._offsets[tensor]
                found = self._memory[offset : offset + tensor.nbytes].view(tensor.dtype)
                if tensor.row_stride:
                    found = found.reshape(tensor.shape[0], tensor.row_stride)[:, : tensor.shape[1]]
                elif len(tensor.shape) > 1:
                    found = found.reshape(tensor.shape)
            self._arrays[tensor] = found
        return found

    def launches_of(self, name: str) -> list[tuple[Op, Launch]]:
        """The ops with a name, each with its launch."""
        return [(op, self._launch_of[op]) for op in self.program.ops if op.name == name]

    def _bind(self) -> list[list[Launch]]:
        """Bind all ops. Kernels are bound together, so that their sources are compiled in parallel."""
        calls: dict[Op, list[KernelCall]] = {}
        bound: dict[Op, list[Launch]] = {}
        for op in self.program.ops:
            inputs = [self.array(x) for x in op.inputs]
            outputs = [self.array(x) for x in op.outputs]
            if op.kernel is None:
                bound[op] = self._bind_op(op, inputs, outputs)
            else:
                calls[op] = self._kernel_calls(op, inputs, outputs)
        kernels = iter(bind_all(call for each in calls.values() for call in each))
        bound |= {op: [next(kernels) for _ in each] for op, each in calls.items()}
        launches: list[list[Launch]] = [[] for _ in SECTIONS]
        for op in self.program.ops:
            for launch in bound[op]:
                self._launch_of[op] = launch
                if op.first_step_only:
                    launch.first_step_only = True  # type: ignore[attr-defined]
                launches[op.section].append(launch)
        return launches

    def _kernel_calls(self, op: Op, inputs: list[Array], outputs: list[Array]) -> list[KernelCall]:
        """The call of an op's kernel, after a copy of each operand that it updates in other memory."""
        calls: list[KernelCall] = []
        assert op.kernel is not None
        for out, updated in zip(op.outputs, op.kernel.updated, strict=True):
            if updated is not None and not self._same_memory(op.inputs[updated].base, out):
                calls.append((kernel("identity"), (inputs[updated],), self.array(out), None, {}))
        read = tuple(inputs[: len(op.kernel.signature.inputs)])
        return [*calls, (op.kernel, read, unpacked(outputs), op.count, op.scalars)]

    def _same_memory(self, old: Tensor, new: Tensor) -> bool:
        """True if an op that updates an operand finds it where it writes the result."""
        if new.place is not None or old.place is not None:
            return old.place == new.place
        return self._offsets.get(old) == self._offsets[new]

    def _bind_op(self, op: Op, inputs: list[Array], outputs: list[Array]) -> list[Launch]:
        """The launches of an op that is no kernel."""
        if op.function is not None:
            return [_python_launch(op, [read_only(x) for x in inputs], outputs)]
        if op.name == "first_row":
            return [kernel("identity").bind(inputs[0][:1], out=outputs[0][None, :])]
        if op.name == "zeros":
            return [functools.partial(outputs[0].fill, 0)]
        if op.name == CSR_ROWS:
            return [bind_rows(inputs, outputs[0])]
        if op.name in COLLECTIVES:
            return self._collectives.bind(op, inputs, outputs)
        return [self._backend.bind_op(op, inputs, outputs, self.program.precision)]


def _aligned(backend: Backend, size: int) -> Array:
    """`size` bytes that begin at a multiple of the alignment of buffers."""
    made = backend.empty((size + ALIGNMENT,), np.uint8)
    first = -address_of(made) % ALIGNMENT
    return made[first : first + size]


def _python_launch(op: Op, inputs: list[Array], outputs: list[Array]) -> Launch:
    function = op.function
    assert function is not None

    def launch() -> None:
        for out, value in zip(outputs, checked_results(function(*inputs), outputs, op.reason), strict=True):
            out[...] = value

    return launch
