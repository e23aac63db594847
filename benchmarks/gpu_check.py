"""`python -m benchmarks gpu-check`: all checks that need a GPU, the most informative first."""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import child, devices, gpu, gpu_presence, kernels, launches, machine, out_of_core, stages
from .command import FOLDER, draw, load_previous, names, progress, write, write_text
from .process import ROOT
from .report import table
from .stages import Stage, State

HELP = "run all checks that need a GPU, within a budget; call again to resume"
FILE = "gpu-check.json"
BUDGET = 540.0
SHORT = (
    "tests/gpu/test_devices.py",
    "tests/gpu/test_transfer.py",
    "tests/unit/backend/test_matmul.py",
    "tests/gpu/test_kernels.py",
)
EPILOG = """
Stages, in this order: doctor, a short form of the tests, six nets on CPU and
GPU, launches, kernels, the comparisons of the goals, data on the host, all gpu
tests, the remaining comparisons. Each runs in a separate process. After every
stage DIR/gpu-check.json is written, and gpu.json by the comparison; the next
call resumes from these files. Nothing is installed, and no network is needed.
DIR is benchmarks/results, or the folder of --out.

Exit status 0: all stages are done and passed; 1: something failed or differs;
2: stages remain, call it again; 3: there is no GPU, and nothing was written.
"""
PURPOSE = "run the gpu tests, compare CPU and GPU on six nets, time launches and kernels, and make all comparisons"
FAILED, INCOMPLETE = 1, 2
KINDS = ("passed", "failed", "errors", "skipped")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = f"{HELP[0].upper()}{HELP[1:]}.", EPILOG
    known = [stage.name for stage in all_stages(FOLDER)]
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help=f"default: {BUDGET:.0f}")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, metavar="DIR", help="the folder of the results, also for output"
    )
    parser.add_argument("--only", type=names(dict.fromkeys(known)), metavar="A,B", help=f"of {', '.join(known)}")
    parser.add_argument("--fresh", action="store_true", help="repeat the stages that are done, or those of --only")


def run(arguments: argparse.Namespace) -> int:
    """Run the remaining stages."""
    seconds_left = stages.time_left(arguments.budget)
    gpu_presence.require_gpu("gpu-check", PURPOSE)
    child.exit_on_sigterm()
    out = arguments.out.resolve()
    return check(
        all_stages(out), out, seconds_left, arguments.only, arguments.fresh, stage_runner(), gpu_presence.facts()
    )


def stage_runner() -> stages.Run:
    """Run stages as processes without environment variables that would choose another device or eager mode."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GPUNN_DEVICE", "GPUNN_EAGER", "PYTEST_ADDOPTS")}
    return functools.partial(stages.process, environment=environment)


def check(
    known_stages: Sequence[Stage],
    out: Path,
    seconds_left: Callable[[], float],
    only: Sequence[str] | None,
    fresh: bool,
    run_stage: stages.Run,
    facts: dict[str, Any],
) -> int:
    """Run the stages and return the exit status."""
    state = load_or_start(out / FILE, facts)
    chosen = [s for s in known_stages if only is None or s.name in only]
    if fresh:
        for stage in chosen:
            state["stages"].pop(stage.name, None)
            state.pop(stage.name, None)

    def save() -> None:
        write(state, out / FILE)

    save()
    about = {"commit": machine.commit()}
    stages.run_pending(chosen, state, seconds_left, save, run_stage, progress, about)
    save()
    plots = draw(state, out, "gpu-check")
    write_text(markdown(state, known_stages, plots), out / "gpu-check.md")
    print(markdown(state, known_stages))
    return status(state, chosen)


def load_or_start(path: Path, facts: dict[str, Any]) -> State:
    """The state that earlier calls stored for this GPU, or an empty state."""
    found = load_previous(path, str(facts["gpu"]))
    return found if found is not None and isinstance(found.get("stages"), dict) else {"machine": facts, "stages": {}}


def status(state: State, chosen: Sequence[Stage]) -> int:
    """The exit status."""
    if stages.pending(chosen, state):
        return INCOMPLETE
    failed = any(state["stages"][stage.name]["state"] == "failed" for stage in chosen)
    tests = [state.get(name, {}) for name in ("tests-short", "tests")]
    any_red = any(found.get("failed") or found.get("errors") for found in tests)
    different = not all(row["same"] for row in state.get("devices", []))
    return FAILED if failed or any_red or different else 0


# --- the stages -------------------------------------------------------------------------------------------------------


def all_stages(out: Path) -> list[Stage]:
    """All stages, the most informative first."""

    def compare(*more: str) -> Callable[[float, Path], list[str]]:
        def command(seconds: float, folder: Path) -> list[str]:
            # it stops in time and saves its result
            return ["benchmarks", "gpu", *more, "--out", str(out), "--budget", f"{max(1.0, seconds - 15):.0f}"]

        return command

    def measured(name: str, min_seconds: float, max_seconds: float) -> Stage:
        return Stage(
            name,
            lambda seconds, folder: ["benchmarks", name, "--json", str(folder / "result.json")],
            min_seconds,
            max_seconds,
            _measured,
            lambda folder: {name: json.loads((folder / "result.json").read_text(encoding="utf-8"))[name]},
        )

    def tests(name: str, paths: list[str], min_seconds: float, max_seconds: float) -> Stage:
        return run_tests(name, paths, min_seconds, max_seconds, functools.partial(previous_counts, out / FILE, name))

    return [
        Stage("doctor", lambda s, f: ["gpunn", "doctor", "--compare"], 15, 90, _doctor, lambda folder: {}),
        tests("tests-short", [name for name in SHORT if (ROOT / name).exists()], 20, 120),
        measured("devices", 15, 90),
        measured("launches", 15, 60),
        measured("kernels", 20, 90),
        Stage("comparison", compare("--goals"), 90, 600, _compared, lambda folder: {}),
        measured("out-of-core", 30, 90),
        tests("tests", ["tests"], 60, 420),
        Stage("comparison-rest", compare(), 90, 3600, _compared, lambda folder: {}),
    ]


def _measured(status: int) -> str:
    """Status 1 means that a row has an unexpected value, which the rows show."""
    return "done" if status in (0, 1) else "failed"


def _doctor(status: int) -> str:
    return "done" if status == 0 else "failed"


def _compared(status: int) -> str:
    return {0: "done", gpu.DISAGREED: "done", gpu.INCOMPLETE: "incomplete"}.get(status, "failed")


def run_tests(
    name: str, paths: list[str], min_seconds: float, max_seconds: float, before: Callable[[], dict[str, Any]] = dict
) -> Stage:
    """A stage that runs the gpu tests of these paths, after those that `before` counts as finished."""

    def command(seconds: float, folder: Path) -> list[str]:
        options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "benchmarks.pytest_tally"]
        tally = [f"--tally={folder / 'tally'}", f"--tally-from={before().get('finished', 0)}"]
        return ["pytest", *options, *tally, *paths]

    return Stage(
        name,
        command,
        min_seconds,
        max_seconds,
        # 5: no test remained
        lambda status: "done" if status in (0, 1, 5) else "failed",
        lambda folder: {name: count_outcomes(folder / "tally", before()) | {"commit": machine.commit()}},
        # other installed plugins could warn, and warnings are errors
        {"GPUNN_REQUIRE_GPU": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )


def previous_counts(path: Path, name: str) -> dict[str, Any]:
    """The counts of earlier calls for these tests, if they ran the same commit."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get(name, {})
    except (OSError, ValueError):
        return {}
    return found if found.get("commit") == machine.commit() else {}


