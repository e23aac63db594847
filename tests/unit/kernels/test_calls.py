"""Functional calls: operands, results, recorded calls, and what a kernel declares about its effects."""

import dataclasses
import re

import numpy as np
import pytest
from helpers import kernel_cases
from helpers.kernel_cases import by_kernel, make, state_array
from helpers.messages import naming

from gpunn import kernels
from gpunn.kernels import Guard
from gpunn.kernels._compiler.signature import parse
from gpunn.kernels.state import StateEntry

# --- results --------------------------------------------------------------------------------------------------------


def _determined(kernel):
    """False for kernels whose outputs have a width that no operand determines."""
    try:
        case = make(kernel, kernel.signature.type_combinations()[0], 4, 5)
        kernel.output_layouts(_operands(case), _count(case), case.scalars)
    except TypeError:
        return False
    return True


def _operands(case):
    updated = [x for x, k in zip(case.outputs, case.kernel.updated, strict=True) if k is not None]
    return [x.array for x in (*case.inputs, *updated)]


def _count(case):
    """The number of rows if no operand determines it."""
    if case.count is not None or case.kernel.form != "by_row":
        return case.count
    return None if any(o.kind in ("rows", "element") for o in case.kernel.operands) else case.shape[0]


CALLED = [p for p in by_kernel(variables=("T",)) if _determined(p.values[0])]


def test_only_the_width_of_a_batch_is_not_determined():
    """The kernels that fill a batch from a table of any layout need out=."""
    called = {p.values[0].name for p in CALLED}
    assert {k.name for k in kernels.all_kernels()} - called == {"gather", "copy_rows"}


@pytest.mark.parametrize(("kernel", "types"), CALLED)
def test_a_functional_call_returns_the_outputs(kernel, types):
    """It has the results of a launch with out=. `inout` operands are unchanged, raw ones are updated and returned."""
    sizes = [{"n": 7, "m": 5}, {"n": 1, "m": 1}]
    if kernel.form == "elementwise" or kernel.axis == "all":
        sizes.append({"n": 1, "m": 9, "flat": True})
    for size in sizes:
        case, wanted = make(kernel, types, **size), make(kernel, types, **size)
        inputs, options = wanted.arguments()
        kernel.bind(*inputs, **options)()
        operands = _operands(case)
        before = [x.copy() for x in operands]
        found = kernel(*operands, count=_count(case), **case.scalars)
        outputs = found if isinstance(found, tuple) else (found,)
        layouts = kernel.output_layouts(operands, _count(case), case.scalars)
        pairs = zip(kernel.signature.outputs, outputs, wanted.results(), layouts, kernel.updated, strict=True)
        for o, got, expected, layout, k in pairs:
            np.testing.assert_array_equal(got, expected, err_msg=f"{case.description}: {o.name}")
            assert (got.shape, got.dtype) == layout == (expected.shape, expected.dtype)
            assert k is None or (got is operands[k]) == (o.kind == "raw")
        for o, x, b in zip(kernel.operands, operands, before, strict=True):
            if o.kind != "raw" or o.role == "in":
                np.testing.assert_array_equal(x, b, err_msg=f"{case.description}: {o.name}")


def test_a_functional_call_on_a_device(fake_cupy):
    g, theta = fake_cupy.asarray(np.ones(3)), fake_cupy.asarray(np.arange(3.0))
    updated = kernels.get("sgd")(g, fake_cupy.asarray(state_array(LR=0.5)), theta)
    np.testing.assert_array_equal(updated.get(), [-0.5, 0.5, 1.5])
    np.testing.assert_array_equal(theta.get(), [0, 1, 2])


