"""Updates write nothing after a non-finite step or if the batch has no weight, in both implementations."""

import numpy as np
import pytest
from helpers import kernel_cases
from helpers.kernel_cases import make, state_array

from gpunn import kernels
from gpunn.kernels.state import StateEntry
from gpunn.kernels.step import IF_NEAR_OVERFLOW, IF_UPDATING

RULES = "sgd momentum nesterov rmsprop adagrad adam adamw".split()


@pytest.fixture(params=["numpy", "compiled"])
def launcher(request):
    """A function that returns the bind method of a kernel for one implementation."""
    if request.param == "numpy":
        return lambda kernel: kernel.bind_numpy
    request.getfixturevalue("compiled_kernels")
    return lambda kernel: kernel.bind_compiled


GUARDED = [p for p in kernel_cases.by_kernel() if p.values[0].guard is not None]
STATES = {
    "non-finite": {"NONFINITE_STEP": 4},
    "empty": {"EMPTY_BATCH": 1},
    "both": {"NONFINITE_STEP": 1, "EMPTY_BATCH": 1},
}


def _written(case, launcher):
    inputs, options = case.arguments()
    before = [x.copy() for x in case.results()]
    launcher(case.kernel)(*inputs, **options)()
    return any((a != b).any() for a, b in zip(case.results(), before, strict=True))


def _with_state(kernel, types, n, m, **entries):
    case = make(kernel, types, n, m)
    order = [o.name for o in kernel.signature.arrays]
    [*case.inputs, *case.outputs][order.index("state")].array[...] = state_array(**entries)
    return case


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 33), (130, 67), (0, 3)])
@pytest.mark.parametrize(("kernel", "types"), GUARDED)
def test_nothing_is_written_if_the_guard_is_false(kernel, types, n, m, launcher):
    stops = dict(STATES, no_overflow={"NEAR_OVERFLOW": 0}) if kernel.guard is IF_NEAR_OVERFLOW else STATES
    for name, entries in stops.items():
        assert not _written(_with_state(kernel, types, n, m, **entries), launcher), name


@pytest.mark.parametrize(("kernel", "types"), GUARDED)
def test_something_is_written_if_the_guard_is_true(kernel, types, launcher):
    finite = {} if kernel.name != "check_update_finite" else {"UPDATE_PROBE": np.nan}
    assert _written(_with_state(kernel, types, 3, 33, **finite), launcher)


@pytest.mark.parametrize("name", RULES)
def test_every_update_rule_has_a_guard_and_a_probe(name):
    assert kernels.get(name).guard is IF_UPDATING
    assert kernels.get(f"{name}_probe").guard is IF_NEAR_OVERFLOW


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_the_probe_detects_an_update_that_overflows(name, dtype, launcher):
    """The result is 0 if the update is finite, otherwise not finite. Nothing else is written."""
    kernel = kernels.get(f"{name}_probe")
    for huge in (False, True):
        case = make(kernel, {"T": dtype}, 33, 33)
        g, theta = case.inputs[0].array, case.inputs[1].array
        if huge:
            case.inputs[[o.name for o in kernel.signature.inputs].index("state")].array[StateEntry.LR] = 1e30
            g[7, 3] = theta[7, 3] = np.finfo(dtype).max / 2
            theta[7, 3] *= -1
        if huge and name in ("adagrad", "rmsprop", "adam", "adamw"):
            # g² overflows for any learning rate
            g[7, 3] = np.finfo(dtype).max
        assert _written(case, launcher)
        (result,) = case.results()
        assert np.isfinite(result[0]) != huge, result
        assert huge or result[0] == 0


# --- kernels that read the state array ------------------------------------------------------------------------------


def _run(name, launcher, state, **scalars):
    kernel = kernels.get(name)
    launcher(kernel)(out=state, count=1, **scalars)()
    return state


@pytest.mark.parametrize(
    ("entries", "cause"),
    [
        ({}, 0),
        ({"LOSS": np.nan}, 1),
        ({"LOSS": np.inf}, 1),
        ({"PENALTY": np.inf}, 1),
        ({"LOSS": np.inf, "MAX_ABS": np.nan}, 1),
        ({"MAX_ABS": np.nan}, 2),
        ({"MAX_ABS": np.inf}, 2),
    ],
)
def test_check_finite_records_the_first_non_finite_step(entries, cause, launcher):
    """NONFINITE_STEP is 1 + the step, with cause, learning rate and batch. A later step changes nothing."""
    state = _run("check_finite", launcher, state_array(NEAR_OVERFLOW=0, **entries), limit=1e3)
    assert state[StateEntry.NONFINITE_CAUSE] == cause
    assert state[StateEntry.NONFINITE_STEP] == (4 if cause else 0)
    assert state[StateEntry.NONFINITE_LR] == (0.01 if cause else 0) and state[StateEntry.NONFINITE_BATCH] == (
        2 if cause else 0
    )
    assert state[StateEntry.NEAR_OVERFLOW] == 0
    for stop in ({"NONFINITE_STEP": 2}, {"EMPTY_BATCH": 1}):
        before = state_array(**entries, **stop)
        np.testing.assert_array_equal(_run("check_finite", launcher, before.copy(), limit=1e3), before)


