"""Parsing of arguments, shared by the commands."""

from __future__ import annotations

import argparse
from typing import NoReturn

from ..parallel import mpi_rank_and_size


class UsageError(ValueError):
    """A request that cannot be carried out. The message gives the reason in one line."""


class CommandParser(argparse.ArgumentParser):
    """Report an invalid argument in one line, where argparse would print the whole usage first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def process_rank() -> int:
    """The rank of this process among those that mpiexec started, 0 without mpiexec."""
    started = mpi_rank_and_size()
    return 0 if started is None else started[0]


def n_processes() -> int:
    """The number of processes that mpiexec started, 1 without mpiexec."""
    started = mpi_rank_and_size()
    return 1 if started is None else started[1]


def positive_integers(text: str) -> tuple[int, ...]:
    """Parse positive integers, separated by commas."""
    return tuple(positive_integer(part) for part in text.split(","))


def positive_integer(text: str) -> int:
    """Parse a positive integer."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return value


def seed(text: str) -> int:
    """Parse an integer ≥ 0."""
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 2**63 - 1, got {text!r}")
    return int(text)


def dropout_rate(text: str) -> float:
    """Parse a number in [0, 1)."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be ≥ 0 and < 1, got {text!r}")
    return value


def positive_number(text: str) -> float:
    """Parse a positive number."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


learning_rate = positive_number


def names(text: str) -> tuple[str, ...]:
    """Parse names, separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
