"""Out-of-memory reports of a GPU."""

from __future__ import annotations

from typing import Any

from ..errors import Fault, brief

# lower-case parts of messages: the CUDA runtime, cuBLAS and the CUDA driver
OUT_OF_MEMORY = ("cudaerrormemoryallocation", "alloc_failed", "cuda_error_out_of_memory")


def is_out_of_memory(error: BaseException, cupy: Any) -> bool:
    """True if an allocation on a device failed: in CuPy's memory pool, or in another allocator, a stream, a graph,
    pinned memory or cuBLAS."""
    if isinstance(error, cupy.cuda.memory.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in OUT_OF_MEMORY)


def out_of_memory(error: BaseException, cupy: Any, device: str) -> Fault:
    """Report a failed allocation: the bytes needed, the bytes free, and the remedy."""
    try:
        free, total = cupy.cuda.runtime.memGetInfo()
        available = f"{format_bytes(free)} of {format_bytes(total)} are free"
    except Exception:
        available = "the free memory is unknown"
    size = getattr(error, "_size", None)
    needed = f"{format_bytes(size)} were needed" if isinstance(size, int) else brief(error)
    remedy = "use a smaller batch_size or network, or end the other programs that nvidia-smi lists"
    return Fault("memory", f"{device} is out of memory: {needed}, {available}", remedy)


def format_bytes(size: float) -> str:
    """Format a number of bytes, for example "512 bytes" or "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.{int(unit != 'bytes')}f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
