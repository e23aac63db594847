"""A fake cuBLASLt for the fake CuPy: C functions (ctypes callbacks) on the memory that they get.

They are as strict as the header about objects, attributes, sizes, alignment, workspace and streams. What passes on the
fake is "simulated".
"""

import ctypes
import functools
import types
from ctypes import POINTER, c_float, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

import numpy as np

from helpers import column_major_blas as blas
from helpers import fake_graphs

OK, NOT_INITIALIZED, INVALID, INTERNAL, NOT_SUPPORTED = 0, 1, 7, 14, 15
STATUSES = {1: "NOT_INITIALIZED", 7: "INVALID_VALUE", 14: "INTERNAL_ERROR", 15: "NOT_SUPPORTED"}
TYPES = {0: np.float32, 1: np.float64, 14: np.uint16}
# attributes and their C types, by the kind of object
ATTRIBUTES = {
    "MatmulDesc": {3: c_int, 4: c_int, 7: c_uint32, 8: c_void_p, 11: c_void_p, 12: c_int64},
    "MatmulPreference": {1: c_uint64, 5: c_uint32, 6: c_uint32, 7: c_uint32, 8: c_uint32},
}
NAMES = {1: "none", 4: "bias", 6: "relu", 134: "relu_mask", 36: "gelu", 164: "gelu_z"}
NAMES |= {136: "drelu", 152: "drelu_sums", 192: "dgelu", 208: "dgelu_sums", 256: "sums"}
# (compute type, operands, results) of the supported products
SUPPORTED = {(68, 0, 0), (77, 0, 0), (68, 14, 0), (68, 14, 14), (70, 1, 1)}
P = c_void_p
LONG = 100  # terms per sum with which the algorithm needs a workspace
WORKSPACE = 4096


class Refusal(Exception):
    pass


def _need(condition, status=INVALID):
    if not condition:
        raise Refusal(status)


