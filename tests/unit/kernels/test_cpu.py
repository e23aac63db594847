"""Compiling on the host: the private cache, what is refused, and that the NumPy bodies do where no text can run."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, internals

from gpunn import kernels
from gpunn.kernels import elementwise
from gpunn.kernels._compiler import cpu_cache, cpu_codegen

HAS_COMPILER = cpu_cache.compiler() is not None
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler was found")
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are POSIX's")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of this test's own, not made yet, and nothing remembered from before or for later."""
    monkeypatch.setenv("GPUNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GPUNN_COMPILE", raising=False)
    # whatever is compiled here is compiled fast, and never into what another test finds
    internals.optimize(monkeypatch, "-O0")
    with internals.no_libraries():
        yield


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def _relu_runs():
    """ReLU computes, in whichever body; which one it was."""
    x = np.array([-1.0, 2.0])
    a = np.empty(2)
    launch = kernels.get("relu").bind(x, out=a)
    launch()
    np.testing.assert_array_equal(a, [0, 2])
    return "compiled" if isinstance(getattr(launch, "function", None), ctypes._CFuncPtr) else "numpy"


def _in_a_process(*arguments, **environment):
    command = [sys.executable, "-m", "gpunn.kernels", *arguments]
    env = os.environ | environment
    return subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


# --- the cache ------------------------------------------------------------------------------------------------------


@needs_compiler
def test_a_text_is_compiled_once(cache, monkeypatch):
    """The second time the library is found, and nothing but libraries is left in the folder."""
    assert _relu_runs() == "compiled"
    (library,) = cache.iterdir()
    assert library.suffix == ".so"
    cpu_cache.invalidate()
    monkeypatch.setattr(subprocess, "run", None)  # the compiler's version is remembered, and nothing is compiled
    assert _relu_runs() == "compiled" and cpu_cache.status().implementation == "compiled"


@needs_compiler
def test_the_name_follows_the_text_the_flags_and_the_compiler(monkeypatch):
    command = cpu_cache.compiler()
    text = 'extern "C" int answer() { return 41; }\n'
    first = cpu_cache.compile_source(text, command)
    assert cpu_cache.compile_source(text, command) == first
    changed = [
        cpu_cache.compile_source(text.replace("41", "42"), command),
        cpu_cache.compile_source(text, [*command, "-DX"]),
    ]
    internals.add_flag(monkeypatch, "-O1")
    changed.append(cpu_cache.compile_source(text, command))
    internals.set_processor(monkeypatch, "another processor")
    changed.append(cpu_cache.compile_source(text, command))
    assert len({first, *changed}) == 5
    assert ctypes.CDLL(str(first)).answer() == 41 and ctypes.CDLL(str(changed[0])).answer() == 42


@posix
@needs_compiler
def test_the_cache_is_private(cache):
    previous = os.umask(0)
    try:
        assert _relu_runs() == "compiled"
    finally:
        os.umask(previous)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


@posix
@needs_compiler
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_folder_that_others_may_write_is_not_used(cache, mode):
    """Somebody else's code could lie there. It may be shared on purpose, so its mode is left as it is."""
    cache.mkdir()
    cache.chmod(mode)
    assert _relu_runs() == "numpy" and not list(cache.iterdir())
    assert "can be written by others: chmod 700" in cpu_cache.status().reason
    assert stat.S_IMODE(cache.stat().st_mode) == mode


@posix
@needs_compiler
def test_a_folder_of_another_user_is_not_used(cache, monkeypatch):
    cache.mkdir(mode=0o700)
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    assert _relu_runs() == "numpy" and not list(cache.iterdir())
    assert f"{cache} belongs to another user" in cpu_cache.status().reason


@posix
@needs_compiler
def test_a_library_of_another_user_is_not_loaded(cache, monkeypatch):
    """Even in one's own folder."""
    assert _relu_runs() == "compiled"
    cpu_cache.invalidate()
    own = os.getuid()
    internals.trust_cache_folder(monkeypatch)
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    assert _relu_runs() == "numpy"
    assert "belongs to another user" in cpu_cache.status().reason


@needs_compiler
def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    """A file stands where the folder should: not even root can write there."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUNN_CACHE", str(tmp_path / "file" / "cache"))
    assert cpu_cache.status().implementation == "numpy" and "cache folder cannot be used" in cpu_cache.status().reason
    assert _relu_runs() == "numpy"
    with pytest.raises(OSError):
        cpu_cache.build()


@posix
@needs_compiler
@pytest.mark.skipif(hasattr(os, "getuid") and os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable(cache):
    cache.mkdir(mode=0o500)
    assert _relu_runs() == "numpy" and "not writable" in cpu_cache.status().reason


def test_where_the_cache_lies(monkeypatch, tmp_path):
    """GPUNN_CACHE before the user's own cache folder."""
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