def test_the_operands_of_a_call():
    """The inputs, then each output that is updated; new outputs are no operands."""
    expected = {
        "relu": ("z", (None,)),
        "sgd": ("g state theta", (2,)),
        "momentum": ("g state theta v", (2, 3)),
        "momentum_with_bf16_copy": ("g state theta v", (2, 3, None)),
        "end_step": ("state", (0,)),
        "end_epoch": ("record totals state", (0, 1, 2)),
        "store_rows": ("x state stored", (2,)),
        "dropout": ("x state", (None,)),
        "softmax_crossentropy": ("z y w", (None, None, None)),
    }
    for name, (operands, updated) in expected.items():
        kernel = kernels.get(name)
        assert (" ".join(o.name for o in kernel.operands), kernel.updated) == (operands, updated)


def test_an_output_may_have_the_shape_of_a_raw_input():
    x, state = np.ones((2, 3)), state_array()
    dropout = kernels.get("dropout")
    options = {"count": 3, "threshold": 0, "factor": 2.0, "layer": 0, "width": 3, "elements": 6}
    np.testing.assert_array_equal(dropout(x, state, **options), np.full((2, 3), 2.0))
    with pytest.raises(ValueError, match=naming("dropout", "y", (2, 3), (6,))):
        dropout(x, state, out=np.empty(6), **options)
    (y,) = parse("raw T x, rows[m] T z -> raw[x] T y").outputs
    assert (y.like, y.width, y.is_updated) == ("x", None, False)


def test_a_scalar_may_be_the_width_of_an_output():
    zeros = kernels.get("zero_columns")(np.ones((2, 3), np.float32), width_m=5)
    assert zeros.shape == (2, 5) and zeros.dtype == np.float32 and not zeros.any()


def test_the_layouts_of_bfloat16():
    """Matrices of type H keep their storage type; sums and results of type T are float32."""
    bits, row = np.zeros((4, 3), np.uint16), np.zeros(3, np.float32)
    assert kernels.get("relu_backward").output_layouts((bits, bits)) == [((4, 3), np.uint16)]
    assert kernels.get("bias_gelu").output_layouts((bits, row)) == [((4, 3), np.uint16)] * 2
    assert kernels.get("column_sum").output_layouts((bits,)) == [((3,), np.float32)]


# --- refused calls --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Recorded:
    """An operand that records calls instead of computing."""

    calls: list

    def record_kernel(self, kernel, operands, count, scalars):
        self.calls.append((kernel.name, operands, count, scalars))
        return "recorded"


def test_a_call_on_tensors_is_recorded():
    """The first operand with record_kernel gets the call, with any layouts."""
    first, second = Recorded([]), Recorded([])
    x = np.zeros((4, 3))
    assert kernels.get("elu_backward")(x, second, alpha=2.0) == "recorded"
    assert kernels.get("sgd")(first, x, second) == "recorded"
    assert kernels.get("end_step")(first, rows=4, count=1) == "recorded"
    assert second.calls == [("elu_backward", (x, second), None, {"alpha": 2.0})]
    assert first.calls == [("sgd", (first, x, second), None, {}), ("end_step", (first,), 1, {"rows": 4})]


@pytest.mark.parametrize("operand", [np.zeros((2, 3)), Recorded([])])
def test_a_wrong_number_of_operands_or_scalars(operand):
    """Also in a recorded call."""
    for name, n, options, message in (
        ("sgd", 2, {}, naming("sgd", "(g, state, theta)", 2)),
        ("relu", 2, {}, naming("relu", "(z)", 2)),
        ("clip_value", 0, {"limit": 1.0}, naming("clip_value", "(g)", 0)),
        ("philox", 1, {}, naming("philox", "(counter, key)", 1)),
        ("elu", 1, {}, naming("elu", "scalars", ["alpha"], [])),
        ("relu", 1, {"alpha": 1}, naming("relu", "scalars", [], ["alpha"])),
    ):
        with pytest.raises(TypeError, match=message):
            kernels.get(name)(*[operand] * n, **options)
    assert not getattr(operand, "calls", None)


