"""Rewrite rules: a pattern of ops, and the ops that compute the same in fewer launches.

    Rule("s = matmul(x, W); z = add_row(s, b)", "z = lt_bias(x, W, b)")

A name is a tensor, x' is x transposed. A rule matches if the ops read and write the same tensors in the same places. A
tensor of the pattern that the replacement does not write is removed. It must have no other reader, and must not be an
output or stored in a variable. That is verified here and never declared.

Precedents: XLA's gemm_rewriter, Inductor's post_grad, tinygrad's PatternMatcher, PyTensor's PatternNodeRewriter.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..kernels import get as kernel
from ..kernels._compiler.definition import DEFINITIONS
from .op import Op
from .program import Program
from .ranges import Tracker
from .tensor import ShapeAndType, Tensor, View

_CALL = re.compile(r"\s*([\w, ]+?)\s*=\s*(\w+)\(([^)]*)\)\s*")


class Call(NamedTuple):
    """One op of a pattern or a replacement: its name, and the names of its inputs (transposed?) and outputs."""

    name: str
    inputs: tuple[tuple[str, bool], ...]
    outputs: tuple[str, ...]


def parse(text: str) -> tuple[Call, ...]:
    """Parse "a, m = f(x, y'); …". ValueError with the part that is invalid."""
    calls = []
    for part in text.split(";"):
        found = _CALL.fullmatch(part)
        if found is None:
            raise ValueError(f"rule: {part.strip()!r} is not 'outputs = name(inputs)'")
        outputs, name, inputs = found.groups()
        names = [x.strip() for x in inputs.split(",") if x.strip()]
        read = tuple((x.removesuffix("'"), x.endswith("'")) for x in names)
        calls.append(Call(name, read, tuple(x.strip() for x in outputs.split(","))))
    return tuple(calls)


@dataclass(frozen=True)
class Match:
    """The ops and tensors that a pattern matched. ``match["x"]`` is the tensor named x."""

    program: Program
    ops: tuple[Op, ...]
    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


class Rule:
    """A pattern and its replacement.

    Parameters
    ----------
    before, after : str
        The ops that are matched, in the order of the program, and the ops that replace them.
    when : callable, optional
        ``when(match)`` is True if the replacement is possible: what a backend supports, sizes, alignment.
    nan_lost : bool
        True if the replacement differs for NaN or infinity. The rule then applies only where the program checks for
        values that are not finite.
    new : dict of str to callable, optional
        For tensors that only the replacement has: ``new[name](match)`` is its (shape, dtype).
    """

    def __init__(
        self,
        before: str,
        after: str,
        *,
        when: Callable[[Match], bool] | None = None,
        nan_lost: bool = False,
        new: Mapping[str, Callable[[Match], ShapeAndType]] | None = None,
    ) -> None:
        self.text = f"{before}  →  {after}"
        self.before = parse(before)
        self.after = parse(after)
        self.when = when
        self.nan_lost = nan_lost
        self.new = dict(new or {})
        self.names = frozenset(call.name for call in self.before)
        written = {x for call in self.after for x in call.outputs}
        self.removed = tuple(x for call in self.before for x in call.outputs if x not in written)
        self.groups = self._groups()
        known = {x for call in self.before for x in (*call.outputs, *(name for name, _ in call.inputs))}
        unknown = written - known - set(self.new)
        if unknown:
            raise ValueError(f"rule {self.text}: the layout of {min(unknown)} is unknown, pass new=")

    def _groups(self) -> list[list[int]]:
        """The ops of the pattern that each op of the replacement replaces.

        An op whose results are all removed belongs to the op that replaces the first reader of them.
        """
        owner: dict[int, int] = {}
        for k in reversed(range(len(self.before))):
            outputs = set(self.before[k].outputs)
            written = [g for g, call in enumerate(self.after) if outputs & set(call.outputs)]
            readers = [owner[j] for j in sorted(owner) if any(name in outputs for name, _ in self.before[j].inputs)]
            owner[k] = (*written, *readers, len(self.after) - 1)[0]
        return [[k for k in sorted(owner) if owner[k] == g] for g in range(len(self.after))]

    def __repr__(self) -> str:
        return f"Rule({self.text})"


class _Graph:
    """The producers, readers and positions of a program's ops, kept current while rules are applied."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.by_name: dict[str, list[Op]] = {}
        self.producer: dict[Tensor, Op] = {}
        self.readers: dict[Tensor, list[Op]] = {}
        self.outputs = {x.base for x in program.outputs}
        for op in program.ops:
            self._add(op)
        self.number()

    def number(self) -> None:
        """Number the ops in their order."""
        self.position = {op: k for k, op in enumerate(self.program.ops)}

    def _add(self, op: Op) -> None:
        self.by_name.setdefault(op.name, []).append(op)
        for x in op.outputs:
            self.producer[x] = op
        for view in op.inputs:
            self.readers.setdefault(view.base, []).append(op)

    def replace(self, old: Sequence[Op], new: Sequence[Op]) -> None:
        """Forget the ops that were replaced, and add the new ones."""
        for op in old:
            same = self.by_name[op.name]
            same.remove(op)
            if not same:
                del self.by_name[op.name]
            for view in op.inputs:
                readers = self.readers[view.base]
                if op in readers:
                    readers.remove(op)
        for op in new:
            self._add(op)
        self.number()


