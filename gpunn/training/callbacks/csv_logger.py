"""Write the logs of every epoch to a CSV file."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterable

from ...validation import boolean
from ..files import stat_regular_file
from .base import Callback, Logs, saved_number


class CSVLogger(Callback):
    """Write one line per epoch to a CSV file: the epoch, counted from 0, and its logs in full precision.

    A new fit replaces the file. A resumed fit continues it and removes lines of epochs after the checkpoint, so that no
    epoch appears twice. The file is closed after every line, so that it can be read at any time.

    Parameters
    ----------
    path : path-like
        The CSV file.
    append : bool, default False
        Continue an existing file in every fit, with the columns of its header.

    Raises
    ------
    OSError
        If `path` cannot be written or is not a regular file.
    ValueError
        If an existing file has other columns than the logs.
    """

    passive = True

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = os.fspath(path)
        if not isinstance(self.path, str):
            raise TypeError(f"path must be text, got {path!r}")
        self.append = boolean("append", append)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._columns: list[str] = []
        self._bytes_kept: int | None = None if self.append else 0  # None keeps the whole file
        with contextlib.suppress(FileNotFoundError):
            # opening a pipe blocks until there is a reader
            stat_regular_file(self.path)
        # a file that cannot be written must raise here and not after the first epoch
        with open(self.path, "ab"):
            pass

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        values = {"epoch": epoch, **(logs or {})}
        if not self._columns:
            self._columns = self._open(list(values))
        self._write(values.get(name, "") for name in self._columns)

    def _open(self, columns: list[str]) -> list[str]:
        """Truncate the file to the lines to keep and return its columns. Write a header to an empty file."""
        with open(self.path, "rb+") as file:
            content = file.read(self._bytes_kept)
            if self._bytes_kept is None and content and not content.endswith(b"\n"):
                file.write(b"\n")
            elif self._bytes_kept is not None:
                file.truncate(content.rfind(b"\n") + 1)
        with open(self.path, newline="", encoding="utf-8") as lines:
            header = next(csv.reader(lines), None)
        if header is None:
            self._write(columns)
            return columns
        if sorted(header) != sorted(columns):
            raise ValueError(
                f"{self.path} has the columns {', '.join(header)}, but the logs have {', '.join(columns)}: use another "
                "file or append=False"
            )
        return header

    def _write(self, cells: Iterable[object]) -> None:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(cells)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            file.write(line.getvalue())

    def get_state(self) -> dict[str, object]:
        return {"size": os.path.getsize(self.path) if os.path.exists(self.path) else 0}

    def set_state(self, state: dict[str, object]) -> None:
        self._bytes_kept = int(saved_number(state, "size"))
