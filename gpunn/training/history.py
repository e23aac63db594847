"""The losses and metrics of a fit, per epoch."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypedDict

from ..program import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame


class _Style(TypedDict, total=False):
    marker: str
    markersize: float


class History:
    """The losses and metrics of a fit, as returned by `fit`.

    ``history["loss"]`` is the list of one value per epoch, and iteration yields the names. A second `fit` returns a new
    History. It contains no times, so that two fits with the same seed have equal histories.

    Attributes
    ----------
    history : dict of list of float
        One value per epoch for each name: "loss", "accuracy", "val_loss", … A value that a callback adds in some epochs
        only is NaN in the others.
    epoch : list of int
        The epochs, counted from 0 as in Keras, in callbacks, `to_frame` and `CSVLogger` too. Only what is shown counts
        from 1: the progress bar, plots, messages, and the file names of `ModelCheckpoint`.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def add(self, epoch: int, logs: dict[str, float]) -> None:
        """Append the logs of one epoch. Names without a value in some epochs get NaN there."""
        for name in logs:
            self.history.setdefault(name, [math.nan] * len(self.epoch))
        for name, values in self.history.items():
            values.append(logs.get(name, math.nan))
        self.epoch.append(epoch)

    def __getitem__(self, name: str) -> list[float]:
        """The values of one name, per epoch. KeyError for an unknown name; it lists the names."""
        if name not in self.history:
            raise KeyError(f"{name!r} is not in the history, which has {', '.join(self.history)}")
        return self.history[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.history)

    def to_frame(self) -> DataFrame:
        """Return a pandas DataFrame with one row per epoch and one column per name.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            from pandas import DataFrame, Index
        except ImportError:
            raise ImportError('History.to_frame needs pandas: pip install "gpunn[cli]"') from None
        return DataFrame(self.history, index=Index(self.epoch, name="epoch", dtype="int64"), dtype="float64")

    def plot(
        self,
        metrics: str | Sequence[str] | None = None,
        *,
        axes: Axes | Sequence[Axes] | Array | None = None,
        labels: dict[str, str] | None = None,
        scales: dict[str, float] | None = None,
        names: tuple[str, str] = ("training", "validation"),
    ) -> Figure:
        """Plot losses and metrics over the epochs, one panel per metric, training against validation.

        Epochs are counted from 1 in the plot.

        Parameters
        ----------
        metrics : str or list of str, optional
            Names without "val_", in the order of the panels. All by default, the loss first.
        axes : matplotlib axes, optional
            One per panel. By default a new figure, independent of pyplot: save it by `figure.savefig("curves.png")`, or
            display it as the last line of a notebook cell.
        labels : dict of str, optional
            Axis label of each metric, for example with units. The name by default.
        scales : dict of float, optional
            Factor by which each metric is multiplied, for example for other units.
        names : (str, str), default ("training", "validation")
            Labels of the training and validation curves.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If a metric is unknown, the history is empty, or the number of axes differs from that of the metrics.
        """
        panels = self._panels(metrics)
        figure, panel_axes = _axes(axes, len(panels))
        epochs = [epoch + 1 for epoch in self.epoch]
        # markers show the single epochs of a short curve
        style: _Style = {"marker": "o", "markersize": 3.5} if len(epochs) <= 30 else {}
        for ax, name in zip(panel_axes, panels, strict=True):
            scale = (scales or {}).get(name, 1.0)
            both = f"val_{name}" in self.history
            for curve, label, line in zip((name, f"val_{name}"), names, ("-", "--"), strict=True):
                if curve in self.history:
                    ax.plot(epochs, [scale * v for v in self.history[curve]], line, label=label, **style)
            ax.set(xlabel="epoch", ylabel=(labels or {}).get(name, name.replace("_", " ")))
            ax.locator_params(axis="x", integer=True, min_n_ticks=1)
            ax.margins(x=0.02)
            if name == "learning_rate":
                ax.set_yscale("log")
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
            if both:
                ax.legend(frameon=False)
        return figure

    def _panels(self, metrics: str | Sequence[str] | None) -> list[str]:
        """Return the names to plot. ValueError if one is unknown or there is none."""
        if not self.epoch:
            raise ValueError("the history has no epoch to plot")
        known = [name for name in self.history if name.removeprefix("val_") not in self.history or name[:4] != "val_"]
        if metrics is None:
            return sorted(known, key=lambda name: name != "loss")
        chosen = [metrics] if isinstance(metrics, str) else list(metrics)
        for name in chosen:
            if name not in known:
                raise ValueError(f"metrics must be in the history, which has {', '.join(known)}, got {name!r}")
        if not chosen:
            raise ValueError("metrics is empty; None plots all")
        return chosen

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items())
        return f"History({len(self.epoch)} epochs; last: {last})" if self.epoch else "History(0 epochs)"


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _axes(given: Array, count: int) -> tuple[Figure, list[Axes]]:
    """Return the figure and the axes of the panels: the given axes, or new ones with at most three per row."""
    if given is None:
        return _new_axes(count)
    several = given.ravel() if hasattr(given, "ravel") else given
    axes = list(several) if hasattr(several, "__len__") else [several]
    if len(axes) != count:
        raise ValueError(f"axes must have one entry for each of the {count} panels, got {len(axes)}")
    return axes[0].figure, axes


def _new_axes(count: int) -> tuple[Figure, list[Axes]]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('History.plot needs matplotlib: pip install "gpunn[plot]"') from None
    columns = min(count, 3 if count != 4 else 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.5 * columns, 3.4 * rows), layout="constrained")
    # notebooks display figures without pyplot only if they have this method
    vars(figure)["_repr_png_"] = partial(_png, figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[count:]:
        ax.remove()
    return figure, list(axes[:count])
