"""Compilation on a CPU: the private cache, refused folders, and the fallback to the NumPy references."""

import ctypes
import dataclasses
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, internals
from helpers.processes import run_python

import gpunn
from gpunn import kernels
from gpunn.backend.cpu import native
from gpunn.kernels import elementwise
from gpunn.kernels._compiler import compiler, cpu_cache, cpu_codegen, library_cache
from gpunn.kernels._compiler.compiler import Source

HAS_COMPILER = compiler.find() is not None
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler was found")
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are POSIX's")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A separate cache folder that does not exist yet, and no loaded libraries before and after the test."""
    monkeypatch.setenv("GPUNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GPUNN_COMPILE", raising=False)
    # fast compilation, with flags that no other test uses
    internals.optimize(monkeypatch, "-O0")
    with internals.no_libraries():
        yield


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def _relu_implementation():
    """Run ReLU and return the implementation that ran."""
    x = np.array([-1.0, 2.0])
    a = np.empty(2)
    launch = kernels.get("relu").bind(x, out=a)
    launch()
    np.testing.assert_array_equal(a, [0, 2])
    return "compiled" if isinstance(getattr(launch, "function", None), ctypes._CFuncPtr) else "numpy"


def _run_command(*arguments, **environment):
    command = [sys.executable, "-m", "gpunn.kernels", *arguments]
    env = os.environ | environment
    return subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


# --- the cache ------------------------------------------------------------------------------------------------------


@needs_compiler
def test_a_source_is_compiled_once(cache, monkeypatch):
    """The second time, the library is found. The folder contains only libraries and their digests."""
    assert _relu_implementation() == "compiled"
    digest, library = sorted(cache.iterdir())
    assert (digest.suffix, library.suffix) == (".sha256", ".so") and digest.stem == library.stem
    cpu_cache.invalidate()
    monkeypatch.setattr(subprocess, "run", None)
    assert _relu_implementation() == "compiled" and cpu_cache.status().implementation == "compiled"


def _answer(number):
    return Source("answer", f'extern "C" int answer() {{ return {number}; }}\n', (), ("answer",))


@needs_compiler
def test_the_file_name_depends_on_source_flags_and_processor(monkeypatch):
    command, text = compiler.find(), _answer(41)
    first = library_cache.compile_source(text, command)
    assert library_cache.compile_source(text, command) == first
    changed = [
        library_cache.compile_source(_answer(42), command),
        library_cache.compile_source(dataclasses.replace(text, flags=("-DX",)), command),
    ]
    internals.add_flag(monkeypatch, "-O1")
    changed.append(library_cache.compile_source(text, command))
    internals.set_processor(monkeypatch, "another processor")
    changed.append(library_cache.compile_source(text, command))
    monkeypatch.setenv("CXX", "g++ -DY")
    changed.append(library_cache.compile_source(text, command))
    assert len({first, *changed}) == 6
    assert ctypes.CDLL(str(first)).answer() == 41 and ctypes.CDLL(str(changed[0])).answer() == 42


@needs_compiler
def test_a_library_is_found_without_the_compiler(monkeypatch, tmp_path):
    """An image is built with a compiler, and runs without one."""
    assert _relu_implementation() == "compiled"
    cpu_cache.invalidate()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _relu_implementation() == "compiled"


@posix
@needs_compiler
def test_the_cache_is_private(cache):
    previous = os.umask(0)
    try:
        assert _relu_implementation() == "compiled"
    finally:
        os.umask(previous)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


# --- folders that cannot be used ------------------------------------------------------------------------------------


def _compiles_into_a_temporary_folder(reason):
    """Compile ReLU with one warning, which gives the reason. The process has a temporary folder for it."""
    with pytest.warns(gpunn.SlowPathWarning, match=f"compiled again in every process.*{reason}") as caught:
        assert _relu_implementation() == "compiled"
    assert len(caught) == 1 and caught[0].filename == __file__
    status = cpu_cache.status()
    assert status.implementation == "compiled" and re.search(reason, status.reason)


