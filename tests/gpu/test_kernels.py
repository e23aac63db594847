"""CUDA sources of kernels against the NumPy references: simulated on the fake CuPy, and on a GPU."""

import itertools

import numpy as np
import pytest
from helpers import internals, kernel_cases
from helpers.kernel_cases import assert_same, by_kernel, in_bfloat16, in_place, make, names, state_array
from helpers.messages import naming

from gpunn import kernels
from gpunn.kernels._compiler import cuda_codegen

pytestmark = pytest.mark.slow

# float32 only: float64 differs in a typedef, and the simulated tests of networks use it
SIMULATED = [*by_kernel(variables=()), *in_bfloat16()]
ON_GPU = [*by_kernel(variables=("T",)), *in_bfloat16()]  # test_batches_and_metrics uses tables of every type
GPU_SIZES = ((0, 3), (1, 1), (1, 31), (32, 1), (33, 33), (130, 67), (2, 8200))
LARGE = 10**6 + 1


def _run_numpy(**options):
    case = make(**options)
    inputs, keywords = case.arguments()
    case.kernel.bind_numpy(*inputs, **keywords)()
    return case


def _run_device(xp, **options):
    case = make(**options, xp=xp)
    inputs, keywords = case.arguments()
    case.kernel.bind(*inputs, **keywords)()
    return case


@pytest.mark.parametrize(("kernel", "types"), SIMULATED)
def test_simulated_parity(kernel, types, fake_cupy):
    """The source of the ElementwiseKernel, compiled by the host's compiler, agrees with the NumPy reference."""
    fake_cupy.state.calls.clear()
    for options in kernel_cases.cases(kernel, types, sizes=((0, 3), (1, 1), (33, 33), (130, 67)), flat=(0, 1, 33)):
        assert_same(_run_device(fake_cupy, **options), _run_numpy(**options))
    launched = set(internals.kernels_run(fake_cupy))
    suffixes = cuda_codegen.sources(kernel) if kernel.form == "reduction" else ("",)
    wanted = {f"{kernel.name}{suffix}" for suffix in suffixes}
    if kernel.form == "summed":
        # two launches for other layouts than contiguous ones
        wanted |= {kernel.base.name, *(f"column_sum{suffix}" for suffix in ("_columns", "_combine"))}
    assert launched == wanted


