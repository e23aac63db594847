"""Tables for the tests of this folder."""

import numpy as np

from gpunn.tabular import TableEncoder
from gpunn.tabular.targets import infer_target


def encoder_of(frame, target="y", rows=None, task="auto"):
    """The encoder of a table, learned from all rows unless `rows` names some."""
    learned, _ = infer_target(frame[target], task)
    return TableEncoder.from_training_rows(frame, learned, np.arange(len(frame)) if rows is None else np.array(rows))


def written(folder, text, name="table.csv"):
    """The path of a new file with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
