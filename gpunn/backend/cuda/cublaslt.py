"""The door to cuBLASLt: products on a GPU that a stream may capture, with what follows them in the same launch.

CuPy refuses cuBLAS while a stream captures (cupy#6290). cuBLASLt, which is loaded beside cuBLAS, takes everything from
its caller: operands, workspace, algorithm. So all of it is made when buffers are bound, and a launch is one call.

Names and numbers are those of cublasLt.h, cublas_api.h and library_types.h of CUDA 12.9 and 13; a test holds them to
these headers where they are installed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import pathlib
import sys
import weakref
from collections.abc import Iterator
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

import numpy as np

from ...kernels import DeviceLaunch
from .errors import Fault, cublaslt_failed, cublaslt_missing
from .layouts import EPILOGUES, GemmCall, Unsupported, gemm_call
from .selftest import verify_epilogue

MAJORS = (13, 12)  # versions whose interface this is
WORKSPACE_BYTES = 32 << 20  # bytes a stream
MAX_ALIGNMENT = 256  # bytes; the library asks for no more

CUDA_R_32F, CUDA_R_64F, CUDA_R_16BF = 0, 1, 14
CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F, CUBLAS_COMPUTE_32F_FAST_TF32 = 68, 70, 77
CUBLAS_OP_N, CUBLAS_OP_T = 0, 1
CUBLAS_STATUS_SUCCESS = 0
CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB = 3, 4
CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_BIAS_POINTER = 7, 8
CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD = 11, 12
CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1
CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 5, 6
CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 7, 8
CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS = 1, 4
CUBLASLT_EPILOGUE_RELU_BIAS, CUBLASLT_EPILOGUE_RELU_AUX_BIAS = 6, 134
CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS = 36, 164
CUBLASLT_EPILOGUE_DRELU, CUBLASLT_EPILOGUE_DRELU_BGRAD = 136, 152
CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU_BGRAD = 192, 208
CUBLASLT_EPILOGUE_BGRADA = 256

# b is the library's first operand, so that its sums are BGRADA's
EPILOGUE_CODES = {
    "none": CUBLASLT_EPILOGUE_DEFAULT,
    "bias": CUBLASLT_EPILOGUE_BIAS,
    "relu": CUBLASLT_EPILOGUE_RELU_BIAS,
    "relu_mask": CUBLASLT_EPILOGUE_RELU_AUX_BIAS,
    "gelu": CUBLASLT_EPILOGUE_GELU_BIAS,
    "gelu_z": CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
    "drelu": CUBLASLT_EPILOGUE_DRELU,
    "drelu_sums": CUBLASLT_EPILOGUE_DRELU_BGRAD,
    "dgelu": CUBLASLT_EPILOGUE_DGELU,
    "dgelu_sums": CUBLASLT_EPILOGUE_DGELU_BGRAD,
    "sums": CUBLASLT_EPILOGUE_BGRADA,
}
# what operands and results are held in, and how they are multiplied: (of operands, of results, computed in, of the
# factors α and β)
COMPUTE_TYPES = {
    ("float32", None, "float32"): (CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F),
    ("float32", "tf32", "float32"): (CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F),
    ("uint16", "bf16", "float32"): (CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F),
    ("uint16", "bf16", "uint16"): (CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUDA_R_32F),
    ("float64", None, "float64"): (CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F, CUDA_R_64F),
}


class cublasLtMatmulAlgo_t(Structure):
    _fields_ = [("data", c_uint64 * 8)]


class cublasLtMatmulHeuristicResult_t(Structure):
    _fields_ = [
        ("algo", cublasLtMatmulAlgo_t),
        ("workspaceSize", c_size_t),
        ("state", c_int),
        ("wavesCount", c_float),
        ("reserved", c_int * 4),
    ]


P = c_void_p
# what each function returns and takes
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "cublasLtGetVersion": (c_size_t, []),
    "cublasLtGetStatusName": (c_char_p, [c_int]),
    "cublasLtCreate": (c_int, [POINTER(P)]),
    "cublasLtDestroy": (c_int, [P]),
    "cublasLtMatrixLayoutCreate": (c_int, [POINTER(P), c_int, c_uint64, c_uint64, c_int64]),
    "cublasLtMatrixLayoutDestroy": (c_int, [P]),
    "cublasLtMatmulDescCreate": (c_int, [POINTER(P), c_int, c_int]),
    "cublasLtMatmulDescDestroy": (c_int, [P]),
    "cublasLtMatmulDescSetAttribute": (c_int, [P, c_int, P, c_size_t]),
    "cublasLtMatmulPreferenceCreate": (c_int, [POINTER(P)]),
    "cublasLtMatmulPreferenceDestroy": (c_int, [P]),
    "cublasLtMatmulPreferenceSetAttribute": (c_int, [P, c_int, P, c_size_t]),
    "cublasLtMatmulAlgoGetHeuristic": (
        c_int,
        [P, P, P, P, P, P, P, c_int, POINTER(cublasLtMatmulHeuristicResult_t), POINTER(c_int)],
    ),
    "cublasLtMatmul": (
        c_int,
        [P, P, P, P, P, P, P, P, P, P, P, P, POINTER(cublasLtMatmulAlgo_t), P, c_size_t, P],
    ),
}


def candidates(major: int) -> Iterator[str]:
    """Where cuBLASLt may be, the likeliest first: the copy that this process has loaded, NVIDIA's wheels, and whatever
    the system's loader finds. `major` is CuPy's version of CUDA."""
    majors = sorted(MAJORS, key=lambda m: m != major)
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists():
        paths = [line.split(maxsplit=5)[-1].strip() for line in maps.read_text().splitlines() if "libcublasLt" in line]
        loaded = dict.fromkeys(p for p in paths if pathlib.Path(p).name.startswith("libcublasLt.so"))
        yield from sorted(loaded, key=lambda p: f".so.{major}" not in p)
    name = "cublasLt64_{}.dll" if sys.platform == "win32" else "libcublasLt.so.{}"
    spec = importlib.util.find_spec("nvidia")
    for m in majors:
        for folder in (spec.submodule_search_locations or []) if spec is not None else []:
            for inside in ("cublas",) if m == 12 else (f"cu{m}",):
                for sub in ("lib", "bin", "bin/x86_64"):
                    path = pathlib.Path(folder, inside, sub, name.format(m))
                    if path.exists():
                        yield str(path)
    for m in majors:
        yield name.format(m)


def load_library(path: str) -> Any:
    """The library at that path; OSError where there is none."""
    return ctypes.CDLL(path)


def find(major: int) -> tuple[Any, str] | Fault:
    """The library, its functions typed, and where it was found; else the fault."""
    details = []
    for path in candidates(major):
        try:
            library = load_library(path)
            for name, (result, arguments) in FUNCTIONS.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            details.append(str(error).splitlines()[0])
            continue
        version = int(library.cublasLtGetVersion())
        if version // 10000 in MAJORS:
            return library, path
        details.append(f"{path} is version {format_version(version)}")
    return cublaslt_missing("; ".join(details))


def format_version(version: int) -> str:
    """120903 as "12.9.3"."""
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


class ProductError(RuntimeError):
    """cuBLASLt failed where it should not; the message has its word for it."""


class Workspace:
    """Memory that the products of one stream use, one after another."""

    def __init__(self, array: Any) -> None:
        self.array, self.ptr = array, int(array.data.ptr)


class CublasLt:
    """cuBLASLt on one GPU. Its own objects live as long as it does, a product's as long as the product."""

    def __init__(self, xp: Any, library: Any, where: str, handle: c_void_p) -> None:
        self.xp, self.library, self.path, self.handle = xp, library, where, handle
        self.version = int(library.cublasLtGetVersion())
        self.workspace_bytes = 0  # bytes of workspace that a product bound so far wants at most
        self._tried: dict[tuple[str, str | None, str, str], bool | str] = {}
        self._algorithms: dict[Any, tuple[cublasLtMatmulAlgo_t, int] | str] = {}
        self._workspaces: weakref.WeakValueDictionary[int, Workspace] = weakref.WeakValueDictionary()
        self._kept: list[Workspace] = []
        self._one = {CUDA_R_32F: c_float(1), CUDA_R_64F: ctypes.c_double(1)}
        self._zero = {CUDA_R_32F: c_float(0), CUDA_R_64F: ctypes.c_double(0)}
        # not at exit, when CUDA may be gone before
        weakref.finalize(self, library.cublasLtDestroy, handle).atexit = False

    def __str__(self) -> str:
        return f"cuBLASLt {format_version(self.version)} ({self.path})"

    def check(self, status: int, what: str) -> None:
        """ProductError where a call of the library failed."""
        if status != CUBLAS_STATUS_SUCCESS:
            name = self.library.cublasLtGetStatusName(status)
            raise ProductError(f"{what} failed: {name.decode() if name else status}")

    def create(self, kind: str, owner: Any, *arguments: Any) -> c_void_p:
        """An object of the library, destroyed with its owner."""
        made = c_void_p()
        self.check(getattr(self.library, f"cublasLt{kind}Create")(byref(made), *arguments), f"cublasLt{kind}Create")
        weakref.finalize(owner, getattr(self.library, f"cublasLt{kind}Destroy"), made).atexit = False
        return made

    def set_attribute(self, kind: str, made: c_void_p, attribute: int, value: Any) -> None:
        """Set an attribute; `value` is of the C type that the header gives it."""
        name = f"cublasLt{kind}SetAttribute"
        self.check(getattr(self.library, name)(made, attribute, byref(value), ctypes.sizeof(value)), name)

    def bind(
        self,
        a: Any,
        b: Any,
        out: Any,
        *,
        precision: str | None = None,
        epilogue: str = "none",
        bias: Any = None,
        aux: Any = None,
    ) -> DeviceLaunch:
        """The launch of out = a b with that epilogue, see `column_major`. Unsupported says why there is none.

        a and b float32, "tf32" computing with 11 bits of them, or float64, or uint16 patterns of bfloat16 with "bf16";
        out of that type, or float32 for bfloat16; vector and z as out.
        """
        if not self._passes_selftest(a.dtype.name, precision, out.dtype.name, epilogue):
            raise Unsupported(f"cuBLASLt's numbers are not gpunn's in a trial of it ({epilogue})")
        return self._bind_unverified(a, b, out, precision=precision, epilogue=epilogue, bias=bias, aux=aux)

    def supports(self, dtype: str, precision: str | None, result: str, epilogue: str) -> bool:
        """Whether there is that epilogue here for operands and results of these types, and its numbers are right."""
        try:
            return self._passes_selftest(dtype, precision, result, epilogue)
        except Unsupported:
            return False

    def _passes_selftest(self, dtype: str, precision: str | None, result: str, epilogue: str) -> bool:
        """Whether it passed its trial, which is held at first use. Unsupported where there is no algorithm for it."""
        key = dtype, precision, result, epilogue
        if key not in self._tried:
            try:
                self._tried[key] = COMPUTE_TYPES.get(key[:3]) is None or verify_epilogue(
                    self.xp, self._bind_unverified, *key
                )
            except (Unsupported, ProductError) as error:
                self._tried[key] = str(error)
        found = self._tried[key]
        if isinstance(found, str):
            raise Unsupported(found)
        return found

    def _bind_unverified(
        self,
        a: Any,
        b: Any,
        out: Any,
        *,
        precision: str | None = None,
        epilogue: str = "none",
        bias: Any = None,
        aux: Any = None,
    ) -> DeviceLaunch:
        product = Product(self, gemm_call(a, b, out, epilogue, bias, aux), a, b, out, precision, bias, aux)
        what = EPILOGUES[epilogue]
        reads = [a, b, *([bias] if what.bias == "in" else []), *([aux] if what.aux_role == "in" else [])]
        writes = [out, *([bias] if what.bias == "out" else []), *([aux] if what.aux_role == "out" else [])]
        return DeviceLaunch([product], reads, writes, needs_workspace=True)

    def algorithm(self, key: Any, product: Product) -> tuple[cublasLtMatmulAlgo_t, int]:
        """The algorithm for a problem and the workspace that it wants, asked once. Unsupported where there is none."""
        if key not in self._algorithms:
            self._algorithms[key] = self._query_heuristic(product)
        found = self._algorithms[key]
        if isinstance(found, str):
            raise Unsupported(found)
        self.workspace_bytes = max(self.workspace_bytes, found[1])
        return found

    def _query_heuristic(self, product: Product) -> tuple[cublasLtMatmulAlgo_t, int] | str:
        preference, count = self.create("MatmulPreference", product), c_int(0)
        self.set_attribute(
            "MatmulPreference", preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, c_uint64(WORKSPACE_BYTES)
        )
        # the vector's and the kept matrix's are read off the operation's pointers
        for attribute, pointer in (
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, product.A),
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, product.B),
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, product.D),
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, product.D),
        ):
            self.set_attribute("MatmulPreference", preference, attribute, c_uint32(alignment(pointer)))
        result = cublasLtMatmulHeuristicResult_t()
        A, B, D = product.layouts
        status = self.library.cublasLtMatmulAlgoGetHeuristic(
            self.handle, product.operation, A, B, D, D, preference, 1, byref(result), byref(count)
        )
        if status != CUBLAS_STATUS_SUCCESS or count.value < 1 or result.state != CUBLAS_STATUS_SUCCESS:
            word = self.library.cublasLtGetStatusName(status or result.state)
            return f"cuBLASLt has no algorithm for it ({word.decode() if word else status})"
        return cublasLtMatmulAlgo_t.from_buffer_copy(result.algo), int(result.workspaceSize)

    def workspace(self, stream: int) -> Workspace:
        """The workspace of a stream's products, made at first use, before the stream captures. It is never freed."""
        found = self._workspaces.get(stream)
        if found is None:
            found = self.allocate_workspace(stream)
            self._kept.append(found)
        return found

    def allocate_workspace(self, stream: int) -> Workspace:
        """The workspace of a stream, there as long as the caller holds it."""
        found = self._workspaces.get(stream)
        if found is None:
            found = self._workspaces[stream] = Workspace(self.xp.empty(WORKSPACE_BYTES, np.uint8))
        return found


