"""Invalid declarations and invalid arguments are refused; nothing is broadcast, cast or written."""

import re

import numpy as np
import pytest
from helpers import internals
from helpers.kernel_cases import state_array
from helpers.messages import naming

import gpunn
from gpunn import kernels
from gpunn.kernels import by_row, elementwise, reduction, summed
from gpunn.kernels._compiler import cpu_cache
from gpunn.kernels._compiler.signature import parse
from gpunn.kernels.state import SIZE, StateEntry


@pytest.fixture
def scratch():
    """Remove the kernels that a test registers."""
    with internals.own_registry():
        yield


# --- declarations ---------------------------------------------------------------------------------------------------


def _declare(source, signature="T x -> T y", *, declare=elementwise, name="scratch_kernel", **options):
    return declare(signature, source, name=name, module="scratch", **options)(lambda x: x)


@pytest.mark.parametrize(
    "source",
    ["y = abs(x);", "y = max(x, (T)0);", "y = min (x, x);", "y = x;\ny = std::abs(x);", "y = fabs(x) + abs(x);"],
)
def test_a_source_must_not_call_functions_that_differ_between_c_and_cuda(source, scratch):
    with pytest.raises(ValueError, match=r"scratch_kernel: (abs|min|max)\(\).* write fabs"):
        _declare(source)
    with pytest.raises(ValueError, match="differs"):
        _declare("y = x;", prologue=source)
    assert not internals.is_registered("scratch_kernel")


@pytest.mark.parametrize(
    "source", ["y = fabs(x);", "y = fmax(x, (T)0) + fmin(x, (T)0);", "T maximum = x; y = maximum;"]
)
def test_a_source_may_call_other_functions(source, scratch):
    assert _declare(source) is kernels.get("scratch_kernel")


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("T x", "no '->'"),
        ("T x ->", "writes nothing"),
        ("-> ", "writes nothing"),
        ("T x, T -> T y", "operand 'T' in .* is not"),
        ("T x y z -> T y", "is not '.kind. type name'"),
        ("half x -> T y", "'half x': unknown type 'half'"),
        ("float16 x -> T y", "unknown type 'float16'"),
        ("T i -> T y", "the name 'i' is reserved"),
        ("T n -> T y", "the name 'n' is reserved"),
        ("inout T x -> T y", naming("'inout'", "arrow")),
        ("T x -> scalar T y", "scalar cannot be written"),
        ("T x, row T x -> T y", "uses a name twice"),
        ("T x -> T x", "uses a name twice"),
        ("rows T x -> T y", "is not"),
        ("row[m] T x -> T y", "is not"),
        ("rows[:m] T x -> T y", naming("rows[:m] T x", "raw input")),
        ("T x -> raw[:m] T y", naming("raw[:m] T y", "raw input")),
    ],
)
def test_invalid_signatures(signature, message):
    with pytest.raises(ValueError, match=message):
        parse(signature)


def test_a_signature_is_parsed_in_order():
    s = parse("T z, row T b, rows[m] S t, raw int64 order, raw[m] T gamma, scalar T alpha -> inout T a, col T d")
    assert [(o.name, o.type, o.kind, o.role, o.width) for o in s.arrays] == [
        ("z", "T", "element", "in", None),
        ("b", "T", "row", "in", None),
        ("t", "S", "rows", "in", "m"),
        ("order", "int64", "raw", "in", None),
        ("gamma", "T", "raw", "in", "m"),
        ("a", "T", "element", "inout", None),
        ("d", "T", "col", "out", None),
    ]
    assert [o.name for o in s.scalars] == ["alpha"]
    assert s.type_variables == ("T", "S") and s.widths == ("m",)
    assert len(s.type_combinations()) == 2 * 11


def test_a_raw_matrix_has_the_width_of_the_rows():
    called = kernels.get("copy_csr_product")
    assert [o.name for o in called.signature.inputs if o.is_matrix] == ["W"]
    table = np.ones(2), np.array([0, 4], np.int32), np.array([0, 1, 2]), np.zeros(SIZE)
    W = np.arange(15.0).reshape(5, 3)
    np.testing.assert_array_equal(called(*table, W, count=2), W[[0, 4]])
    for wrong in (W[:, :2].copy(), W.ravel()):
        with pytest.raises(ValueError, match=naming("copy_csr_product", "W must have shape")):
            called.bind(*table, wrong, out=np.empty((2, 3)))