def rewrite(program: Program, rules: Iterable[Rule], *, verify: bool = False) -> None:
    """Apply the rules in their order, each until it matches nowhere. `verify` checks the program each time."""
    graph = _Graph(program)
    for rule in rules:
        if not rule.names <= graph.by_name.keys() or (rule.nan_lost and not program.nan_checked):
            continue
        refused: set[Op] = set()  # the last ops of matches that `when` refused
        while rule.names <= graph.by_name.keys() and (match := _find(rule, graph, refused)) is not None:
            _replace(rule, match, graph)
            if verify:
                program.verify()


def _find(rule: Rule, graph: _Graph, refused: set[Op]) -> Match | None:
    """The first match that is possible and legal."""
    for op in graph.by_name[rule.before[-1].name]:
        if op in refused:
            continue
        for ops, tensors in _matches(rule, graph, len(rule.before) - 1, op, (), {}):
            match = Match(graph.program, ops, tensors)
            if rule.when is not None and not rule.when(match):
                refused.add(op)
            elif _is_legal(rule, graph, ops, tensors):
                return match
    return None


def _matches(
    rule: Rule, graph: _Graph, k: int, op: Op, later: tuple[Op, ...], tensors: dict[str, Tensor]
) -> Iterable[tuple[tuple[Op, ...], dict[str, Tensor]]]:
    """Yield the ops of all matches in which `op` is the k-th op of the pattern, and `later` are those after it."""
    found = _unify(rule.before[k], op, tensors)
    if found is None:
        return
    ops = (op, *later)
    if k == 0:
        yield ops, found
        return
    for candidate in _candidates(rule.before[k - 1], graph, found):
        if candidate not in ops and graph.position[candidate] < graph.position[op]:
            yield from _matches(rule, graph, k - 1, candidate, ops, found)


def _candidates(call: Call, graph: _Graph, tensors: dict[str, Tensor]) -> list[Op]:
    """The ops that write or read a tensor which is known by now."""
    for name in call.outputs:
        if name in tensors:
            op = graph.producer.get(tensors[name])
            return [op] if op is not None and op.name == call.name else []
    for name, _ in call.inputs:
        if name in tensors:
            return [op for op in graph.readers.get(tensors[name], ()) if op.name == call.name]
    return graph.by_name.get(call.name, [])