@posix
@needs_compiler
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_folder_writable_by_others_is_not_used(cache, mode):
    """It could contain code of another user. It may be shared on purpose, so its mode is not changed."""
    cache.mkdir()
    cache.chmod(mode)
    _compiles_into_a_temporary_folder("can be written by others: chmod 700")
    assert stat.S_IMODE(cache.stat().st_mode) == mode and not list(cache.iterdir())


@posix
@needs_compiler
def test_a_folder_of_another_user_is_not_used(cache, monkeypatch):
    cache.mkdir(mode=0o700)
    os.chown(cache, 12345, -1)
    _compiles_into_a_temporary_folder(f"{cache} belongs to another user")
    assert not list(cache.iterdir())


@posix
@needs_compiler
def test_libraries_of_root_are_loaded(cache, monkeypatch):
    """They are found in a folder that this user may only read, and without a compiler."""
    assert _relu_implementation() == "compiled"
    cpu_cache.invalidate()
    for path in (cache, *cache.iterdir()):
        os.chown(path, 0, -1)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert _relu_implementation() == "compiled"


@posix
@needs_compiler
def test_a_library_of_another_user_is_not_loaded(cache):
    """Even in a folder of this user. It is compiled again."""
    assert _relu_implementation() == "compiled"
    (library,) = cache.glob("*.so")
    before = library.stat().st_ino
    cpu_cache.invalidate()
    os.chown(library, 12345, -1)
    assert _relu_implementation() == "compiled"
    assert library.stat().st_ino != before and library.stat().st_uid == os.getuid()


@needs_compiler
def test_a_folder_that_cannot_be_created(tmp_path, monkeypatch):
    """The parent is a file, so not even root can create the folder."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUNN_CACHE", str(tmp_path / "file" / "cache"))
    _compiles_into_a_temporary_folder("the cache folder cannot be used")


@posix
@needs_compiler
def test_a_folder_that_is_not_writable(cache, monkeypatch):
    cache.mkdir(mode=0o500)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != cache and access(path, mode))
    _compiles_into_a_temporary_folder("not writable")


@needs_compiler
def test_the_temporary_folder_of_a_process_is_removed_at_its_end(tmp_path):
    script = (
        "import numpy as np, pathlib, tempfile; from gpunn import kernels;"
        "kernels.get('relu')(np.ones(2)); print(len(list(pathlib.Path(tempfile.gettempdir()).glob('gpunn-*/*.so'))))"
    )
    environment = {**os.environ, "GPUNN_CACHE": "/proc/none/cache", "TMPDIR": str(tmp_path)}
    done = run_python(script, env=environment)
    assert done.stdout == "1\n" and done.stderr.count("SlowPathWarning") == 1
    assert not list(tmp_path.iterdir())


def test_the_location_of_the_cache(monkeypatch, tmp_path):
    """GPUNN_CACHE takes precedence over the user's cache folder."""
    assert cpu_cache.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GPUNN_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cpu_cache.cache_folder() == tmp_path / "xdg" / "gpunn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cpu_cache.cache_folder() == tmp_path / ".cache" / "gpunn"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cpu_cache.cache_folder() == tmp_path / "Library" / "Caches" / "gpunn"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cpu_cache.cache_folder() == tmp_path / "local" / "gpunn"


# --- without compilation --------------------------------------------------------------------------------------------


def test_without_a_compiler(monkeypatch, tmp_path, cache):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = cpu_cache.status()
    assert found.implementation == "numpy" and "install g++ or clang++" in found.reason and found.cache == str(cache)
    with pytest.warns(
        gpunn.SlowPathWarning, match=r"NumPy code runs .* no C\+\+ compiler was found: install g\+\+"
    ) as caught:
        assert _relu_implementation() == "numpy" and not cache.exists()
    assert len(caught) == 1 and caught[0].filename == __file__
    assert kernels.get("tanh")(np.zeros(2)).tolist() == [0, 0]  # without a second warning
    with pytest.raises(cpu_cache.CompileError, match="no C"):
        cpu_cache.compile_all(cpu_cache.all_sources())
    with pytest.raises(RuntimeError, match=r"kernel relu: the compiled source cannot run: no C\+\+ compiler"):
        kernels.get("relu").bind_compiled(np.zeros(2), out=np.empty(2))


