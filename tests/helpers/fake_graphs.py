"""Streams, events and graphs of the fake CuPy: what is launched while a stream captures is kept, not run, until the
graph is launched. A capture is checked as a GPU would punish it: a stream that captures nothing, work left on a branch
that was not joined, and two launches that touch the same bytes on branches that do not wait for one another all raise.
"""

import functools
import re
import threading

import numpy as np

from gpunn.kernels.state import Slot


class Op:
    """A launch of a capture: what it does, the bytes that it reads and writes, and the launches known to be over."""

    def __init__(self, run, reads, writes, before):
        self.run, self.reads, self.writes, self.before = run, reads, writes, before


class Capture:
    """A capture under way, by the stream that began it; `over[stream]` are the launches that a stream comes after."""

    def __init__(self, origin):
        self.origin, self.ops, self.over = origin, [], {origin: frozenset()}
        self.thread = threading.get_ident()  # what other threads do meanwhile is allowed: the capture is a relaxed one

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


def active_capture(state):
    """The capture that forbids this thread to wait, to copy and to allocate; what tests set to true is everybody's."""
    mine = getattr(state.capturing, "thread", None) in (None, threading.get_ident())
    return state.capturing if mine else False


def run_or_record(state, function, arguments, written, names=(), text=""):
    """Run function(*arguments), the first of them the arrays and scalars of a launch, or keep it where a capture is
    under way. Of an array that a text calls state it touches the entries that it names."""
    capture = active_capture(state)
    if isinstance(capture, Capture):
        whole = [a for name, a in zip(names, arguments[0], strict=False) if name == "state_"]
        entries = _entries(whole[0], text) if whole else []
        touched = [a for a in arguments[0] if isinstance(a, np.ndarray) and not any(a is x for x in whole)]
        written = [a for a in written if not any(a is x for x in whole)] + [a for a, set_ in entries if set_]
        touched += [a for a, _ in entries]
        capture.record(state.stream, functools.partial(function, *arguments), touched, written)
    else:
        function(*arguments)


def _entries(state, text):
    """(entry, whether it is set) of all that a text names, `state[LOSS]`, or the array where it names others."""
    named = re.findall(r"\bstate\[(\w+)\]( *[-+*/]?=(?!=))?", text)
    if len(named) < len(re.findall(r"\bstate\b", text)) - 1 or not {name for name, _ in named} <= set(Slot.__members__):
        return [(state, True)]
    return [(state[Slot[name] : Slot[name] + 1], bool(how)) for name, how in named]


def _overlap(some, others):
    return any(np.may_share_memory(a, b) for a in some for b in others)


class Graph:
    """The launches of a capture; launched, it runs them in the order in which they were captured."""

    def __init__(self, state, ops):
        self._state, self._ops = state, ops

    def launch(self, stream=None):
        self._state.record(f"graph of {len(self._ops)}", forbidden=True)
        for op in self._ops:
            op.run()


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.over, self.copies = frozenset(), []

    def synchronize(self):
        _do(self.copies)


class Stream:
    """A stream of the state; what is copied on a stream of one's own arrives when somebody waits for it."""

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
            raise RuntimeError("cudaErrorIllegalState: a capture is under way")
        if not self.non_blocking:
            raise RuntimeError("a stream that waits for the default stream was to capture")
        self.state.capturing = Capture(self)

    def end_capture(self):
        capture, self.state.capturing = self.state.capturing, False
        if capture.origin is not self:
            raise RuntimeError("cudaErrorStreamCaptureUnmatched")
        if capture.over[self] != frozenset(range(len(capture.ops))):
            raise RuntimeError("cudaErrorStreamCaptureUnjoined: work was left on another stream")
        return Graph(self.state, capture.ops)

    def record(self, event=None):
        event = Event() if event is None else event
        event.copies = list(self.copies)
        if capture := active_capture(self.state):
            event.over = capture.over[self]
        return event

    def wait_event(self, event):
        _do(event.copies)
        if capture := active_capture(self.state):
            capture.over[self] = capture.over.get(self, frozenset()) | event.over

    def copy(self, into, host):
        """Begin to copy; the host's numbers are read when it is done."""
        if self is DEFAULT:
            into[...] = host
        else:
            self.copies.append(functools.partial(np.copyto, into, host))


def _do(copies):
    while copies:
        copies.pop(0)()


DEFAULT = Stream(null=True)  # the stream that is current where no other is


def add_to(cuda, state):
    """Give the fake's module `cuda` its streams."""
    Stream.state = state
    cuda.Stream, cuda.Event, cuda.Graph = Stream, Event, Graph
    cuda.get_current_stream = lambda: state.stream
    cuda.alloc_pinned_memory = bytearray
