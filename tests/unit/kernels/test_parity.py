"""Both bodies of every registered kernel agree: the NumPy body that defines it and the C++ text, run on this CPU."""

import ctypes
import dataclasses

import numpy as np
import pytest
from helpers import internals, kernel_cases
from helpers.kernel_cases import assert_same, by_kernel, make, names

from gpunn import kernels
from gpunn.kernels._compiler import cpu_cache

SOME_SIZES = ((1, 1), (33, 33), (130, 67))
BODIES = ("numpy", "compiled")


pytestmark = pytest.mark.usefixtures("compiled_texts")


def _without_numpy(kernel):
    """The kernel with a NumPy body that must not run."""

    def body(*_, **__):
        raise AssertionError(f"the NumPy body of {kernel.name} ran where the compiled text was to")

    return dataclasses.replace(kernel, reference=body)


def _launch(case, body):
    inputs, options = case.arguments()
    if body == "numpy":
        return case.kernel.bind_numpy(*inputs, **options)
    return _without_numpy(case.kernel).bind_compiled(*inputs, **options)


def _run(body, **asked):
    case = make(**asked)
    _launch(case, body)()
    return case


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "types"), by_kernel())
def test_both_bodies_agree(kernel, types):
    """For every layout and size, for arrays of one dimension, and for edge values; and the compiled text ran."""
    for asked in kernel_cases.cases(kernel, types):
        assert_same(_run("compiled", **asked), _run("numpy", **asked))


@pytest.mark.parametrize("name", names())
def test_what_runs_by_default_is_the_compiled_text(name):
    kernel = kernels.get(name)
    case = make(kernel, kernel.signature.type_combinations()[0], 4, 5)
    inputs, options = case.arguments()
    launch = _without_numpy(kernel).bind(*inputs, **options)
    assert isinstance(launch.function, ctypes._CFuncPtr)
    assert kernels.bind_all([(kernel, inputs, options.pop("out"), options.pop("count", None), options)])
    launch()


def test_a_launch_reads_what_stands_there_when_it_runs():
    """Also where the layout makes a copy necessary: a plan binds once and runs for every batch."""
    kernel = kernels.get("softmax")
    z, a = np.zeros((5, 4), order="F"), np.empty((5, 4))
    launches = [kernel.bind_compiled(z, out=a), kernel.bind_numpy(z, out=a)]
    z[:, 1] = np.log(5)
    for launch in launches:
        a[...] = 0
        launch()
        np.testing.assert_allclose(a, np.full((5, 4), [1 / 8, 5 / 8, 1 / 8, 1 / 8]), rtol=1e-14)


def _in_place(kernel):
    """Pairs (output, input) that can be one buffer: of one type and kind. Targets y are nobody's to overwrite."""
    for o in kernel.signature.outputs:
        for x in kernel.signature.inputs:
            alike = (o.kind, o.type, o.width) == (x.kind, x.type, x.width)
            if o.role == "out" and o.kind != "raw" and alike and x.name != "y":
                yield o.name, x.name


IN_PLACE = [
    pytest.param(kernels.get(name), output, given, id=f"{name}-{output}-in-{given}")
    for name in (*names("elementwise"), *names("by_row"))
    for output, given in _in_place(kernels.get(name))
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("kernel", "output", "given"), IN_PLACE)
def test_in_place_is_the_same(kernel, output, given, body):
    """An output written over an input gives the bits that it gives elsewhere."""
    types = kernel.signature.type_combinations()[0]
    order = [o.name for o in kernel.signature.arrays]
    for asked in kernel_cases.cases(kernel, types, layouts=("C",), sizes=SOME_SIZES):
        apart, together = make(**asked), make(**asked)
        arenas = [*together.inputs, *together.outputs]
        k = order.index(output) - len(together.inputs)
        together.outputs[k] = arenas[order.index(given)]
        for case in (apart, together):
            _launch(case, body)()
        for o, a, b in zip(kernel.signature.outputs, together.results(), apart.results(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{together.what}: {o.name}")


# --- the tests can fail ---------------------------------------------------------------------------------------------

# an error of ULP units in the last place, away from zero
PLANTED = """
{ if (sizeof %(x)s == 4) { unsigned u; __builtin_memcpy(&u, &%(x)s, 4); u += %(ulp)d; __builtin_memcpy(&%(x)s, &u, 4); }
  else { unsigned long long u; __builtin_memcpy(&u, &%(x)s, 8); u += %(ulp)d; __builtin_memcpy(&%(x)s, &u, 8); } }
"""


def _planted(kernel):
    """(output, text with an error in it) for every output that the text assigns."""
    for o in kernel.signature.outputs:
        if kernel.form == "elementwise" and np.dtype(o.type if not o.type_variable else "f4").kind in "iu":
            yield o, f"{kernel.source} {o.name} ^= 1;"
        elif kernel.form == "elementwise":
            # 8 ulp, where the bodies agree to the bit; the allowance is per element, of its largest term
            yield o, kernel.source + PLANTED % {"x": o.name, "ulp": 8 + kernel.ulp}
        elif o.kind == "raw" or (o.type_variable != "T" and kernel.form != "reduction"):
            continue
        elif o.kind == "rows":
            yield o, f"{kernel.source} for (long long q = 0; q < {o.width}; ++q) {o.name}[q] *= (T)1.001;"
        else:
            yield o, f"{kernel.source} {o.name} = {o.name} * 1.001 + 0.001;"


PLANTS = [
    pytest.param(kernels.get(name), o.name, id=f"{name}-{o.name}")
    for name in names()
    if "S" not in kernels.get(name).signature.type_variables
    for o, _ in _planted(kernels.get(name))
]


@pytest.fixture(scope="module")
def planted(compiled_texts):
    """Copies of the kernels with an error in one output each, in families of their own, by (name, output)."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        # what is planted shows at any level of optimisation, and this one compiles fast
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
def test_a_planted_error_is_caught(kernel, output, planted):
    """8 ulp beside the allowed ones in an element, a thousandth in a sum."""
    copy = planted[kernel.name, output]
    for types in kernel.signature.type_combinations():
        wanted = _run("numpy", kernel=kernel, types=types, n=33, m=33)
        got = _run("compiled", kernel=copy, types=types, n=33, m=33)
        got.kernel = kernel
        with pytest.raises(AssertionError, match=rf"{output}"):
            assert_same(got, wanted)
