"""Is every equation guarded? `python tests/mutations.py` breaks the line of each, in `theory.py` and in the planned
step, runs the tests that hold it, and fails if one mutant survives (a sign, a factor, a transpose, a wrong operand).

Each mutant lives in a copy of the checkout; the checkout itself is not touched.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2


@dataclass(frozen=True)
class Mutation:
    """One line made wrong: the equation, where ("theory", "plan" or "door"), file, text and replacement."""

    equation: int
    where: str
    file: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"E{self.equation} {self.where}: {self.old.strip()!r} → {self.new.strip()!r}"


def _theory(equation: int, old: str, new: str) -> Mutation:
    return Mutation(equation, "theory", "gpunn/theory.py", old, new)


def _plan(equation: int, file: str, old: str, new: str) -> Mutation:
    return Mutation(equation, "plan", file, old, new)


def _door(equation: int, file: str, old: str, new: str) -> Mutation:
    return Mutation(equation, "door", file, old, new)


MUTATIONS = [
    _theory(1, "return a_prev @ W + b", "return a_prev @ W - b"),
    _theory(2, '"relu": Function(lambda xp, z: xp.maximum(z, 0)', '"relu": Function(lambda xp, z: xp.minimum(z, 0)'),
    _theory(2, "return e / e.sum(axis=1, keepdims=True)", "return e / e.sum(axis=0, keepdims=True)"),
    _theory(3, "return 0.5 * ((y - a) ** 2).sum(axis=1)", "return ((y - a) ** 2).sum(axis=1)"),
    _theory(3, "g = a - y", "g = y - a"),
    _theory(3, "return xp.ones_like(a[:, 0]) / a.shape[0]", "return xp.ones_like(a[:, 0])"),
    _theory(4, "return slope(z, f) * grad_a\n\n\ndef matched", "return slope(z, f) + grad_a\n\n\ndef matched"),
    _theory(4, "a * (grad_a - (a * grad_a)", "a * (grad_a + (a * grad_a)"),
    _theory(4, "[:, None] * (a - y)", "[:, None] * (a + y)"),
    _theory(5, "grad_a = delta_next @ W_next.T", "grad_a = -delta_next @ W_next.T"),
    _theory(6, "return a_prev.T @ delta", "return 2 * (a_prev.T @ delta)"),
    _theory(7, "return delta.sum(axis=0)", "return delta.mean(axis=0)"),
    _theory(8, "return theta - lr * g", "return theta + lr * g"),
    _theory(9, "return 0.5 * lam * sum(", "return lam * sum("),
    _theory(9, "return lam * W", "return -lam * W"),
    _theory(10, "(2 if rectifier else 1) / n_in", "(2 if rectifier else 1) / n_out"),
    _theory(11, "a * mask / (1 - p) if", "a * mask * (1 - p) if"),
    _plan(1, "gpunn/backend/texts.py", "const T z = bias ? sum + bias[j]", "const T z = bias ? sum - bias[j]"),
    _plan(2, "kernels/relu.py", "a = z < (T)0 ? (T)0 : z;", "a = z < (T)0 ? (T)0 : (T)2 * z;"),
    _plan(2, "kernels/crossentropy.py", "const T s = (x >= (T)0 ? (T)1 : e)", "const T s = (x >= (T)0 ? e : (T)1)"),
    _plan(3, "kernels/regression.py", "loss = w * ((T)0.5 * sum);", "loss = w * sum;"),
    _plan(3, "kernels/regression.py", "sum += e * e; g[k] = w * e;", "sum += e * e; g[k] = -w * e;"),
    _plan(3, "gpunn/network.py", "self.w.fill(1 / self.share.rows)", "self.w.fill(1)"),
    _plan(3, "kernels/step.py", "(T)((double)w / weight)", "(T)((double)w * weight)"),
    _plan(4, "kernels/softmax.py", "delta[k] = w * (mass * p - y[k]);", "delta[k] = w * (mass * p + y[k]);"),
    _plan(4, "kernels/softmax.py", "a[k] * (g[k] - inner);", "a[k] * (g[k] + inner);"),
    _plan(4, "kernels/crossentropy.py", "delta[k] = w * (s - t);", "delta[k] = (s - t);"),
    _plan(5, "kernels/_activation.py", "delta = d * g;", "delta = -d * g;"),
    _plan(5, "gpunn/layers/dense.py", "ops.matmul(t.delta, t.W.T, out", "ops.matmul(t.delta, -t.W.T, out"),
    _plan(6, "gpunn/layers/dense.py", "ops.matmul(t.a_prev.T, t.delta", "ops.matmul((-t.a_prev).T, t.delta"),
    _plan(7, "kernels/sums.py", '"H x -> T s", "s = x;"', '"H x -> T s", "s = (T)2 * x;"'),
    _plan(8, "kernels/sgd.py", "theta = theta - lr * g;", "theta = theta + lr * g;"),
    _plan(9, "kernels/step.py", "g = g + (l2 * theta", "g = g - (l2 * theta"),
    _plan(9, "kernels/step.py", "s = 0.5 * l2 * u * u", "s = l2 * u * u"),
    _plan(10, "gpunn/initializers.py", "return 1 / n_in", "return 1 / n_out"),
    _plan(10, "gpunn/initializers.py", "return 2 / n_in", "return 1 / n_in"),
    _plan(11, "gpunn/layers/dropout.py", "1 / kept if self.form", "kept if self.form"),
    _plan(11, "gpunn/layers/dropout.py", "t.grad_a, t.grad_prev, training)", "t.grad_a, t.grad_prev, False)"),
    _door(2, "gpunn/backend/devices.py", 'fused(out, epilogue="relu_mask", kept', 'fused(out, epilogue="gelu_z", kept'),
    _door(5, "gpunn/layers/dense.py", "given = (t.delta, t.W.T, t.grad", "given = (t.delta, -t.W.T, t.grad"),
    _door(6, "gpunn/layers/dense.py", "sums(t.a_prev.T, t.delta, out", "sums((-t.a_prev).T, t.delta, out"),
    _door(7, "gpunn/layers/dense.py", "matmul_through(*given, below.db)", "matmul_through(*given, t.b)"),
]
TESTS = {
    "theory": ["tests/test_theory.py"],
    "plan": ["tests/test_equations.py", "tests/test_theory.py"],
    "door": ["tests/backend/test_cublaslt.py"],
}


def survives(mutation: Mutation, checkout: Path) -> bool:
    """Whether the tests pass with that line made wrong."""
    file = checkout / mutation.file
    right = file.read_text()
    if right.count(mutation.old) != 1:
        raise SystemExit(f"{mutation}: the text stands {right.count(mutation.old)} times in {mutation.file}")
    file.write_text(right.replace(mutation.old, mutation.new))
    # bytecode of the right text is not to be mistaken for the mutant's: two writes may share a second and a size
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS[mutation.where]]
    try:
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    finally:
        file.write_text(right)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{mutation}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def _copy(target: Path) -> Path:
    for name in ("gpunn", "kernels", "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def main() -> int:
    """Try every mutation; the exit status is 1 where one survives."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("GPUNN_CACHE", str(Path(scratch) / "cache"))
        checkouts = [_copy(Path(scratch) / str(k)) for k in range(WORKERS)]

        def share(k: int) -> list[Mutation]:
            return [m for m in MUTATIONS[k::WORKERS] if survives(m, checkouts[k])]

        with ThreadPoolExecutor(WORKERS) as pool:
            alive = [m for part in pool.map(share, range(WORKERS)) for m in part]
    for mutation in alive:
        print(f"SURVIVED {mutation}", file=sys.stderr)
    print(f"{len(MUTATIONS) - len(alive)} of {len(MUTATIONS)} mutants caught")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