def test_a_compiler_that_does_not_exist(monkeypatch):
    """CXX is the user's choice: no other compiler replaces it."""
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert cpu_cache.status().reason == "CXX names no-such-compiler -O2, which was not found"
    with pytest.warns(gpunn.SlowPathWarning, match="CXX names no-such-compiler -O2, which was not found"):
        assert _relu_implementation() == "numpy"


@pytest.mark.parametrize("cxx", ['g++ "', "g++ '-DA", "g++ \\"])
def test_a_cxx_that_cannot_be_split_into_words(monkeypatch, cache, cxx):
    monkeypatch.setenv("CXX", cxx)
    found = cpu_cache.status()
    assert found.implementation == "numpy" and "CXX" in found.reason and repr(cxx) in found.reason
    with pytest.warns(gpunn.SlowPathWarning, match="CXX"):
        assert _relu_implementation() == "numpy"
    cpu_cache.precompile([(kernels.get(name), {"T": "float32"}) for name in ("relu", "tanh")])
    with pytest.raises(cpu_cache.CompileError, match="CXX"):
        cpu_cache.compile_all(cpu_cache.all_sources())


def test_a_fit_where_cxx_cannot_be_split_into_words():
    script = (
        "import numpy as np, gpunn\n"
        "net = gpunn.Sequential([gpunn.Dense(2)], seed=0).compile('sgd', 'mse', device='cpu')\n"
        "print(net.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0).epoch)\n"
    )
    done = run_python(script, env={**os.environ, "CXX": 'g++ "'})
    assert done.stdout == "[0]\n" and done.stderr.count("SlowPathWarning") == 1


@needs_compiler
def test_an_empty_cxx_is_ignored(monkeypatch):
    for empty in ("", "  "):
        monkeypatch.setenv("CXX", empty)
        assert cpu_cache.status().implementation == "compiled"


@needs_compiler
def test_cxx_may_have_arguments(monkeypatch):
    command = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    monkeypatch.setenv("CXX", f"{command} -DANSWER=1")
    assert compiler.find() == [command, "-DANSWER=1"] and _relu_implementation() == "compiled"


