"""`python -m benchmarks gpu-check`: everything that is still owed on a machine with a GPU, the most telling first."""

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

HELP = "do everything that is owed on a GPU, within a budget; call it again to go on"
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
GPU, launches, kernels, the comparison where goals name it, a set on the host,
all gpu tests, the rest of the comparison. Each is a process of its own.
DIR/gpu-check.json holds what is done after every stage, gpu.json the
comparison: the next call goes on behind it. Nothing is installed, and no
network is needed. DIR is benchmarks/results unless --out says where.

Exit status 0: all is done and well; 1: something failed or differs; 2:
something is left, call it again; 3: there is no GPU, and nothing was written.
"""
PURPOSE = "run the gpu tests, compare CPU and GPU on six nets, time launches and kernels, and make the whole comparison"
FAILED, INCOMPLETE = 1, 2
KINDS = ("passed", "failed", "errors", "skipped")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = f"{HELP[0].upper()}{HELP[1:]}.", EPILOG
    known = [stage.name for stage in all_stages(FOLDER)]
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help=f"{BUDGET:.0f} unless given")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="where results are, and go")
    parser.add_argument("--only", type=names(dict.fromkeys(known)), metavar="A,B", help=f"of {', '.join(known)}")
    parser.add_argument("--fresh", action="store_true", help="forget the stages that are done, or those of --only")


def run(arguments: argparse.Namespace) -> int:
    """Go through what is owed."""
    left = stages.time_left(arguments.budget)
    gpu_presence.require_gpu("gpu-check", PURPOSE)
    child.exit_on_sigterm()
    out = arguments.out.resolve()
    return check(all_stages(out), out, left, arguments.only, arguments.fresh, stage_runner(), gpu_presence.facts())


def stage_runner() -> stages.Run:
    """Stages as processes that choose the GPU by themselves."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GPUNN_DEVICE", "PYTEST_ADDOPTS")}
    return functools.partial(stages.process, environment=environment)


def check(
    asked: Sequence[Stage],
    out: Path,
    left: Callable[[], float],
    only: Sequence[str] | None,
    fresh: bool,
    run_stage: stages.Run,
    facts: dict[str, Any],
) -> int:
    """Go through the stages; the exit status."""
    state = load_or_start(out / FILE, facts)
    chosen = [s for s in asked if only is None or s.name in only]
    if fresh:
        for stage in chosen:
            state["stages"].pop(stage.name, None)
            state.pop(stage.name, None)

    def save() -> None:
        write(state, out / FILE)

    save()
    about = {"commit": machine.commit()}
    stages.run_pending(chosen, state, left, save, run_stage, progress, about)
    save()
    pictures = draw(state, out, "gpu-check")
    write_text(markdown(state, asked, pictures), out / "gpu-check.md")
    print(markdown(state, asked))
    return status(state, chosen)


def load_or_start(path: Path, facts: dict[str, Any]) -> State:
    """What earlier calls did on such a GPU, else nothing."""
    found = load_previous(path, str(facts["gpu"]))
    return found if found is not None and isinstance(found.get("stages"), dict) else {"machine": facts, "stages": {}}


def status(state: State, asked: Sequence[Stage]) -> int:
    """The exit status."""
    if stages.pending(asked, state):
        return INCOMPLETE
    failed = any(state["stages"][stage.name]["state"] == "failed" for stage in asked)
    tests = [state.get(name, {}) for name in ("tests-short", "tests")]
    red = any(found.get("failed") or found.get("errors") for found in tests)
    apart = not all(row["same"] for row in state.get("devices", []))
    return FAILED if failed or red or apart else 0


# --- the stages -------------------------------------------------------------------------------------------------------


def all_stages(out: Path) -> list[Stage]:
    """All of them, those first that tell most."""

    def compare(*more: str) -> Callable[[float, Path], list[str]]:
        def command(seconds: float, folder: Path) -> list[str]:
            # it stops by itself and saves
            return ["benchmarks", "gpu", *more, "--out", str(out), "--budget", f"{max(1.0, seconds - 15):.0f}"]

        return command

    def measured(name: str, min_seconds: float, max_seconds: float) -> Stage:
        return Stage(
            name,
            lambda seconds, folder: ["benchmarks", name, "--json", str(folder / "it.json")],
            min_seconds,
            max_seconds,
            _measured,
            lambda folder: {name: json.loads((folder / "it.json").read_text(encoding="utf-8"))[name]},
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
        measured("larger", 30, 90),
        tests("tests", ["tests"], 60, 420),
        Stage("comparison-rest", compare(), 90, 3600, _compared, lambda folder: {}),
    ]


