"""One product by cuBLASLt, called as a captured step must call it: descriptors, algorithm and workspace made before.

Row-major C (n, m) = A (n, k) B (k, m) is column-major C' (m, n) = B' (m, k) A' (k, n), so that nothing is transposed.
Constants and signatures are those of cublasLt.h.
"""

from __future__ import annotations

import ctypes
import re
from ctypes import byref, c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

_REAL_32F, _COMPUTE_32F = 0, 68
_MAX_WORKSPACE_BYTES = 1  # of the preference
WORKSPACE = 32 << 20


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    ]


def library(maps: Path = Path("/proc/self/maps")) -> ctypes.CDLL:
    """The library that this process has loaded already. OSError where it has not."""
    found = re.search(r"/\S*libcublasLt\.so[.\d]*", maps.read_text(encoding="utf-8"))
    if found is None:
        raise OSError("no libcublasLt.so is loaded in this process")
    return ctypes.CDLL(found[0])


class Product:
    """C = A B in float32, on fixed arrays of the device; called, it asks the stream that is current for it."""

    def __init__(self, xp: Any, a: Any, b: Any, out: Any) -> None:
        self.xp, self.arrays = xp, (a, b, out)
        self.lt = library()
        n, k, m = *a.shape, b.shape[1]
        self.handle, self.what, self.preference = c_void_p(), c_void_p(), c_void_p()
        self._check("Create", byref(self.handle))
        self._check("MatmulDescCreate", byref(self.what), c_int(_COMPUTE_32F), c_int(_REAL_32F))
        self.layouts = [self._layout(rows, columns) for rows, columns in ((m, k), (k, n), (m, n))]
        self.workspace = xp.empty((WORKSPACE,), dtype=xp.uint8)
        self._check("MatmulPreferenceCreate", byref(self.preference))
        size = c_uint64(WORKSPACE)
        self._check(
            "MatmulPreferenceSetAttribute", self.preference, c_int(_MAX_WORKSPACE_BYTES), byref(size), c_size_t(8)
        )
        first, second, result = self.layouts
        self.choice, count = Heuristic(), c_int()
        operands = (self.handle, self.what, first, second, result, result, self.preference)
        self._check("MatmulAlgoGetHeuristic", *operands, c_int(1), byref(self.choice), byref(count))
        if count.value < 1:
            raise RuntimeError("cuBLASLt knows no algorithm for this product")
        self.one, self.zero = c_float(1), c_float(0)

    def __call__(self) -> None:
        a, b, out = (c_void_p(int(x.data.ptr)) for x in self.arrays)
        first, second, result = self.layouts
        self._check(
            "Matmul", self.handle, self.what, byref(self.one), b, first, a, second, byref(self.zero), out, result,
            out, result, byref(self.choice), c_void_p(int(self.workspace.data.ptr)), c_size_t(WORKSPACE),
            c_void_p(int(self.xp.cuda.get_current_stream().ptr)),
        )  # fmt: skip

    def _layout(self, rows: int, columns: int) -> c_void_p:
        made = c_void_p()
        shape = (c_uint64(rows), c_uint64(columns), c_int64(rows))
        self._check("MatrixLayoutCreate", byref(made), c_int(_REAL_32F), *shape)
        return made

    def _check(self, name: str, *arguments: Any) -> None:
        status = getattr(self.lt, f"cublasLt{name}")(*arguments)
        if status != 0:
            raise RuntimeError(f"cublasLt{name} gave status {status}")
