"""The texts as a GPU gets them, against the NumPy bodies: simulated on the fake CuPy everywhere, and on a GPU."""

import numpy as np
import pytest
from helpers import internals, kernel_cases, tolerances
from helpers.kernel_cases import assert_same, by_kernel, in_bfloat16, make, names, state_array
from helpers.messages import naming

from gpunn import kernels
from gpunn.kernels._compiler import cuda_codegen
from gpunn.kernels._compiler.bfloat16 import widened

pytestmark = pytest.mark.slow

# float32 for all; float64 differs in the compiler's typedef alone, and the network's simulated tests run it
SIMULATED = [*by_kernel(variables=()), *in_bfloat16()]
ON_GPU = [*by_kernel(variables=("T",)), *in_bfloat16()]  # test_values has tables of every type
GPU_SIZES = ((0, 3), (1, 1), (1, 31), (32, 1), (33, 33), (130, 67), (2, 8200))
LARGE = 10**6 + 1


def _in_numpy(**asked):
    case = make(**asked)
    inputs, options = case.arguments()
    case.kernel.bind_numpy(*inputs, **options)()
    return case


def _on_device(xp, **asked):
    case = make(**asked, xp=xp)
    inputs, options = case.arguments()
    case.kernel.bind(*inputs, **options)()
    return case


@pytest.mark.parametrize(("kernel", "types"), SIMULATED)
def test_simulated_parity(kernel, types, fake_cupy):
    """The strings of an ElementwiseKernel, compiled by the host: the same numbers as the NumPy body's."""
    fake_cupy.state.calls.clear()
    for asked in kernel_cases.cases(kernel, types, sizes=((0, 3), (1, 1), (33, 33), (130, 67)), flat=(0, 1, 33)):
        assert_same(_on_device(fake_cupy, **asked), _in_numpy(**asked))
    launched = set(internals.kernels_run(fake_cupy))
    parts = cuda_codegen.sources(kernel) if kernel.form == "reduction" else ("",)
    assert launched == {f"{kernel.name}{part}" for part in parts}