def count_outcomes(path: Path, before: dict[str, Any]) -> dict[str, Any]:
    """The numbers of passed, failed and skipped tests and the names of failed ones, including those of `before`.

    ValueError if the file is invalid.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {kind: before.get(kind, 0) + sum(outcome == kind for _, outcome in lines) for kind in KINDS}
    failed = [name for name, outcome in lines if outcome in ("failed", "errors")]
    return {
        **found,
        "finished": before.get("finished", 0) + len(lines),
        "names": [*before.get("names", []), *failed][:40],
    }


# --- the report -------------------------------------------------------------------------------------------------------


def markdown(state: State, known_stages: Sequence[Stage], plots: Sequence[str] = ()) -> str:
    """The report: finished stages, their results, and the remaining ones."""
    m = state["machine"]
    lines = []
    for stage in known_stages:
        record = state["stages"].get(stage.name, {"state": "not run", "message": ""})
        message = str(record["message"]).replace("|", "/")
        lines.append((stage.name, record["state"], str(record.get("seconds", "–")), record.get("commit", "–"), message))
    remaining = [stage.name for stage in stages.pending(known_stages, state)]
    parts = [
        "# Checks on a GPU",
        "Written by `python -m benchmarks gpu-check`; do not edit.",
        f"{m['gpu']}, {m['gpu_memory_gib']} GiB, driver {m['driver']}; CuPy {m['cupy']}, CUDA {m['cuda']}.",
        table(("stage", "state", "s", "commit", "message"), lines),
        f"Remaining: {', '.join(remaining)}. The same command resumes there." if remaining else "No stage remains.",
        *(f"![{name}]({name})" for name in plots),
    ]
    for name in ("tests-short", "tests"):
        if name in state:
            parts.append(_of_tests(name, state[name]))
    for name, module in (
        ("devices", devices),
        ("launches", launches),
        ("kernels", kernels),
        ("out-of-core", out_of_core),
    ):
        if name in state:
            parts.append(module.markdown({"machine": m, name: state[name]}))
    if "comparison" in state["stages"]:
        parts.append("The comparison is in gpu.md.")
    return "\n\n".join(parts) + "\n"


def _of_tests(name: str, found: dict[str, Any]) -> str:
    head = f"## {name}, GPUNN_REQUIRE_GPU=1"
    counted = ", ".join(f"{found[kind]} {kind}" for kind in KINDS)
    return "\n".join([head, "", f"{counted}.", *(f"- {test}" for test in found["names"])])