def test_the_reference_must_have_the_parameters_of_the_signature(scratch):
    with pytest.raises(ValueError, match=r"NumPy reference must be \['alpha', 'x'\], got \['x'\]"):
        _declare("y = x;", "T x, scalar T alpha -> T y")
    with pytest.raises(ValueError, match="NumPy reference must be"):
        elementwise("T x -> T y", "y = x;", name="scratch_kernel", module="scratch")(lambda x, extra: x)


@pytest.mark.parametrize("name", ["a", "b", "total", "top", "left", "w"])
def test_names_of_the_loops_of_a_reduction_are_reserved(name, scratch):
    with pytest.raises(ValueError, match=f"the name '{name}' is reserved"):
        _declare(f"{name} = x;", f"T x -> T {name}", declare=reduction, axis="rows")


@pytest.mark.parametrize(
    ("signature", "declare", "options"),
    [
        ("H x, raw H y_all -> H y", elementwise, {}),
        ("H x, scalar H alpha -> H y", elementwise, {}),
        ("H x -> T y", by_row, {}),  # one value per row
        ("raw H x -> T y", by_row, {}),
        ("T x -> H y", reduction, {"axis": "rows"}),
    ],
)
def test_bfloat16_is_refused_for_operands_that_are_not_converted(signature, declare, options, scratch):
    with pytest.raises(ValueError, match=naming("bfloat16", "write T")):
        _declare("y = x;", signature, declare=declare, **options)


def test_a_kernel_declares_its_accesses_to_the_state_array(scratch):
    for declare in (elementwise, by_row):
        with pytest.raises(ValueError, match=naming("scratch_kernel", "reads=", "writes=")):
            _declare("y = x;", "T x, raw float64 state -> T y", declare=declare)
    with pytest.raises(ValueError, match=naming("scratch_kernel", "'raw float64 state'")):
        _declare("y = x;", reads=[StateEntry.LR])
    with pytest.raises(ValueError, match=naming("scratch_kernel", "writes=")):
        _declare("y = x;", "T x, raw float64 state -> T y", declare=by_row, writes=[StateEntry.LR])
    assert not internals.is_registered("scratch_kernel")


@pytest.mark.parametrize("in_place", [{"y": ("w",)}, {"y": ("q",)}, {"x": ("x",)}, {"s": ("x",)}])
def test_outputs_that_cannot_share_memory(in_place, scratch):
    """Only an output and an input of the same kind and type can."""
    with pytest.raises(ValueError, match=naming("scratch_kernel", "in_place", *in_place)):
        by_row("rows[m] T x, T w -> rows[m] T y, T s", "", name="scratch_kernel", module="scratch", in_place=in_place)(
            lambda x, w: (x, w)
        )


@pytest.mark.parametrize("name", ["relu", "relu_with_derivative", "bias_relu", "clip_norm", "softmax_backward", "sgd"])
def test_only_a_matrix_of_several_matrices_has_column_sums(name, scratch):
    with pytest.raises(ValueError, match=naming(name, "summed")):
        summed(kernels.get(name))


def test_a_name_belongs_to_one_module(scratch):
    with pytest.raises(ValueError, match="relu is registered already"):
        _declare("y = x;", name="relu")
    _declare("y = x;")
    assert _declare("y = x + x;").source == "y = x + x;"  # its module may declare a kernel again


def test_an_unknown_kernel_is_answered_with_those_there_are():
    with pytest.raises(KeyError, match=naming("'rleu'", "relu")):
        kernels.get("rleu")


# --- calls ----------------------------------------------------------------------------------------------------------

BITS = np.zeros((4, 3), np.uint16)  # of bfloat16
X = np.zeros((4, 3))
ROW, COLUMN, STATE = np.zeros(3), np.zeros(4), state_array()
LABELS = np.zeros(4, np.int32)


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _unaligned():
    packed = np.zeros(4, np.dtype([("flag", "i1"), ("x", "f8", 3)]))
    return packed["x"]


