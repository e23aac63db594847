"""All-reduces of sums over the rows of a batch, in distributed training.

Each process has some rows of the batch, so a reduction over rows is a partial sum. The pass makes partial sums sums
over the batch. An op that reads one gets its sum over all processes just before. Partial sums in variables, such as the
gradients, are reduced together as late as possible: before the first access to any of them. With `bucket_bytes`,
complete gradients are sent during the backward pass, while those of earlier layers are computed.

All processes must run the same collectives in the same order. So the pass runs before ops are rewritten, because what a
backend fuses may depend on the number of rows and on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..kernels import Launch
from ..kernels import get as kernel
from .groups import ProcessGroup
from .op import SECTIONS, Op
from .program import Program
from .ranges import Range, Tracker, merge
from .tensor import Array, Place, Tensor

BACKWARD = SECTIONS.index("backward")


def insert_all_reduces(program: Program, group: ProcessGroup) -> None:
    """Insert the all-reduces that make sums over the rows of a process sums over the rows of the batch.

    Raises
    ------
    ValueError
        If an op computes the maximum over rows, a kernel reads the rows of the batch transposed, or a product pairs the
        rows of the batch with each other.
    """
    if group.size > 1:
        _check_rows(program)
        _take_first_row_of_first_process(program, group)
    _AllReduces(program, group.bucket_bytes).insert()


def _check_rows(program: Program) -> None:
    """Refuse ops that need the rows of all processes, such as x xᵀ. Sums over rows such as xᵀ δ are allowed."""
    for op in program.ops:
        if op.kernel is not None and any(x.transposed and x.base.batch for x in op.inputs):
            raise ValueError(
                "a kernel on a transposed matrix of the batch's rows cannot be divided among processes: "
                "use the matrix itself, or @"
            )
        if op.name != "matmul":
            continue
        a, b = op.inputs
        pairs = a.base.batch and b.base.batch and b.transposed and not a.transposed
        combines = b.base.batch and not b.transposed and not (a.base.batch and a.transposed)
        if pairs or combines:
            raise ValueError(
                f"the product of matrices of shapes {a.shape} and {b.shape} combines rows of the batch, of which each "
                "process has some: leave out strategy, or compute with sums over rows, aᵀ b"
            )


def _take_first_row_of_first_process(program: Program, group: ProcessGroup) -> None:
    """Make row 0 of the batch a partial sum: its first process has the row, the others have zeros."""
    rows: dict[Tensor, Tensor] = {}  # by table
    same: dict[Tensor, Tensor] = {}
    ops = []
    for op in program.ops:
        op.replace_inputs(same)
        if op.name == "first_row":
            table, row = op.inputs[0].base, op.outputs[0]
            if table in rows and table.place is None and row.place is None:
                same[row] = rows[table]
                continue
            rows[table] = row
            if group.rank > 0:
                op = Op("zeros", (), (row,), section=op.section)
            op.partial = True
        ops.append(op)
    program.ops = ops


class _AllReduces:
    """The all-reduces of a program, inserted in one pass over its ops."""

    def __init__(self, program: Program, bucket_bytes: int | None) -> None:
        self.program = program
        self.bucket_bytes = bucket_bytes
        self.ops: list[Op] = []
        self.last_reader = {x.base: k for k, op in enumerate(program.ops) for x in op.inputs}
        self.writer: dict[Tensor, Op] = {}  # of each partial sum so far
        self.sums: dict[Tensor, Tensor] = {}  # what is read instead of a partial sum
        self.pending: dict[Tensor, Place] = {}  # partial sums in variables that are not yet reduced
        self.in_flight: list[Tensor] = []
        self.owned = Tracker()  # the places that are pending or in flight
        self.unwritten = _unwritten_gradients(program)

    def insert(self) -> None:
        """Build the new list of ops."""
        for k, op in enumerate(self.program.ops):
            self._reduce_before(k, op)
            self.ops.append(op)
            self._add_results(op)
            # once ∂C/∂a is known, the gradients of its layer are complete
            if self.bucket_bytes is not None and op.section == BACKWARD and any(x.batch for x in op.outputs):
                self._start_buckets(k, self.bucket_bytes)
        section = self.ops[-1].section if self.ops else 0
        self._reduce_variables(len(self.program.ops), section)
        outputs = [x.base for x in self.program.outputs]
        self._reduce_for_reader(outputs, section)
        self.program.outputs = [self.sums.get(x, x) for x in outputs]
        self.program.ops = self.ops

    def _add_results(self, op: Op) -> None:
        for x in op.outputs:
            if op.partial and not x.batch:
                if op.kernel is not None and op.kernel.combine is not None and op.kernel.combine.is_selection:
                    raise ValueError(
                        f"{op.name} over the rows of a batch is not a sum, so processes cannot combine it: use a sum, "
                        "or train in one process"
                    )
                self.writer[x] = op
                if x.place is not None:
                    self.pending[x] = x.place
                    self.owned.record(0, (), (x.place,))

    # --- readers ---

    def _reduce_before(self, k: int, op: Op) -> None:
        """Insert the all-reduces that must precede op k."""
        reads, writes = op.accesses()
        # a partial sum that is an operand is summed in a copy, so its variable may stay partial
        own = [self.pending[x.base] for x in op.inputs if x.base in self.pending]
        if self.owned.find([access for access in reads if access not in own], writes):
            self._reduce_variables(k, op.section)
        self._reduce_for_reader([x.base for x in op.inputs], op.section)
        op.replace_inputs(self.sums)

    def _reduce_for_reader(self, tensors: Iterable[Tensor], section: int) -> None:
        """Sum the partial sums that an op reads. Those in variables stay partial, and a copy is summed."""
        unread = [x for x in dict.fromkeys(tensors) if x in self.writer and x not in self.sums]
        partial = [x for x in unread if not self.writer[x].local]
        if partial:
            sums = [self.program.new_tensor(x.shape, x.dtype, name=f"Σ{x.name}" if x.name else "") for x in partial]
            self.ops.append(Op("all_reduce", partial, sums, section=section))
            self.sums.update(zip(partial, sums, strict=True))

    # --- variables ---

    def _reduce_variables(self, k: int, section: int) -> None:
        """Complete all sums in variables, before op k."""
        self._keep_local(k, section)
        places = list(self.pending.values())
        if section >= BACKWARD:
            places += self.unwritten
            self.unwritten = []
        if places and self.in_flight:
            self._start(places, section)
        elif places:
            self._append("all_reduce", self._merged(places), section)
        if self.in_flight:
            self._append("wait_all_reduce", self.in_flight, section)
        self._read_from_variables(list(self.pending))
        self.in_flight = []
        self.owned = Tracker()

    def _keep_local(self, k: int, section: int) -> None:
        """Copy the partial sums that op k or a later one reads as they are."""
        for x in self.pending:
            if self.writer[x].local and self.last_reader.get(x, -1) >= k:
                made = self.sums[x] = self.program.new_tensor(x.shape, x.dtype, name=x.name)
                self.ops.append(Op("identity", (x,), (made,), kernel=kernel("identity"), section=section))

    def _read_from_variables(self, reduced: Iterable[Tensor]) -> None:
        """Let later ops read the sums from their variables."""
        for x in reduced:
            variable, start, stop = self.pending.pop(x)
            self.sums.setdefault(x, self.program.read(variable.name, start, stop, x.shape, x.name))

    def _start_buckets(self, k: int, bucket_bytes: int) -> None:
        """Start the all-reduce of contiguous gradients that reach the size of a bucket and have no further reader."""
        ready = {
            x: place
            for x, place in self.pending.items()
            if self.writer[x].section == BACKWARD and self.last_reader.get(x, -1) <= k
        }
        buckets = [part.place for part in self._merged(ready.values()) if part.nbytes >= bucket_bytes]
        places = [place for place in buckets if place is not None]
        if places:
            self._start(places, BACKWARD)
            self._read_from_variables([x for x, place in ready.items() if any(_contains(p, place) for p in places)])

    def _start(self, places: Iterable[Place], section: int) -> None:
        self.in_flight += self._append("start_all_reduce", self._merged(places), section)

    def _append(self, name: str, parts: Sequence[Tensor], section: int) -> list[Tensor]:
        """Append an op on parts of variables. Return the parts as it leaves them."""
        made = [self.program.new_tensor(x.shape, x.dtype, place=x.place, name=x.name) for x in parts]
        self.ops.append(Op(name, parts, made, section=section))
        return made

    def _merged(self, places: Iterable[Place]) -> list[Tensor]:
        """The places as tensors, as few as possible."""
        ranges: dict[str, list[Range]] = {}
        for variable, start, stop in places:
            ranges.setdefault(variable.name, []).append((start, stop))
        return [
            self.program.read(name, start, stop, (stop - start,))
            for name, each in ranges.items()
            for start, stop in merge(each)
        ]


def _unwritten_gradients(program: Program) -> list[Place]:
    """The gradients that the backward pass does not write: zeros, of frozen layers.

    They are reduced with the others, so that all processes send the same bytes even if a callback froze a layer on one
    of them. That error is found at the end of the epoch.
    """
    variable = program.variables.get("gradient")
    if variable is None:
        return []
    writers = [op for op in program.ops if op.section <= BACKWARD]
    places = [x.place for op in writers for x in op.outputs if x.place is not None]
    written = merge((place.start, place.stop) for place in places if place.variable is variable)
    starts, ends = [0, *(end for _, end in written)], [*(start for start, _ in written), variable.size]
    return [Place(variable, start, end) for start, end in zip(starts, ends, strict=True) if start < end]


def _contains(outer: Place, inner: Place) -> bool:
    return outer.variable is inner.variable and outer.start <= inner.start < outer.stop


class CollectiveBinder:
    """Binds the collectives of a program to a process group."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self._waits: dict[Tensor, list[Launch]] = {}  # by the first array in flight

    def bind(self, op: Op, inputs: Sequence[Array], outputs: Sequence[Array]) -> list[Launch]:
        """The launches of a collective."""
        if op.name == "wait_all_reduce":
            return [launch for x in op.inputs for launch in self._waits.pop(x.base, [])]
        if op.name == "start_all_reduce":
            start, self._waits[op.outputs[0]] = self._group.bind_async_all_reduce(outputs)
            return start
        copied = [
            kernel("identity").bind(a, out=out)
            for x, y, a, out in zip(op.inputs, op.outputs, inputs, outputs, strict=True)
            if y.place is None or y.place != x.base.place
        ]
        return [*copied, *self._group.bind_all_reduce(outputs)]
