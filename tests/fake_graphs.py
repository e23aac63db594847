"""Streams, events and graphs of the fake CuPy: what is launched while a stream captures is kept, not run, until the
graph is launched. A capture is checked as a GPU would punish it: a stream that captures nothing, work left on a branch
that was not joined, and two launches that touch the same bytes on branches that do not wait for one another all raise.
"""

import functools
import types

import numpy as np

DEFAULT = types.SimpleNamespace(ptr=0)  # the stream that is current where no other is


class Op:
    """A launch of a capture: what it does, the bytes that it reads and writes, and the launches known to be over."""

    def __init__(self, run, reads, writes, before):
        self.run, self.reads, self.writes, self.before = run, reads, writes, before


class Capture:
    """A capture under way, by the stream that began it; `over[stream]` are the launches that a stream comes after."""

    def __init__(self, origin):
        self.origin, self.ops, self.over = origin, [], {origin: frozenset()}

    def record(self, stream, run, reads, writes):
        if stream not in self.over:
            raise RuntimeError("cudaErrorStreamCaptureIsolation: a launch on a stream that does not capture")
        op = Op(run, reads, writes, self.over[stream])
        for k, other in enumerate(self.ops):
            clash = _overlap(op.writes, other.reads + other.writes) or _overlap(op.reads, other.writes)
            if clash and k not in op.before:
                raise RuntimeError(f"launches {k} and {len(self.ops)} of a capture race for the same bytes")
        self.over[stream] = op.before | {len(self.ops)}
        self.ops.append(op)


def run_or_record(state, function, arguments, written):
    """Run function(*arguments), the first of them the arrays and scalars of a launch, or keep it where a capture is
    under way."""
    if isinstance(state.capturing, Capture):
        touched = [a for a in arguments[0] if isinstance(a, np.ndarray)]
        state.capturing.record(state.stream, functools.partial(function, *arguments), touched, written)
    else:
        function(*arguments)


def _overlap(some, others):
    return any(np.may_share_memory(a, b) for a in some for b in others)


class Graph:
    """The launches of a capture; launched, it runs them in the order in which they were captured."""

    def __init__(self, state, ops):
        self._state, self._ops = state, ops

    def launch(self, stream=None):
        self._state.saw(f"graph of {len(self._ops)}", forbidden=True)
        for op in self._ops:
            op.run()


def add_to(cuda, state):
    """Give the fake's module `cuda` its streams."""

    class Event:
        def __init__(self, block=False, disable_timing=False, interprocess=False):
            self.over = None

    class Stream:
        def __init__(self, null=False, non_blocking=False):
            self.ptr, self.non_blocking = id(self), non_blocking

        def __enter__(self):
            self._before, state.stream = state.stream, self
            return self

        def __exit__(self, *_):
            state.stream = self._before

        def begin_capture(self, mode=None):
            if state.capturing:
                raise RuntimeError("cudaErrorIllegalState: a capture is under way")
            if not self.non_blocking:
                raise RuntimeError("a stream that waits for the default stream was to capture")
            state.capturing = Capture(self)

        def end_capture(self):
            capture, state.capturing = state.capturing, False
            if capture.origin is not self:
                raise RuntimeError("cudaErrorStreamCaptureUnmatched")
            if capture.over[self] != frozenset(range(len(capture.ops))):
                raise RuntimeError("cudaErrorStreamCaptureUnjoined: work was left on another stream")
            return Graph(state, capture.ops)

        def record(self, event=None):
            event = Event() if event is None else event
            if state.capturing:
                event.over = state.capturing.over[self]
            return event

        def wait_event(self, event):
            if state.capturing:
                mine = state.capturing.over.get(self, frozenset())
                state.capturing.over[self] = mine | event.over

    cuda.Stream, cuda.Event, cuda.Graph = Stream, Event, Graph
    cuda.get_current_stream = lambda: state.stream