@pytest.mark.gpu
@pytest.mark.parametrize(("kernel", "types"), ON_GPU)
def test_gpu_parity(kernel, types):
    import cupy

    asked = kernel_cases.cases(
        kernel, types, sizes=GPU_SIZES, flat=(0, 1, 31, 32, 33), values="mild edges", layouts=("C", "F", "strided")
    )
    large = kernel_cases.cases(kernel, types, sizes=((LARGE, 1), (LARGE // 64 + 1, 64)), flat=(LARGE,), layouts=("C",))
    asked += [a for a in large if a.get("values") is None and a["n"] * a["m"] > LARGE - 70]
    for a in asked:
        assert_same(_on_device(cupy, **a), _in_numpy(**a), on_gpu=True)


@pytest.mark.parametrize("name", names("by_row"))
def test_simulated_rows_of_any_width(name, fake_cupy):
    """One lane a row, several and a warp, with columns left over: a team of every size."""
    kernel = kernels.get(name)
    for m in (3, 10, 100):
        asked = {"kernel": kernel, "types": kernel.signature.type_combinations()[0], "n": 5, "m": m}
        assert_same(_on_device(fake_cupy, **asked), _in_numpy(**asked))


ONTO_INPUTS = [
    pytest.param(kernels.get(name), o.name, x.name, id=f"{name}-{o.name}-in-{x.name}")
    for name in (*names("elementwise"), *names("by_row"))
    for o in kernels.get(name).signature.outputs
    for x in kernels.get(name).signature.inputs
    if o.role == "out" and o.kind != "raw" and x.name != "y" and (o.kind, o.type, o.width) == (x.kind, x.type, x.width)
]


def _assert_in_place(kernel, output, given, xp):
    types = kernel.signature.type_combinations()[0]
    order = [o.name for o in kernel.signature.arrays]
    for n, m in ((1, 1), (5, 9), (33, 33), (3, 128)):
        apart, together = (make(kernel, types, n, m, xp=xp) for _ in range(2))
        k = order.index(output) - len(together.inputs)
        together.outputs[k] = [*together.inputs, *together.outputs][order.index(given)]
        for case in (apart, together):
            inputs, options = case.arguments()
            kernel.bind(*inputs, **options)()
        for a, b in zip(together.results(), apart.results(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=together.what)


@pytest.mark.parametrize(("kernel", "output", "given"), ONTO_INPUTS)
def test_simulated_in_place(kernel, output, given, fake_cupy):
    """An output written over an input gives the same bits: no lane reads what another has written over."""
    _assert_in_place(kernel, output, given, fake_cupy)


@pytest.mark.gpu
@pytest.mark.parametrize(("kernel", "output", "given"), ONTO_INPUTS)
def test_gpu_in_place(kernel, output, given):
    import cupy

    _assert_in_place(kernel, output, given, cupy)


# shape, and the launches that it takes
REDUCTIONS = [
    ("column_sum", (16, 5), ["partial"]),
    ("column_sum", (17, 5), ["columns"]),
    ("column_sum", (1000, 131), ["columns"]),
    ("column_sum", (1000, 132), ["partial", "combine"]),
    ("column_sum", (2**16 + 1, 2), ["partial", "combine", "combine"]),
    ("column_sum", (1, 2**18 + 1), ["partial"]),
    ("column_sum", (0, 5), ["combine"]),
    ("column_sum", (5, 0), []),
    ("sum_all", (1, 1), ["partial"]),
    ("sum_all", (8, 64), ["partial"]),
    ("sum_all", (8, 65), ["partial", "combine"]),
    ("sum_all", (3, 2**16), ["partial", "combine"]),
    ("sum_all", (32, 2**16), ["partial", "combine"]),
    ("sum_all", (33, 2**16), ["partial", "combine", "combine"]),
    ("sum_all", (0, 5), ["combine"]),
]


@pytest.mark.parametrize(("name", "shape", "launches"), REDUCTIONS)
@pytest.mark.parametrize("order", "CF")
def test_reductions_in_levels(name, shape, launches, order, fake_cupy):
    """No thread combines more than a few: partial results are joined by warps, 1024 a warp, until one is left."""
    x = np.random.default_rng(0).integers(-9, 9, size=shape).astype(np.float32)
    there = fake_cupy.asarray(np.array(x, order=order))
    sums = name == "column_sum"
    s = fake_cupy.asarray(np.full(shape[1] if sums else 1, 77, "float32" if sums else "float64"))
    fake_cupy.state.calls.clear()
    kernels.get(name)(there, out=s)
    assert internals.kernels_run(fake_cupy) == [f"{name}_{launch}" for launch in launches]
    np.testing.assert_array_equal(s.get(), x.sum(axis=0 if sums else None))


def test_a_reduction_takes_the_order_that_it_states(fake_cupy):
    """Lane l of a column has rows l, l + 32, …; then lane l joins l + 16, l + 8, …: these bits, and none other."""
    x = np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32)
    lanes = np.zeros((32, 3), np.float32)
    for r, row in enumerate(x):
        lanes[r % 32] += row
    for half in (16, 8, 4, 2, 1):
        lanes[:half] += lanes[half : 2 * half]
    s = fake_cupy.empty((3,), np.float32)
    kernels.get("column_sum")(fake_cupy.asarray(x), out=s)
    np.testing.assert_array_equal(s.get(), lanes[0])


ELEMENTWISE = [p for p in SIMULATED if p.values[0].form == "elementwise"]


@pytest.mark.parametrize(("kernel", "types"), ELEMENTWISE)
def test_simulated_packs_are_the_plain_form_bit_for_bit(kernel, types, fake_cupy):
    """16 bytes at a time, one element at a time and in any layout: one text in three wrappings."""
    seen = set()
    for n, m in ((1, 7), (3, 8), (9, 31), (1, 1001)):
        results = []
        # C: on multiples of 16 bytes; offset: contiguous, but not on them; strided: as CuPy walks it
        for layout in ("C", "offset", "strided"):
            case = make(kernel, types, n, m, layout=layout, values="edges" if m == 1001 else "ordinary", xp=fake_cupy)
            inputs, options = case.arguments()
            seen.add(internals.pack(kernel, inputs, options.pop("out"), options))
            inputs, options = case.arguments()
            kernel.bind(*inputs, **options)()
            results.append(case.results())
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=case.what)
    arenas = zip(kernel.signature.arrays, (*case.inputs, *case.outputs), strict=True)
    narrowest = min(a.array.itemsize for o, a in arenas if o.kind != "raw")
    assert seen == {0, 1, 16 // narrowest}


GUARDED = [p for p in SIMULATED if p.values[0].guard is not None]


def _assert_nothing_written(kernel, types, xp):
    order = [o.name for o in kernel.signature.arrays]
    for n, m in ((3, 33), (130, 67), (0, 3)):
        for slots in ({"NONFINITE_STEP": 4}, {"EMPTY_BATCH": 1}):
            case = make(kernel, types, n, m, xp=xp)
            [*case.inputs, *case.outputs][order.index("state")].array[...] = xp.asarray(state_array(**slots))
            before = [x.copy() for x in case.results()]
            inputs, options = case.arguments()
            kernel.bind(*inputs, **options)()
            for a, b in zip(case.results(), before, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=case.what)


@pytest.mark.parametrize(("kernel", "types"), GUARDED)
def test_simulated_guards(kernel, types, fake_cupy):
    """A reduction's two launches both ask: neither its parts nor its result are written."""
    _assert_nothing_written(kernel, types, fake_cupy)


@pytest.mark.gpu
@pytest.mark.parametrize(("kernel", "types"), GUARDED)
def test_gpu_guards(kernel, types):
    import cupy

    _assert_nothing_written(kernel, types, cupy)


def test_simulated_launch_reads_what_stands_there_when_it_runs(fake_cupy):
    """Also where the layout makes a copy necessary."""
    z, a = fake_cupy.zeros((4, 5)).T, fake_cupy.empty((5, 4))
    launch = kernels.get("softmax").bind(z, out=a)
    z[:, 1] = np.log(5)
    launch()
    np.testing.assert_allclose(a.get(), np.full((5, 4), [1 / 8, 5 / 8, 1 / 8, 1 / 8]), rtol=1e-14)


def test_simulated_launches_allocate_nothing(fake_cupy):
    """What a launch needs is allocated when it is bound: a step can be captured."""
    x, s, total = fake_cupy.zeros((130, 67)), fake_cupy.empty((67,)), fake_cupy.empty((1,))
    launches = [
        kernels.get("relu").bind(x, out=x),
        kernels.get("softmax").bind(x, out=x),
        kernels.get("column_sum").bind(x, out=s),
        kernels.get("sum_all").bind(x, out=total),
    ]
    fake_cupy.state.calls.clear()
    fake_cupy.state.capturing = True
    for launch in launches:
        launch()
    fake_cupy.state.capturing = False
    assert len(fake_cupy.state.calls) == 5 and internals.only_launches(fake_cupy)


def test_kernels_of_another_cupy_are_not_taken(fake_cupy, monkeypatch):
    """What was compiled for one module named cupy is not launched for another: the fake's never reach a GPU."""
    text = cuda_codegen.elementwise_source(kernels.get("relu"))
    first = internals.device_function(text, "relu")
    assert internals.device_function(text, "relu") is first
    monkeypatch.setattr(fake_cupy, "ElementwiseKernel", type("Other", (fake_cupy.ElementwiseKernel,), {}))
    assert type(internals.device_function(text, "relu")).__name__ == "Other"


def test_simulated_rows_that_a_text_cannot_write(fake_cupy):
    for name, inputs, out in (
        ("softmax", [(3, 4)], [fake_cupy.zeros((4, 3)).T]),
        ("absolute_error", [(3, 4), (3, 4), (3,)], [fake_cupy.zeros((6,))[::2]]),
    ):
        with pytest.raises(ValueError, match=f"{name}: .* must be contiguous"):
            kernels.get(name).bind(*(fake_cupy.zeros(shape) for shape in inputs), out=tuple(out))


SUMMED = [p for p in ON_GPU if p.values[0].name.endswith("_backward")]
SUMMED = [p for p in SUMMED if cuda_codegen.can_fuse_column_sums(p.values[0])]


def _assert_summed(kernel, types, xp, on_gpu=False):
    for n, m, layout in ((1, 1, "C"), (7, 5, "C"), (33, 8, "C"), (130, 67, "C"), (40, 12, "offset"), (2100, 4, "C")):
        case, apart = (make(kernel, types, n, m, layout=layout, xp=xp) for _ in range(2))
        inputs, options = case.arguments()
        sums = xp.zeros((m,), np.dtype(types["T"]))
        kernel.bind_with_column_sums(*inputs, **options, sums=sums)()
        assert_same(case, _in_numpy(kernel=kernel, types=types, n=n, m=m, layout=layout), on_gpu=on_gpu)
        inputs, options = apart.arguments()
        kernel.bind(*inputs, **options)()
        (delta,), (same) = case.results(), apart.results()[0]
        np.testing.assert_array_equal(delta, same, err_msg=case.what)
        delta = widened(delta) if types["H"] == "uint16" else delta  # the sums are those of what was written
        scale = np.abs(delta).max(axis=0)
        tolerances.assert_within(sums.get(), delta.sum(axis=0), tolerances.sums(delta.dtype, n, scale), case.what)


@pytest.mark.parametrize(("kernel", "types"), SUMMED)
def test_simulated_derivative_and_column_sum_in_one_pass(kernel, types, fake_cupy):
    """δ has the bits that it has alone, and its column sums are right."""
    _assert_summed(kernel, types, fake_cupy)


@pytest.mark.gpu
@pytest.mark.parametrize(("kernel", "types"), SUMMED)
def test_gpu_derivative_and_column_sum_in_one_pass(kernel, types):
    import cupy

    _assert_summed(kernel, types, cupy, on_gpu=True)


def test_every_activation_has_a_derivative_that_can_be_summed():
    names = {p.values[0].name for p in SUMMED}
    assert {"relu_backward", "gelu_backward", "tanh_backward", "leaky_relu_backward", "sigmoid_backward"} <= names


def test_what_one_pass_does_not_sum(fake_cupy):
    """Other layouts, no elements, and arrays of the host: two launches."""
    relu = kernels.get("relu_backward")
    a, g, delta, db = (fake_cupy.zeros(shape) for shape in ((4, 3), (4, 3), (4, 3), (3,)))
    assert relu.bind_with_column_sums(a, g, out=delta, sums=db) is not None
    turned = fake_cupy.zeros((3, 4)).T
    assert relu.bind_with_column_sums(turned, g, out=delta, sums=db) is None
    none = fake_cupy.zeros((0, 3))
    assert relu.bind_with_column_sums(none, none, out=none, sums=db) is None
    host = np.zeros((4, 3))
    assert relu.bind_with_column_sums(host, host, out=host, sums=np.zeros(3)) is None
    with pytest.raises(ValueError, match=naming("column_sum")):
        relu.bind_with_column_sums(a, g, out=delta, sums=fake_cupy.zeros((4,)))