class Library:
    """The functions, as a `ctypes.CDLL` has them. `refuse` lists epilogues without an algorithm.

    `zero_is_above`: the mask of ReLU is set at z = 0, too, as NVIDIA's tests expect.
    """

    def __init__(self, state, version=120903, refuse=(), zero_is_above=True):
        self._state, self._version, self.refuse, self.zero_is_above = state, version, set(refuse), zero_is_above
        self._objects, self._algorithms, self._next, self._error = {}, {}, 1, ""
        self.queries = 0
        for name, (result, arguments) in PROTOTYPES.items():
            body = self._guarded(getattr(self, f"_{name}"), result)
            setattr(self, name, ctypes.CFUNCTYPE(result, *arguments)(body))

    def _guarded(self, body, result):
        @functools.wraps(body)
        def call(*arguments):
            try:
                return body(*arguments) or OK
            except Refusal as refusal:
                return refusal.args[0]
            except Exception as error:  # ctypes discards what a callback raises
                self._error = f": {type(error).__name__}: {error}"
                return INTERNAL

        return call if result is c_int else body

    @property
    def objects(self):
        """The number of live objects of each kind."""
        kinds = [o.kind for o in self._objects.values()]
        return {kind: kinds.count(kind) for kind in set(kinds)}

    def compute_types(self):
        """The compute types of all products with an algorithm."""
        return {key[0] for key, *_ in self._algorithms.values()}

    def _make(self, out, kind, **fields):
        self._objects[self._next] = types.SimpleNamespace(kind=kind, attributes={}, **fields)
        out[0] = self._next
        self._next += 1

    def _get(self, handle, kind):
        found = self._objects.get(handle)
        _need(found is not None and found.kind == kind)
        return found

    def _destroy(self, handle, kind):
        self._get(handle, kind)
        del self._objects[handle]

    def _set(self, handle, kind, attribute, value, size):
        c_type = ATTRIBUTES[kind].get(attribute)
        _need(c_type is not None and value and size == ctypes.sizeof(c_type))
        self._get(handle, kind).attributes[attribute] = c_type.from_address(value).value or 0

    def _cublasLtGetVersion(self):
        return self._version

    def _cublasLtGetStatusName(self, status):
        status_name = f"CUBLAS_STATUS_{STATUSES[status]}{self._error if status == INTERNAL else ''}"
        self._status = ctypes.create_string_buffer(status_name.encode())
        return ctypes.addressof(self._status)

    def _cublasLtCreate(self, out):
        _need(self._state.devices > 0, NOT_INITIALIZED)
        self._make(out, "Handle", device=self._state.current)

    def _cublasLtDestroy(self, handle):
        self._destroy(handle, "Handle")

    def _cublasLtMatrixLayoutCreate(self, out, dtype, rows, columns, leading):
        self._make(out, "MatrixLayout", type=dtype, rows=rows, columns=columns, leading=leading)

    def _cublasLtMatmulDescCreate(self, out, compute, scale):
        self._make(out, "MatmulDesc", compute=compute, scale=scale)

    def _cublasLtMatmulPreferenceCreate(self, out):
        self._make(out, "MatmulPreference")

    def _problem(self, operation, A, B, C, D):
        """The problem that the descriptors specify, after all checks. Raises Refusal where the library would fail."""
        op, (A, B, C, D) = self._get(operation, "MatmulDesc"), (self._get(x, "MatrixLayout") for x in (A, B, C, D))
        _need(vars(C) == vars(D) and A.type == B.type)
        _need((op.compute, A.type, D.type) in SUPPORTED and op.scale == (D.type == 1), NOT_SUPPORTED)
        for x in (A, B, D):
            _need(0 < x.rows < 2**31 and 0 < x.columns < 2**31 and x.leading >= x.rows)
        transposed = bool(op.attributes.get(3, 0)), bool(op.attributes.get(4, 0))
        m, k = (A.columns, A.rows) if transposed[0] else (A.rows, A.columns)
        k_too, n = (B.columns, B.rows) if transposed[1] else (B.rows, B.columns)
        _need(k == k_too and (m, n) == (D.rows, D.columns))
        epilogue = NAMES[op.attributes.get(7, 1)]
        bias, aux, leading = (op.attributes.get(key, 0) for key in (8, 11, 12))
        _need(bool(bias) == (epilogue not in ("none", "drelu", "dgelu")))
        _need(bool(aux) == ("mask" in epilogue or epilogue.endswith("_z") or epilogue.startswith("d")))
        if aux:
            _need(leading >= m and leading % (8 if "gelu" in epilogue else 128) == 0)
        _need(epilogue not in self.refuse, NOT_SUPPORTED)
        _need(not (k == 1 and (epilogue.startswith("d") or epilogue == "sums")), NOT_SUPPORTED)
        _need(not (D.type == 1 and epilogue != "none"), NOT_SUPPORTED)
        key = (op.compute, transposed, epilogue, leading, *((x.type, x.rows, x.columns, x.leading) for x in (A, B, D)))
        return types.SimpleNamespace(
            key=key, m=m, n=n, k=k, transposed=transposed, epilogue=epilogue, bias=bias, aux=aux, leading=leading
        )

    def _cublasLtMatmulAlgoGetHeuristic(self, handle, operation, A, B, C, D, preference, requested, results, found):
        self._get(handle, "Handle")
        problem, limits = self._problem(operation, A, B, C, D), self._get(preference, "MatmulPreference").attributes
        _need(requested >= 1 and not self._state.capturing)
        self.queries += 1
        needs = WORKSPACE if problem.k >= LONG else 0
        _need(limits.get(1, 0) >= needs, NOT_SUPPORTED)
        number = len(self._algorithms) + 1
        self._algorithms[number] = problem.key, needs, [limits.get(key, 256) for key in (5, 6, 7, 8)]
        ctypes.memset(results, 0, RESULT_BYTES)
        c_uint64.from_address(results).value = number
        c_size_t.from_address(results + 64).value = needs
        c_int.from_address(results + 72).value = OK
        found[0] = 1

    def _cublasLtMatmul(self, handle, op, alpha, A, Ad, B, Bd, beta, C, Cd, D, Dd, algorithm, workspace, size, stream):
        _need(self._get(handle, "Handle").device == self._state.current)
        problem = self._problem(op, Ad, Bd, Cd, Dd)
        key, needs, aligned = self._algorithms[c_uint64.from_address(algorithm).value]
        _need(key == problem.key and C == D and (stream or 0) == self._state.stream.ptr)
        _need(all(pointer % step == 0 for pointer, step in zip((A, B, C, D), aligned, strict=True)))
        _need(size >= needs and (workspace or not needs))
        number = c_float if TYPES[self._get(Dd, "MatrixLayout").type] is not np.float64 else ctypes.c_double
        _need(number.from_address(alpha).value == 1 and number.from_address(beta).value == 0)
        a, b, d = (self._matrix(p, x) for p, x in ((A, Ad), (B, Bd), (D, Dd)))
        epilogue, m, n = problem.epilogue, problem.m, problem.n
        bias = blas.matrix(problem.bias, d.dtype, m, 1, m)[:, 0] if problem.bias else None
        mask = z = None
        if problem.aux and "gelu" in epilogue:
            z = blas.matrix(problem.aux, d.dtype, m, n, problem.leading)
        elif problem.aux:
            mask = blas.mask_bytes(problem.aux, m, n, problem.leading)
        written = [d, *([bias] if "sums" in epilogue else [])]
        written += [x for x in (mask, z) if x is not None and not epilogue.startswith("d")]
        read = [x for x in (a, b, bias, mask, z) if x is not None]
        if needs:
            written.append(np.frombuffer((ctypes.c_byte * size).from_address(workspace), np.uint8))
        self._state.record(f"product {epilogue}")
        run = functools.partial(self._run, a, b, d, problem, bias, mask, z, written[-1] if needs else None)
        fake_graphs.run_or_record(self._state, lambda _: run(), ([*read, *written],), written)

    def _run(self, a, b, d, problem, bias, mask, z, workspace):
        if workspace is not None:
            workspace[:WORKSPACE] = 0xEE
        d[...] = np.nan if d.dtype.kind == "f" else 0x7FC0  # β is 0: earlier contents do not matter
        blas.multiply(a, b, d, problem.transposed, problem.epilogue, bias, mask, z, self.zero_is_above)

    def _matrix(self, pointer, layout):
        x = self._get(layout, "MatrixLayout")
        _need(pointer and pointer % np.dtype(TYPES[x.type]).itemsize == 0)
        return blas.matrix(pointer, TYPES[x.type], x.rows, x.columns, x.leading)


