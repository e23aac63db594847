"""A fake CuPy for machines without a GPU. What passes on it is "simulated", never a GPU result.

Strict: only names that gpunn uses exist, its arrays refuse NumPy's, integer indices wrap around as CuPy's.
Running: an ElementwiseKernel compiles the CUDA C++ source that it gets with the host's compiler and runs it.
Recording: `cupy.state.calls` lists allocations, transfers and launches. While `cupy.state.capturing` is true, calls
that a capture forbids raise, and launches are stored (fake_graphs.py). Replaceable: broken_cupy.py breaks its parts.
"""

import ctypes
import functools
import importlib.machinery
import pathlib
import sys
import types

import numpy as np
import pytest

from helpers import fake_cublaslt, fake_graphs, host_compiler

FUNCTIONS = """abs add all any arange argmax array_equal ascontiguousarray broadcast_to clip concatenate
    divide dot empty_like equal exp expm1 eye full full_like isfinite isinf isnan log log1p logical_and
    logical_not logical_or matmul max maximum mean min minimum multiply nonzero ones ones_like power sign sqrt square
    stack subtract sum take tanh transpose where zeros_like""".split()
CONSTANTS = "bool_ finfo float32 float64 inf int32 int64 nan newaxis pi uint8 uint32 uint64".split()
FACTS = "dtype flags itemsize nbytes ndim shape size strides".split()
METHODS, VIEWS = "all any argmax astype fill max mean min sum take".split(), "ravel reshape transpose view".split()
OPERATORS = "lt le gt ge eq ne neg abs invert matmul".split()
OPERATORS += [how + n for n in "add sub mul truediv floordiv mod pow and or xor".split() for how in ("", "r", "i")]
C_TYPES = {"bool": "bool", "float32": "float", "float64": "double"}
for _bits, _c in {8: "char", 16: "short", 32: "int", 64: "long long"}.items():
    C_TYPES |= {f"int{_bits}": f"signed {_c}", f"uint{_bits}": f"unsigned {_c}"}
CUDARuntimeError = type("CUDARuntimeError", (RuntimeError,), {})
CompileException = type("CompileException", (Exception,), {})
CAPTURING = "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"


class OutOfMemoryError(MemoryError):
    def __init__(self, size):
        self._size = size
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: 0 bytes).")


class State:
    """The settings of the fake, and what it recorded; `error` is raised at each use of the device."""

    def reset(self, devices=1):
        self.devices, self.current, self.capturing, self.calls, self.error = devices, 0, False, [], None
        self.free, self.total, self.stream = 7 << 30, 8 << 30, fake_graphs.DEFAULT

    def record(self, what, forbidden=False, answer=None):
        if self.error or (forbidden and fake_graphs.active_capture(self)):
            raise self.error or CUDARuntimeError(CAPTURING)
        self.calls.append(what)
        return answer


state = State()


def _bare(x):
    """The NumPy array inside a fake one. NumPy arrays and lists are refused, scalars pass."""
    if isinstance(x, np.ndarray) or (isinstance(x, list) and not all(isinstance(e, ndarray) for e in x)):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, ndarray) and x.device.id != state.current:
        raise ValueError("The device where the array resides is different from the current device.")
    return type(x)(map(_bare, x)) if isinstance(x, (tuple, list)) else x._a if isinstance(x, ndarray) else x


def wrap(a, *sources, device=None):
    """A fake array around `a`: a view if it shares memory with a source, else an allocation."""
    a, x = np.asarray(a), object.__new__(ndarray)
    if not any(np.may_share_memory(a, s) for s in sources if isinstance(s, np.ndarray)):
        state.record("allocate", forbidden=True)
        if a.nbytes > state.free:
            raise OutOfMemoryError(a.nbytes)
    x._a, x.device = a, device or Device(state.current)
    return x


def _apply(function, *args, **kwargs):
    """Call a NumPy function on the arrays inside. An array that it wrote into is returned as the same object."""
    bare, options = [_bare(x) for x in args], {k: _bare(v) for k, v in kwargs.items()}
    if getattr(function, "__name__", "") in ("matmul", "dot", "__matmul__"):
        if fake_graphs.active_capture(state):
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        state.record("matmul", answer=cuda.cublas)
    with np.errstate(all="ignore"):
        result = function(*bare, **options)
    same = [x for x in (*args, *kwargs.values()) if isinstance(x, ndarray) and x._a is result]
    return result if result is NotImplemented or result is None else same[0] if same else wrap(result, *bare)


