"""The fusions of a GPU: each rule keeps the program's results, in NumPy; what fires in whole networks."""

import contextlib

import numpy as np
import pytest
from helpers import internals
from helpers.gpu_nets import data, frozen
from helpers.programs import Interpreter, accepting, matrix_ops, names, products

import gpunn
from gpunn.backend import to_host
from gpunn.backend.cuda.rules import OPS, FusionRules
from gpunn.backend.executor import execute
from gpunn.kernels import activation_kernels
from gpunn.kernels import get as kernel
from gpunn.kernels.state import StateEntry
from gpunn.program import Program, rewrite
from gpunn.program.rewrite import parse


class EveryEpilogue:
    """A library that has every epilogue."""

    def supports(self, *types):
        return True


def cuda_rules():
    return FusionRules(EveryEpilogue(), contextlib.nullcontext).rules()


RULES = {rule.text: rule for rule in cuda_rules()}
CONSTANTS = {"leaky_relu": {"alpha": 0.1}, "elu": {"alpha": 0.7}}


def activation_of(rule):
    """The activation in a rule's pattern; "relu" if there is none."""
    found = {call.name.partition("_backward")[0].removeprefix("bias_") for call in rule.before}
    return next((name for name in internals.activations_with_kernels() if name in found), "relu")


def two_layers(f, sizes, *, dtype=np.float32, **options):
    """A program of two layers with activation f, forward and backward; its arrays are named as in THEORY."""
    n, k, m, c = sizes
    program = Program(**options)
    theta = [("W1", (k, m)), ("b1", (m,)), ("W2", (m, c)), ("b2", (c,))]
    size = sum(int(np.prod(shape)) for _, shape in theta)
    for name in ("theta", "gradient"):
        program.variable(name, size, dtype)
    p, starts, start = {}, {}, 0
    for name, shape in theta:
        stop = start + int(np.prod(shape))
        p[name], starts[name], start = program.read("theta", start, stop, shape, name), start, stop
    x, e = program.input("x", (n, k), dtype), program.input("e", (n, c), dtype)
    kernels, constants = activation_kernels(f), CONSTANTS.get(f, {})
    program.section = 1
    z = x @ p["W1"] + p["b1"]
    a = kernels.value(z, **constants)
    y = a @ p["W2"] + p["b2"]
    program.section = 3
    found = {"W2": a.T @ e, "b2": e.sum(axis=0)}
    g = e @ p["W2"].T
    d = kernels.backward(z if kernels.stored == "z" else a, g, **constants)
    found |= {"W1": x.T @ d, "b1": d.sum(axis=0)}
    for name, value in found.items():
        program.assign("gradient", starts[name], value)
    program.outputs = [y]
    program.eliminate_dead_code()
    return program


def arrays(program, seed, *, special=False):
    """Random inputs and parameters. `special`: some are NaN or infinite."""
    rng = np.random.default_rng(seed)
    theta = program.variables["theta"]
    inputs = {x.name: rng.normal(size=x.shape).astype(x.dtype) for x in program.inputs}
    variables = {"theta": rng.normal(size=theta.size).astype(theta.dtype)}
    if special:
        for array in (*inputs.values(), variables["theta"]):
            flat = array.reshape(-1)
            flat[rng.integers(flat.size, size=2)] = rng.choice([np.nan, np.inf, -np.inf], 2)
    return inputs, variables


def results(program, given):
    """The output and the gradients."""
    inputs, variables = given
    run = Interpreter(program, inputs, {k: v.copy() for k, v in variables.items()}).run()
    return run[program.outputs[0]], run.variables["gradient"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("text", RULES)
def test_each_rule_keeps_all_results(text, seed):
    """Also NaN and infinity, unless the rule declares that it loses them."""
    rule, rng = RULES[text], np.random.default_rng(seed)
    sizes, dtype = tuple(int(n) for n in rng.integers(2, 40, 4)), (np.float32, np.float64)[seed % 2]
    options = {"dtype": dtype, "nan_checked": True, "precision": "tf32"}
    before, after = (two_layers(activation_of(rule), sizes, **options) for _ in range(2))
    rewrite(after, [accepting(rule)], verify=True)
    assert {call.name for call in rule.after} <= set(names(after)) and len(after.ops) < len(before.ops)
    given = arrays(before, seed, special=not rule.nan_lost and seed >= 2)
    allowed = {np.float32: 2e-5, np.float64: 1e-12}[dtype]
    for found, wanted in zip(results(after, given), results(before, given), strict=True):
        scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1)
        np.testing.assert_allclose(found, wanted, rtol=allowed, atol=allowed * scale)


