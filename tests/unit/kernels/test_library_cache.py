"""The cache of libraries repairs itself: damaged files, killed and concurrent processes."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT, internals

from gpunn.kernels._compiler import compiler, cpu_cache, library_cache
from gpunn.kernels._compiler.compiler import Source

pytestmark = [
    pytest.mark.skipif(compiler.find() is None, reason="no C++ compiler was found"),
    pytest.mark.skipif(os.name != "posix", reason="the damage is POSIX's"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GPUNN_COMPILE", raising=False)
    internals.optimize(monkeypatch, "-O0")
    with internals.no_libraries():
        yield tmp_path / "cache"


def source(number):
    """A source whose function returns a number that no other test uses."""
    text = f'extern "C" int answer() {{ return {number}; }}\n'
    return Source("answer", text, (), ("answer",))


def flip(data, at, count=16):
    return data[:at] + bytes(byte ^ 255 for byte in data[at : at + count]) + data[at + count :]


# (name, new content for a content), for each position as a fraction of the file
AT = (0.0, 0.02, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.999)
DAMAGE = {
    **{f"cut at {at}": lambda data, at=at: data[: int(at * len(data))] for at in AT},
    **{f"zeros from {at}": lambda data, at=at: data[: int(at * len(data))].ljust(len(data), b"\0") for at in AT},
    **{f"bits flipped at {at}": lambda data, at=at: flip(data, int(at * len(data))) for at in AT},
    "longer": lambda data: data + b"\0",
    "shorter by 4096 bytes": lambda data: data[:-4096],
    "text": lambda data: b"not a library\n",
}


@pytest.mark.parametrize("file", ["library", "digest"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_compiled_again(cache, file, damage):
    """66 cases: none crashes, and none runs NumPy references."""
    given = source(41)
    library = library_cache.compile_source(given, compiler.find())
    path = library if file == "library" else library.with_suffix(".sha256")
    content, before = path.read_bytes(), library.stat().st_ino
    changed = DAMAGE[damage](content)
    path.write_bytes(changed)
    assert library_cache.find(given) is None or changed == content
    assert cpu_cache.load(given).answer() == 41
    assert library.stat().st_ino != before or changed == content
    assert library_cache.is_intact(library)


@pytest.mark.parametrize("file", ["library", "digest"])
@pytest.mark.parametrize("kind", ["missing", "folder", "link to nothing", "link to itself"])
def test_something_else_in_place_of_a_file(cache, file, kind):
    given = source(42)
    library = library_cache.compile_source(given, compiler.find())
    path = library if file == "library" else library.with_suffix(".sha256")
    path.unlink()
    if kind == "folder":
        path.mkdir()
        (path / "file").write_text("")
    elif kind != "missing":
        path.symlink_to("nothing" if kind == "link to nothing" else path.name)
    assert cpu_cache.load(given).answer() == 42
    assert library_cache.is_intact(library) and not path.is_symlink()


def test_another_library_under_the_name(cache):
    """Its digest fits, but it lacks the function."""
    given = source(43)
    path = library_cache.compile_source(given, compiler.find())
    other = library_cache.compile_source(Source("other", 'extern "C" int other() { return 1; }\n'), compiler.find())
    for suffix in (".so", ".sha256"):
        path.with_suffix(suffix).write_bytes(other.with_suffix(suffix).read_bytes())
    assert cpu_cache.load(given).answer() == 43


def test_a_library_in_use_keeps_its_code_when_it_is_compiled_again(cache):
    given = source(44)
    path = library_cache.compile_source(given, compiler.find())
    library = ctypes.CDLL(str(path))
    library_cache.compile_source(given, compiler.find(), again=True)
    assert library.answer() == 44


# --- processes ------------------------------------------------------------------------------------------------------

COUNTING = """#!/bin/sh
echo >> {log}
sleep 0.3
exec {compiler} "$@"
"""
LOAD = """
from gpunn.kernels._compiler import cpu_cache
from gpunn.kernels._compiler.compiler import Source
sources = [Source("answer", 'extern "C" int answer() { return %d; }' % k, (), ("answer",)) for k in range(4)]
print([cpu_cache.load(source).answer() for source in sources])
"""


def start(environment):
    return subprocess.Popen(
        [sys.executable, "-c", LOAD], cwd=ROOT, env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE
    )


def slow_compiler(tmp_path):
    """A compiler that writes a line to a file each time it runs: its path, and the file."""
    script, log = tmp_path / "compiler", tmp_path / "log"
    script.write_text(COUNTING.format(log=log, compiler=compiler.find()[0]))
    script.chmod(0o700)
    return str(script), log


def test_four_processes_compile_each_source_once(tmp_path):
    command, log = slow_compiler(tmp_path)
    processes = [start({"CXX": command}) for _ in range(4)]
    assert [process.communicate()[0] for process in processes] == ["[0, 1, 2, 3]\n"] * 4
    assert len(log.read_text()) == 4


def test_a_killed_process_leaves_no_lock(cache, tmp_path):
    command, log = slow_compiler(tmp_path)
    with start({"CXX": command}) as process:
        while not log.exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    with start({}) as second:
        assert second.communicate(timeout=30)[0] == "[0, 1, 2, 3]\n"
    (left,) = cache.glob("compiling-*")
    old = time.time() - 2 * library_cache.SCRATCH_SECONDS
    os.utime(left, (old, old))
    library_cache.writable_folder()
    assert not left.exists()


# --- notice ---------------------------------------------------------------------------------------------------------


def test_a_long_compilation_is_announced_once(cache, tmp_path, monkeypatch):
    command, _ = slow_compiler(tmp_path)
    monkeypatch.setenv("CXX", command)
    monkeypatch.setattr(cpu_cache, "NOTICE_SECONDS", 0.1)
    lines = []
    with cpu_cache.compilation_notice(lines.append):
        for number in (50, 51):
            assert cpu_cache.load(source(number)).answer() == number
    assert lines == [f"compiling 1 group of kernels once, into {cache} …"]


def test_a_short_compilation_is_not_announced(cache):
    lines = []
    with cpu_cache.compilation_notice(lines.append):
        library_cache.compile_source(source(52), compiler.find())
        assert cpu_cache.load(source(52)).answer() == 52
    assert lines == []
