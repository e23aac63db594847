"""Training steps against `gpunn.theory`, in float64 on random networks; citations and tests of E1 to E11."""

import ast
import re

import numpy as np
import pytest
from helpers import ROOT, internals
from mutations import MUTATIONS

import gpunn
from gpunn import theory

HIDDEN = ["relu", "sigmoid", "tanh", "identity", "leaky_relu", "elu", "softplus", "silu", "gelu"]
ENDS = [
    ("identity", "half_squared_error", "half_squared_error"),
    ("sigmoid", "half_squared_error", "half_squared_error"),
    ("softmax", "categorical_crossentropy", "softmax_crossentropy"),
    ("sigmoid", "binary_crossentropy", "sigmoid_crossentropy"),
    ("softmax", "half_squared_error", "half_squared_error"),
]


def _case(seed, functions=HIDDEN):
    rng = np.random.default_rng(seed)
    depth = rng.integers(1, 4)
    hidden = [str(f) for f in rng.choice(functions, depth)]
    end, loss, kind = ENDS[seed % len(ENDS)]
    sizes = [int(s) for s in rng.integers(1, 9, depth + 1)] + [int(rng.integers(2, 5))]
    n = int(rng.integers(1, 13))
    x = rng.normal(size=(n, sizes[0]))
    y = rng.uniform(0.1, 0.9, size=(n, sizes[-1]))
    y /= y.sum(axis=1, keepdims=True)
    w = rng.uniform(0.1, 2, size=n) if seed % 3 == 0 else None
    lam = 0.1 if seed % 2 else 0.0
    p = 0.4 if seed % 4 == 1 else 0.0
    layers = []
    for width, f in zip(sizes[1:-1], hidden, strict=True):
        layers.append(gpunn.Dense(width, activation=f, l2=lam, bias_initializer="normal"))
        if p:
            layers.append(gpunn.Dropout(p))
    layers.append(gpunn.Dense(sizes[-1], activation=end, l2=lam, bias_initializer="normal"))
    net = gpunn.Sequential(layers, input_shape=sizes[0], seed=seed, dtype="float64")
    net.compile(gpunn.SGD(0.3), loss)
    return net, x, y, w, lam, p, [*hidden, end], kind


def _masks(net, x, p):
    """The dropout masks of the next step, drawn by the kernel: 0 or 1."""
    from gpunn.kernels import get
    from gpunn.kernels.state import SIZE, StateEntry

    state = np.zeros(SIZE)
    state[StateEntry.STEP] = internals.steps_taken(net)
    state[StateEntry.SEED_LOW], state[StateEntry.SEED_HIGH] = net.seed & 0xFFFFFFFF, net.seed >> 32
    masks = []
    for k, layer in enumerate(net.layers):
        if isinstance(layer, gpunn.Dropout):
            ones = np.ones((len(x), layer.n_out))
            numbers = {"threshold": round(p * 2**32), "factor": 1.0, "layer": k, "width": layer.n_out}
            get("dropout")(
                ones, state, out=(kept := np.empty_like(ones)), count=ones.size // 4 + 2, elements=ones.size, **numbers
            )
            masks.append(kept)
    return masks


@pytest.mark.parametrize(
    ("functions", "seed"), [*((HIDDEN, seed) for seed in range(60)), *((["selu", "mish"], seed) for seed in range(15))]
)
def test_training_step_equals_the_six_steps_of_the_theory(functions, seed):
    net, x, y, w, lam, p, functions, kind = _case(seed, functions)
    for _ in range(3):
        flat = net.get_weights()
        parameters = list(zip(flat[::2], flat[1::2], strict=True))
        step = theory.train_step(
            parameters, x, y, 0.3, activations=functions, kind=kind, w=w, lam=lam, masks=_masks(net, x, p), p=p
        )
        loss, gradients = net.loss_and_gradients(x, y, sample_weight=w)
        assert loss == pytest.approx(float(step.C), rel=1e-12)
        records = [r for r in net.trace(x, y, training=True, sample_weight=w) if r.dW is not None]
        for k, record in enumerate(records):
            for got, wanted in (
                (record.z, step.z[k]),
                (record.a, step.a[k]),
                (record.delta, step.delta[k]),
                (record.dW, step.dW[k]),
                (record.db, step.db[k]),
                (gradients[2 * k], step.dW[k]),
                (gradients[2 * k + 1], step.db[k]),
            ):
                np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-13 * max(1, np.abs(wanted).max()))
        assert net.train_on_batch(x, y, sample_weight=w) == pytest.approx(float(step.C), rel=1e-12)
        after = [array for pair in step.parameters for array in pair]
        for got, wanted in zip(net.get_weights(), after, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-13)


def test_initial_weights_have_the_variance_of_e10():
    # 10⁶ draws: the sample variance is within 1 % (7 standard errors √(2/10⁶)) of σ²
    for f, factor in (("relu", 2), ("tanh", 1), (None, 1)):
        net = gpunn.Sequential([gpunn.Dense(2500, activation=f)], input_shape=400, seed=1, dtype="float64")
        W, b = net.get_weights()
        assert W.var() == pytest.approx(factor / 400, rel=0.01)
        assert abs(W).max() > 4 * np.sqrt(factor / 400), "the normal is not truncated"
        assert not b.any()


def _docstrings():
    for folder in ("gpunn", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                    yield path.relative_to(ROOT), ast.get_docstring(node) or ""


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 12))
def test_every_equation_is_cited_tested_and_in_the_readme(number):
    name = re.compile(rf"\bE{number}\b")
    citing = {str(path) for path, text in _docstrings() if name.search(text)}
    assert "gpunn/theory.py" in citing
    assert citing - {"gpunn/theory.py"}, f"E{number} is cited by nothing that computes it in a step"
    # an equation is tested if a mutation of its line fails a test: `python tests/mutations.py` runs them
    assert {m.suite for m in MUTATIONS if m.equation == f"E{number}"} >= {"theory", "step"}
    assert re.search(rf"^\| \*\*E{number}\*\*", (ROOT / "README.md").read_text(), re.M)


def test_readme_names_the_functions_of_theory():
    table = re.findall(r"^\| \*\*E\d+\*\*.*\| `(\w+)` \|$", (ROOT / "README.md").read_text(), re.M)
    assert len(table) == 11
    assert [name for name in table if not callable(getattr(theory, name, None))] == []