# --- no compiled text -----------------------------------------------------------------------------------------------


def test_no_compiler(monkeypatch, tmp_path, cache):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = cpu_cache.status()
    assert found.implementation == "numpy" and "install g++ or clang++" in found.reason and found.cache == str(cache)
    assert _relu_runs() == "numpy" and not cache.exists()
    with pytest.raises(cpu_cache.CompileError, match="no C"):
        cpu_cache.build()
    with pytest.raises(RuntimeError, match=r"kernel relu: the compiled source cannot run: no C\+\+ compiler"):
        kernels.get("relu").bind_compiled(np.zeros(2), out=np.empty(2))


def test_a_compiler_that_is_not_there(monkeypatch):
    """CXX is the user's word: no other compiler is taken in its place."""
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert cpu_cache.status().reason == "CXX names no-such-compiler -O2, which was not found"
    assert _relu_runs() == "numpy"


@pytest.mark.parametrize("cxx", ['g++ "', "g++ '-DA", "g++ \\"])
def test_a_cxx_that_cannot_be_split_into_words(monkeypatch, cache, cxx):
    monkeypatch.setenv("CXX", cxx)
    found = cpu_cache.status()
    assert found.implementation == "numpy" and "CXX" in found.reason and repr(cxx) in found.reason
    assert _relu_runs() == "numpy"
    cpu_cache.precompile([(kernels.get(name), {"T": "float32"}) for name in ("relu", "tanh")])
    with pytest.raises(cpu_cache.CompileError, match="CXX"):
        cpu_cache.build()


def test_a_fit_where_cxx_cannot_be_split_into_words():
    script = (
        "import numpy as np, gpunn\n"
        "net = gpunn.Sequential([gpunn.Dense(2)], seed=0).compile('sgd', 'mse', device='cpu')\n"
        "print(net.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0).epoch)\n"
    )
    environment = {**os.environ, "CXX": 'g++ "'}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[0]\n", "")


@needs_compiler
def test_an_empty_cxx_names_nothing(monkeypatch):
    for empty in ("", "  "):
        monkeypatch.setenv("CXX", empty)
        assert cpu_cache.status().implementation == "compiled"


@needs_compiler
def test_cxx_may_have_arguments(monkeypatch):
    command = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    monkeypatch.setenv("CXX", f"{command} -DANSWER=1")
    assert cpu_cache.compiler() == [command, "-DANSWER=1"] and _relu_runs() == "compiled"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for the compiler")