@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is a shell script")
def test_a_compiler_that_fails(monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho the compiler is ill >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.warns(gpunn.SlowPathWarning, match="the compiler is ill"):
        assert _relu_implementation() == "numpy"
    found = cpu_cache.status()
    assert found.implementation == "numpy" and "the compiler is ill" in found.reason
    with pytest.raises(cpu_cache.CompileError, match="the compiler is ill"):
        cpu_cache.compile_all(cpu_cache.all_sources())
    # other modules are bound too, and the failed attempt leaves no library
    x = np.ones((2, 2))
    (launch,) = kernels.bind_all([(kernels.get("tanh"), (x,), np.empty((2, 2)), None, {})])
    launch()
    assert {path.suffix for path in cpu_cache.cache_folder().iterdir()} == {".sha256"}


def test_compilation_can_be_disabled(monkeypatch, cache):
    monkeypatch.setenv("GPUNN_COMPILE", "0")
    assert cpu_cache.status() == cpu_cache.KernelStatus("numpy", "GPUNN_COMPILE=0", str(cache))
    assert _relu_implementation() == "numpy" and not cache.exists()
    kernels.bind_all([(kernels.get(k), (np.ones(2),), np.empty(2), None, {}) for k in ("relu", "tanh")])
    assert not cache.exists()


@needs_compiler
def test_compilation_can_be_disabled_and_enabled(monkeypatch):
    assert _relu_implementation() == "compiled"
    monkeypatch.setenv("GPUNN_COMPILE", "0")
    assert _relu_implementation() == "numpy"
    monkeypatch.delenv("GPUNN_COMPILE")
    assert _relu_implementation() == "compiled"


# --- sources --------------------------------------------------------------------------------------------------------


@needs_compiler
def test_an_edited_source_runs():
    """A new declaration of a kernel drops the library of its module, so no old code runs."""

    def declare(factor):
        source = f"y = (T){factor} * x;"
        return elementwise("T x -> T y", source, name="edited", module="edited")(lambda x: factor * x)

    try:
        for factor in (2, 3):
            y = np.empty(1)
            made = declare(factor)
            made.bind_compiled(np.ones(1), out=y)()
            assert y[0] == factor
    finally:
        internals.forget_kernel(made)


@needs_compiler
def test_a_source_that_does_not_compile_affects_only_its_module():
    """Its module runs its NumPy references, and the status gives the reason."""

    try:
        wrong = elementwise("T x -> T y", "y = nonsense(x);", name="wrong", module="wrong")(lambda x: x + 1)
        with pytest.warns(gpunn.SlowPathWarning, match="nonsense"):
            assert wrong(np.ones(2)).tolist() == [2, 2]
        assert "nonsense" in cpu_cache.status().reason
        assert _relu_implementation() == "compiled"
    finally:
        internals.forget_kernel(wrong)


def test_the_cpu_source_includes_math_h_first():
    """With <cmath> alone, abs(-0.75f) may be the C library's integer abs, which returns 0."""
    source = cpu_codegen.cpu_source(cpu_codegen.unit_of(kernels.get("relu"), {"T": "float32"}))
    assert source.index("#include <math.h>") < source.index("#include <cmath>")


@needs_compiler
def test_a_kernel_is_compiled_for_the_requested_types(cache):
    """Other kernels of its module with the same type variables are compiled too; another type is another source."""
    relu = kernels.get("relu")
    single = cpu_codegen.cpu_source(cpu_codegen.unit_of(relu, {"T": "float32"})).split()
    assert {"relu__float32(void*", "relu_backward__float32(void*"} <= {*single}
    assert not any("__float64" in word for word in single)
    for dtype, sources in (("float32", 1), ("float32", 1), ("float64", 2)):
        a = np.empty(2, dtype)
        relu.bind_compiled(np.array([-1, 2], dtype), out=a)()
        assert a.tolist() == [0, 2] and len(list(cache.glob("*.so"))) == sources


# --- the command, and concurrent processes --------------------------------------------------------------------------


@pytest.mark.slow
@needs_compiler
def test_two_processes_compile_concurrently(cache):
    """Both succeed with the same library, and a third process finds it."""
    source = (
        "import numpy as np; from gpunn import kernels; a = np.empty(2);"
        "kernels.get('relu').bind_compiled(np.array([-1.0, 2.0]), out=a)(); print(a.tolist())"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, text=True, stdout=subprocess.PIPE) for _ in range(2)
    ]
    assert [p.communicate()[0].strip() for p in both] == ["[0.0, 2.0]"] * 2
    (library,) = cache.glob("*.so")
    before = library.stat().st_mtime_ns
    assert _relu_implementation() == "compiled" and library.stat().st_mtime_ns == before


STUB = """#!/bin/sh
case "$*" in *--version*) echo "stub 1.0"; exit 0;; esac
while [ "$1" != "-o" ]; do shift; done
echo > "$2"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is a shell script")
def test_the_command_builds_every_kernel(cache, tmp_path):
    """`python -m gpunn.kernels build` compiles one library per module and types, here with a stub compiler."""
    stub = tmp_path / "stub"
    stub.write_text(STUB)
    stub.chmod(0o700)
    units = {cpu_codegen.unit_of(k, t) for k in kernels.all_kernels() for t in k.signature.type_combinations()}
    count = len(units) + len(native.sources())
    process = _run_command("build", CXX=str(stub))
    out, err = process.communicate()
    assert process.returncode == 0, err
    wanted = f"compiled {len(kernels.all_kernels())} kernels, {count} sources, into {cache}\n"
    assert out == wanted
    assert len(list(cache.glob("*.so"))) == len(list(cache.glob("*.sha256"))) == count


def test_the_command_reports_errors(cache):
    process = _run_command("build", CXX="no-such-compiler")
    out, err = process.communicate()
    assert process.returncode == 1 and not out
    assert err == "the kernels were not compiled: CXX names no-such-compiler, which was not found\n"


def test_the_command_reports_the_implementation(cache):
    process = _run_command("status", GPUNN_COMPILE="0")
    out, _ = process.communicate()
    assert process.returncode == 0
    assert out == f"implementation on this CPU: numpy (GPUNN_COMPILE=0)\ncache: {cache}\n"