@pytest.mark.gpu
@pytest.mark.parametrize(("kernel", "types"), ON_GPU)
def test_gpu_parity(kernel, types):
    import cupy

    cases = kernel_cases.cases(
        kernel, types, sizes=GPU_SIZES, flat=(0, 1, 31, 32, 33), values="mild edges", layouts=("C", "F", "strided")
    )
    large = kernel_cases.cases(kernel, types, sizes=((LARGE, 1), (LARGE // 64 + 1, 64)), flat=(LARGE,), layouts=("C",))
    cases += [a for a in large if a.get("values") is None and a["n"] * a["m"] > LARGE - 70]
    for a in cases:
        assert_same(_run_device(cupy, **a), _run_numpy(**a), on_gpu=True)


@pytest.mark.parametrize("name", names("by_row"))
def test_simulated_rows_of_any_width(name, fake_cupy):
    """One lane per row, several, and a warp, each with remaining columns."""
    kernel = kernels.get(name)
    for m in (3, 10, 100):
        options = {"kernel": kernel, "types": kernel.signature.type_combinations()[0], "n": 5, "m": m}
        assert_same(_run_device(fake_cupy, **options), _run_numpy(**options))


def _assert_in_place(kernel, output, given, xp):
    types = kernel.signature.type_combinations()[0]
    order = [o.name for o in kernel.signature.arrays]
    layouts = ("C", "padded") if kernel.form == "elementwise" else ("C",)
    for n, m, layout in itertools.product((1, 5, 33), (1, 9, 33, 128), layouts):
        separate, shared = (make(kernel, types, n, m, layout=layout, xp=xp) for _ in range(2))
        k = order.index(output) - len(shared.inputs)
        shared.outputs[k] = [*shared.inputs, *shared.outputs][order.index(given)]
        for case in (separate, shared):
            inputs, options = case.arguments()
            kernel.bind(*inputs, **options)()
        for a, b in zip(shared.results(), separate.results(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=shared.description)


@pytest.mark.parametrize(("kernel", "output", "given"), in_place())
def test_simulated_in_place(kernel, output, given, fake_cupy):
    """An output that shares a buffer with an input has the same bits: no lane reads overwritten values."""
    _assert_in_place(kernel, output, given, fake_cupy)


@pytest.mark.gpu
@pytest.mark.parametrize(("kernel", "output", "given"), in_place())
def test_gpu_in_place(kernel, output, given):
    import cupy

    _assert_in_place(kernel, output, given, cupy)


# kernel, shape, and the suffixes of its launches
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
def test_the_launches_of_a_reduction(name, shape, launches, order, fake_cupy):
    """Each thread combines few elements. Warps combine up to 1024 partial results each, until one is left."""
    x = np.random.default_rng(0).integers(-9, 9, size=shape).astype(np.float32)
    there = fake_cupy.asarray(np.array(x, order=order))
    sums = name == "column_sum"
    s = fake_cupy.asarray(np.full(shape[1] if sums else 1, 77, "float32" if sums else "float64"))
    fake_cupy.state.calls.clear()
    kernels.get(name)(there, out=s)
    assert internals.kernels_run(fake_cupy) == [f"{name}_{launch}" for launch in launches]
    np.testing.assert_array_equal(s.get(), x.sum(axis=0 if sums else None))


def test_a_reduction_has_the_documented_order(fake_cupy):
    """Lane l of a column adds rows l, l + 32, …; then lane l adds l + 16, l + 8, …: exactly these bits."""
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
def test_simulated_packs_equal_single_elements_bit_for_bit(kernel, types, fake_cupy):
    """Accesses of 16 bytes, of one element, and in any layout give the same bits."""
    packs = set()
    for n, m in ((1, 7), (3, 8), (9, 31), (1, 1001)):
        results = []
        # C: aligned to 16 bytes; offset: contiguous, but not aligned; strided: as CuPy iterates
        for layout in ("C", "offset", "strided"):
            case = make(kernel, types, n, m, layout=layout, values="edges" if m == 1001 else "ordinary", xp=fake_cupy)
            inputs, options = case.arguments()
            packs.add(internals.pack(kernel, inputs, options.pop("out"), options))
            inputs, options = case.arguments()
            kernel.bind(*inputs, **options)()
            results.append(case.results())
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=case.description)
    arenas = zip(kernel.signature.arrays, (*case.inputs, *case.outputs), strict=True)
    narrowest = min(a.array.itemsize for o, a in arenas if o.kind != "raw")
    assert packs == {0, 1, 16 // narrowest}


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
                np.testing.assert_array_equal(a, b, err_msg=case.description)


@pytest.mark.parametrize(("kernel", "types"), GUARDED)
def test_simulated_guards(kernel, types, fake_cupy):
    """Both launches of a reduction evaluate the guard: neither partial results nor the result are written."""
    _assert_nothing_written(kernel, types, fake_cupy)


@pytest.mark.gpu
@pytest.mark.parametrize(("kernel", "types"), GUARDED)
def test_gpu_guards(kernel, types):
    import cupy

    _assert_nothing_written(kernel, types, cupy)


def test_a_simulated_launch_reads_the_values_at_run_time(fake_cupy):
    """Also if the layout requires a copy."""
    z, a = fake_cupy.zeros((4, 5)).T, fake_cupy.empty((5, 4))
    launch = kernels.get("softmax").bind(z, out=a)
    z[:, 1] = np.log(5)
    launch()
    np.testing.assert_allclose(a.get(), np.full((5, 4), [1 / 8, 5 / 8, 1 / 8, 1 / 8]), rtol=1e-14)


def test_simulated_launches_allocate_nothing(fake_cupy):
    """Scratch memory is allocated when a launch is bound, so a step can be captured."""
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


def test_kernels_of_another_cupy_module_are_not_used(fake_cupy, monkeypatch):
    """A kernel compiled for one cupy module is not launched for another, so a fake never runs on a GPU."""
    source = cuda_codegen.elementwise_source(kernels.get("relu"))
    first = internals.device_function(source, "relu")
    assert internals.device_function(source, "relu") is first
    monkeypatch.setattr(fake_cupy, "ElementwiseKernel", type("Other", (fake_cupy.ElementwiseKernel,), {}))
    assert type(internals.device_function(source, "relu")).__name__ == "Other"


def test_simulated_outputs_must_have_contiguous_rows(fake_cupy):
    for name, inputs, out in (
        ("softmax", [(3, 4)], [fake_cupy.zeros((4, 3)).T]),
        ("absolute_error", [(3, 4), (3, 4), (3,)], [fake_cupy.zeros((6,))[::2]]),
    ):
        with pytest.raises(ValueError, match=f"{name}: .* must be contiguous"):
            kernels.get(name).bind(*(fake_cupy.zeros(shape) for shape in inputs), out=tuple(out))


SUMMED = [p for p in ON_GPU if p.values[0].form == "summed"]


def _assert_column_sums(kernel, types, xp, on_gpu=False):
    for n, m, layout in ((1, 1, "C"), (7, 5, "C"), (33, 8, "C"), (130, 67, "C"), (40, 12, "offset"), (2100, 4, "C")):
        case = make(kernel, types, n, m, layout=layout, xp=xp)
        inputs, options = case.arguments()
        kernel.bind(*inputs, **options)()
        assert_same(case, _run_numpy(kernel=kernel, types=types, n=n, m=m, layout=layout), on_gpu=on_gpu)
        separate = make(kernel.base, types, n, m, layout=layout, xp=xp)
        inputs, options = separate.arguments()
        kernel.base.bind(*inputs, **options)()
        np.testing.assert_array_equal(case.results()[0], separate.results()[0], err_msg=case.description)


@pytest.mark.parametrize(("kernel", "types"), SUMMED)
def test_simulated_derivative_and_column_sum_in_one_pass(kernel, types, fake_cupy):
    """δ has the same bits as in a separate launch, and its column sums are right."""
    _assert_column_sums(kernel, types, fake_cupy)


@pytest.mark.gpu
@pytest.mark.parametrize(("kernel", "types"), SUMMED)
def test_gpu_derivative_and_column_sum_in_one_pass(kernel, types):
    import cupy

    _assert_column_sums(kernel, types, cupy, on_gpu=True)


def test_activations_have_a_kernel_with_column_sums():
    named = {p.values[0].name.removesuffix("_backward_summed") for p in SUMMED}
    assert {"relu", "sigmoid", "tanh", "gelu", "silu", "elu", "selu", "mish", "softplus", "exp"} <= named


def test_column_sums_in_one_pass_or_two(fake_cupy):
    """Contiguous arrays with elements take one pass, with the sums of longer columns combined; others two launches."""
    kernel = kernels.get("relu_backward_summed")

    def launched(n, m, order="C"):
        a = fake_cupy.asarray(np.array(np.arange(n * m).reshape(n, m) - 3.0, order=order))
        delta, sums = fake_cupy.zeros((n, m)), fake_cupy.asarray(np.full(m, 7.0))
        fake_cupy.state.calls.clear()
        kernel(a, a, out=(delta, sums))
        wanted = np.maximum(np.arange(n * m).reshape(n, m) - 3.0, 0)
        np.testing.assert_array_equal(delta.get(), wanted)
        np.testing.assert_array_equal(sums.get(), wanted.sum(axis=0))
        return internals.kernels_run(fake_cupy)

    assert launched(4, 3) == ["relu_backward_summed"]
    assert launched(64, 4) == ["relu_backward_summed", "column_sum_combine"]
    assert launched(4, 3, "F") == ["relu_backward", "column_sum_partial"]
    assert launched(0, 3) == ["column_sum_combine"]
    x = fake_cupy.zeros((4, 3))
    with pytest.raises(ValueError, match=naming("relu_backward_summed", "sums", (3,), (4,))):
        kernel.bind(x, x, out=(x, fake_cupy.zeros((4,))))
