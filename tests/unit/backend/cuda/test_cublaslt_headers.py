"""The cuBLASLt interface of gpunn and of the fake, compared with NVIDIA's headers and with the library.

Neither needs a GPU. Both come with `pip install nvidia-cublas-cu12` or a CUDA toolkit; without them these tests skip.
"""

import ctypes
import importlib.util
import os
import pathlib
import re

import numpy as np
import pytest
from helpers import fake_cublaslt, internals

from gpunn.backend.cuda import cublaslt
from gpunn.backend.cuda.layouts import Unsupported, mask_bytes

FOLDERS = [os.environ.get("CUDA_PATH", ""), *map(str, pathlib.Path("/usr/local").glob("cuda*"))]
SPEC = importlib.util.find_spec("nvidia")
WHEELS = [
    f"{f}/{inside}" for f in (SPEC.submodule_search_locations or [] if SPEC else []) for inside in ("cublas", "cu13")
]
HEADERS = [
    p for f in [*WHEELS, *FOLDERS] if f for p in [pathlib.Path(f, "include", "cublasLt.h")] if p.exists()
]  # fmt: skip
HEADERS = HEADERS or [None]
WIDE = {"size_t": ctypes.c_size_t, "uint64_t": ctypes.c_uint64, "int64_t": ctypes.c_int64}
DOCUMENTED = {
    "int32_t": ctypes.c_int, "uint32_t": ctypes.c_uint32, "uint64_t": ctypes.c_uint64, "int64_t": ctypes.c_int64,
    "void *": ctypes.c_void_p,
}  # fmt: skip


@pytest.fixture(params=HEADERS, ids=str)
def headers(request):
    """cublasLt.h with its comments, and it and cublas_api.h without comments."""
    if request.param is None:
        pytest.skip("cublasLt.h is not installed: pip install nvidia-cublas-cu12")
    text = request.param.read_text()
    both = (request.param.parent / "cublas_api.h").read_text() + text
    return text, re.sub(r"/\*.*?\*/|//[^\n]*", "", both, flags=re.DOTALL)


def numbers(bare):
    """Names and values of the enumerations."""
    found = {}
    for name, value in re.findall(r"\b(CUBLAS\w+)\s*=\s*([^,{}]+?)\s*[,}]", bare):
        found[name] = eval(value, {}, found)  # earlier names, numbers, |
    return found


def test_constants_equal_the_headers(headers):
    there = numbers(headers[1])
    ours = {k: v for k, v in vars(cublaslt).items() if k.startswith("CUBLAS")}
    assert len(ours) > 25
    assert {k: there[k] for k in ours} == ours


def test_type_constants_equal_the_header(headers):
    """library_types.h belongs to the toolkit, not to the wheel of cuBLAS."""
    paths = [p for f in [*FOLDERS, *(f"{w}/../cuda_runtime" for w in WHEELS), *WHEELS] if f
             for p in [pathlib.Path(f, "include", "library_types.h")] if p.exists()]  # fmt: skip
    if not paths:
        pytest.skip("library_types.h is not installed: pip install nvidia-cuda-runtime-cu12")
    there = dict(re.findall(r"\b(CUDA_R_\w+)\s*=\s*(\d+)", paths[0].read_text()))
    ours = {k: str(v) for k, v in vars(cublaslt).items() if k.startswith("CUDA_R_")}
    assert len(ours) == 3 and {k: there[k] for k in ours} == ours


def kind(text):
    """The class of C types of a header's parameter: "address", or a number type."""
    if (
        "*" in text
        or "[" in text
        or re.search(r"\b(cublasLt(Handle|MatmulDesc|MatrixLayout|MatmulPreference)|cudaStream)_t", text)
    ):
        return "address"
    return WIDE.get(text.split()[0], ctypes.c_int)


def kind_of(c_type):
    return "address" if c_type in (ctypes.c_void_p, ctypes.c_char_p) or hasattr(c_type, "contents") else c_type