class ndarray:
    __module__, __hash__ = "cupy", None
    T = property(lambda self: self.transpose())
    data = property(lambda self: types.SimpleNamespace(ptr=self._a.ctypes.data))

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_function__(self, function, *_):
        raise TypeError(f"numpy.{function.__name__} was given an array of the device: use array_module(x)")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return _apply(ufunc, *inputs) if method == "__call__" and not kwargs else NotImplemented

    def __getattr__(self, name):
        if name in METHODS:
            return functools.partial(_apply, getattr(np.ndarray, name), self)
        if name in VIEWS:
            return lambda *how: wrap(getattr(self._a, name)(*how), self._a, device=self.device)
        if name not in FACTS:
            raise AttributeError(f"the fake CuPy's ndarray has no {name!r}")
        return getattr(self._a, name)

    def _key(self, key):
        """Integer arrays wrap around, where NumPy raises."""
        keys = [_bare(k) for k in (key if isinstance(key, tuple) else (key,))]
        axes = iter(self.shape)
        sizes = [1 if k is None else next(axes, 1) for k in keys]
        kinds = [k.dtype.kind if isinstance(k, np.ndarray) else "other" for k in keys]
        return tuple(k % n if kind in "iu" else k for k, n, kind in zip(keys, sizes, kinds, strict=True))

    def __getitem__(self, key):
        keys = self._key(key)  # a single element is a view, too
        return wrap(self._a[keys if any(k is ... for k in keys) else (*keys, ...)], self._a, device=self.device)

    def __setitem__(self, key, value):
        _bare(self)[self._key(key)] = _bare(value)

    def set(self, host, stream=None):
        if not isinstance(host, np.ndarray) or (host.dtype, host.shape) != (self.dtype, self.shape):
            raise TypeError("only a numpy.ndarray of equal dtype and shape can be set to a cupy.ndarray")
        (stream or fake_graphs.DEFAULT).copy(self._a, state.record("to_device", forbidden=True, answer=host))


ndarray.copy = lambda self: wrap(self._a.copy())  # on the current device
ndarray.get = lambda self: state.record("to_host", forbidden=True, answer=self._a.copy())
ndarray.__len__ = lambda self: len(self._a)
ndarray.__repr__ = lambda self: f"simulated {self._a!r}"
for _name in (f"__{n}__" for n in OPERATORS):
    _of_numpy = functools.partial(_apply, getattr(np.ndarray, _name))
    setattr(ndarray, _name, functools.partialmethod(lambda self, f, *others: f(self, *others), _of_numpy))
for _name in ("__float__", "__int__", "__bool__", "item"):
    setattr(ndarray, _name, functools.partialmethod(lambda self, n: getattr(self.get(), n)(), _name))


def asarray(x, dtype=None):
    if isinstance(x, ndarray):
        return x if dtype in (None, x.dtype) else x.astype(dtype)
    if (host := np.array(x, dtype=dtype)).dtype.name not in C_TYPES:
        raise ValueError(f"Unsupported dtype {host.dtype}")
    return wrap(state.record("to_device", forbidden=True, answer=host))


PRELUDE = (pathlib.Path(__file__).parent / "fake_cuda.h").read_text()


@functools.cache
def _compile(source, name):
    return host_compiler.load_function(source, name, error=CompileException)


def _parameter(declaration, const):
    """Parse `raw T x` as CuPy does: a type of one character is a type variable."""
    *words, kind, name = declaration.split()
    if words not in ([], ["raw"]) or name in ("i", "n") or name.startswith("_"):
        raise ValueError(f"Can not use {declaration!r} as a parameter")
    variable, dtype = (kind, None) if len(kind) == 1 else (None, np.dtype(kind))
    return types.SimpleNamespace(name=name, variable=variable, dtype=dtype, raw=bool(words), const=const)


