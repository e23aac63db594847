"""Mutation tests of the equations: `python tests/mutations.py` makes each anchored line wrong and runs the tests of its
suite. It fails if a mutant survives (a sign, a factor, a transpose, a wrong operand).

An anchor is a comment `# mutate: E6 dense`, in C++ source `// mutate: E6 dense`. It marks the code on its line, or the
next line if it has a line to itself. A mutation names its anchor and replaces one fragment of the anchored code.

Mutants run in copies of the checkout; the checkout itself does not change.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
SUFFIXES = {".py", ".cpp", ".h", ".cuh"}
ANCHOR = re.compile(r"(?:#|//)\s*mutate:\s*(.*?)\s*$")


@dataclass(frozen=True)
class Mutation:
    """One mutant: its anchor, the fragment of the anchored code, the replacement, and the suite that must fail."""

    anchor: str
    old: str
    new: str
    suite: str

    @property
    def equation(self) -> str:
        return self.anchor.split()[0]

    def __str__(self) -> str:
        return f"{self.anchor}: {self.old!r} → {self.new!r}"

    def apply(self, code: str) -> str:
        """The anchored code with the fragment replaced. ValueError unless the code has the fragment exactly once."""
        if code.count(self.old) != 1:
            raise ValueError(f"{self}: the fragment must be once in the anchored line, got {code.strip()!r}")
        return code.replace(self.old, self.new)


# The tests that must catch a suite's mutants.
TESTS = {
    "theory": ["tests/unit/test_theory.py"],
    "step": ["tests/oracles/test_equations.py", "tests/unit/test_theory.py"],
    "options": ["tests/unit/test_losses.py", "tests/unit/optimizers/test_learning_rate_factors.py"],
    "embedding": ["tests/unit/layers/test_embedding.py"],
    "periodic": ["tests/unit/layers/test_periodic.py"],
    "cublaslt": ["tests/unit/backend/cuda/test_cublaslt.py"],
}
TABLE = {
    "theory": [
        ("E1 theory", "+ b", "- b"),
        ("E2 theory relu", "xp.maximum", "xp.minimum"),
        ("E2 theory softmax", "axis=1", "axis=0"),
        ("E3 theory loss", "0.5 * ", ""),
        ("E3 theory gradient", "a - y", "y - a"),
        ("E3 theory mean", " / a.shape[0]", ""),
        ("E4 theory", " * ", " + "),
        ("E4 theory softmax", " - ", " + "),
        ("E4 theory matched", " - ", " + "),
        ("E5 theory", "= delta_next", "= -delta_next"),
        ("E6 theory", "a_prev", "2 * a_prev"),
        ("E7 theory", "sum", "mean"),
        ("E8 theory", " - ", " + "),
        ("E9 theory penalty", "0.5 * ", ""),
        ("E9 theory gradient", "lam", "-lam"),
        ("E10 theory", "/ n_in", "/ n_out"),
        ("E11 theory", "/ (1 - p)", "* (1 - p)"),
    ],
    "step": [
        ("E1 dense", " + ", " - "),
        ("E1 cpu bias", "sum + bias", "sum - bias"),
        ("E2 relu", ": z", ": (T)2 * z"),
        ("E2 sigmoid", "(T)1 : e)", "e : (T)1)"),
        ("E3 half squared error", "(T)0.5 * ", ""),
        ("E3 half squared error", "= w * e", "= -w * e"),
        ("E3 mean", "1 / self.shard.rows", "1"),
        ("E3 weights", "/ weight", "* weight"),
        ("E4 softmax crossentropy", " - ", " + "),
        ("E4 softmax", " - ", " + "),
        ("E4 sigmoid crossentropy", "w * ", ""),
        ("E5 derivative", "= d * g", "= -d * g"),
        ("E5 dense", "t.delta", "-1 * t.delta"),
        ("E6 dense", "t.a_prev", "(-1 * t.a_prev)"),
        ("E7 dense", "t.delta", "2 * t.delta"),
        ("E7 column sum", "= x", "= (T)2 * x"),
        ("E8 sgd", " - ", " + "),
        ("E9 gradient", "g + ", "g - "),
        ("E9 penalty", "0.5 * ", ""),
        ("E10 lecun", "n_in", "n_out"),
        ("E10 he", "2 /", "1 /"),
        ("E11 scale", "1 / keep_probability", "keep_probability"),
        ("E11 backward", "self._scale(t, t.grad_a)", "t.grad_a"),
    ],
    "options": [
        ("E3 smoothing", " + share", ""),
        ("E8 factor", "factor * ", ""),
    ],
    "embedding": [
        ("E1 embedding", "levels=levels", "levels=1"),
        ("E6 embedding", "t.grad_a", "-1 * t.grad_a"),
    ],
    "periodic": [
        ("E2 periodic", "t.w, t.b", "t.b, t.w"),
        ("E5 periodic", "t.w", "t.b"),
        ("E5 periodic derivative", "-6.28", "6.28"),
        ("E6 periodic", "x_d", "d"),
        ("E7 periodic", "d.sum", "x_d.sum"),
    ],
    "cublaslt": [
        ("E2 cublaslt", '"relu_mask"', '"gelu_z"'),
        ("E5 cublaslt", "(e, V', m)", "(e, V, m)"),
        ("E6 cublaslt", "lt_bgrada(x', d)", "lt_bgrada(d', x)"),
    ],
}
MUTATIONS = [Mutation(*row, suite) for suite, rows in TABLE.items() for row in rows]


@dataclass(frozen=True)
class Line:
    """An anchored line: the file relative to the checkout, and the index of the line."""

    file: Path
    index: int

    def mutated(self, checkout: Path, mutation: Mutation) -> str:
        """The file's text with this line mutated."""
        lines = (checkout / self.file).read_text().split("\n")
        code = ANCHOR.sub("", lines[self.index])
        lines[self.index] = mutation.apply(code) + lines[self.index][len(code) :]
        return "\n".join(lines)