@pytest.mark.parametrize("f", sorted(internals.activations_with_kernels()))
@pytest.mark.parametrize("precision", [None, "tf32"])
def test_all_rules_together_keep_all_results(f, precision):
    sizes, dtype = (9, 6, 16, 8), np.float64
    options = {"dtype": dtype, "nan_checked": True, "precision": precision}
    before, after = (two_layers(f, sizes, **options) for _ in range(2))
    rewrite(after, cuda_rules(), verify=True)
    assert not {"add_row", "column_sum"} & set(names(after))
    given = arrays(before, 5)
    for found, wanted in zip(results(after, given), results(before, given), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_rules_that_lose_nan_need_a_program_that_checks():
    lossy = [rule for rule in cuda_rules() if rule.nan_lost]
    assert {call.name for rule in lossy for call in rule.after} >= {"lt_relu_bias", "lt_relu_aux_bias", "lt_drelu"}
    program = two_layers("relu", (5, 4, 8, 3))
    rewrite(program, cuda_rules(), verify=True)
    assert not any("relu" in name for name in products(program))


def test_gelu_is_fused_in_a_lower_precision_only():
    for precision in (None, "tf32", "bf16"):
        program = two_layers("gelu", (5, 4, 8, 3), precision=precision)
        rewrite(program, cuda_rules(), verify=True)
        assert ("lt_gelu_aux_bias" in names(program)) == (precision is not None)
        # the gradients of biases are float32, and δ is stored in bfloat16
        assert ("lt_dgelu_bgrad" in names(program)) == (precision == "tf32")
        assert ("lt_dgelu" in names(program)) == (precision == "bf16")


@pytest.mark.parametrize("missing", sorted(OPS))
def test_a_product_without_its_epilogue_is_computed_by_other_launches(missing):
    class AllButOne:
        def supports(self, operand, precision, result, epilogue):
            return epilogue != OPS[missing]

    for f in ("relu", "gelu"):
        before, after = (two_layers(f, (7, 5, 16, 8), nan_checked=True, precision="tf32") for _ in range(2))
        rewrite(after, FusionRules(AllButOne(), contextlib.nullcontext).rules(), verify=True)
        assert missing not in names(after) and any(name.startswith("lt_") for name in names(after))
        given = arrays(before, 7)
        for found, wanted in zip(results(after, given), results(before, given), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("sizes", [(1, 4, 8, 3), (5, 1, 8, 3), (5, 4, 1, 3), (5, 4, 8, 1), (0, 4, 8, 3)])
def test_layouts_that_cublaslt_lacks(sizes):
    """No sums of one term, no sums of one column, no process without rows."""
    before, after = (two_layers("relu", sizes, nan_checked=True) for _ in range(2))
    rewrite(after, cuda_rules(), verify=True)
    inner = {"lt_bgrada": sizes[0] > 1, "lt_drelu_bgrad": sizes[3] > 1 and sizes[0] > 0}
    assert not any(name in names(after) and not possible for name, possible in inner.items())
    given = arrays(before, 3)
    for found, wanted in zip(results(after, given), results(before, given), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-4)


def test_each_rule_is_one_line_of_names():
    for rule in cuda_rules():
        introduced = {call.name for call in rule.after}
        assert all(name in OPS or name == kernel(name).name for name in introduced)
        assert parse(rule.text.split("→")[1]) == rule.after


# --- whole networks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def every_epilogue(fake_cupy):
    """A library whose mask follows E2, so that the self-tests of all epilogues pass."""
    fake_cupy.state.cublaslt.zero_is_above = False


def step_of(layers, *, rows=12, precision=None, **options):
    """The program of a training step on the simulated GPU."""
    net = gpunn.Sequential([*layers, gpunn.Dense(3, "softmax")], input_shape=6, seed=4, dtype="float32")
    options = {"loss": "sparse_categorical_crossentropy", "optimizer": "adam"} | options
    net.compile(device="cuda", precision=precision, **options)
    return net.program(batch_size=rows)


@pytest.mark.parametrize("hidden", [0, 1, 2, 3, 5])
def test_a_relu_network_of_L_layers_has_3L_minus_1_products(every_epilogue, hidden):
    """The loss is the only other op on a matrix of the batch."""
    program = step_of([gpunn.Dense(8 + 5 * k, "relu") for k in range(hidden)])
    L = hidden + 1
    forward, backward = (
        ["lt_relu_aux_bias"] * hidden + ["lt_bias"],
        ["lt_bgrada"] + ["lt_drelu_bgrad", "matmul"] * hidden,
    )
    assert products(program) == forward + backward and len(products(program)) == 3 * L - 1
    assert matrix_ops(program, rows=12) == ["softmax_crossentropy"]


def test_a_relu_network_with_frozen_layers(every_epilogue):
    """δ of the lowest layers is not computed, and the gradient of a frozen bias is not either.

    No gradient shows what an epilogue of the frozen layer loses.
    """
    program = step_of([frozen(gpunn.Dense(8, "relu")), gpunn.Dense(16, "relu"), frozen(gpunn.Dense(8, "relu"))])
    assert products(program) == [
        *["lt_bias", "lt_relu_aux_bias", "lt_bias", "lt_bias"],
        *["lt_bgrada", "matmul", "lt_drelu_bgrad", "matmul"],
    ]
    assert matrix_ops(program, rows=12) == ["relu", "relu", "softmax_crossentropy", "relu_backward"]


def test_a_relu_network_without_biases(every_epilogue):
    program = step_of([gpunn.Dense(8, "relu", use_bias=False), gpunn.Dense(16, "relu", use_bias=False)])
    assert products(program) == ["matmul"] * 2 + ["lt_bias", "lt_bgrada"] + ["matmul"] * 4
    assert matrix_ops(program, rows=12) == ["relu", "relu", "softmax_crossentropy", "relu_backward", "relu_backward"]


def test_layers_between_dense_layers_separate_their_products(every_epilogue):
    program = step_of([gpunn.Dense(8, "relu"), gpunn.Dropout(0.3), gpunn.Dense(16, "relu")])
    assert products(program) == [
        *["lt_relu_bias", "lt_relu_aux_bias", "lt_bias"],
        *["lt_bgrada", "lt_drelu_bgrad", "matmul", "matmul", "matmul"],
    ]
    others = matrix_ops(program, rows=12)
    assert others == ["dropout", "softmax_crossentropy", "dropout", "relu_backward_summed"]


def test_leaky_relu_sums_delta_with_its_derivative(every_epilogue):
    program = step_of([gpunn.Dense(8, "leaky_relu"), gpunn.Dense(16, "leaky_relu")])
    assert [op.name for op in program.ops].count("leaky_relu_backward_summed") == 2
    assert "column_sum" not in [op.name for op in program.ops]


def test_a_lower_precision_stores_delta_and_sums_it_with_the_gradient_of_W(every_epilogue):
    """In bfloat16 δ is not float32, as the gradients of biases are."""
    program = step_of([gpunn.Dense(8, "relu"), gpunn.Dense(16, "relu")], precision="bf16")
    assert products(program) == ["lt_relu_aux_bias"] * 2 + ["lt_bias", "lt_bgrada"] + ["lt_drelu", "lt_bgrada"] * 2
    program = step_of([gpunn.Dense(8, "relu"), gpunn.Dense(16, "relu")], precision="tf32")
    assert len(products(program)) == 8


def test_a_prediction_passes_nan_and_saves_no_mask(every_epilogue):
    net = gpunn.Sequential([gpunn.Dense(8, "relu"), gpunn.Dense(3, "softmax")], input_shape=6, dtype="float32")
    net.compile("sgd", "sparse_categorical_crossentropy", device="cuda")
    internals.parameters(net)[3:4].fill(np.nan)
    assert np.isnan(net.predict(data(12)[0])).all()


@pytest.mark.parametrize("frozen_layer", [0, 1])
def test_an_overflow_is_reported_where_a_layer_is_frozen(every_epilogue, frozen_layer):
    """z of the first layer overflows. ReLU by cuBLASLt maps NaN of the second one to 0, and its ∂C/∂W is unknown."""
    layers = [gpunn.Dense(128, "relu"), gpunn.Dense(16, "relu"), gpunn.Dense(3)]
    net = gpunn.Sequential(layers, input_shape=16, seed=1, dtype="float32")
    net.compile("sgd", "mse", device="cuda")
    weights = net.get_weights()
    weights[0] = np.where(np.arange(16)[:, None] % 2, -2.0, 2.0) * np.ones((16, 128))
    net.set_weights(weights)
    layers[frozen_layer].trainable = False
    X = np.random.default_rng(0).normal(size=(8, 16))
    X[3] = 3e38
    with pytest.raises(gpunn.DivergenceError):
        net.fit(X, X[:, :3] * 0, batch_size=8, verbose=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["X", "W1", "b1", "W2"])
@pytest.mark.parametrize("kind", ["trainable", "frozen first", "no mask"])
def test_a_step_reports_what_its_epilogues_lose(every_epilogue, fake_cupy, kind, where, value):
    """ReLU by cuBLASLt maps NaN to 0: the step still changes nothing and is reported."""
    if kind == "no mask":
        fake_cupy.state.cublaslt.refuse = {"relu_mask"}
    first = frozen(gpunn.Dense(8, "relu")) if kind == "frozen first" else gpunn.Dense(8, "relu")
    layers = [first, gpunn.Dense(16, "relu"), gpunn.Dense(3, "softmax")]
    net = gpunn.Sequential(layers, input_shape=6, seed=4, dtype="float32")
    net.compile("adam", "sparse_categorical_crossentropy", device="cuda")
    assert any("relu" in name for name in products(net.program(batch_size=12)))
    X, y = data(12)
    if where == "X":
        X[2, 1] = value
    else:
        # the flat buffer has the weights of all layers first
        start = {"W1": 3, "W2": 6 * 8 + 3, "b1": 6 * 8 + 8 * 16 + 16 * 3 + 3}[where]
        internals.parameters(net)[start : start + 1].fill(value)
    before = net.get_weights()
    with internals.training_step(net, X, y.astype(np.int32)) as launches:
        execute(launches)
    assert to_host(internals.step_state(net))[StateEntry.NONFINITE_STEP] == 1
    for a, b in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_epilogue_without_an_algorithm_is_recorded_without_it(every_epilogue, fake_cupy):
    """The library may refuse a problem although the epilogue's self-test passed: other launches compute it."""
    net, peer = (
        gpunn.Sequential([gpunn.Dense(8, "relu"), gpunn.Dense(16, "relu"), gpunn.Dense(3)], input_shape=6, seed=4)
        for _ in range(2)
    )
    net.compile("adam", "half_squared_error", device="cuda")
    peer.compile("adam", "half_squared_error", device="cpu")
    X, y = data(12)[0].astype(np.float32), np.eye(3, dtype=np.float32)[data(12)[1]]
    net.train_on_batch(X[:6], y[:6])  # the self-tests pass
    peer.train_on_batch(X[:6], y[:6])
    refused = {"relu_mask", "bias", "sums"}
    fake_cupy.state.cublaslt.refuse = refused
    fake_cupy.state.calls.clear()
    net.train_on_batch(X, y)
    peer.train_on_batch(X, y)
    assert not refused & set(internals.products_run(fake_cupy))
    for a, b in zip(net.get_weights(), peer.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
