"""The record of a fit."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import partial
from typing import Any


class History:
    """What `fit` returns: `history` maps each name (loss, accuracy, val_loss, …) to one number an epoch.

    `epoch` lists the epochs' numbers from 0; a second `fit` begins a History of its own. There is no time in it: two
    runs of one seed have equal histories. A number that a callback adds in some epochs only is NaN in the others.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def add(self, epoch: int, logs: dict[str, float]) -> None:
        """Append one epoch's numbers; NaN for what other epochs have and this one has not, and the other way round."""
        for name in logs:
            self.history.setdefault(name, [math.nan] * len(self.epoch))
        for name, values in self.history.items():
            values.append(logs.get(name, math.nan))
        self.epoch.append(epoch)

    def to_frame(self) -> Any:
        """A pandas DataFrame: a row an epoch, by its number from 0, and a column a name. ImportError names the extra
        where pandas is absent."""
        try:
            from pandas import DataFrame, Index
        except ImportError:
            raise ImportError('History.to_frame needs pandas: pip install "gpunn[cli]"') from None
        return DataFrame(self.history, index=Index(self.epoch, name="epoch", dtype="int64"), dtype="float64")

    def plot(
        self,
        metrics: str | Sequence[str] | None = None,
        *,
        axes: Any = None,
        labels: dict[str, str] | None = None,
        scales: dict[str, float] | None = None,
        names: tuple[str, str] = ("training", "validation"),
    ) -> Any:
        """Draw loss and metrics over the epochs, training against validation, one panel each; returns the Figure.

        metrics  which, without their val_ forms, in this order; None is all: first the loss, then the others
        axes     matplotlib axes to draw on, as many as there are panels; None makes a figure of its own, which belongs
                 to no window and no pyplot: `figure.savefig("curves.png")`, or the last line of a notebook's cell
        labels   {name: what stands at the panel's axis}, with units say; the name unless given
        scales   {name: by what its numbers are multiplied}, to bring them to those units
        names    what the curves of training and of validation are called

        Epochs are counted from 1 here. ImportError names the extra where matplotlib is absent; ValueError where there
        is no such metric, no epoch, or another number of axes.
        """
        panels = self._panels(metrics)
        figure, on = _axes(axes, len(panels))
        epochs = [epoch + 1 for epoch in self.epoch]
        # a curve of few epochs shows where each of them is
        style: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(epochs) <= 30 else {}
        for ax, name in zip(on, panels, strict=True):
            scale, both = (scales or {}).get(name, 1.0), f"val_{name}" in self.history
            for curve, what, line in zip((name, f"val_{name}"), names, ("-", "--"), strict=True):
                if curve in self.history:
                    ax.plot(epochs, [scale * v for v in self.history[curve]], line, label=what, **style)
            ax.set(xlabel="epoch", ylabel=(labels or {}).get(name, name.replace("_", " ")))
            ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            ax.margins(x=0.02)
            if name == "learning_rate":
                ax.set_yscale("log")
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
            if both:
                ax.legend(frameon=False)
        return figure

    def _panels(self, metrics: str | Sequence[str] | None) -> list[str]:
        if not self.epoch:
            raise ValueError("there is nothing to plot: the history has no epoch")
        there = [name for name in self.history if name.removeprefix("val_") not in self.history or name[:4] != "val_"]
        if metrics is None:
            return sorted(there, key=lambda name: name != "loss")
        asked = [metrics] if isinstance(metrics, str) else list(metrics)
        for name in asked:
            if name not in there:
                raise ValueError(f"metrics: there is no {name!r} in the history, but {', '.join(there)}")
        if not asked:
            raise ValueError("metrics is empty; None plots all")
        return asked

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items())
        return f"History({len(self.epoch)} epochs; last: {last})" if self.epoch else "History(0 epochs)"


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _axes(given: Any, count: int) -> tuple[Any, list[Any]]:
    """The figure, and the axes of the panels, the user's or new ones: at most three beside one another."""
    if given is None:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError('History.plot needs matplotlib: pip install "gpunn[plot]"') from None
        columns = min(count, 3 if count != 4 else 2)
        rows = -(-count // columns)
        figure: Any = Figure(figsize=(4.5 * columns, 3.4 * rows), layout="constrained")
        # a notebook shows figures of pyplot by itself, others where they say how
        figure._repr_png_ = partial(_png, figure)
        on = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in on[count:]:
            ax.remove()
        return figure, list(on[:count])
    several = given.ravel() if hasattr(given, "ravel") else given
    own = list(several) if hasattr(several, "__len__") else [several]
    if len(own) != count:
        raise ValueError(f"axes: there are {count} panels to draw, but {len(own)} axes")
    return own[0].figure, own