def test_results_that_no_operand_determines():
    x, order, state = np.zeros((4, 3)), np.arange(4), state_array()
    with pytest.raises(TypeError, match=naming("gather", "out=", "x")):
        kernels.get("gather")(x, order, state, row_step=3, column_step=1, count=2)
    with pytest.raises(TypeError, match=naming("gather_labels", "count=")):
        kernels.get("gather_labels")(np.zeros(4, np.int32), order, state)
    with pytest.raises(TypeError, match=naming("relu", "z", "list")):
        kernels.get("relu")([1.0])


# --- declared effects -----------------------------------------------------------------------------------------------

_MENTION = re.compile(r"((?<!&)&\s*(?:\w+\s*=\s*)?|\+\+|--)?\bstate\b(?:\[([A-Z_]+)\]\s*(\+\+|--|[-+*/]?=(?!=))?)?")


def state_accesses(code):
    """The entries of the state array that C++ code reads, and those that it writes.

    None if the code uses the array as a whole, or the address of an entry.
    """
    reads, writes = set(), set()
    for before, name, after in _MENTION.findall(code):
        if before.startswith("&") or name not in StateEntry.__members__:
            return None
        if before or after:
            writes.add(StateEntry[name])
        if after != "=":
            reads.add(StateEntry[name])
    return reads, writes


@pytest.mark.parametrize("name", kernel_cases.names())
def test_a_source_accesses_the_declared_entries(name):
    """Exactly those, guard and prologue included."""
    kernel = kernels.get(name)
    code = "\n".join([kernel.source, kernel.prologue, kernel.guard.source if kernel.guard else ""])
    assert state_accesses(code) == (kernel.state_reads, kernel.state_writes)


def test_a_kernel_reads_what_its_guard_reads():
    kernel = kernels.get("sgd")
    entries = {StateEntry.LR, StateEntry.NONFINITE_STEP, StateEntry.EMPTY_BATCH}
    assert isinstance(kernel.guard, Guard) and (kernel.state_reads, kernel.state_writes) == (entries, set())
    assert all(type(k) is int for k in kernel.state_reads)


ENTRIES = {
    "state[LOSS] = 1.0;": (set(), {StateEntry.LOSS}),
    "state[LOSS] += 1.0;": ({StateEntry.LOSS}, {StateEntry.LOSS}),
    "if (state[NONFINITE_STEP] == 0.0 && state[LR] <= x) state[STEP] -= state[LR];": (
        {StateEntry.NONFINITE_STEP, StateEntry.LR, StateEntry.STEP},
        {StateEntry.STEP},
    ),
    "++state[BATCH_INDEX]; state[STEP]--;": (
        {StateEntry.BATCH_INDEX, StateEntry.STEP},
        {StateEntry.BATCH_INDEX, StateEntry.STEP},
    ),
    "if (ready && state[EMPTY_BATCH] == 0.0) x = 1.0 - -state[LR];": ({StateEntry.EMPTY_BATCH, StateEntry.LR}, set()),
    "double& loss = state[LOSS]; loss = 1.0;": None,
    "atomicAdd(&state[LOSS], x);": None,
    "state[MINE] = x;": None,
    "x = state[(int)k];": None,
    "mend(state);": None,
    "x = 1.0;": (set(), set()),
}


@pytest.mark.parametrize("source", ENTRIES)
def test_the_test_finds_the_accesses_of_a_source(source):
    assert state_accesses(source) == ENTRIES[source]


def test_what_may_share_memory():
    """Elements of an elementwise kernel; by row, what is declared; an updated output shares that of its operand."""
    expected = {
        "relu_backward": ((0, 1),),
        "batch_normalize": ((0,), (0,)),
        "softmax_crossentropy": ((0,), (0,), ()),
        "half_squared_error": ((), ()),
        "dropout": ((0,),),
        "column_sum": ((),),
        "relu_backward_summed": ((0, 1), ()),
        "adam": ((2,), (3,), (4,)),
        "to_bfloat16": ((),),
    }
    for name, in_place in expected.items():
        assert kernels.get(name).in_place == in_place, name
