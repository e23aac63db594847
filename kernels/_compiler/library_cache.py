"""The user's cache of compiled sources: shared libraries, each with a digest, that several processes share.

GPUNN_CACHE names the folder (default: the user's cache folder). A library is named by a hash of source, flags and
processor. It is written to a temporary folder, synchronized with the disk and renamed. The file with its SHA-256 is
written last, and is the lock of the processes that compile the library: the system releases it if a process is killed.
A library whose digest is missing or different is compiled again.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import compiler
from .compiler import Source

SCRATCH = "compiling-"  # folders of compilations, which a killed process leaves
SCRATCH_SECONDS = 3600.0  # after which another process removes them

_lock = threading.Lock()


def cache_folder() -> Path:
    """The cache folder: GPUNN_CACHE, or `gpunn` in the user's cache folder."""
    named = os.environ.get("GPUNN_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gpunn"


# --- trust ----------------------------------------------------------------------------------------------------------


def check_trusted(path: Path) -> None:
    """Raise OSError if a file or folder does not exist, or if another user than this one and root may write to it."""
    about = path.stat()
    if not hasattr(os, "getuid"):
        return
    if about.st_uid not in (os.getuid(), 0):
        raise PermissionError(f"{path} belongs to another user")
    if stat.S_IMODE(about.st_mode) & 0o022:
        # the mode is not changed, because the user may share the folder on purpose
        raise PermissionError(f"{path} can be written by others: chmod 700, or name another folder")


def check_writable(folder: Path) -> None:
    """Create a folder with mode 0700. OSError if it cannot be trusted or written."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_trusted(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable")


def unusable() -> str | None:
    """The reason for which the cache folder cannot be written, or None."""
    try:
        check_writable(cache_folder())
    except OSError as error:
        return f"the cache folder cannot be used: {error}"
    return None


@functools.cache
def _folder_of_process() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gpunn-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def writable_folder() -> Path:
    """The cache folder, or a temporary folder of this process if it cannot be used."""
    with _lock:
        if unusable() is not None:
            return _folder_of_process()
        folder = cache_folder()
        _remove_old_scratch(folder)
        return folder


def _remove_old_scratch(folder: Path) -> None:
    """Remove the folders of compilations that were killed."""
    for left in folder.glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > SCRATCH_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


# --- libraries ------------------------------------------------------------------------------------------------------


def find(source: Source) -> ctypes.CDLL | None:
    """The library of a source from the cache folder, also from one that is not writable. None if it is not there."""
    path = _path(cache_folder(), source)
    with contextlib.suppress(OSError):
        check_trusted(path.parent)
        if is_intact(path):
            return load(path, source.symbols)
    return None


def compile_source(source: Source, command: Sequence[str], *, again: bool = False) -> Path:
    """Compile a source into the cache, unless it is there, and return the path of its library.

    Processes that need the same library compile it once. With `again`, one that is there is compiled too.

    Raises
    ------
    CompileError
        With the compiler's output, if the source does not compile.
    OSError
        If neither the cache folder nor a temporary folder can be written.
    """
    path = _path(writable_folder(), source)
    if again:
        discard(path)
    if not is_intact(path):
        with _locked(_digest_file(path)) as digest:
            if not is_intact(path):  # no other process has compiled it in the meantime
                os.ftruncate(digest, 0)
                _compile(source, command, path)
                os.lseek(digest, 0, os.SEEK_SET)
                os.write(digest, digest_of(path).encode())
                os.fsync(digest)
    return path


def _compile(source: Source, command: Sequence[str], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=SCRATCH) as scratch:
        replace(compiler.compile_shared(source, command, Path(scratch)), path)


def replace(written: Path, path: Path) -> None:
    """Rename a file that was written, after it is on the disk."""
    with open(written, "rb+") as file:
        os.fsync(file.fileno())
    _remove_other(path)
    os.replace(written, path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _remove_other(path: Path) -> None:
    """Remove a folder or link with the name of a file."""
    if path.is_symlink():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def _path(folder: Path, source: Source) -> Path:
    key = "\0".join([source.key, *compiler.FLAGS, *compiler.NATIVE, *compiler.user_flags(), compiler.cpu()])
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_intact(path: Path) -> bool:
    """True if a library exists, can be trusted and has the digest next to it."""
    try:
        check_trusted(path)
        return digest_of(path) == _digest_file(path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return False


def load(path: Path, symbols: Sequence[str]) -> ctypes.CDLL:
    """Load a library that exports these functions. OSError if it cannot be loaded, or lacks one."""
    library = ctypes.CDLL(str(path))
    missing = [symbol for symbol in symbols if not hasattr(library, symbol)]
    if missing:
        if os.name == "posix":
            import _ctypes

            _ctypes.dlclose(library._handle)  # otherwise a new library under this name is not loaded
        raise OSError(f"{path} lacks the function {missing[0]}")
    return library


def discard(path: Path) -> None:
    """Remove the digest of a library, so that it is compiled again."""
    with contextlib.suppress(OSError):
        _digest_file(path).unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a file for writing, and lock it until the context ends. File systems without locks have none."""
    _remove_other(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        with contextlib.suppress(OSError):
            if os.name == "posix":
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_EX)
            else:
                import msvcrt

                msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
        yield descriptor
    finally:
        os.close(descriptor)
