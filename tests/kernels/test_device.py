"""The texts as a GPU gets them, against the NumPy bodies: simulated on the fake CuPy everywhere, and on a GPU."""

import kernel_cases
import numpy as np
import pytest
from kernel_cases import assert_same, by_kernel, make, state_array

from gpunn import kernels
from gpunn.kernels import _device

# float32 for all; float64 differs in the compiler's typedef alone, and the network's simulated tests run it
SIMULATED = by_kernel(variables=())
ON_GPU = by_kernel(variables=("T",))  # test_values has tables of every type
GPU_SIZES = ((0, 3), (1, 1), (1, 31), (32, 1), (33, 33), (130, 67), (2, 8200))
LARGE = 10**6 + 1


def _in_numpy(**asked):
    case = make(**asked)
    inputs, options = case.arguments()
    case.kernel.in_numpy(*inputs, **options)()
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
    launched = {c for c in fake_cupy.state.calls if c.startswith("kernel ")}
    parts = ("_parts", "_combine") if kernel.form == "reduction" else ("",)
    assert launched == {f"kernel gpunn_{kernel.name}{part}" for part in parts}


@pytest.mark.gpu
@pytest.mark.parametrize(("kernel", "types"), ON_GPU)
def test_gpu_parity(kernel, types):
    import cupy

    asked = kernel_cases.cases(
        kernel, types, sizes=GPU_SIZES, flat=(0, 1, 31, 32, 33), values="mild edges", layouts=("C", "strided")
    )
    large = kernel_cases.cases(kernel, types, sizes=((LARGE, 1), (LARGE // 64 + 1, 64)), flat=(LARGE,), layouts=("C",))
    asked += [a for a in large if a.get("values") is None and a["n"] * a["m"] > LARGE - 70]
    for a in asked:
        assert_same(_on_device(cupy, **a), _in_numpy(**a), on_gpu=True)


GUARDED = [p for p in SIMULATED if p.values[0].when is not None]


def _assert_nothing_written(kernel, types, xp):
    order = [o.name for o in kernel.signature.arrays]
    for n, m in ((3, 33), (130, 67), (0, 3)):
        for slots in ({"BAD": 4}, {"SKIP": 1}):
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
        kernels.get("total").bind(x, out=total),
    ]
    fake_cupy.state.calls.clear()
    fake_cupy.state.capturing = True
    for launch in launches:
        launch()
    fake_cupy.state.capturing = False
    assert len(fake_cupy.state.calls) == 6 and all(c.startswith("kernel ") for c in fake_cupy.state.calls)


def test_kernels_of_another_cupy_are_not_taken(fake_cupy, monkeypatch):
    """What was compiled for one module named cupy is not launched for another: the fake's never reach a GPU."""
    parts = _device.elementwise_parts(kernels.get("relu"))
    first = _device._compiled(parts, "relu")
    assert _device._compiled(parts, "relu") is first
    monkeypatch.setattr(fake_cupy, "ElementwiseKernel", type("Other", (fake_cupy.ElementwiseKernel,), {}))
    assert type(_device._compiled(parts, "relu")).__name__ == "Other"


def test_simulated_rows_that_a_text_cannot_write(fake_cupy):
    for name, inputs, out in (
        ("softmax", [(3, 4)], [fake_cupy.zeros((4, 3)).T]),
        ("absolute_error", [(3, 4), (3, 4), (3,)], [fake_cupy.zeros((6,))[::2]]),
    ):
        with pytest.raises(ValueError, match=f"{name}: .* must be contiguous"):
            kernels.get(name).bind(*(fake_cupy.zeros(shape) for shape in inputs), out=tuple(out))
