"""Plots of a result: time per step, ratio to the best peer, sweeps, memory. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from .report import under
from .results import Row, setting

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

# one color per library, one marker per variant, the same in every plot
STYLES = {
    "gpunn": ("#d1495b", "o"),
    "gpunn-watched": ("#d1495b", "^"),
    "gpunn-shuffling": ("#d1495b", "^"),
    "gpunn-estimator": ("#d1495b", "s"),
    "scikit-learn": ("#edae49", "s"),
    "torch-eager": ("#7a5195", "v"),
    "torch-compiled": ("#7a5195", "D"),
    "torch-reduce-overhead": ("#7a5195", "<"),
    "torch-max-autotune": ("#7a5195", ">"),
    "torch-graph": ("#7a5195", "s"),
    "jax-jit": ("#2e86ab", "v"),
    "jax-scan": ("#2e86ab", "D"),
    "numpy": ("#5a8f5a", "P"),
    "floor": ("#888888", "_"),
    "bytes": ("#888888", "|"),
}
PLAIN = FuncFormatter(lambda value, _: f"{value:g}" if value >= 1e-3 else f"{value:.0e}")


def draw(result: dict[str, Any], folder: Path, device: str = "cpu") -> list[str]:
    """Write the plots that the result has data for, and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = result.get("rows", [])
    drawn = {
        f"{device}.png": times(rows) if rows else overheads(result),
        f"{device}-ratios.png": ratios(rows),
        f"{device}-sweeps.png": sweeps(result.get("sweeps", [])),
        f"{device}-memory.png": memory(rows),
    }
    names = []
    for name, figure in drawn.items():
        if figure is not None:
            figure.savefig(folder / name, dpi=110)
            plt.close(figure)
            names.append(name)
    return names


def searches(rows: Sequence[Row]) -> Any:
    """The ratio of scikit-learn's search time to gpunn's, with the goal as a line across each bar."""
    figure, ax = plt.subplots(figsize=(6.4, 0.9 + 0.55 * len(rows)), layout="constrained")
    names = [f"hidden {tuple(row['hidden'])}, {row['precision']}" for row in rows]
    for k, row in enumerate(rows):
        low, median, high = row["times_as_long"]
        ax.barh(k, median, 0.6, color=STYLES["gpunn"][0], xerr=[[median - low], [high - median]], ecolor="#444444")
        ax.plot([row["wanted"]] * 2, [k - 0.4, k + 0.4], color="black", linewidth=1.5)
    ax.set(xlabel="scikit-learn's time ÷ gpunn's; the line is the goal", yticks=range(len(rows)), yticklabels=names)
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def _measured(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["us_per_step"] is not None]


def _grid(rows: Sequence[Row], modes: Sequence[str], height: float) -> tuple[Any, dict[tuple[str, int | str], Axes]]:
    """A column of axes a mode, a row a number of threads or a precision."""
    threads = sorted({setting(row) for row in rows}, key=lambda u: (isinstance(u, str), u))
    modes = [mode for mode in modes if any(row["mode"] == mode for row in rows)]
    size = (1.2 + 4.6 * len(modes), 0.9 + height * len(threads))
    figure, axes = plt.subplots(len(threads), len(modes), figsize=size, squeeze=False, layout="constrained")
    return figure, {(m, n): axes[r][c] for r, n in enumerate(threads) for c, m in enumerate(modes)}


def _legend(figure: Any, axes: Any) -> None:
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = [name for name in STYLES if name in handles] + [name for name in handles if name not in STYLES]
    figure.legend(
        [handles[n] for n in order], order, loc="outside lower center", ncols=min(5, len(order)), frameon=False
    )


def times(rows: Sequence[Row]) -> Any:
    """µs per step by net and contestant; None without data."""
    rows = _measured(rows)
    if not rows:
        return None
    figure, grid = _grid(rows, ("train", "fit", "predict"), 3.1)
    titles = {"train": "training", "fit": "fit", "predict": "prediction"}
    for (mode, n), ax in grid.items():
        of = [row for row in rows if (row["mode"], setting(row)) == (mode, n)]
        nets = list(dict.fromkeys(row["net"] for row in of))
        names = [name for name in STYLES if any(row["contestant"] == name for row in of)]
        for k, name in enumerate(names):
            own = [row for row in of if row["contestant"] == name]
            color, marker = STYLES[name]
            x = [nets.index(row["net"]) + 0.6 * ((k + 0.5) / len(names) - 0.5) for row in own]
            ax.plot(x, [row["us_per_step"] for row in own], marker, color=color, label=name, ms=7, mew=1.6)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(PLAIN)
        ax.set_xticks(range(len(nets)), nets)
        ax.set_xlim(-0.5, len(nets) - 0.5)
        for edge in range(len(nets) - 1):
            ax.axvline(edge + 0.5, color="#dddddd", lw=0.8)
        ax.grid(axis="y", color="#eeeeee")
        ax.set_axisbelow(True)
        ax.set_title(f"{titles[mode]}, {under(n)}")
        ax.set_ylabel("µs per step")
    _legend(figure, grid.values())
    return figure


