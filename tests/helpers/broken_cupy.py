"""Ways to break the fake CuPy. Each raises what CuPy 14 (13 where the name says so) raises in that state.

The messages were seen with cupy-cuda12x 14.2 on a machine without driver, NVRTC or cuBLAS, or are those of its source.
"""

import sys
from pathlib import Path

from helpers import fake_cupy

DRIVER = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
DynamicLibNotFoundError = type("DynamicLibNotFoundError", (RuntimeError,), {})
CUDADriverError = type("CUDADriverError", (RuntimeError,), {})
CUBLASError = type("CUBLASError", (RuntimeError,), {})


def _not_found(name):
    files = f"lib{name}.so.13 or lib{name}.so.12"
    return f'Failure finding "{files}": No such file: {files}, No such file: {files}\n'


def _raises(error):
    def function(*_, **__):
        raise error

    return function


def _no_kernels(patch, error):
    patch.setattr(fake_cupy, "_compile", _raises(error))


def no_driver(patch, cupy):
    patch.setattr(cupy.state, "error", fake_cupy.CUDARuntimeError(DRIVER))
    patch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: 0)


def old_driver(patch, cupy):
    patch.setattr(cupy.state, "error", fake_cupy.CUDARuntimeError(DRIVER))
    patch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: 11040)


def driver_of_cuda12_wheel_of_cuda13(patch, cupy):
    patch.setattr(cupy.state, "error", fake_cupy.CUDARuntimeError(DRIVER))
    patch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: 12040)
    patch.setattr(cupy.cuda.runtime, "runtimeGetVersion", lambda: 13000)


def driver_older_than_the_compiler(patch, cupy):
    text = "CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX was compiled with an unsupported toolchain."
    _no_kernels(patch, CUDADriverError(text))
    patch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: 12040)


def no_device(patch, cupy):
    error = fake_cupy.CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    patch.setattr(cupy.state, "error", error)


def no_device_counted(patch, cupy):
    patch.setattr(cupy.state, "devices", 0)


def nvrtc(patch, cupy):
    error = DynamicLibNotFoundError(_not_found("nvrtc"))
    patch.setattr(cupy.cuda.nvrtc, "getVersion", _raises(error))
    _no_kernels(patch, error)


def nvrtc_of_cupy_13(patch, cupy):
    cause = "OSError: libnvrtc.so.12: cannot open shared object file: No such file or directory"
    error = RuntimeError(f"CuPy failed to load libnvrtc.so.12: {cause}")
    patch.setattr(cupy.cuda.nvrtc, "getVersion", _raises(error))
    _no_kernels(patch, error)


def nvrtc_builtins(patch, cupy):
    text = "nvrtc: error: failed to open libnvrtc-builtins.so.12.8.\n  Make sure that it is installed correctly.\n"
    _no_kernels(patch, fake_cupy.CompileException(text))


def headers(patch, cupy):
    text = "Failed to find CUDA headers. Please install CUDA toolkit headers (e.g., pip install "
    _no_kernels(patch, RuntimeError(text + "cupy-cuda12x[ctk]) or specify CUDA_PATH environment variable."))


def headers_in_part(patch, cupy):
    text = 'carray.cuh(9): catastrophic error: cannot open source file "cuda_fp16.h"\n  #include <cuda_fp16.h>\n'
    _no_kernels(patch, fake_cupy.CompileException(text))


def cublas(patch, cupy):
    patch.delattr(cupy.cuda, "cublas")
    patch.setattr(cupy.cuda, "__getattr__", _raises(ImportError(_not_found("cublasLt"))), raising=False)


def memory(patch, cupy):
    patch.setattr(cupy.state, "free", 0)


def memory_of_the_context(patch, cupy):
    patch.setattr(cupy.state, "error", fake_cupy.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"))


def memory_of_cublas(patch, cupy):
    patch.setattr(cupy, "matmul", _raises(CUBLASError("CUBLAS_STATUS_ALLOC_FAILED")))


def kernel_cache(patch, cupy):
    _no_kernels(patch, PermissionError(13, "Permission denied", "/home/you/.cupy/kernel_cache"))


def architecture(patch, cupy):
    _no_kernels(patch, fake_cupy.CompileException("nvrtc: error: invalid value for --gpu-architecture (-arch)\n"))


def wrong_kernel(patch, cupy):
    run = fake_cupy.ElementwiseKernel._run

    def off_by_one(self, bare, dtypes, shape):
        run(self, bare, dtypes, shape)
        bare[-1].flat[-1] += 1

    patch.setattr(fake_cupy.ElementwiseKernel, "_run", off_by_one)


def wrong_product(patch, cupy):
    matmul = cupy.matmul

    def off_by_one(a, b, out):
        matmul(a, b, out=out)
        out += 1

    patch.setattr(cupy, "matmul", off_by_one)


# --- an installation that is broken before CuPy is imported ----------------------------------------------------------


def path(patch, folder):
    """Make Python find CuPy only in `folder`, with none of it imported."""
    patch.setattr(sys, "path", [str(folder), *(p for p in sys.path if not Path(p, "cupy").exists())])
    patch.setitem(sys.modules, "cupy", None)  # so that undoing the patch removes a later import, too
    for name in [n for n in sys.modules if n.partition(".")[0] == "cupy"]:
        patch.delitem(sys.modules, name)


def metadata(folder, name, version="14.2.0"):
    """The metadata that pip stores for a distribution."""
    record = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
