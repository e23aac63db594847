"""Random programs of products, elementwise kernels, reductions, and reads and writes of variables."""

import numpy as np

from gpunn.kernels import get as kernel
from gpunn.kernels.state import SIZE
from gpunn.program import Program

N, SIZES, VARIABLE = 5, (2, 3, 4), 24
UNARY = ("relu", "tanh", "sigmoid", "gelu", "identity")
TWO_RESULTS = ("relu_with_derivative", "tanh_with_derivative")


class RandomProgram:
    """A program of up to 30 ops, drawn from a generator, with arrays for its inputs and variables.

    Values stay within [−1, 1], so that differences of rounding do not grow.
    """

    def __init__(self, seed, *, dtype="float64"):
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.program = Program()
        for name in ("theta", "gradient"):
            self.program.variable(name, VARIABLE, dtype)
        self.program.variable("state", SIZE, "float64")
        self.matrices = [self.program.input(f"x{m}", (N, m), dtype) for m in SIZES]
        self.stored = 0
        for section in range(1, 4):
            self.program.section = section
            for _ in range(self.rng.integers(2, 9)):
                self._op()
        if self.rng.random() < 0.5:
            self._update()
        self._outputs()
        self.inputs = {x.name: self.rng.uniform(-1, 1, x.shape).astype(dtype) for x in self.program.inputs}
        self.variables = {
            name: self.rng.uniform(-0.5, 0.5, v.size).astype(v.dtype) for name, v in self.program.variables.items()
        }
        self.variables["state"][:] = 0

    def _pick(self, width=None):
        found = [x for x in self.matrices if width is None or x.shape[1] == width]
        return found[self.rng.integers(len(found))]

    def _op(self):
        made = getattr(self, f"_{self.rng.choice(['unary', 'unary', 'binary', 'product', 'two', 'row', 'store'])}")()
        self.matrices += made

    def _unary(self):
        return [kernel(str(self.rng.choice(UNARY)))(self._pick())]

    def _two(self):
        return [*kernel(str(self.rng.choice(TWO_RESULTS)))(self._pick())]

    def _binary(self):
        x = self._pick()
        y = self._pick(x.shape[1])
        return [x * y if self.rng.random() < 0.5 else kernel("tanh")(x - y)]

    def _product(self):
        x, m = self._pick(), int(self.rng.choice(SIZES))
        k = x.shape[1]
        if self.rng.random() < 0.5:
            W = self.program.read("theta", 0, k * m, (k, m), "W")
            return [kernel("tanh")(x @ W)]
        y = self._pick(m)
        return [kernel("tanh")(x @ (x.T @ y))]

    def _row(self):
        x = self._pick()
        b = self.program.read("theta", 20, 20 + x.shape[1], (x.shape[1],), "b")
        return [kernel("relu")(x + b)]

    def _store(self):
        """Store column sums in the next part of the gradient."""
        x = self._pick()
        if self.stored + x.shape[1] <= VARIABLE:
            self.program.assign("gradient", self.stored, 0.1 * x.sum(axis=0))
            self.stored += x.shape[1]
        return []

    def _update(self):
        """θ ← θ − ηg, and a read of the new values."""
        self.program.section = 4
        theta, g = (self.program.read(name, 0, VARIABLE, (VARIABLE,)) for name in ("theta", "gradient"))
        state = self.program.read("state", 0, SIZE, (SIZE,))
        self.program.assign("theta", 0, kernel("sgd")(g, state, theta))
        self.program.assign("state", 1, kernel("max_abs")(self.program.read("theta", 0, VARIABLE, (VARIABLE,))))

    def _outputs(self):
        made = [x for op in self.program.ops for x in op.outputs if x.place is None and x.ndim == 2]
        count = min(len(made), int(self.rng.integers(1, 4)))
        self.program.outputs = [made[k] for k in self.rng.choice(len(made), count, replace=False)] if made else []
        self.program.eliminate_dead_code()