class ElementwiseKernel:
    def __init__(self, in_params, out_params, operation, name="kernel", preamble="", options=()):
        ins = [_parameter(t, "const ") for t in in_params.split(",") if t.strip()]
        self.params = ins + [_parameter(t, "") for t in out_params.split(",") if t.strip()]
        self.nin, self.name, self.operation, self.preamble = len(ins), name, operation, preamble

    def __call__(self, *args, size=-1):
        if len(args) not in (self.nin, len(self.params)):
            raise TypeError(f"Wrong number of arguments for {self.name!r}, given {len(args)}.")
        bare, pairs = [_bare(x) for x in args], zip(self.params, args, strict=False)
        shapes = [x.shape for p, x in pairs if isinstance(x, ndarray) and not p.raw]
        if bool(shapes) == (size != -1):
            raise ValueError("Specified 'size' can be used only if all of the ndarray are 'raw'.")
        shape = np.broadcast_shapes(*shapes) if shapes else (size,)
        dtypes = self._dtypes(bare)
        results = list(args[self.nin :]) or [wrap(np.empty(shape, d)) for d in dtypes[self.nin :]]
        for p, x in zip(self.params[self.nin :], results, strict=True):
            if not isinstance(x, ndarray) or not (p.raw or x.shape == shape):
                raise ValueError("Output arguments type must be cupy.ndarray, or Out shape is mismatched")
        state.record(f"kernel {self.name}")
        if 0 not in shape:
            out = [x._a for x in results]
            called = [p.name for p in self.params], self.operation
            fake_graphs.run_or_record(state, self._run, (bare[: self.nin] + out, dtypes, shape), out, *called)
        return results[0] if len(results) == 1 else tuple(results)

    def _dtypes(self, bare):
        """The dtype of each parameter: outputs determine the type variables first, then inputs; nothing is cast."""
        variables, pairs = {}, list(zip(self.params, bare, strict=False))
        for p, a in pairs[self.nin :] + pairs[: self.nin]:
            if isinstance(a, np.ndarray):
                wanted = variables.setdefault(p.variable, a.dtype) if p.variable else p.dtype
                if wanted != a.dtype:
                    raise TypeError(f"Type is mismatched. {p.name} {a.dtype} {wanted} {p.variable}")
        return [variables[p.variable] if p.variable else p.dtype for p in self.params]

    def _run(self, bare, dtypes, shape):
        head, loop, arrays, layouts = [], [], [], []
        for k, (p, a, dtype) in enumerate(zip(self.params, bare, dtypes, strict=True)):
            c = p.const + C_TYPES[dtype.name]
            if isinstance(a, np.ndarray):
                a = a if p.raw else np.broadcast_to(a, shape)
                head.append(f"CArray<{c}> {'' if p.raw else '_raw_'}{p.name} = {{({c}*)_p[{k}], _d[{k}]}};")
                loop.append("" if p.raw else f"{c} &{p.name} = _raw_{p.name}[i];")
            else:
                a = np.asarray(a).astype(dtype)
                head.append(f"{c} {p.name} = *({c}*)_p[{k}];")
            layout = [a.flags.c_contiguous, a.ndim, a.size, *a.shape, *a.strides]
            layouts.append((ctypes.c_ssize_t * len(layout))(*layout))
            arrays.append(a)
        names = {p.variable: C_TYPES[d.name] for p, d in zip(self.params, dtypes, strict=True) if p.variable}
        lines = [PRELUDE, *(f"typedef {c} {name};" for name, c in names.items()), self.preamble]
        lines += [f'extern "C" int {self.name}(ptrdiff_t _size, void** _p, const ptrdiff_t** _d) {{', *head]
        lines += ["CIndexer _ind = {_size};", "auto _body = [&](ptrdiff_t i) {", *loop, self.operation + ";", "};"]
        how = "warps" if "__shfl" in self.preamble + self.operation else "threads"
        run = _compile("\n".join([*lines, f"return run_{how}(_size, _body);", "}"]), self.name)
        pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        tables = (ctypes.c_void_p * len(arrays))(*(ctypes.addressof(t) for t in layouts))
        if run(ctypes.c_ssize_t(int(np.prod(shape))), pointers, tables):
            raise RuntimeError(f"{self.name}: threads of a warp synchronize at different points")


class Device:
    compute_capability = "90"

    def __init__(self, device=0):
        self.id = device

    def __enter__(self):
        if self.id >= runtime.getDeviceCount():
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self._before, state.current = state.current, self.id

    def __exit__(self, *_):
        state.current = self._before


def _module(name, **names):
    module = types.ModuleType(name)
    module.__dict__.update(names, __spec__=importlib.machinery.ModuleSpec(name, None, origin="tests"))
    return module


runtime = _module("cupy.cuda.runtime", runtimeGetVersion=lambda: 12090, driverGetVersion=lambda: 13000)
runtime.getDeviceCount = lambda: state.record("runtime", answer=state.devices)
runtime.memGetInfo = lambda: state.record("runtime", answer=(state.free, state.total))
runtime.getDeviceProperties = lambda index: state.record("runtime", answer={"name": b"Simulated GPU"})
runtime.deviceSynchronize = lambda: state.record("synchronize", forbidden=True)
memory, nvrtc = _module("cupy.cuda.memory", OutOfMemoryError=OutOfMemoryError), _module("cupy.cuda.nvrtc")
nvrtc.getVersion = lambda: (12, 9)
cuda = _module("cupy.cuda", cublas="cuBLAS", Device=Device, runtime=runtime, memory=memory, nvrtc=nvrtc)
fake_graphs.add_to(cuda, state)
cupy = _module("cupy", __version__="14.2.0", ndarray=ndarray, asarray=asarray, cuda=cuda, state=state)
cupy.__dict__.update({name: functools.partial(_apply, getattr(np, name)) for name in FUNCTIONS})
cupy.__dict__.update({name: getattr(np, name) for name in CONSTANTS})
cupy.ElementwiseKernel = ElementwiseKernel
cupy.asnumpy = lambda x: x.get() if isinstance(x, ndarray) else np.asarray(x)
cupy.empty = lambda shape, dtype=float: wrap(np.empty(shape, dtype))
cupy.zeros = lambda shape, dtype=float: wrap(np.zeros(shape, dtype))
cupy.may_share_memory = lambda a, b: np.may_share_memory(_bare(a), _bare(b))
_pool = types.SimpleNamespace(free_all_blocks=lambda: state.record("free"), free_bytes=lambda: 0)
cupy.get_default_memory_pool = cupy.get_default_pinned_memory_pool = lambda: _pool


def install(monkeypatch, devices=1):
    """Replace CuPy and cuBLASLt with fakes, with nothing recorded and no device selected; returns the fake CuPy."""
    from helpers import internals

    if not host_compiler.is_installed():
        pytest.skip("the fake CuPy needs a C++ compiler to run kernels")
    state.reset(devices)
    for module in (cupy, cuda, runtime, memory):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    internals.reset_device_choice(monkeypatch)
    state.cublaslt = fake_cublaslt.install(monkeypatch, state)
    return cupy
