"""Random networks in every mode: the recorded and the rewritten program are valid and compute the same numbers."""

import copy

import numpy as np
import pytest
from helpers import internals
from helpers.programs import Interpreter
from helpers.random_nets import random_case

import gpunn
from gpunn import metrics
from gpunn.kernels.state import StateEntry

OPTIMIZERS = [
    gpunn.SGD(0.1),
    gpunn.SGD(0.1, clipvalue=0.01),
    gpunn.Momentum(0.1, 0.9, clipnorm=0.1),
    gpunn.Nesterov(0.1, 0.9),
    gpunn.Adagrad(0.1),
    gpunn.RMSprop(0.1),
    gpunn.Adam(0.1, clipvalue=0.01, clipnorm=0.01),
    gpunn.AdamW(0.1, weight_decay=0.1),
    gpunn.AdamW(0.1, weight_decay=0.1, decay_weights_only=True),
]
MODES = {
    "predict": {"training": False},
    "forward": {"training": True, "keep_activations": True},
    "evaluate": {"training": False, "loss": True},
    "gradients": {"training": True, "loss": True, "backward": True},
    "gradients of a prediction": {"training": False, "loss": True, "backward": True},
    "input gradient": {"training": True, "loss": True, "backward": True, "input_gradient": True},
    "step": {"training": True, "loss": True, "backward": True, "update": True},
    "trace": {"training": True, "loss": True, "backward": True, "trace": True},
    "trace forward": {"training": False, "trace": True},
}


def metrics_for(case, number):
    """Metrics that fit the case's targets, all of them over the numbers."""
    if case.meaning == "values":
        return ["mae", "mse", "rmse", "r2"][: 1 + number % 4]
    if case.net.loss.targets == "class_index" and case.net[-1].n_out > 1:
        return ["accuracy", metrics.Precision(), metrics.Recall(), metrics.F1Score()][: 1 + number % 4]
    return []


def arrays_for(net, case, program, rng):
    """The inputs and variables of a program, from the case and the network's state."""
    n = len(case.x)
    w = np.ones(n) if case.w is None else case.w
    inputs = {"x": case.x, "y": case.y, "sample_weight": w, "w": np.full(n, 1 / n)}
    inputs = {x.name: np.asarray(inputs[x.name], x.dtype) for x in program.inputs}
    inner = internals.network(net)
    known = {"theta": inner.theta, "running": inner.running, "state": inner.state, **inner.slots}
    variables = {}
    for name, variable in program.variables.items():
        given = known.get(name, np.zeros(variable.size))
        variables[name] = np.array(given, variable.dtype)
    for name in inner.slots:
        if name in variables:
            variables[name][:] = rng.uniform(0.1, 1, variables[name].size)
    variables["state"][StateEntry.LR] = 0.05
    return inputs, variables


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", range(24))
def test_the_rewritten_program_computes_the_recorded_one(number, mode):
    case = random_case(number, rows=9)
    net = case.net
    net.compile(copy.deepcopy(OPTIMIZERS[number % len(OPTIMIZERS)]), net.loss, metrics_for(case, number), device="cpu")
    if number % 5 == 0:
        net[0].trainable = False
    options = MODES[mode]
    if options.get("loss"):
        options = options | {"weighted": case.w is not None}
    results = []
    for rewritten in (False, True):
        program = internals.program_of(net, len(case.x), rewritten=rewritten, **options)
        program.verify()
        inputs, variables = arrays_for(net, case, program, np.random.default_rng(number))
        run = Interpreter(program, inputs, variables).run()
        results.append(([np.array(run[x]) for x in program.outputs], run.variables, len(program.ops)))
    (recorded, before, length), (rewritten, after, shorter) = results
    assert shorter <= length and (shorter == length or "trace" not in options)
    assert len(recorded) == len(rewritten) > 0
    for a, b in zip(recorded, rewritten, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("number", range(24))
def test_the_launches_compute_the_recorded_program(number):
    """A compiled step equals the recorded program in NumPy."""
    case = random_case(number, rows=9)
    net = case.net
    program = internals.program_of(net, len(case.x), **MODES["step"], rewritten=False)
    inputs, variables = arrays_for(net, case, program, np.random.default_rng(number))
    variables["state"][StateEntry.LR] = 0.1
    run = Interpreter(program, inputs, variables).run()
    net.train_on_batch(case.x, case.y)
    np.testing.assert_allclose(internals.parameters(net), run.variables["theta"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(internals.running(net), run.variables["running"], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("number", range(0, 24, 3))
def test_threads_compute_the_recorded_program(monkeypatch, number):
    """The buffers that a step reuses are safe with several threads."""
    case = random_case(number, rows=40)
    net = case.net
    program = internals.program_of(net, len(case.x), **MODES["step"], rewritten=False)
    inputs, variables = arrays_for(net, case, program, np.random.default_rng(number))
    variables["state"][StateEntry.LR] = 0.1
    run = Interpreter(program, inputs, variables).run()
    internals.use_threads(monkeypatch, 3)
    net.train_on_batch(case.x, case.y)
    np.testing.assert_allclose(internals.parameters(net), run.variables["theta"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(internals.running(net), run.variables["running"], rtol=1e-9, atol=1e-11)
