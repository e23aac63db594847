"""The CUDA source of every kernel compiles for every architecture. No GPU is needed: NVRTC compiles CuPy's source.

The tests need the extra `kernelcheck` and are skipped without it; with GPUNN_REQUIRE_KERNELCHECK=1 they fail instead.
The source is that of cupy.ElementwiseKernel for gpunn's arguments, compiled with the same options.
"""

import os
import re

import numpy as np
import pytest
from helpers.kernel_cases import by_kernel, in_bfloat16

from gpunn import kernels
from gpunn.kernels._compiler import cuda_codegen, cuda_launch

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# layouts of arrays: contiguous elements, or two dimensions with strides and long indices
LAYOUTS = {"contiguous": (1, True, True), "strided": (2, False, False)}
ALL = [*by_kernel(), *in_bfloat16()]
NAMED = re.compile(r"\.entry\s+(\w+)")


def _missing(why):
    if os.environ.get("GPUNN_REQUIRE_KERNELCHECK") == "1":
        pytest.fail(f"GPUNN_REQUIRE_KERNELCHECK=1, but {why}", pytrace=False)
    pytest.skip(f"{why}: install the extra kernelcheck")


@pytest.fixture(scope="module")
def nvrtc():
    """CuPy's NVRTC."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:
        # CuPy raises different errors if a library is missing
        _missing(f"CuPy's NVRTC cannot be used ({type(error).__name__}: {error})".splitlines()[0])
    return nvrtc


def _source(kernel, name, source, types, layout):
    """The source that ElementwiseKernel.__call__ would compile for one launch."""
    import cupy
    from cupy._core import _carray, _kernel, _scalar

    made = cupy.ElementwiseKernel(*source[:3], name, preamble=source.preamble, options=cuda_launch.OPTIONS)
    array, indexer, scalar = 1, 2, 3
    arrays = {o.name for o in kernel.signature.arrays}
    letters, infos = {}, []
    for p in made.in_params + made.out_params:
        dtype = np.dtype(types[p.ctype] if p.dtype is None else p.dtype)
        if p.dtype is None:
            letters[p.ctype] = dtype
        if not p.raw and p.name not in arrays:
            infos.append(_kernel._ArgInfo(scalar, _scalar.CScalar, dtype, 0, True, True))
        else:
            infos.append(_kernel._ArgInfo(array, cupy.ndarray, dtype, *layout))
    infos.append(_kernel._ArgInfo(indexer, _carray.Indexer, None, layout[0], True, layout[2]))
    type_map = _kernel._TypeMap(tuple(sorted(letters.items())))
    return _kernel._get_elementwise_kernel_code(
        tuple(infos), type_map, made.params, made.operation, made.name, made.preamble
    )


def _sources(kernel, types, layouts):
    """Function name -> source, for arrays of each layout."""
    return {
        name: _source(kernel, name, source, types, LAYOUTS[layout])
        for suffix, source in cuda_codegen.sources(kernel, bf16=types.get("H") == "uint16").items()
        for layout in layouts
        for name in ["_".join(["gpunn", kernel.name, *types.values(), layout]) + suffix]
    }


def _layouts(architecture):
    """Contiguous arrays for all architectures; strided ones, which differ in the index only, for one."""
    return list(LAYOUTS) if architecture == 90 else ["contiguous"]


def _compile(nvrtc, sources, architecture):
    """The names of the functions in the PTX of one translation unit, with each source in its own namespace."""
    from cupy._core import core

    unit = "".join(f"#include <{header}>\n" for header in core._cupy_header_list)
    unit += "".join(f"namespace in_{name} {{\n{source}\n}}\n" for name, source in sources.items())
    options = [
        *cuda_launch.OPTIONS,
        "-ftz=true",
        "--device-as-default-execution-space",
        f"-arch=compute_{architecture}",
    ]
    options += [*core._get_cccl_include_options(), f"-I{core._get_header_dir_path()}"]
    program = nvrtc.createProgram(unit, "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        return set(NAMED.findall(nvrtc.getPTX(program).decode()))
    except nvrtc.NVRTCError:
        raise AssertionError(f"sm_{architecture}: {nvrtc.getProgramLog(program)[:3000]}") from None
    finally:
        nvrtc.destroyProgram(program)


@pytest.fixture(scope="module")
def compiled(nvrtc):
    """Per architecture, the functions of a translation unit with all sources, or None if it does not compile.

    Then each test compiles its own kernel for that architecture, so that the test of the invalid source fails, and
    further architectures are skipped.
    """
    found = {}
    for architecture in [a for a in ARCHITECTURES if a in nvrtc.getSupportedArchs()]:
        layouts = _layouts(architecture)
        everything = {k: v for p in ALL for k, v in _sources(*p.values, layouts).items()}
        try:
            found[architecture] = _compile(nvrtc, everything, architecture)
        except AssertionError:
            found[architecture] = None
            break
    return found


@pytest.mark.parametrize(("kernel", "types"), ALL)
def test_compiles_under_nvrtc(kernel, types, nvrtc, compiled):
    for architecture, functions in compiled.items():
        sources = _sources(kernel, types, _layouts(architecture))
        if functions is None:
            functions = _compile(nvrtc, sources, architecture)
        assert functions >= set(sources), f"sm_{architecture}"


def test_nvrtc_supports_the_architectures(nvrtc):
    """At least sm_75 and sm_90. Further architectures of the list are compiled if the installed NVRTC supports them."""
    assert {75, 90} <= set(nvrtc.getSupportedArchs())


def test_nvrtc_refuses_a_wrong_source(nvrtc):
    """The test can fail: `missing` is undefined, and the error contains it."""
    kernel = kernels.get("relu")
    (name, source), *_ = _sources(kernel, {"T": "float32"}, ["contiguous"]).items()
    wrong = source.replace("(T)0 : z", "(T)0 : missing")
    assert wrong != source
    with pytest.raises(AssertionError, match="missing"):
        _compile(nvrtc, {name: wrong}, 90)