class Product:
    """One product on fixed buffers; called, it is launched on the stream that is current."""

    def __init__(
        self, lt: CublasLt, call: GemmCall, a: Any, b: Any, out: Any, precision: str | None, bias: Any, aux: Any
    ) -> None:
        kind = COMPUTE_TYPES.get((a.dtype.name, precision, out.dtype.name))
        if kind is None or a.dtype != b.dtype:
            raise Unsupported(
                f"its operands are {a.dtype} and {b.dtype}, its result {out.dtype}, precision {precision}"
            )
        if bias is not None and bias.dtype != out.dtype:
            raise Unsupported(f"its vector is {bias.dtype} and its result {out.dtype}")
        of_operands, of_results, computed_in, of_factors = kind
        self.lt, self.call, self.arrays = lt, call, (a, b, out, bias, aux)
        # b and a change places: the product is the transposed one
        self.A, self.B, self.D = (int(x.data.ptr) for x in (b, a, out))
        self.operation = lt.create("MatmulDesc", self, computed_in, of_factors)
        self._set(CUBLASLT_MATMUL_DESC_TRANSA, c_int(CUBLAS_OP_T if call.A.transposed else CUBLAS_OP_N))
        self._set(CUBLASLT_MATMUL_DESC_TRANSB, c_int(CUBLAS_OP_T if call.B.transposed else CUBLAS_OP_N))
        self._set(CUBLASLT_MATMUL_DESC_EPILOGUE, c_uint32(EPILOGUE_CODES[call.epilogue]))
        if bias is not None:
            self._set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, c_void_p(int(bias.data.ptr)))
        if aux is not None:
            self._set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, c_void_p(int(aux.data.ptr)))
            self._set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, c_int64(call.aux))
        kinds = ((call.A, of_operands), (call.B, of_operands), (call.D, of_results))
        self.layouts = [lt.create("MatrixLayout", self, held, at.rows, at.columns, at.leading) for at, held in kinds]
        aligned = tuple(alignment(int(x.data.ptr)) for x in (b, a, out, bias, aux) if x is not None)
        self.algorithm, needs = lt.algorithm((call, kind, aligned), self)
        self.workspace_size = WORKSPACE_BYTES if needs else 0
        self._one, self._zero = byref(lt._one[of_factors]), byref(lt._zero[of_factors])

    def _set(self, attribute: int, value: Any) -> None:
        self.lt.set_attribute("MatmulDesc", self.operation, attribute, value)

    def __call__(self) -> None:
        lt, (A, B, D) = self.lt, self.layouts
        stream = int(lt.xp.cuda.get_current_stream().ptr)
        workspace = lt.workspace(stream).ptr if self.workspace_size else None
        status = lt.library.cublasLtMatmul(
            lt.handle,
            self.operation,
            self._one,
            self.A,
            A,
            self.B,
            B,
            self._zero,
            self.D,
            D,
            self.D,
            D,
            byref(self.algorithm),
            workspace,
            self.workspace_size,
            stream,
        )
        if status != CUBLAS_STATUS_SUCCESS:
            lt.check(status, "cublasLtMatmul")


def alignment(pointer: int) -> int:
    """The largest power of two, up to 256, that divides an address."""
    return min(pointer & -pointer, MAX_ALIGNMENT) if pointer else MAX_ALIGNMENT


def open_cublaslt(cupy: Any) -> CublasLt | Fault:
    """cuBLASLt on the GPU that is current, or why it cannot be used."""
    found = find(int(cupy.cuda.runtime.runtimeGetVersion()) // 1000)
    if isinstance(found, Fault):
        return found
    library, where = found
    handle = c_void_p()
    status = library.cublasLtCreate(byref(handle))
    if status != CUBLAS_STATUS_SUCCESS:
        name = library.cublasLtGetStatusName(status)
        return cublaslt_failed(f"cublasLtCreate: {name.decode() if name else status}")
    return CublasLt(cupy, library, where, handle)
