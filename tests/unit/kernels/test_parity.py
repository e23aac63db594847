"""The NumPy reference and the C++ source of every registered kernel agree on this CPU."""

import ctypes
import dataclasses

import numpy as np
import pytest
from helpers import internals, kernel_cases
from helpers.kernel_cases import assert_same, by_kernel, in_place, make, names

from gpunn import kernels
from gpunn.kernels._compiler import cpu_cache

SOME_SIZES = ((1, 1), (33, 33), (130, 67))
IMPLEMENTATIONS = ("numpy", "compiled")


pytestmark = pytest.mark.usefixtures("compiled_kernels")


def _without_numpy(kernel):
    """The kernel with a NumPy reference that must not run."""

    def reference(*_, **__):
        raise AssertionError(f"the NumPy reference of {kernel.name} ran instead of the compiled source")

    base = None if kernel.base is None else _without_numpy(kernel.base)
    return dataclasses.replace(kernel, reference=reference, base=base)


def _launch(case, implementation):
    inputs, options = case.arguments()
    if implementation == "numpy":
        return case.kernel.bind_numpy(*inputs, **options)
    return _without_numpy(case.kernel).bind_compiled(*inputs, **options)


def _run(implementation, **options):
    case = make(**options)
    _launch(case, implementation)()
    return case


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "types"), by_kernel())
def test_source_and_reference_agree(kernel, types):
    """For every layout and size, for one-dimensional arrays and for edge values. The compiled source ran."""
    for options in kernel_cases.cases(kernel, types):
        assert_same(_run("compiled", **options), _run("numpy", **options))


@pytest.mark.parametrize("name", names())
def test_the_compiled_source_runs_by_default(name):
    kernel = kernels.get(name)
    case = make(kernel, kernel.signature.type_combinations()[0], 4, 5)
    inputs, options = case.arguments()
    launch = _without_numpy(kernel).bind(*inputs, **options)
    if kernel.form == "summed":
        with pytest.raises(AssertionError, match=r"the NumPy reference of \w+ ran"):
            _without_numpy(kernel).bind_numpy(*inputs, **options)()
    else:
        assert isinstance(launch.function, ctypes._CFuncPtr)
    assert kernels.bind_all([(kernel, inputs, options.pop("out"), options.pop("count", None), options)])
    launch()


def test_a_launch_reads_the_values_at_run_time():
    """Also if the layout requires a copy: an executable binds once and runs for every batch."""
    kernel = kernels.get("softmax")
    z, a = np.zeros((5, 4), order="F"), np.empty((5, 4))
    launches = [kernel.bind_compiled(z, out=a), kernel.bind_numpy(z, out=a)]
    z[:, 1] = np.log(5)
    for launch in launches:
        a[...] = 0
        launch()
        np.testing.assert_allclose(a, np.full((5, 4), [1 / 8, 5 / 8, 1 / 8, 1 / 8]), rtol=1e-14)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("kernel", "output", "given"), in_place())
def test_in_place_gives_the_same_bits(kernel, output, given, implementation):
    """An output that shares a buffer with an input has the bits that it has in its own buffer."""
    types = kernel.signature.type_combinations()[0]
    order = [o.name for o in kernel.signature.arrays]
    for options in kernel_cases.cases(kernel, types, layouts=("C",), sizes=SOME_SIZES):
        separate, shared = make(**options), make(**options)
        arenas = [*shared.inputs, *shared.outputs]
        k = order.index(output) - len(shared.inputs)
        shared.outputs[k] = arenas[order.index(given)]
        for case in (separate, shared):
            _launch(case, implementation)()
        for o, a, b in zip(kernel.signature.outputs, shared.results(), separate.results(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{shared.description}: {o.name}")


# --- the tests can fail ---------------------------------------------------------------------------------------------

# an error of ULP units in the last place, away from zero
PLANTED = """
{ if (sizeof %(x)s == 4) { unsigned u; __builtin_memcpy(&u, &%(x)s, 4); u += %(ulp)d; __builtin_memcpy(&%(x)s, &u, 4); }
  else { unsigned long long u; __builtin_memcpy(&u, &%(x)s, 8); u += %(ulp)d; __builtin_memcpy(&%(x)s, &u, 8); } }
"""


def _planted(kernel):
    """(output, source with an error) for every output that the source assigns."""
    for o in kernel.signature.outputs:
        if kernel.form == "summed":
            continue  # the sources of its base kernel and of column_sum
        if kernel.form == "elementwise" and np.dtype(o.type if not o.type_variable else "f4").kind in "iu":
            yield o, f"{kernel.source} {o.name} ^= 1;"
        elif kernel.form == "elementwise":
            # 8 ulp more than the allowance, which is relative to the largest term of each element
            yield o, kernel.source + PLANTED % {"x": o.name, "ulp": 8 + kernel.ulp}
        elif o.kind == "raw" or (o.type_variable != "T" and kernel.form != "reduction"):
            continue
        elif o.kind == "rows":
            error = f"{o.name}[q] = {o.name}[q] * (T)1.001 + (T)0.001;"
            yield o, f"{kernel.source} for (long long q = 0; q < {o.width}; ++q) {error}"
        else:
            yield o, f"{kernel.source} {o.name} = {o.name} * 1.001 + 0.001;"


PLANTS = [
    pytest.param(kernels.get(name), o.name, id=f"{name}-{o.name}")
    for name in names()
    if "S" not in kernels.get(name).signature.type_variables
    for o, _ in _planted(kernels.get(name))
]


@pytest.fixture(scope="module")
def planted(compiled_kernels):
    """Copies of the kernels with an error in one output each, in separate modules, by (name, output)."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        # the errors do not depend on the level of optimization, and this one compiles fast
        internals.optimize(patch, "-O1")
        try:
            for p in PLANTS:
                kernel, output = p.values
                text = next(text for o, text in _planted(kernel) if o.name == output)
                copy = dataclasses.replace(
                    kernel, name=f"{kernel.name}_planted_{output}", source=text, module=f"planted {len(made) % 6}"
                )
                made[kernel.name, output] = internals.register_kernel(copy)
            cpu_cache.precompile(
                (copy, types) for copy in made.values() for types in copy.signature.type_combinations()
            )
            yield made
        finally:
            for copy in made.values():
                internals.forget_kernel(copy)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "output"), PLANTS)
def test_planted_errors_are_detected(kernel, output, planted):
    """8 ulp more than allowed in an element, one thousandth in a sum."""
    copy = planted[kernel.name, output]
    for types in kernel.signature.type_combinations():
        wanted = _run("numpy", kernel=kernel, types=types, n=33, m=33)
        got = _run("compiled", kernel=copy, types=types, n=33, m=33)
        got.kernel = kernel
        with pytest.raises(AssertionError, match=rf"{output}"):
            assert_same(got, wanted)