@pytest.mark.parametrize("name", cublaslt.FUNCTIONS)
def test_function_prototypes_equal_the_header(headers, name):
    ((result, inside),) = re.findall(rf"([\w ]+\*?)\s*CUBLASWINAPI {name}\(\s*([^)]*)\)", headers[1])
    wanted = [kind(part.strip()) for part in inside.split(",") if part.strip() not in ("", "void")]
    for returns, takes in (cublaslt.FUNCTIONS[name], fake_cublaslt.PROTOTYPES[name]):
        assert [kind_of(t) for t in takes] == wanted
        assert kind_of(returns) == kind(result.strip())


def test_structures_equal_the_header(headers):
    types = {"uint64_t": ctypes.c_uint64, "size_t": ctypes.c_size_t, "cublasStatus_t": ctypes.c_int,
             "float": ctypes.c_float, "int": ctypes.c_int}  # fmt: skip
    types["cublasLtMatmulAlgo_t"] = cublaslt.cublasLtMatmulAlgo_t
    for structure in (cublaslt.cublasLtMatmulAlgo_t, cublaslt.cublasLtMatmulHeuristicResult_t):
        (inside,) = re.findall(rf"typedef struct {{([^}}]*)}} {structure.__name__};", headers[1])
        found = re.findall(r"(\w+) (\w+)(?:\[(\d+)\])?;", inside)
        assert [(n, types[t] * int(size) if size else types[t]) for t, n, size in found] == structure._fields_
    assert ctypes.sizeof(cublaslt.cublasLtMatmulHeuristicResult_t) == fake_cublaslt.RESULT_BYTES
    assert [cublaslt.cublasLtMatmulHeuristicResult_t.workspaceSize.offset,
            cublaslt.cublasLtMatmulHeuristicResult_t.state.offset] == [64, 72]  # fmt: skip


@pytest.mark.parametrize("kind", fake_cublaslt.ATTRIBUTES)
def test_attribute_types_equal_the_header(headers, kind):
    """gpunn's values have the types of the fake, which refuses others; the fake's types are those of the header."""
    prefix = {"MatmulDesc": "CUBLASLT_MATMUL_DESC_", "MatmulPreference": "CUBLASLT_MATMUL_PREF_"}[kind]
    for number, c_type in fake_cublaslt.ATTRIBUTES[kind].items():
        (name,) = (k for k, v in vars(cublaslt).items() if k.startswith(prefix) and v == number)
        before = headers[0][: re.search(rf"\b{name} = ", headers[0]).start()]
        comment = before[before.rindex("/**") :]
        documented = re.findall(r"(u?int\d+_t|void \*)", comment)[-1]
        assert DOCUMENTED[documented] is c_type, name


def test_alignment_of_auxiliary_matrices_equals_the_header(headers):
    assert "Must be divisible by 128 and be no less than the number of rows in the output matrix" in headers[0]
    assert "Must be divisible by 8 and be no less than the number of rows in the output matrix" in headers[0]


# --- the library itself -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library():
    found = cublaslt.find(12)
    if not isinstance(found, tuple):
        pytest.skip(f"{found}")
    return found


def test_the_installed_library_is_supported(library):
    functions, path = library
    version = int(functions.cublasLtGetVersion())
    assert version // 10000 in cublaslt.CUDA_MAJORS and "libcublasLt" in path
    assert functions.cublasLtGetStatusName(15) == b"CUBLAS_STATUS_NOT_SUPPORTED"


