"""`python -m benchmarks scale`: measure the time of a step by the number of processes, and predict larger numbers."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import machine, results
from .process import ROOT, available_cores, environment
from .scaling import ASSUMPTIONS, BAND, MAX_EXTRAPOLATION, Load, Model, fit

HELP = "measure and predict steps of several processes"
FOLDER = Path(__file__).resolve().parent / "results"
NETS = ((64, 128, 10), (256, 512, 512, 10), (784, 1024, 1024, 10))
BATCHES = (128, 512, 1024)  # rows of all processes
BASE = 512  # the batch of the scaling plots: in total (strong), or per process (weak)
SHOWN = NETS[1]  # the net of the scaling plots
ROUNDS, SECONDS = 7, 0.5
EPILOG = """
Needs mpi4py and mpiexec (pip install "gpunn[mpi]" mpich) and SciPy; the plot
needs matplotlib. Every process has one thread. Measured and predicted numbers
are in separate tables; predictions end at 64 times the largest measured number
of processes. Writes to benchmarks/results unless --quick.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = f"{HELP[0].upper()}{HELP[1:]}.", EPILOG
    parser.add_argument("--quick", action="store_true", help="two small nets, short rounds, nothing written")
    parser.add_argument(
        "--processes", type=_counts, metavar="1,2", help="1, 2, 4, … up to the number of cores (default)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write JSON, Markdown and a plot to this folder")


def run(arguments: argparse.Namespace) -> int:
    """Measure, fit the model, print and write."""
    counts = arguments.processes or _powers(len(available_cores()))
    nets, rounds, seconds = (NETS[:2], 3, 0.1) if arguments.quick else (NETS, ROUNDS, SECONDS)
    rows = [row for count in counts for row in _measure(count, nets, rounds, seconds)]
    result = summary(rows)
    folder = arguments.out or (None if arguments.quick else FOLDER)
    if folder is not None:
        results.write(result, folder / "scale.json")
        (folder / "scale.md").write_text(markdown(result), encoding="utf-8")
        draw(result, folder / "scale.png")
    print(markdown(result))
    return 0


