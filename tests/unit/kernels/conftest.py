"""The four ways in which a kernel can run, as a fixture."""

import numpy as np
import pytest

from gpunn import kernels
from gpunn.kernels._compiler import cpu_cache


class Body:
    """One way to run a kernel: "numpy", "compiled", "simulated" (the text for a GPU, on the fake CuPy) or "gpu"."""

    def __init__(self, name, xp):
        self.name, self.xp = name, xp

    def __call__(self, name, *inputs, out, **options):
        """Run the kernel on NumPy arrays, which have the results then, wherever it ran. One array given twice is
        one buffer there too."""
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
def compiled_texts():
    """All texts compiled for this CPU, side by side; skipped where they cannot be."""
    if cpu_cache.status().implementation != "compiled":
        pytest.skip(f"the kernels' texts are not compiled here: {cpu_cache.status().reason}")
    cpu_cache.build()


def _body(request):
    if request.param == "simulated":
        return Body("simulated", request.getfixturevalue("fake_cupy"))
    if request.param == "gpu":
        import cupy

        return Body("gpu", cupy)
    if request.param == "compiled":
        request.getfixturevalue("compiled_texts")
    return Body(request.param, np)


ON_HOST = ["numpy", "compiled"]
ON_GPU = pytest.param("gpu", marks=pytest.mark.gpu)


@pytest.fixture(params=[*ON_HOST, ON_GPU])
def body(request):
    """Each way but the simulated one, which is held against the NumPy bodies, kernel by kernel."""
    return _body(request)


@pytest.fixture(params=[*ON_HOST, "simulated", ON_GPU])
def any_body(request):
    """Each way in turn. What passes in "simulated" is no GPU result."""
    return _body(request)