@pytest.mark.parametrize(
    ("precision", "storage"), [(None, "float32"), ("tf32", "float32"), ("bf16", "float32"), ("bf16", "uint16")]
)
@pytest.mark.parametrize("epilogue", cublaslt.EPILOGUE_CODES)
def test_the_library_accepts_every_descriptor(library, fake_cupy, epilogue, precision, storage):
    """Everything that works without a GPU: without a handle the library reports that there is no algorithm."""
    functions, path = library
    lt = cublaslt.CublasLt(fake_cupy, functions, path, ctypes.c_void_p())
    objects, owners, create = [], [], lt.create

    def record(kind, owner, *arguments):
        owners.append(owner)
        objects.append(create(kind, owner, *arguments))
        return objects[-1]

    lt.create = record
    bits = np.uint16 if precision == "bf16" else np.float32
    a, b = fake_cupy.zeros((5, 7), bits), fake_cupy.zeros((16, 7), bits).T
    out, bias, z = (fake_cupy.zeros(shape, storage) for shape in ((5, 16), (16,), (5, 16)))
    mask = fake_cupy.zeros((5, mask_bytes(16)), np.uint8)
    described = cublaslt.EPILOGUES[epilogue]
    options = {"bias": bias if described.vector else None, "aux": {"": None, "mask": mask, "z": z}[described.aux]}
    with pytest.raises(Unsupported, match="CUBLAS_STATUS_NOT_INITIALIZED"):
        internals.make_product(lt, a, b, out, precision=precision, epilogue=epilogue, **options)
    functions.cublasLtMatmulDescGetAttribute.argtypes = functions.cublasLtMatrixLayoutGetAttribute.argtypes = [
        ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p,
    ]  # fmt: skip
    operation, A, B, D, _ = objects

    def get(of, handle, attribute, c_type):
        value, written = c_type(0), ctypes.c_size_t(0)
        function = getattr(functions, f"cublasLt{of}GetAttribute")
        assert function(handle, attribute, ctypes.byref(value), ctypes.sizeof(value), ctypes.byref(written)) == 0
        return value.value

    assert get("MatmulDesc", operation, 3, ctypes.c_int) == 1 and get("MatmulDesc", operation, 4, ctypes.c_int) == 0
    assert get("MatmulDesc", operation, 7, ctypes.c_uint32) == cublaslt.EPILOGUE_CODES[epilogue]
    assert get("MatmulDesc", operation, 8, ctypes.c_void_p) == (bias.data.ptr if described.vector else None)
    assert get("MatmulDesc", operation, 12, ctypes.c_int64) == {"": 0, "mask": 128, "z": 16}[described.aux]
    for layout, wanted in ((A, (7, 16, 7)), (B, (7, 5, 7)), (D, (16, 5, 16))):
        found = get("MatrixLayout", layout, 2, ctypes.c_uint64), get("MatrixLayout", layout, 3, ctypes.c_uint64)
        assert (*found, get("MatrixLayout", layout, 4, ctypes.c_int64)) == wanted
    assert get("MatrixLayout", A, 0, ctypes.c_uint32) == (14 if precision == "bf16" else 0)
    assert get("MatrixLayout", D, 0, ctypes.c_uint32) == (14 if storage == "uint16" else 0)


def test_bias_and_auxiliary_matrices_have_the_type_of_the_result(headers):
    """gpunn relies on it: it sets neither type."""
    assert "Bias vector elements are the same type as the elements of output matrix (Dtype)" in headers[0]
    assert re.search(
        r"GELU input matrix elements type is the same as the type of elements of[\s*]+the output", headers[0]
    )


def test_the_library_refuses_a_value_of_another_size(library, fake_cupy):
    functions, path = library
    lt = cublaslt.CublasLt(fake_cupy, functions, path, ctypes.c_void_p())
    made = lt.create("MatmulDesc", lt, cublaslt.CUBLAS_COMPUTE_32F, cublaslt.CUDA_R_32F)
    with pytest.raises(cublaslt.CublasLtError, match="cublasLtMatmulDescSetAttribute failed: CUBLAS_STATUS_INVALID"):
        lt.set_attribute("MatmulDesc", made, cublaslt.CUBLASLT_MATMUL_DESC_TRANSA, ctypes.c_int64(1))