def anchors(checkout: Path) -> dict[str, Line]:
    """All anchors of a checkout. ValueError for an anchor that appears twice."""
    found: dict[str, Line] = {}
    for folder in ("gpunn", "kernels"):
        for path in sorted(p for p in (checkout / folder).rglob("*") if p.suffix in SUFFIXES):
            for index, text in enumerate(path.read_text().split("\n")):
                match = ANCHOR.search(text)
                if match is None:
                    continue
                line = Line(path.relative_to(checkout), index + (not text[: match.start()].strip()))
                if match[1] in found:
                    raise ValueError(f"anchor {match[1]!r} is in {found[match[1]].file} and again in {line.file}")
                found[match[1]] = line
    return found


def located(checkout: Path, mutations: list[Mutation]) -> dict[Mutation, Line]:
    """The line of each mutation. ValueError for an anchor without a mutation and for one that does not exist."""
    lines, named = anchors(checkout), {m.anchor for m in mutations}
    if unknown := lines.keys() - named:
        raise ValueError(f"no mutation names the anchor {min(unknown)!r} in {lines[min(unknown)].file}")
    if missing := named - lines.keys():
        raise ValueError(f"no line has the anchor {min(missing)!r}")
    return {m: lines[m.anchor] for m in mutations}


def passes(suite: str, checkout: Path) -> bool:
    """True if the suite's tests pass in a checkout. SystemExit if pytest could not run them."""
    # Two writes may share a timestamp and a size, so bytecode of the original could be used for the mutant.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS[suite]]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{suite}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def survives(mutation: Mutation, line: Line, checkout: Path) -> bool:
    """True if the suite passes with the anchored line mutated."""
    file = checkout / line.file
    original = file.read_text()
    file.write_text(line.mutated(checkout, mutation))
    try:
        return passes(mutation.suite, checkout)
    finally:
        file.write_text(original)


def _copy(target: Path) -> Path:
    for name in ("gpunn", "kernels", "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):  # a test compares the README with the equations
        shutil.copy(ROOT / name, target)
    return target


def main() -> int:
    """Run every mutant. The exit status is 1 if one survives."""
    lines = located(ROOT, MUTATIONS)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("GPUNN_CACHE", str(Path(scratch) / "cache"))
        checkouts = [_copy(Path(scratch) / str(k)) for k in range(WORKERS)]

        # a suite that fails without a mutation would count every mutant as caught
        if failing := [suite for suite in TESTS if not passes(suite, checkouts[0])]:
            raise SystemExit(f"these suites fail without a mutation: {', '.join(failing)}")

        def run_every(k: int) -> list[Mutation]:
            return [m for m in MUTATIONS[k::WORKERS] if survives(m, lines[m], checkouts[k])]

        with ThreadPoolExecutor(WORKERS) as pool:
            survivors = [m for part in pool.map(run_every, range(WORKERS)) for m in part]
    for mutation in survivors:
        print(f"SURVIVED {mutation}", file=sys.stderr)
    print(f"{len(MUTATIONS) - len(survivors)} of {len(MUTATIONS)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
