"""The numbers of every epoch as lines of a CSV file."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from typing import Any

from ...validation import boolean
from ..checkpoint import stat_regular_file
from .base import Callback, Logs


class CSVLogger(Callback):
    """Write a line an epoch to a CSV file: the epoch, counted from 0, and all that its logs hold, in full precision.

    path    the file. A fit that begins replaces it; one that is resumed goes on with it, and epochs that it held beyond
            the checkpoint are gone: none is there twice
    append  go on with what is there in every fit, below the header that is there

    The file is closed after every line, so that it can be read at any time. OSError where it cannot be written or is no
    regular file; ValueError where it is to be gone on with but has other columns than the epoch.
    """

    passive = True

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = os.fspath(path)
        if not isinstance(self.path, str):
            raise TypeError(f"path must be text, got {path!r}")
        self.append = boolean("append", append)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._columns: list[str] = []
        # how much of the file is kept, and in the first minute whether it can be written; None is all
        self._kept: int | None = None if self.append else 0
        with contextlib.suppress(FileNotFoundError):
            # opening a pipe blocks until there is a reader
            stat_regular_file(self.path)
        with open(self.path, "ab"):
            pass

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        numbers = {"epoch": epoch, **(logs or {})}
        if not self._columns:
            self._columns = self._begin(list(numbers))
        self._write(numbers.get(name, "") for name in self._columns)

    def _begin(self, columns: list[str]) -> list[str]:
        """Cut the file to what is kept of it, whole lines; the columns in the order of its header, which may be new."""
        with open(self.path, "rb+") as file:
            there = file.read(self._kept)
            if self._kept is None and there and not there.endswith(b"\n"):
                file.write(b"\n")
            elif self._kept is not None:
                file.truncate(there.rfind(b"\n") + 1)
        with open(self.path, newline="", encoding="utf-8") as lines:
            header = next(csv.reader(lines), None)
        if header is None:
            self._write(columns)
            return columns
        if sorted(header) != sorted(columns):
            raise ValueError(
                f"{self.path} has the columns {', '.join(header)}, but an epoch gives {', '.join(columns)}: "
                "name another file, or leave append=True out"
            )
        return header

    def _write(self, cells: Any) -> None:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(cells)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            file.write(line.getvalue())

    def get_state(self) -> dict[str, Any]:
        return {"size": os.path.getsize(self.path) if os.path.exists(self.path) else 0}

    def set_state(self, state: dict[str, Any]) -> None:
        self._kept = int(state["size"])