@pytest.mark.parametrize(
    ("entries", "near_overflow"),
    [({"MAX_ABS": 1e3}, 0), ({"MAX_ABS": 1001}, 1), ({"LR": 1001}, 1), ({"LR": -1001}, 1), ({"MAX_ABS": 5}, 0)],
)
def test_check_finite_sets_near_overflow(entries, near_overflow, launcher):
    state = _run("check_finite", launcher, state_array(NEAR_OVERFLOW=0, **entries), limit=1e3)
    assert state[StateEntry.NEAR_OVERFLOW] == near_overflow and state[StateEntry.NONFINITE_STEP] == 0


@pytest.mark.parametrize(("probe", "step"), [(0, 0), (np.nan, 4), (np.inf, 4)])
def test_check_update_finite(probe, step, launcher):
    state = _run("check_update_finite", launcher, state_array(UPDATE_PROBE=probe))
    assert state[StateEntry.NONFINITE_STEP] == step and state[StateEntry.NONFINITE_CAUSE] == (3 if step else 0)


def test_end_step(launcher):
    """t, the epoch's sums and the offset advance; after a non-finite or empty step, only the offset."""
    state = _run("end_step", launcher, state_array(LOSS=0.75, PENALTY=0.25, WEIGHT=8, LOSS_SUM=3), rows=5)
    assert (
        state[StateEntry.STEP] == 4 and state[StateEntry.LOSS_SUM] == 3 + 8 and state[StateEntry.WEIGHT_SUM] == 24 + 8
    )
    assert state[StateEntry.OFFSET] == kernel_cases.OFFSET + 5 and state[StateEntry.BATCH_INDEX] == 3
    for stop in ({"NONFINITE_STEP": 2}, {"EMPTY_BATCH": 1}):
        wanted = state_array(**stop)
        wanted[[StateEntry.OFFSET, StateEntry.BATCH_INDEX]] += 5, 1
        np.testing.assert_array_equal(_run("end_step", launcher, state_array(**stop), rows=5), wanted)


def test_accumulate(launcher):
    terms = np.array([0.5, 0.25, -1])
    for stop, wanted in (
        ({}, [1.5, 2.25, 2.0]),
        ({"NONFINITE_STEP": 1}, [1.0, 2.0, 3.0]),
        ({"EMPTY_BATCH": 1}, [1.0, 2.0, 3.0]),
    ):
        sums = np.array([1.0, 2.0, 3.0])
        launcher(kernels.get("accumulate"))(terms, state_array(WEIGHT=8, **stop), out=sums)()
        np.testing.assert_array_equal(sums, wanted)


def test_end_epoch(launcher):
    """The sums are written to row EPOCHS_DONE of the record and reset. After a non-finite step nothing changes."""
    record, sums = np.full((3, 4), -1.0), np.array([1.0, 2.0])
    state = state_array(EPOCHS_DONE=1, LOSS_SUM=6, WEIGHT_SUM=8, BATCH_INDEX=5)
    others = [
        slot
        for slot in StateEntry
        if slot not in (StateEntry.EPOCHS_DONE, StateEntry.LOSS_SUM, StateEntry.WEIGHT_SUM, StateEntry.BATCH_INDEX)
    ]
    before = state[others]
    launcher(kernels.get("end_epoch"))(out=(record, sums, state), count=1, totals_n=2)()
    np.testing.assert_array_equal(record, [[-1] * 4, [6, 8, 1, 2], [-1] * 4])
    assert not sums.any() and state[StateEntry.EPOCHS_DONE] == 2
    assert not state[[StateEntry.LOSS_SUM, StateEntry.WEIGHT_SUM, StateEntry.BATCH_INDEX]].any()
    np.testing.assert_array_equal(state[others], before)
    record, sums, state = np.full((3, 4), -1.0), np.array([1.0, 2.0]), state_array(NONFINITE_STEP=1, LOSS_SUM=6)
    wanted = state.copy()
    launcher(kernels.get("end_epoch"))(out=(record, sums, state), count=1, totals_n=2)()
    assert (record == -1).all() and (sums == [1, 2]).all()
    np.testing.assert_array_equal(state, wanted)


def test_normalized_weights(launcher):
    """wᵢ/Σw; a batch without weight is skipped, and its normalized weights are zero."""
    for w, empty in (([1, 0, 3, 4], 0), ([0, 0, 0, 0], 1)):
        w = np.array(w, np.float32)
        wanted, state = (
            w / 8,
            _run("start_weighted_batch", launcher, state_array(WEIGHT=w.sum(), EMPTY_BATCH=1 - empty)),
        )
        assert state[StateEntry.EMPTY_BATCH] == empty and state[StateEntry.PENALTY] == 0
        normalized = np.full(4, 7, np.float32)
        launcher(kernels.get("normalize_weights"))(w, state, out=normalized)()
        np.testing.assert_array_equal(normalized, wanted)
    _run("start_batch", launcher, state, rows=7)
    assert state[StateEntry.WEIGHT] == 7 and state[StateEntry.EMPTY_BATCH] == 0
