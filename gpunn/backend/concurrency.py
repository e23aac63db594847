"""Courses taken side by side: iterators that give epochs to be taken, and go on with what they came to.

A course is told of what ends it early, Ctrl-C say, by that error raised in it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from .cpu.blas import one_thread
from .epoch_runner import Epochs

Course = Generator[Epochs, None, Any]


class Stopped(BaseException):
    """Another course failed, or somebody interrupts: what is raised in the courses that this ends."""


def drive(course: Course, seconds: float, look: Callable[[], None]) -> None:
    """Take one course to its end; `look`, called between stretches of so many seconds, raises what stops it."""
    for epochs in course:
        try:
            while not epochs.go(seconds):
                look()
            look()
        except BaseException as error:
            course.throw(error)
            raise


def in_turn(
    courses: Sequence[Course],
    seconds: float,
    look: Callable[[], None],
    merge: Callable[[Sequence[Epochs]], Sequence[Epochs]] = lambda asked: asked,
) -> None:
    """All courses in one thread and in step: each takes what it asks for, then the next; `merge` makes fewer of what
    all of them ask for at a time."""
    under_way = list(courses)
    try:
        while under_way:
            asked = [(course, next(course, None)) for course in under_way]
            under_way = [course for course, epochs in asked if epochs is not None]
            for epochs in merge([epochs for _, epochs in asked if epochs is not None]):
                while not epochs.go(seconds):
                    look()
                look()
    except BaseException as error:
        for course in under_way:
            with contextlib.suppress(Stopped, StopIteration):
                course.throw(Stopped(str(error)))
        raise


def in_threads(courses: Sequence[Course], seconds: float, look: Callable[[], None], threads: int) -> None:
    """Courses in so many threads, each of them taken by one thread from its beginning to its end."""
    stop = threading.Event()

    def look_there() -> None:
        if stop.is_set():
            raise Stopped("another course failed, or somebody interrupts")

    def take(course: Course) -> None:
        look_there()
        try:
            drive(course, seconds, look_there)
        except BaseException:
            stop.set()  # before this thread takes the next
            raise

    with one_thread(), ThreadPoolExecutor(max(1, threads), "gpunn") as pool:
        futures = [pool.submit(take, course) for course in courses]
        try:
            left: Any = futures
            while left and not any(future.exception() for future in futures if future.done()):
                left = wait(left, timeout=seconds, return_when=FIRST_EXCEPTION).not_done
                look()
        finally:
            # a course that was not begun is not begun any more, and the others end within those seconds
            stop.set()
    errors = [error for future in futures if (error := future.exception()) is not None]
    # the first that is not the echo of another
    for error in [e for e in errors if not isinstance(e, Stopped)] or errors:
        raise error
