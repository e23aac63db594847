"""Streams, events and graphs of the fake CuPy: what a capturing stream launches is stored, and runs with the graph.

A capture raises where a GPU would fail: for a launch on a stream that does not capture, for work on a stream that was
not joined, and for two launches that touch the same bytes on streams that do not wait for each other.
"""

import functools
import re
import threading

import numpy as np

from gpunn.kernels.state import StateEntry


class Op:
    """A captured launch: its function, the byte ranges that it reads and writes, and the launches that precede it."""

    def __init__(self, run, reads, writes, before):
        self.run, self.reads, self.writes, self.before = run, reads, writes, before


class Capture:
    """A capture in progress, by the stream that began it. `done[stream]` are the launches that a stream follows."""

    def __init__(self, origin):
        self.origin, self.ops, self.done = origin, [], {origin: frozenset()}
        self.thread = threading.get_ident()  # other threads are unaffected: the capture is a relaxed one

    def record(self, stream, run, reads, writes):
        if stream not in self.done:
            raise RuntimeError("cudaErrorStreamCaptureIsolation: a launch on a stream that does not capture")
        op = Op(run, reads, writes, self.done[stream])
        for k, other in enumerate(self.ops):
            clash = _overlap(op.writes, other.reads + other.writes) or _overlap(op.reads, other.writes)
            if clash and k not in op.before:
                raise RuntimeError(f"launches {k} and {len(self.ops)} of a capture race for the same bytes")
        self.done[stream] = op.before | {len(self.ops)}
        self.ops.append(op)


def active_capture(state):
    """The capture that forbids this thread to wait, copy and allocate. True, set by a test, applies to all threads."""
    mine = getattr(state.capturing, "thread", None) in (None, threading.get_ident())
    return state.capturing if mine else False


def run_or_record(state, function, arguments, written, names=(), source=""):
    """Run function(*arguments), or store it during a capture. The first argument lists the operands of a launch.

    Of an array that a source calls `state`, only the entries that it names count as read or written.
    """
    capture = active_capture(state)
    if isinstance(capture, Capture):
        whole = [a for name, a in zip(names, arguments[0], strict=False) if name == "state_"]
        entries = _entries(whole[0], source) if whole else []
        touched = [a for a in arguments[0] if isinstance(a, np.ndarray) and not any(a is x for x in whole)]
        written = [a for a in written if not any(a is x for x in whole)] + [a for a, set_ in entries if set_]
        touched += [a for a, _ in entries]
        capture.record(state.stream, functools.partial(function, *arguments), touched, written)
    else:
        function(*arguments)


def _entries(state, source):
    """(entry, written) for each entry that a source names, as in `state[LOSS]`, or the array if it names others."""
    named = re.findall(r"\bstate\[(\w+)\]( *[-+*/]?=(?!=))?", source)
    if len(named) < len(re.findall(r"\bstate\b", source)) - 1 or not {name for name, _ in named} <= set(
        StateEntry.__members__
    ):
        return [(state, True)]
    return [(state[StateEntry[name] : StateEntry[name] + 1], bool(assigned)) for name, assigned in named]


def _overlap(some, others):
    return any(np.may_share_memory(a, b) for a in some for b in others)


class Graph:
    """The launches of a capture. A launch of the graph runs them in the order of the capture."""

    def __init__(self, state, ops):
        self._state, self._ops = state, ops

    def launch(self, stream=None):
        self._state.record(f"graph of {len(self._ops)}", forbidden=True)
        for op in self._ops:
            op.run()


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.done, self.copies = frozenset(), []

    def synchronize(self):
        _execute(self.copies)


class Stream:
    """A stream of the state. A copy on a separate stream is executed when another stream or the host waits for it."""

    state = None

    def __init__(self, null=False, non_blocking=False):
        self.ptr, self.non_blocking, self.copies = 0 if null else id(self), non_blocking, []

    def __enter__(self):
        self._before, self.state.stream = self.state.stream, self
        return self

    def __exit__(self, *_):
        self.state.stream = self._before

    def begin_capture(self, mode=None):
        if self.state.capturing:
            raise RuntimeError("cudaErrorIllegalState: another capture is active")
        if not self.non_blocking:
            raise RuntimeError("a stream that waits for the default stream cannot capture")
        self.state.capturing = Capture(self)

    def end_capture(self):
        capture, self.state.capturing = self.state.capturing, False
        if capture.origin is not self:
            raise RuntimeError("cudaErrorStreamCaptureUnmatched")
        if capture.done[self] != frozenset(range(len(capture.ops))):
            raise RuntimeError("cudaErrorStreamCaptureUnjoined: work was left on another stream")
        return Graph(self.state, capture.ops)

    def record(self, event=None):
        event = Event() if event is None else event
        event.copies = list(self.copies)
        if capture := active_capture(self.state):
            event.done = capture.done[self]
        return event

    def wait_event(self, event):
        _execute(event.copies)
        if capture := active_capture(self.state):
            capture.done[self] = capture.done.get(self, frozenset()) | event.done

    def copy(self, into, host):
        """Start to copy. The host's numbers are read when the copy is executed."""
        if self is DEFAULT:
            into[...] = host
        else:
            self.copies.append(functools.partial(np.copyto, into, host))


def _execute(copies):
    while copies:
        copies.pop(0)()


DEFAULT = Stream(null=True)  # the current stream outside of all contexts


def add_to(cuda, state):
    """Add streams, events and graphs to the fake's module `cuda`."""
    Stream.state = state
    cuda.Stream, cuda.Event, cuda.Graph = Stream, Event, Graph
    cuda.get_current_stream = lambda: state.stream
    cuda.alloc_pinned_memory = bytearray