def test_a_compiler_that_fails(monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho the compiler is ill >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setenv("CXX", str(broken))
    assert _relu_runs() == "numpy"
    found = cpu_cache.status()
    assert found.implementation == "numpy" and "the compiler is ill" in found.reason and "relu" in found.reason
    with pytest.raises(cpu_cache.CompileError, match="the compiler is ill"):
        cpu_cache.build()
    # the other families are bound as well, and nothing of the failed attempt is left behind
    x = np.ones((2, 2))
    (launch,) = kernels.bind_all([(kernels.get("tanh"), (x,), np.empty((2, 2)), None, {})])
    launch()
    assert not list(cpu_cache.cache_folder().iterdir())


def test_compiling_can_be_turned_off(monkeypatch, cache):
    monkeypatch.setenv("GPUNN_COMPILE", "0")
    assert cpu_cache.status() == cpu_cache.HostStatus("numpy", "GPUNN_COMPILE=0", str(cache))
    assert _relu_runs() == "numpy" and not cache.exists()
    kernels.bind_all([(kernels.get(k), (np.ones(2),), np.empty(2), None, {}) for k in ("relu", "tanh")])
    assert not cache.exists()


@needs_compiler
def test_turned_off_and_on_again(monkeypatch):
    assert _relu_runs() == "compiled"
    monkeypatch.setenv("GPUNN_COMPILE", "0")
    assert _relu_runs() == "numpy"
    monkeypatch.delenv("GPUNN_COMPILE")
    assert _relu_runs() == "compiled"


# --- texts ----------------------------------------------------------------------------------------------------------


@needs_compiler
def test_an_edited_text_is_the_one_that_runs():
    """Declaring a kernel anew forgets the library of its family: no text answers with old code."""

    def declare(factor):
        text = f"y = (T){factor} * x;"
        return elementwise("T x -> T y", text, name="edited", module="edited")(lambda x: factor * x)

    try:
        for factor in (2, 3):
            y = np.empty(1)
            made = declare(factor)
            made.bind_compiled(np.ones(1), out=y)()
            assert y[0] == factor
    finally:
        internals.forget_kernel(made)


@needs_compiler
def test_a_text_that_does_not_compile_leaves_the_others_alone():
    """Its own family runs its NumPy bodies, and the status says why."""

    try:
        wrong = elementwise("T x -> T y", "y = nonsense(x);", name="wrong", module="wrong")(lambda x: x + 1)
        assert wrong(np.ones(2)).tolist() == [2, 2]
        assert "nonsense" in cpu_cache.status().reason and "wrong" in cpu_cache.status().reason
        assert _relu_runs() == "compiled"
    finally:
        internals.forget_kernel(wrong)


def test_the_host_source_takes_the_math_of_c_first():
    """With <cmath> alone, abs(-0.75f) is 0 where the C library's integer abs is found."""
    text = cpu_codegen.cpu_source(cpu_codegen.unit_of(kernels.get("relu"), {"T": "float32"}))
    assert text.index("#include <math.h>") < text.index("#include <cmath>")


@needs_compiler
def test_a_kernel_is_compiled_for_the_types_that_are_asked_for(cache):
    """Its family's others of the same type variables come with it; another type is a text of its own."""
    relu = kernels.get("relu")
    single = cpu_codegen.cpu_source(cpu_codegen.unit_of(relu, {"T": "float32"})).split()
    assert {"relu__float32(void*", "relu_backward__float32(void*"} <= {*single}
    assert not any("__float64" in word for word in single)
    for dtype, texts in (("float32", 1), ("float32", 1), ("float64", 2)):
        a = np.empty(2, dtype)
        relu.bind_compiled(np.array([-1, 2], dtype), out=a)()
        assert a.tolist() == [0, 2] and len(list(cache.glob("*.so"))) == texts


# --- the command, and processes side by side ------------------------------------------------------------------------


@pytest.mark.slow
@needs_compiler
def test_two_processes_compile_at_once(cache):
    """Both succeed, on one set of libraries, and a third finds everything there."""
    source = (
        "import numpy as np; from gpunn import kernels; a = np.empty(2);"
        "kernels.get('relu').bind_compiled(np.array([-1.0, 2.0]), out=a)(); print(a.tolist())"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, text=True, stdout=subprocess.PIPE) for _ in range(2)
    ]
    assert [p.communicate()[0].strip() for p in both] == ["[0.0, 2.0]"] * 2
    (library,) = cache.iterdir()
    before = library.stat().st_mtime_ns
    assert _relu_runs() == "compiled" and library.stat().st_mtime_ns == before


STUB = """#!/bin/sh
case "$*" in *--version*) echo "stub 1.0"; exit 0;; esac
while [ "$1" != "-o" ]; do shift; done
echo > "$2"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for the compiler")
def test_the_command_builds_every_kernel(cache, tmp_path):
    """`python -m gpunn.kernels build`: one library a family and meaning of its types, by a compiler that makes empty
    ones."""
    stub = tmp_path / "stub"
    stub.write_text(STUB)
    stub.chmod(0o700)
    texts = {cpu_codegen.unit_of(k, t) for k in kernels.all_kernels() for t in k.signature.type_combinations()}
    process = _in_a_process("build", CXX=str(stub))
    out, err = process.communicate()
    assert process.returncode == 0, err
    wanted = f"compiled {len(kernels.all_kernels())} kernels, {len(texts)} sources, into {cache}\n"
    assert out == wanted
    assert len(list(cache.glob("*.so"))) == len(list(cache.iterdir())) == len(texts)


def test_the_command_says_what_is_wrong(cache):
    process = _in_a_process("build", CXX="no-such-compiler")
    out, err = process.communicate()
    assert process.returncode == 1 and not out
    assert err == "the kernels were not compiled: CXX names no-such-compiler, which was not found\n"


def test_the_command_says_which_body_runs(cache):
    process = _in_a_process("status", GPUNN_COMPILE="0")
    out, _ = process.communicate()
    assert process.returncode == 0
    assert out == f"implementation on this CPU: numpy (GPUNN_COMPILE=0)\ncache: {cache}\n"