def _counts(text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = []
    cores = len(available_cores())
    if len(counts) < 2 or counts[0] != 1 or counts[-1] > cores:
        raise argparse.ArgumentTypeError(
            f"must list 1 and other numbers up to the number of cores, {cores}, got {text!r}"
        )
    return counts


def _powers(cores: int) -> list[int]:
    if cores < 2:
        raise SystemExit("the model needs measurements of two processes, but there is one core")
    return [2**k for k in range(cores.bit_length()) if 2**k <= cores]


def _measure(count: int, nets: Any, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure every net and batch with this number of processes."""
    local = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(local) if local.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        raise SystemExit('there is no mpiexec: pip install "gpunn[mpi]" mpich')
    print(f"{count} process{'es' * (count > 1)}", file=sys.stderr)
    loads = [{"sizes": sizes, "batch": batch} for sizes in nets for batch in BATCHES]
    request = {"processes": count, "loads": loads, "rounds": rounds, "seconds": seconds}
    command = [mpiexec, "-n", str(count), sys.executable, "-m", "benchmarks.scale_worker", json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, env=environment(1), capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise SystemExit(f"mpiexec -n {count} ended with code {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _parameters(sizes: Any) -> int:
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))


def load_of(row: dict[str, Any]) -> Load:
    """The load of a measured row."""
    return Load(row["processes"], row["batch"], _parameters(row["sizes"]))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The result as plain data: measurements, fitted constants and predictions."""
    measured = []
    for row in rows:
        q = statistics.quantiles(row["seconds"], n=4)
        about = {"sizes": list(row["sizes"]), "batch": row["batch"], "processes": row["processes"]}
        measured.append(about | {"measured_us_per_step": [round(1e6 * v, 2) for v in q]})
    model = fit([load_of(row) for row in rows for _ in row["seconds"]], [t for row in rows for t in row["seconds"]])
    return {
        "machine": machine.record({}, threads_a_process=1),
        "assumptions": list(ASSUMPTIONS),
        "constants": model.to_json(),
        "most_processes_measured": model.most,
        "measured": measured,
        "predicted": predictions(model),
    }


def predictions(model: Model, batch: int = BASE, sizes: Any = SHOWN) -> list[dict[str, Any]]:
    """Efficiency of strong scaling (fixed batch) and of weak scaling (fixed rows per process)."""
    weights, found, count = _parameters(sizes), [], 1
    while count <= MAX_EXTRAPOLATION * model.most:
        for kind, many in (("strong", batch), ("weak", batch * count)):
            if many < count:
                continue
            load = Load(count, many, weights)
            rates = model.efficiency(Load(1, batch, weights), load)
            times = [round(1e6 * t, 2) for t in model.predict(load)]
            row = {"scaling": kind, "sizes": list(sizes), "batch": many, "processes": count}
            found.append(row | {"predicted_us_per_step": times, "predicted_efficiency": [round(e, 4) for e in rates]})
        count *= 2
    return found


def efficiencies(result: dict[str, Any], kind: str, sizes: Any = SHOWN) -> list[tuple[int, float]]:
    """Measured (processes, efficiency) of strong or weak scaling.

    The efficiency is the number of rows per second and process, relative to one process.
    """
    times = {
        (row["processes"], row["batch"]): row["measured_us_per_step"][1]
        for row in result["measured"]
        if row["sizes"] == list(sizes)
    }
    found = []
    for count, batch in sorted(times):
        if batch == (BASE if kind == "strong" else BASE * count):
            rate, rate_of_one = batch / count / times[count, batch], BASE / times[1, BASE]
            found.append((count, rate / rate_of_one))
    return found


def markdown(result: dict[str, Any]) -> str:
    """The report: measurements, constants and, in a separate table, predictions."""
    about = result["machine"]
    lines = ["# Steps of several processes", "", f"{about['cpu']}, {about['cores']} cores, {about['date']}", ""]
    lines += ["## Measured", "", "| net | batch | processes | µs per step (quartiles) |", "|---|---|---|---|"]
    for row in result["measured"]:
        low, middle, high = row["measured_us_per_step"]
        net = "-".join(map(str, row["sizes"]))
        lines.append(f"| {net} | {row['batch']} | {row['processes']} | {middle:g} ({low:g} … {high:g}) |")
    lines += ["", f"## Fitted constants, {BAND[0]:g} % … {BAND[1]:g} %", "", "| constant | seconds |", "|---|---|"]
    lines += [f"| {name} | {v:.3g} ({a:.3g} … {b:.3g}) |" for name, (v, a, b) in result["constants"].items()]
    lines += ["", "## Predicted, not measured", "", *(f"- {text}" for text in result["assumptions"]), ""]
    lines += ["| scaling | batch | processes | predicted µs per step | predicted efficiency |", "|---|---|---|---|---|"]
    for row in result["predicted"]:
        t, e = row["predicted_us_per_step"], row["predicted_efficiency"]
        lines.append(
            f"| {row['scaling']} | {row['batch']} | {row['processes']} | {t[0]:g} ({t[1]:g} … {t[2]:g}) | "
            f"{e[0]:.2f} ({e[1]:.2f} … {e[2]:.2f}) |"
        )
    return "\n".join([*lines, ""])


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw predicted and measured efficiencies of strong and weak scaling."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharey=True, layout="constrained")
    most = result["most_processes_measured"]
    for ax, kind in zip(axes, ("strong", "weak"), strict=True):
        rows = [row for row in result["predicted"] if row["scaling"] == kind]
        counts = [row["processes"] for row in rows]
        middle, low, high = zip(*(row["predicted_efficiency"] for row in rows), strict=True)
        ax.fill_between(counts, low, high, alpha=0.2, color="#2e86ab", label=f"{BAND[0]:g} % … {BAND[1]:g} %")
        ax.plot(counts, middle, "--", color="#2e86ab", label="predicted")
        ax.plot(*zip(*efficiencies(result, kind), strict=True), "o", color="#d1495b", label="measured")
        ax.axvline(most, color="#888888", lw=0.8)
        ax.set_xscale("log", base=2)
        ax.set_ylim(0, 1.15)
        batch = rows[0]["batch"]
        ax.set_title(f"{kind}: batch of {batch}" + (" in total" if kind == "strong" else " per process"))
        ax.set_xlabel(f"processes (measured up to {most})")
        ax.legend(frameon=False, loc="lower left")
    axes[0].set_ylabel("efficiency")
    net = "-".join(map(str, rows[0]["sizes"]))
    figure.suptitle(f"{net}: predicted from steps on {result['machine']['cpu']}")
    figure.text(0.5, -0.01, "Assumed: " + "\n".join(result["assumptions"]), ha="center", va="top", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