def _measured(status: int) -> str:
    """1 says that a row is not as it should be, which the rows tell."""
    return "done" if status in (0, 1) else "failed"


def _doctor(status: int) -> str:
    return "done" if status == 0 else "failed"


def _compared(status: int) -> str:
    return {0: "done", gpu.DISAGREED: "done", gpu.INCOMPLETE: "left"}.get(status, "failed")


def run_tests(
    name: str, paths: list[str], min_seconds: float, max_seconds: float, before: Callable[[], dict[str, Any]] = dict
) -> Stage:
    """The gpu tests of these paths; `before` says what earlier calls found, behind which they go on."""

    def command(seconds: float, folder: Path) -> list[str]:
        options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "benchmarks.pytest_tally"]
        where = [f"--tally={folder / 'tally'}", f"--tally-from={before().get('over', 0)}"]
        return ["pytest", *options, *where, *paths]

    return Stage(
        name,
        command,
        min_seconds,
        max_seconds,
        # 5: none was left
        lambda status: "done" if status in (0, 1, 5) else "failed",
        lambda folder: {name: counts(folder / "tally", before()) | {"commit": machine.commit()}},
        # plugins that happen to be installed must not warn: warnings are errors
        {"GPUNN_REQUIRE_GPU": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )


def previous_counts(path: Path, name: str) -> dict[str, Any]:
    """What earlier calls found of the tests of that name, if their files were these."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get(name, {})
    except (OSError, ValueError):
        return {}
    return found if found.get("commit") == machine.commit() else {}


def counts(path: Path, before: dict[str, Any]) -> dict[str, Any]:
    """How many tests passed, failed and were skipped, which were bad, and how many are over, those of `before` counted.
    ValueError where the file makes no sense."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {kind: before.get(kind, 0) + sum(outcome == kind for _, outcome in lines) for kind in KINDS}
    bad = [name for name, outcome in lines if outcome in ("failed", "errors")]
    return {**found, "over": before.get("over", 0) + len(lines), "names": [*before.get("names", []), *bad][:40]}


# --- the report -------------------------------------------------------------------------------------------------------


def markdown(state: State, asked: Sequence[Stage], pictures: Sequence[str] = ()) -> str:
    """What is done, what it found, and what is left."""
    m = state["machine"]
    lines = []
    for stage in asked:
        record = state["stages"].get(stage.name, {"state": "owed", "said": ""})
        said = str(record["said"]).replace("|", "/")
        lines.append((stage.name, record["state"], str(record.get("seconds", "–")), record.get("commit", "–"), said))
    left = [stage.name for stage in stages.pending(asked, state)]
    parts = [
        "# What was run on a GPU",
        "Made by `python -m benchmarks gpu-check`; not to be edited.",
        f"{m['gpu']}, {m['gpu_memory_gib']} GiB, driver {m['driver']}; CuPy {m['cupy']}, CUDA {m['cuda']}.",
        table(("stage", "", "s", "commit", "said"), lines),
        f"Left: {', '.join(left)}. The same command goes on there." if left else "Nothing is left.",
        *(f"![{name}]({name})" for name in pictures),
    ]
    for name in ("tests-short", "tests"):
        if name in state:
            parts.append(_of_tests(name, state[name]))
    for name, module in (("devices", devices), ("launches", launches), ("kernels", kernels), ("larger", out_of_core)):
        if name in state:
            parts.append(module.markdown({"machine": m, name: state[name]}))
    if "comparison" in state["stages"]:
        parts.append("The comparison is in gpu.md.")
    return "\n\n".join(parts) + "\n"


def _of_tests(name: str, found: dict[str, Any]) -> str:
    head = f"## {name}, GPUNN_REQUIRE_GPU=1"
    said = ", ".join(f"{found[kind]} {kind}" for kind in KINDS)
    return "\n".join([head, "", f"{said}.", *(f"- {test}" for test in found["names"])])
