"""The picture of a training's curves."""

from __future__ import annotations

import io
from typing import Any

from ..training import History


def new_figure() -> Any:
    """An empty matplotlib figure. ImportError names the extra if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('the picture of the curves needs matplotlib: pip install "gpunn[plot]"') from None
    return Figure(figsize=(9, 3.6), layout="constrained")


def draw(figure: Any, history: History, target: str, scale: float | None, title: str, *, has_dropout: bool) -> None:
    """Draw the loss and the metric of the training and the validation rows over the epochs.

    `scale` is the unit of a numeric target, None for classes.
    """
    metric, scales, labels = "accuracy", {}, {"loss": "cross-entropy"}
    if scale is not None:
        metric = "mean_absolute_error"
        scales = {metric: scale}
        labels = {"loss": "half squared error, standardized", metric: plain(f"mean absolute error of {target}")}
    names = ("training, with dropout" if has_dropout else "training", "validation")
    history.plot(["loss", metric], axes=figure.subplots(1, 2), labels=labels, scales=scales, names=names)
    figure.suptitle(plain(title))


def as_png(figure: Any, tag: str) -> bytes:
    """The figure as a PNG file with a tag in its metadata."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Description": tag})
    return file.getvalue()


def plain(text: str) -> str:
    """Text that matplotlib does not parse as a formula."""
    return text.replace("$", r"\$")
