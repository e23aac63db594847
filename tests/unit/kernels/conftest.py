"""The four ways to run a kernel, as fixtures."""

import numpy as np
import pytest

from gpunn import kernels
from gpunn.kernels._compiler import cpu_cache


class Implementation:
    """One way to run a kernel: "numpy", "compiled", "simulated" (the CUDA source on the fake CuPy) or "gpu"."""

    def __init__(self, name, xp):
        self.name, self.xp = name, xp

    def __call__(self, name, *inputs, out, **options):
        """Run the kernel and write the results to the NumPy arrays `out`.

        An array that is passed twice is a single buffer on the device too.
        """
        kernel = kernels.get(name)
        if self.xp is np:
            launcher = kernel.bind_numpy if self.name == "numpy" else kernel.bind_compiled
            launcher(*inputs, out=out, **options)()
            return out
        outs = out if isinstance(out, tuple) else (out,)
        there = {id(x): self.xp.asarray(x) for x in (*inputs, *outs)}
        kernel(*(there[id(x)] for x in inputs), out=tuple(there[id(o)] for o in outs), **options)
        for o in outs:
            o[...] = there[id(o)].get()
        return out

    def __repr__(self):
        return self.name


@pytest.fixture(scope="session")
def compiled_kernels():
    """Compile all kernels for this CPU in parallel. Skips the test if that is not possible."""
    if cpu_cache.status().implementation != "compiled":
        pytest.skip(f"the kernels are not compiled here: {cpu_cache.status().reason}")
    cpu_cache.compile_all(cpu_cache.all_sources())


def _implementation_of(request):
    if request.param == "simulated":
        return Implementation("simulated", request.getfixturevalue("fake_cupy"))
    if request.param == "gpu":
        import cupy

        return Implementation("gpu", cupy)
    if request.param == "compiled":
        request.getfixturevalue("compiled_kernels")
    return Implementation(request.param, np)


ON_HOST = ["numpy", "compiled"]
ON_GPU = pytest.param("gpu", marks=pytest.mark.gpu)


@pytest.fixture(params=[*ON_HOST, ON_GPU])
def implementation(request):
    """Each way except the simulated one, which test_kernels.py compares with the NumPy references."""
    return _implementation_of(request)


@pytest.fixture(params=[*ON_HOST, "simulated", ON_GPU])
def any_implementation(request):
    """Each way. A test that passes with "simulated" says nothing about a GPU's results."""
    return _implementation_of(request)