def _unify(call: Call, op: Op, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """`tensors` with those of the op by the pattern's names. None if they contradict."""
    if op.name != call.name or len(op.inputs) != len(call.inputs) or len(op.outputs) != len(call.outputs):
        return None
    found = dict(tensors)
    for (name, transposed), x in zip(call.inputs, op.inputs, strict=True):
        if x.transposed != transposed or found.setdefault(name, x.base) is not x.base:
            return None
    for name, y in zip(call.outputs, op.outputs, strict=True):
        if found.setdefault(name, y) is not y:
            return None
    return found


def _is_legal(rule: Rule, graph: _Graph, ops: tuple[Op, ...], tensors: dict[str, Tensor]) -> bool:
    """True if the removed tensors are not needed, and each op of the replacement can compute what it replaces."""
    # one tensor may have several names in a pattern
    read = {tensors[name] for call in rule.after for name, _ in call.inputs if name in tensors}
    for name in rule.removed:
        x = tensors[name]
        if (
            x in read
            or x.place is not None
            or x in graph.outputs
            or any(r not in ops for r in graph.readers.get(x, ()))
        ):
            return False
    return all(_is_convex(graph, [ops[k] for k in group]) for group in rule.groups if len(group) > 1)


def _is_convex(graph: _Graph, ops: Sequence[Op]) -> bool:
    """True if no other op depends on one of the ops and is needed by another, and no effect is between them."""
    first, last = graph.position[ops[0]], graph.position[ops[-1]]
    effects = Tracker()
    for op in ops:
        effects.record(0, *op.effects())
    inside: set[Tensor] = set()  # the results of the ops
    outside: set[Tensor] = set()  # the results of other ops that depend on them
    for op in graph.program.ops[first : last + 1]:
        read = {x.base for x in op.inputs}
        if op in ops:
            if read & outside:
                return False
            inside.update(op.outputs)
        else:
            if effects.find(*op.effects()):
                return False
            if read & inside or read & outside:
                outside.update(op.outputs)
    return True


def _replace(rule: Rule, match: Match, graph: _Graph) -> None:
    """Insert the new ops and remove the matched ones."""
    program = graph.program
    tensors = dict(match.tensors)
    for name, layout in rule.new.items():
        shape, dtype = layout(match)
        tensors[name] = program.new_tensor(shape, dtype, batch=True)
    replacements: dict[Op, list[Op]] = {}
    new = []
    for call in rule.after:
        op, anchor = _new_op(rule, call, match, tensors)
        replacements.setdefault(anchor, []).append(op)
        new.append(op)
    ops = []
    for op in program.ops:
        if op in replacements:
            ops += replacements[op]
        if op not in match.ops:
            ops.append(op)
    program.ops = ops
    if not _is_ordered(program, new, graph):
        program.sort()
    graph.replace(match.ops, new)


def _new_op(rule: Rule, call: Call, match: Match, tensors: Mapping[str, Tensor]) -> tuple[Op, Op]:
    """The op of a replacement, and the matched op whose position it takes: the first that wrote one of its outputs.

    Scalars are those of all matched ops that wrote one of its outputs.
    """
    sharing = [
        op for pattern, op in zip(rule.before, match.ops, strict=True) if set(pattern.outputs) & set(call.outputs)
    ] or [match.ops[-1]]
    inputs: list[View] = [tensors[name].T if transposed else tensors[name] for name, transposed in call.inputs]
    scalars = {k: v for op in sharing for k, v in op.scalars.items()}
    made = Op(
        call.name,
        inputs,
        [tensors[name] for name in call.outputs],
        scalars,
        kernel=kernel(call.name) if call.name in DEFINITIONS else None,
        count=sharing[0].count,
        section=sharing[0].section,
        partial=any(op.partial for op in sharing),
    )
    return made, sharing[0]


def _is_ordered(program: Program, new: Sequence[Op], graph: _Graph) -> bool:
    """True if the new ops follow the writers of their inputs and precede the readers of their outputs."""
    position = {op: k for k, op in enumerate(program.ops)}
    written = {x: op for op in new for x in op.outputs}
    for op in new:
        here = position[op]
        for view in op.inputs:
            producer = written.get(view.base) or graph.producer.get(view.base)
            if producer in position and position[producer] >= here:
                return False
        for x in op.outputs:
            if any(position.get(reader, here + 1) <= here for reader in graph.readers.get(x, ())):
                return False
    return all(a.section <= b.section for a, b in itertools.pairwise(program.ops))
