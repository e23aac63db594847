"""The C++ headers of this package. Generated sources contain their text, since NVRTC finds no files of this package."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from ..state import STATE_ENUM
from .vector_math import ULP

# headers that are included only where code uses them, since compiling one may take as long as compiling a module
_USES = {
    "philox.h": re.compile(r"\bphilox_rounds\b"),
    "vector_math.h": re.compile(rf"\b({'|'.join(ULP)})\s*\("),
}


@functools.cache
def header(name: str) -> str:
    """The text of a header, read at its first use."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@functools.cache
def preamble(*names: str) -> str:
    """The beginning of all sources (entries of the state array, VECTOR_LOOP, Bfloat16), then the named headers."""
    return "".join([STATE_ENUM, *map(header, ("vector_loop.h", "bfloat16.h", *names))])


@functools.cache
def cuda_preamble(*names: str) -> str:
    """The preamble of a source for a GPU."""
    return "#define GPUNN_DEVICE __device__\n" + preamble(*names)


def used_headers(code: str, *names: str) -> list[str]:
    """The headers among `names` that the code uses."""
    return [name for name in names if _USES[name].search(code)]
