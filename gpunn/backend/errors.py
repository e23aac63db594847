"""Device errors and warnings, and the description of a fault with its remedy."""

from __future__ import annotations

from dataclasses import dataclass

BRIEF = 120  # characters of a quoted message


class DeviceFallbackWarning(UserWarning):
    """Issued once if `device="auto"` finds CuPy but no usable GPU. The message gives the reason."""


class DeviceError(RuntimeError):
    """Raised if the requested device cannot be used. The message gives the reason and the remedy."""


class OpRefused(RuntimeError):
    """Raised if a device cannot bind an op that a rewrite rule introduced. The rule no longer applies to such an op, so
    that a program which is recorded again can be bound."""


@dataclass(frozen=True)
class Fault:
    """One fault of an installation or a device.

    Attributes
    ----------
    kind : str
        One word, such as "driver" or "memory".
    verdict : str
        The fault in one line.
    remedy : str
        The action that repairs it.
    """

    kind: str
    verdict: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.verdict}. Remedy: {self.remedy}"


def brief(error: BaseException) -> str:
    """Type and first line of an error message, at most `BRIEF` characters.

    CuPy's page of advice on a failed import contains the original error; that line is returned instead of the first.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip("= \t")]
    cause = [line for line in lines if line.startswith(("ImportError:", "ModuleNotFoundError:"))]
    text = cause[0] if cause else f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"
    return text if len(text) <= BRIEF else text[: BRIEF - 3] + "..."
