"""A trained network together with the encoding of its table."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np

from ..interchange import onnx
from ..model import Sequential
from ..training import checkpoint
from ..training.checkpoint import CheckpointError
from .cells import Frame, place
from .csv_file import read_csv
from .encoder import TableEncoder

_log = logging.getLogger("gpunn")


class TableModel:
    """A network with the encoding of its table, as saved by `gpunn train`.

    Parameters
    ----------
    net : Sequential
        The trained network.
    encoder : TableEncoder
        The encoding of the table's columns.
    source : str
        A description of the training table.
    """

    def __init__(self, net: Sequential, encoder: TableEncoder, source: str = "") -> None:
        self.net = net
        self.encoder = encoder
        self.source = source

    @property
    def target(self) -> str:
        """The name of the predicted column."""
        return self.encoder.target.name

    def predict(self, table: Frame | str | os.PathLike[str]) -> np.ndarray:
        """Predict the target of every row.

        Parameters
        ----------
        table : pandas.DataFrame, str or path
            A table or a CSV file, see `read_csv`. Columns are found by name; other columns are ignored. In a CSV file
            a cell is missing if it is empty or "?", and in a numeric column also if it is "-", NA, NaN, null, None or
            similar. In a numeric column other text counts as missing, too. A category that training did not see
            counts as none. `logging` reports the numbers of such cells.

        Returns
        -------
        ndarray (n,)
            Labels as the user wrote them, or numbers in the user's units.

        Raises
        ------
        TypeError
            `table` is neither a DataFrame nor a path.
        ValueError
            A column is missing, or a number is so large that the output is not finite.
        """
        if isinstance(table, (str, os.PathLike)):
            table = read_csv(table, self.encoder.as_written, self.encoder.missing)
        elif not hasattr(table, "columns") or not hasattr(table, "iloc"):
            raise TypeError(f"table must be a pandas DataFrame or the path of a CSV file, got {type(table).__name__}")
        if len(table) == 0:
            raise ValueError("table must have at least one row, got no rows")
        X, notes = self.encoder.encode(table)
        for note in notes:
            _log.warning(note)
        outputs = self.encoder.target.outputs(self.net, X)
        finite = np.isfinite(outputs).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"the network's output for {place(table, int(finite.argmin()))} is not finite: its numbers are too far "
                "from those of the training rows"
            )
        return self.encoder.target.decode(outputs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write network and encoder to a safetensors file, atomically. `gpunn.load` opens it."""
        tensors, net = self.net.to_tensors()
        table = {**self.encoder.get_config(), "source": self.source}
        checkpoint.write(path, tensors, {"kind": "table", "net": net, "table": table})

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write network and encoder as one ONNX graph, atomically.

        The graph has one input (N, 1) per column, by name: float64 for numbers, NaN if missing; text for categories,
        the empty text if missing. For classes its outputs are "label" (N,) and "probabilities" (N, number of labels);
        for numbers "variable" (N,), float64 in the target's units. They equal what `predict` returns.

        Parameters
        ----------
        path : str or path
            The file to write. An existing file stays unchanged if writing fails.

        Raises
        ------
        ImportError
            onnx is not installed (extra `onnx`).
        ValueError
            A layer or an activation is user-defined.
        OSError
            The file cannot be written.
        """
        onnx.write(onnx.table(self.net, self.encoder), path)

    @classmethod
    def from_tensors(
        cls,
        tensors: dict[str, np.ndarray],
        metadata: dict[str, Any],
        *,
        custom: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> TableModel:
        """The inverse of `save`. CheckpointError if encoder and network do not fit each other."""
        net = Sequential.from_tensors(tensors, metadata["net"], custom=custom, device=device)
        try:
            encoder = TableEncoder.from_config(metadata["table"])
        except ValueError as error:
            raise CheckpointError(f"the encoding of the table's columns is invalid: {error}") from error
        width = sum(column.width for column in encoder.columns)
        if width != metadata["net"]["n_in"]:
            raise CheckpointError(f"the columns make {width} inputs, but the network has {metadata['net']['n_in']}")
        if encoder.target.n_out != net._net.n_out:
            raise CheckpointError(
                f"the target {encoder.target.name!r} needs {encoder.target.n_out} outputs, but the network has "
                f"{net._net.n_out}"
            )
        return cls(net, encoder, metadata["table"]["source"])

    def __repr__(self) -> str:
        return f"TableModel({self.target!r} from {len(self.encoder.columns)} columns, {self.net!r})"