def ratios(rows: Sequence[Row]) -> Any:
    """Medians and quartiles of the ratio of gpunn to the best peer, by net; None without data."""
    ours = [row for row in _measured(rows) if row["contestant"] in ("gpunn", "gpunn-estimator")]
    ours = [row for row in ours if row.get("ratio_to_best_peer") is not None and row["mode"] != "setup"]
    ours = [row for row in ours if row["contestant"] == "gpunn" or row["mode"] == "fit"]
    if not ours:
        return None
    figure, grid = _grid(ours, ("train", "fit", "predict"), 2.6)
    titles = {"train": "training", "fit": "fit, compared with scikit-learn", "predict": "prediction"}
    for (mode, n), ax in grid.items():
        of = [row for row in ours if (row["mode"], setting(row)) == (mode, n)]
        for k, row in enumerate(of):
            low, high = row["ratio_to_best_peer_quartiles"]
            color = STYLES[row["contestant"]][0]
            ax.plot([k, k], [low, high], color=color, lw=2)
            ax.plot([k], [row["ratio_to_best_peer"]], "o", color=color, ms=8)
            ax.annotate(f"{row['ratio_to_best_peer']:.2g}", (k, high), (0, 5), textcoords="offset points", ha="center")
        ax.axhline(1, color="#444444", lw=1)
        top = max(1.0, *(row["ratio_to_best_peer_quartiles"][1] for row in of)) if of else 1.0
        ax.set_ylim(0, 1.2 * top)
        ax.set_xlim(-0.5, max(1, len(of)) - 0.5)
        ax.set_xticks(range(len(of)), [f"{row['net']}\n{row['best_peer']}" for row in of], fontsize=8)
        ax.set_title(f"{titles[mode]}, {under(n)}")
        ax.set_ylabel("gpunn ÷ best peer")
        ax.grid(axis="y", color="#eeeeee")
        ax.set_axisbelow(True)
    return figure


def overheads(result: dict[str, Any]) -> Any:
    """The overhead of launches, and the bandwidth of kernels relative to a copy; None without data."""
    launches = [row for row in result.get("launches", []) if row["us"] is not None]
    kernels = [row for row in result.get("kernels", []) if row["us"] is not None]
    if not launches and not kernels:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for k, row in enumerate(launches):
        left.barh(k, row["us"], color=STYLES["gpunn"][0])
        left.annotate(f"{row['us']:.3g}", (row["us"], k), (3, 0), textcoords="offset points", va="center", fontsize=8)
    left.set_yticks(range(len(launches)), [row["what"] for row in launches])
    left.invert_yaxis()
    left.set_xscale("log")
    left.xaxis.set_major_formatter(PLAIN)
    left.set_xlabel("µs per launch, in sequence")
    for k, row in enumerate(kernels):
        right.barh(k, row["of_copy"], color=STYLES["gpunn"][0])
        right.plot(row["of_copy_quartiles"], [k, k], color="#444444", lw=2)
    right.axvline(1, color="#444444", lw=1)
    right.axvline(kernels[0]["wanted"] if kernels else 1, color="#444444", lw=1, ls="--")
    right.set_yticks(range(len(kernels)), [f"{row['kernel']}, {row['dtype']}" for row in kernels])
    right.invert_yaxis()
    right.set_xlabel("fraction of a copy's bandwidth")
    return figure


def sweeps(rows: Sequence[Row]) -> Any:
    """µs per training step by batch and by width; None without data."""
    rows = _measured(rows)
    if not rows:
        return None
    names = list(dict.fromkeys(row["sweep"] for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(1 + 4.8 * len(names), 4.4), squeeze=False, layout="constrained")
    labels = {"batch": "batch size (128-256-256-10)", "width": "width w (128-w-w-10, batch 128)"}
    for ax, sweep in zip(axes[0], names, strict=True):
        of = [row for row in rows if row["sweep"] == sweep]
        for name, (color, marker) in STYLES.items():
            own = sorted((row["at"], row["us_per_step"]) for row in of if row["contestant"] == name)
            if own:
                line = "--" if name == "floor" else "-"
                ax.plot(*zip(*own, strict=True), line, marker=marker, color=color, label=name, ms=5)
        points = sorted({row["at"] for row in of})
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.xaxis.set_major_locator(FixedLocator(points))
        ax.xaxis.set_major_formatter(PLAIN)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_formatter(PLAIN)
        ax.grid(color="#eeeeee")
        ax.set_xlabel(labels.get(sweep, sweep))
        ax.set_ylabel("µs per training step")
        ax.set_title(under(setting(of[0])))
    _legend(figure, axes[0])
    return figure


def memory(rows: Sequence[Row]) -> Any:
    """Peak memory of a training process by net, split into imports and the rest; None without data."""
    rows = [row for row in _measured(rows) if row.get("peak_mib") is not None]
    if not rows:
        return None
    n = min(setting(row) for row in rows)
    rows = [row for row in rows if setting(row) == n]
    nets = list(dict.fromkeys(row["net"] for row in rows))
    names = [name for name in STYLES if any(row["contestant"] == name for row in rows)]
    figure, axes = plt.subplots(
        1, len(nets), figsize=(1.6 + 2.5 * len(nets), 1.2 + 0.3 * len(names)), squeeze=False, layout="constrained"
    )
    for ax, net in zip(axes[0], nets, strict=True):
        own = {row["contestant"]: row for row in rows if row["net"] == net}
        for k, name in enumerate(names):
            if name not in own:
                continue
            peak, beyond = own[name]["peak_mib"], own[name]["peak_beyond_imports_mib"]
            color = STYLES[name][0]
            ax.barh(k, peak - beyond, color=color, alpha=0.35)
            ax.barh(k, beyond, left=peak - beyond, color=color)
            ax.annotate(f"{peak:.0f}", (peak, k), (3, 0), textcoords="offset points", va="center", fontsize=8)
        ax.set_yticks(range(len(names)), names if ax is axes[0][0] else [""] * len(names))
        ax.invert_yaxis()
        ax.set_xlim(0, 1.25 * max(row["peak_mib"] for row in own.values()))
        ax.set_title(net)
    figure.suptitle(f"Peak memory of a training process, MiB: imports light, the rest dark ({under(n)})", fontsize=11)
    return figure