for _kind in ("MatrixLayout", "MatmulDesc", "MatmulPreference"):
    setattr(Library, f"_cublasLt{_kind}Destroy", lambda self, handle, kind=_kind: self._destroy(handle, kind))
for _kind in ATTRIBUTES:
    setattr(
        Library, f"_cublasLt{_kind}SetAttribute", lambda self, h, at, v, n, kind=_kind: self._set(h, kind, at, v, n)
    )

RESULT_BYTES = 96
# the header's prototypes, with pointers as addresses
PROTOTYPES = {
    "cublasLtGetVersion": (c_size_t, []),
    "cublasLtGetStatusName": (P, [c_int]),
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
    "cublasLtMatmulAlgoGetHeuristic": (c_int, [P, P, P, P, P, P, P, c_int, P, POINTER(c_int)]),
    "cublasLtMatmul": (c_int, [P, P, P, P, P, P, P, P, P, P, P, P, P, P, c_size_t, P]),
}


def install(monkeypatch, state, **options):
    """Let gpunn find this library and no other; returns it."""
    from gpunn.backend.cuda import cublaslt

    library = Library(state, **options)
    monkeypatch.setattr(cublaslt, "candidates", lambda major: ["fake"])
    monkeypatch.setattr(cublaslt, "load_library", lambda path: library)
    return library
