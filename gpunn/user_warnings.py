"""Warnings that name a line of the user's code, not of the library that issues them."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# packages between a user's call and gpunn's code
LIBRARIES = ("gpunn", "sklearn", "joblib", "concurrent", "threading", "contextlib")


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line outside of gpunn and of the libraries that call it.

    In a thread of gpunn there is no such line, and the line of the caller is named.
    """
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=2 if frame is None else level)
