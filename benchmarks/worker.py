"""The process of one contestant: `benchmarks.worker MODULE THREADS [CORE …]`. Requests are lines of JSON.

It is pinned to its cores before NumPy or a peer is imported, so that libraries see only these cores.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from typing import Any, TextIO

from .process import Unsupported


def main() -> None:
    """Import the contestant, report success or the error, and answer requests until the pipe is closed."""
    module, threads, *cores = sys.argv[1:]
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in cores])
    # stdout carries answers only; output of libraries goes to stderr
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    begun = time.perf_counter()
    try:
        contestant = importlib.import_module(module)
    except ImportError as error:
        _send(answers, {"absent": reason(error)})
        return
    # imported here because it imports NumPy
    session = importlib.import_module("benchmarks.session").Session(contestant, int(threads))
    _send(answers, session.info(time.perf_counter() - begun))
    for line in sys.stdin:
        try:
            _send(answers, {"answer": session.answer(json.loads(line))})
        except Unsupported as error:
            _send(answers, {"unsupported": str(error)})
        except Exception as error:
            _send(answers, {"error": reason(error)})


def _send(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def reason(error: BaseException) -> str:
    """An error in one line, without the names of folders on this machine."""
    text = (str(error).strip().splitlines() or [""])[0]
    text = re.sub(r"(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\"()]+[/\\])+", "", text)
    return f"{type(error).__name__}: {text[:200]}".rstrip(": ")


if __name__ == "__main__":
    main()
