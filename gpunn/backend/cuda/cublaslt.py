"""cuBLASLt bindings: matrix products that can be captured in a CUDA graph, with fused epilogues.

CuPy refuses cuBLAS while a stream captures (cupy#6290). cuBLASLt, which is loaded together with cuBLAS, gets everything
from its caller: operands, workspace and algorithm. So all of it is created when buffers are bound, and a launch is one
call.

Names and numbers are those of cublasLt.h, cublas_api.h and library_types.h of CUDA 12.9 and 13. A test compares them
with these headers where they are installed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import pathlib
import sys
import weakref
from collections.abc import Iterator
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

import numpy as np

from ...kernels import DeviceLaunch
from ..errors import Fault
from .errors import cublaslt_failed, cublaslt_missing
from .layouts import EPILOGUES, GemmCall, Unsupported, gemm_call
from .selftest import verify_epilogue

CUDA_MAJORS = (13, 12)  # the versions of CUDA whose interface this module uses
WORKSPACE_BYTES = 32 << 20  # per stream
MAX_ALIGNMENT = 256  # bytes; no algorithm requires more

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

# b is the library's first operand, so BGRADA computes the column sums of b
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
# (dtype of operands, precision, dtype of results): (type of operands, type of results, compute type, type of α and β)
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
# (result, arguments) of each function
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
    """Paths where cuBLASLt may be, the most likely first. `major` is the major version of CuPy's CUDA.

    They are the copy that this process has loaded, NVIDIA's wheels, and what the system's loader finds.
    """
    majors = sorted(CUDA_MAJORS, key=lambda m: m != major)
    yield from _loaded_copies(major)
    name = "cublasLt64_{}.dll" if sys.platform == "win32" else "libcublasLt.so.{}"
    spec = importlib.util.find_spec("nvidia")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    for m in majors:
        package = "cublas" if m == 12 else f"cu{m}"
        for folder, sub in itertools.product(folders, ("lib", "bin", "bin/x86_64")):
            path = pathlib.Path(folder, package, sub, name.format(m))
            if path.exists():
                yield str(path)
    for m in majors:
        yield name.format(m)


def _loaded_copies(major: int) -> list[str]:
    """Paths of the copies that this process has loaded, those of CUDA `major` first."""
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists():
        return []
    paths = [line.split(maxsplit=5)[-1].strip() for line in maps.read_text().splitlines() if "libcublasLt" in line]
    loaded = dict.fromkeys(p for p in paths if pathlib.Path(p).name.startswith("libcublasLt.so"))
    return sorted(loaded, key=lambda p: f".so.{major}" not in p)


def load_library(path: str) -> Any:
    """Load the library at `path`. OSError if there is none."""
    return ctypes.CDLL(path)


def find(major: int) -> tuple[Any, str] | Fault:
    """Find the library: return it, with typed functions, and its path; or the fault."""
    failures = []
    for path in candidates(major):
        try:
            library = load_library(path)
            for name, (result, arguments) in FUNCTIONS.items():
                function = getattr(library, name)
                function.restype = result
                function.argtypes = arguments
        except (OSError, AttributeError) as error:
            failures.append(str(error).splitlines()[0])
            continue
        version = int(library.cublasLtGetVersion())
        if version // 10000 in CUDA_MAJORS:
            return library, path
        failures.append(f"{path} is version {format_version(version)}")
    return cublaslt_missing("; ".join(failures))


def format_version(version: int) -> str:
    """Format cuBLASLt's version number: 120903 as "12.9.3"."""
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def open_cublaslt(cupy: Any) -> CublasLt | Fault:
    """Open cuBLASLt on the current GPU, or return the fault."""
    found = find(int(cupy.cuda.runtime.runtimeGetVersion()) // 1000)
    if isinstance(found, Fault):
        return found
    library, path = found
    handle = c_void_p()
    status = library.cublasLtCreate(byref(handle))
    if status != CUBLAS_STATUS_SUCCESS:
        return cublaslt_failed(f"cublasLtCreate: {_status_name(library, status)}")
    return CublasLt(cupy, library, path, handle)


def _status_name(library: Any, status: int) -> str:
    name = library.cublasLtGetStatusName(status)
    return name.decode() if name else str(status)


class CublasLtError(RuntimeError):
    """Raised if a call of cuBLASLt fails unexpectedly. The message contains its status."""


class Workspace:
    """Memory that the products of one stream use, one after another."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.ptr = int(array.data.ptr)


class CublasLt:
    """cuBLASLt on one GPU. Its objects live as long as it does, those of a product as long as the product."""

    def __init__(self, xp: Any, library: Any, path: str, handle: c_void_p) -> None:
        self.xp = xp
        self.library = library
        self.path = path
        self.handle = handle
        self.version = int(library.cublasLtGetVersion())
        self.workspace_bytes = 0  # the maximum over all products bound so far
        self._selftests: dict[tuple[str, str | None, str, str], bool | str] = {}
        self._algorithms: dict[Any, tuple[cublasLtMatmulAlgo_t, int] | str] = {}
        self._workspaces: weakref.WeakValueDictionary[int, Workspace] = weakref.WeakValueDictionary()
        self._references: list[Workspace] = []
        self._one = {CUDA_R_32F: c_float(1), CUDA_R_64F: ctypes.c_double(1)}
        self._zero = {CUDA_R_32F: c_float(0), CUDA_R_64F: ctypes.c_double(0)}
        # not at exit: CUDA may have been shut down before
        weakref.finalize(self, library.cublasLtDestroy, handle).atexit = False

    def __str__(self) -> str:
        return f"cuBLASLt {format_version(self.version)} ({self.path})"

    def check(self, status: int, call: str) -> None:
        """Raise CublasLtError if a call of the library failed."""
        if status != CUBLAS_STATUS_SUCCESS:
            raise CublasLtError(f"{call} failed: {_status_name(self.library, status)}")

    def create(self, kind: str, owner: Any, *arguments: Any) -> c_void_p:
        """Create an object of the library, which is destroyed with its owner."""
        made = c_void_p()
        self.check(getattr(self.library, f"cublasLt{kind}Create")(byref(made), *arguments), f"cublasLt{kind}Create")
        weakref.finalize(owner, getattr(self.library, f"cublasLt{kind}Destroy"), made).atexit = False
        return made

    def set_attribute(self, kind: str, made: c_void_p, attribute: int, value: Any) -> None:
        """Set an attribute of an object. `value` has the C type that the header specifies."""
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
        """Bind out = a b with an epilogue, as one launch.

        Parameters
        ----------
        a, b : array
            float32 or float64, or uint16 bit patterns of bfloat16 with precision "bf16".
        out : array
            The dtype of a and b, or float32 for bfloat16 operands.
        precision : str or None
            "tf32" multiplies float32 operands with 11 significant bits.
        epilogue, bias, aux
            See `gpunn.backend.cuda.layouts`. `bias` and z have the dtype of `out`.

        Raises
        ------
        Unsupported
            If the library has no such call, or its self-test failed.
        """
        if not self._passes_selftest(a.dtype.name, precision, out.dtype.name, epilogue):
            raise Unsupported(f"cuBLASLt's results differ from gpunn's in its self-test ({epilogue})")
        return self._bind_unverified(a, b, out, precision=precision, epilogue=epilogue, bias=bias, aux=aux)

    def supports(self, dtype: str, precision: str | None, result: str, epilogue: str) -> bool:
        """True if the library has this epilogue for operands and results of these types, and its self-test passed."""
        try:
            return self._passes_selftest(dtype, precision, result, epilogue)
        except Unsupported:
            return False

    def _passes_selftest(self, dtype: str, precision: str | None, result: str, epilogue: str) -> bool:
        """The result of the self-test, which runs at first use. Raises Unsupported if there is no algorithm."""
        key = dtype, precision, result, epilogue
        if key not in self._selftests:
            try:
                known = key[:3] in COMPUTE_TYPES
                self._selftests[key] = not known or verify_epilogue(self.xp, self._bind_unverified, *key)
            except (Unsupported, CublasLtError) as error:
                self._selftests[key] = str(error)
        found = self._selftests[key]
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
        product = Matmul(self, gemm_call(a, b, out, epilogue, bias, aux), a, b, out, precision, bias, aux)
        described = EPILOGUES[epilogue]
        reads = [a, b, *([bias] if described.vector == "bias" else []), *([aux] if described.aux_role == "in" else [])]
        writes = [out, *([bias] if described.vector == "sums" else []), *([aux] if described.aux_role == "out" else [])]
        return DeviceLaunch([product], reads, writes, needs_workspace=True)

    def algorithm(self, key: Any, product: Matmul) -> tuple[cublasLtMatmulAlgo_t, int]:
        """The algorithm of a problem and the bytes of workspace that it needs, queried once.

        Raises Unsupported if there is no algorithm.
        """
        if key not in self._algorithms:
            self._algorithms[key] = self._query_heuristic(product)
        found = self._algorithms[key]
        if isinstance(found, str):
            raise Unsupported(found)
        self.workspace_bytes = max(self.workspace_bytes, found[1])
        return found

    def _query_heuristic(self, product: Matmul) -> tuple[cublasLtMatmulAlgo_t, int] | str:
        """The best algorithm and its bytes of workspace, or the reason why there is none."""
        preference = self.create("MatmulPreference", product)
        count = c_int(0)
        limit = c_uint64(WORKSPACE_BYTES)
        self.set_attribute("MatmulPreference", preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, limit)
        # the library reads the alignment of the bias and of the auxiliary matrix from the operation's pointers
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
            return f"cuBLASLt has no algorithm for it ({_status_name(self.library, status or result.state)})"
        return cublasLtMatmulAlgo_t.from_buffer_copy(result.algo), int(result.workspaceSize)

    def workspace(self, stream: int) -> Workspace:
        """The workspace of a stream, allocated at first use and never freed. A stream that captures needs
        `allocate_workspace` before."""
        found = self._workspaces.get(stream)
        if found is None:
            found = self.allocate_workspace(stream)
            self._references.append(found)
        return found

    def allocate_workspace(self, stream: int) -> Workspace:
        """The workspace of a stream, which lives as long as the caller's reference."""
        found = self._workspaces.get(stream)
        if found is None:
            found = self._workspaces[stream] = Workspace(self.xp.empty(WORKSPACE_BYTES, np.uint8))
        return found


class Matmul:
    """One product on fixed buffers. A call launches it on the current stream."""

    def __init__(
        self, lt: CublasLt, call: GemmCall, a: Any, b: Any, out: Any, precision: str | None, bias: Any, aux: Any
    ) -> None:
        types = COMPUTE_TYPES.get((a.dtype.name, precision, out.dtype.name))
        if types is None or a.dtype != b.dtype:
            raise Unsupported(
                f"its operands are {a.dtype} and {b.dtype}, its result {out.dtype}, precision {precision}"
            )
        if bias is not None and bias.dtype != out.dtype:
            raise Unsupported(f"its bias is {bias.dtype} and its result {out.dtype}")
        operand_type, result_type, compute_type, scale_type = types
        self.lt = lt
        self.arrays = (a, b, out, bias, aux)  # keeps their memory allocated
        # the transposed product: the library's first operand is b
        self.A, self.B, self.D = (int(x.data.ptr) for x in (b, a, out))
        self.operation = lt.create("MatmulDesc", self, compute_type, scale_type)
        self._set(CUBLASLT_MATMUL_DESC_TRANSA, c_int(CUBLAS_OP_T if call.A.transposed else CUBLAS_OP_N))
        self._set(CUBLASLT_MATMUL_DESC_TRANSB, c_int(CUBLAS_OP_T if call.B.transposed else CUBLAS_OP_N))
        self._set(CUBLASLT_MATMUL_DESC_EPILOGUE, c_uint32(EPILOGUE_CODES[call.epilogue]))
        if bias is not None:
            self._set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, c_void_p(int(bias.data.ptr)))
        if aux is not None:
            self._set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, c_void_p(int(aux.data.ptr)))
            self._set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, c_int64(call.aux))
        self.layouts = [
            lt.create("MatrixLayout", self, dtype, layout.rows, layout.columns, layout.leading)
            for layout, dtype in ((call.A, operand_type), (call.B, operand_type), (call.D, result_type))
        ]
        aligned = tuple(alignment(int(x.data.ptr)) for x in (b, a, out, bias, aux) if x is not None)
        self.algorithm, needed = lt.algorithm((call, types, aligned), self)
        self.workspace_size = WORKSPACE_BYTES if needed else 0
        self._one = byref(lt._one[scale_type])
        self._zero = byref(lt._zero[scale_type])

    def _set(self, attribute: int, value: Any) -> None:
        self.lt.set_attribute("MatmulDesc", self.operation, attribute, value)

    def __call__(self) -> None:
        lt = self.lt
        A, B, D = self.layouts
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