# (kernel, inputs, out, options, pattern of the message): exactly one operand is wrong
REFUSED = {
    # nothing is broadcast
    "fewer rows": ("relu", [X], np.zeros((3, 3)), {}, naming("a", (4, 3), (3, 3))),
    "one row": ("relu_backward", [X, np.zeros((1, 3))], X.copy(), {}, naming("g", (4, 3), (1, 3))),
    "one column": ("relu_backward", [X, np.zeros((4, 1))], X.copy(), {}, naming("g", (4, 3), (4, 1))),
    "another dimension": ("relu_backward", [X, ROW], X.copy(), {}, naming("g", (4, 3), (3,))),
    "flat": ("relu_backward", [ROW, X], ROW.copy(), {}, naming("g", (3,), (4, 3))),
    "a short row": ("bias_relu", [X, np.zeros(1)], X.copy(), {}, naming("b", (3,), (1,))),
    "a row of two dimensions": ("bias_relu", [X, ROW[None]], X.copy(), {}, naming("b", (3,), (1, 3))),
    "no dimension": ("relu", [np.zeros(())], X.copy(), {}, naming("z", "dimensions")),
    "three dimensions": ("relu", [np.zeros((2, 2, 2))], X.copy(), {}, naming("z", "dimensions")),
    "targets of one dimension": (
        "half_squared_error", [X[:, :1], COLUMN, COLUMN], (X[:, :1].copy(), COLUMN.copy()), {},
        naming("y", "dimensions", (4,)),
    ),
    "targets of another width": (
        "half_squared_error", [X, X[:, :1], COLUMN], (X.copy(), COLUMN.copy()), {},
        naming("y", (4, 3), (4, 1)),
    ),
    "a weight for all": (
        "half_squared_error", [X, X, np.zeros(1)], (X.copy(), COLUMN.copy()), {}, naming("w", (4,), (1,))
    ),
    "labels of two dimensions": (
        "softmax_crossentropy", [X, LABELS[:, None], COLUMN], (X.copy(), X.copy(), COLUMN.copy()), {},
        naming("y", (4,), (4, 1)),
    ),
    "a short γ": (
        "layer_normalize", [X, np.zeros(1), ROW], (X.copy(), X.copy(), COLUMN.copy()), {"epsilon": 1},
        naming("gamma", (3,), (1,)),
    ),
    "sums of another width": ("column_sum", [X], np.zeros(4), {}, naming("s", (3,), (4,))),
    "a sum of all": ("sum_all", [X], np.zeros(3), {}, naming("s", (1,), (3,))),
    "sums over the rows of a row": ("column_sum", [ROW], np.zeros(3), {}, naming("column_sum", "two dimensions")),
    "sums of vectors": (
        "relu_backward_summed", [ROW, ROW], (ROW.copy(), ROW.copy()), {}, naming("sums over rows", "two dimensions")
    ),
    "strided sums": (
        "relu_backward_summed", [X, X], (X.copy(), np.zeros(6)[::2]), {}, naming("sums", "contiguous")
    ),
    "no columns": ("softmax", [np.zeros((4, 0))], np.zeros((4, 0)), {}, naming("z", "column")),
    "a short state": ("end_step", [], np.zeros(3), {"rows": 1, "count": 1}, naming("state", (SIZE,), (3,))),
    # nothing is cast
    "another float": ("relu", [X], np.zeros((4, 3), np.float32), {}, naming("a", "float64", "float32")),
    "integers": (
        "relu", [np.zeros((4, 3), int)], np.zeros((4, 3), int), {}, naming("z", "float32", "int64"),
    ),
    "bfloat16 and float32": ("relu", [BITS], np.zeros((4, 3), np.float32), {}, naming("a", "uint16", "float32")),
    "bfloat16 and float64": ("bias_relu", [BITS, np.zeros(3)], BITS.copy(), {}, naming("b", "float32", "float64")),
    "half": ("relu", [np.zeros((4, 3), "f2")], np.zeros((4, 3), "f2"), {}, naming("float16")),
    "complex": (
        "gather", [X + 0j, LABELS.astype(int), STATE], X.copy(), {"row_step": 3, "column_step": 1},
        naming("complex128"),
    ),
    "wide labels": (
        "softmax_crossentropy", [X, LABELS.astype(int), COLUMN], (X.copy(), X.copy(), COLUMN.copy()), {},
        naming("y", "int32", "int64"),
    ),
    "the other byte order": ("relu", [X.astype(">f8")], X.copy(), {}, naming("z", "byte order")),
    "a list": ("relu", [[1.0, 2.0]], np.zeros(2), {}, naming("z", "list")),
    "a number": ("relu", [1.0], np.zeros(1), {}, naming("z", "float")),
    "a NumPy number": ("relu", [np.float64(1)], np.zeros(1), {}, naming("z", "float64")),
    # memory
    "read-only": ("relu", [X], _read_only(X), {}, naming("output a", "read-only")),
    "a read-only parameter": ("sgd", [X, STATE], _read_only(X), {}, naming("output theta", "read-only")),
    "not aligned": ("relu", [_unaligned()], X.copy(), {}, naming("z", "aligned")),
    "a strided raw array": (
        "gather_labels", [LABELS, np.arange(8)[::2], STATE], LABELS.copy(), {}, naming("order", "contiguous")
    ),
    "a strided sum": ("column_sum", [X], np.zeros(6)[::2], {}, naming("s", "contiguous")),
    "strided rows out": ("softmax", [X], np.zeros((3, 4)).T, {}, naming("output a", "contiguous")),
    # numbers
    "too few inputs": ("relu_backward", [X], X.copy(), {}, naming("(a, g)", 1)),
    "too many outputs": ("relu", [X], (X.copy(), X.copy()), {}, naming("(z)", 1)),
    "no scalar": ("elu", [X], X.copy(), {}, naming("scalars", ["alpha"], [])),
    "an unknown scalar": ("relu", [X], X.copy(), {"alpha": 1}, naming("scalars", [], ["alpha"])),
    "no count": ("end_step", [], STATE, {"rows": 1}, naming("count=")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("bind", ["bind", "bind_numpy", "bind_compiled"])
def test_invalid_arguments(case, bind):
    name, inputs, out, options, message = REFUSED[case]
    if case == "strided rows out" and (bind == "bind_numpy" or cpu_cache.status().implementation == "numpy"):
        pytest.skip("the NumPy reference writes any layout")
    outs = out if isinstance(out, tuple) else (out,)
    before = [o.copy() for o in outs]
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(kernels.get(name), bind)(*inputs, out=out, **options)
    assert re.search(naming(name) + message, str(caught.value)), caught.value
    for o, b in zip(outs, before, strict=True):
        np.testing.assert_array_equal(o, b)


def test_host_and_device_arrays_are_not_mixed(fake_cupy):
    with pytest.raises(TypeError, match=naming("relu", "mixture")):
        kernels.get("relu")(X, out=fake_cupy.asarray(X))
    with pytest.raises(TypeError, match="mixture"):
        kernels.get("relu")(fake_cupy.asarray(X), out=X.copy())


# --- results of one call --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_call_without_out_allocates_its_results(dtype):
    """They have the type and shape of the inputs, or those of a sum."""
    x = np.arange(6, dtype=dtype).reshape(2, 3) - 2
    a, d = kernels.get("relu_with_derivative")(x)
    assert a.dtype == d.dtype == dtype
    np.testing.assert_array_equal(a, np.maximum(x, 0))
    np.testing.assert_array_equal(kernels.get("column_sum")(x), x.sum(axis=0))
    total = kernels.get("sum_all")(x)
    assert total.dtype == np.float64 and total.shape == (1,) and total[0] == x.sum()
    g, loss = kernels.get("half_squared_error")(x, x - 1, np.ones(2, dtype))
    assert g.shape == (2, 3) and loss.shape == (2,) and loss.dtype == dtype
    np.testing.assert_array_equal(loss, [1.5, 1.5])


def test_the_documentation_of_a_kernel_is_its_formula():
    """Every kernel has a docstring."""
    for kernel in kernels.all_kernels():
        assert kernel.doc.strip(), kernel.name


def test_bfloat16_requires_out():
    with pytest.raises(TypeError, match=naming("relu", "z", "uint16", "out=")):
        kernels.get("relu")(BITS)
    with pytest.raises(TypeError, match=naming("relu", "z", "uint16")):
        gpunn.activations.ReLU().f(BITS)
    kernels.get("relu")(BITS, out=BITS.copy())
