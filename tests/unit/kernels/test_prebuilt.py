"""Bundles of compiled kernels: built once, and used on machines without a compiler."""

import ctypes
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import internals

import gpunn
from gpunn import kernels
from gpunn.kernels import __main__ as command
from gpunn.kernels._compiler import compiler, cpu_cache, cpu_codegen, prebuilt
from gpunn.kernels._compiler.compiler import Source

pytestmark = [
    pytest.mark.skipif(compiler.find() is None, reason="no C++ compiler was found"),
    pytest.mark.skipif(prebuilt.architecture() not in prebuilt.LEVELS, reason="bundles are for x86-64 and aarch64"),
]
ANSWER = Source("answer", 'extern "C" int answer() { return 7; }\n', (), ("answer",))


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    """An empty cache, no loaded libraries, and fast compilation."""
    monkeypatch.setenv("GPUNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GPUNN_COMPILE", raising=False)
    monkeypatch.delenv("GPUNN_PREBUILT", raising=False)
    internals.optimize(monkeypatch, "-O0")
    with internals.no_libraries():
        yield


@pytest.fixture
def bundle(tmp_path):
    """A bundle with the kernels of ReLU and another source."""
    unit = cpu_codegen.unit_of(kernels.get("relu"), {"T": "float64"})
    (relu,) = (source for source in cpu_cache.all_sources() if source.text == cpu_codegen.cpu_source(unit))
    prebuilt.build([relu, ANSWER], tmp_path / "bundle", prebuilt.here())
    return tmp_path / "bundle"


def without_compiler(monkeypatch, bundle):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("GPUNN_PREBUILT", str(bundle))


def relu_runs_compiled():
    x, a = np.array([-1.0, 2.0]), np.empty(2)
    launch = kernels.get("relu").bind(x, out=a)
    launch()
    assert a.tolist() == [0, 2]
    return isinstance(getattr(launch, "function", None), ctypes._CFuncPtr)


def test_a_bundle_replaces_the_compiler(bundle, monkeypatch, tmp_path):
    """It is used read-only, and nothing is written elsewhere."""
    without_compiler(monkeypatch, bundle)
    bundle.chmod(0o500)
    assert relu_runs_compiled()
    status = cpu_cache.status()
    assert status.implementation == "compiled"
    assert status.reason == f"for {prebuilt.supported_levels()[0]}, from GPUNN_PREBUILT"
    assert not (tmp_path / "cache").exists()


def test_a_source_that_the_bundle_lacks_is_compiled(bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("GPUNN_PREBUILT", str(bundle))
    assert kernels.get("tanh")(np.zeros(2)).tolist() == [0, 0]
    assert len(list((tmp_path / "cache").glob("*.so"))) == 1
    assert relu_runs_compiled() and len(list((tmp_path / "cache").glob("*.so"))) == 1


def test_a_bundle_of_other_sources_is_not_used(bundle, monkeypatch):
    """Not even if a kernel of the same name is in it: a bundle of another version of gpunn."""
    without_compiler(monkeypatch, bundle)
    assert cpu_cache.load(ANSWER).answer() == 7
    other = Source("answer", 'extern "C" int answer() { return 8; }\n', (), ("answer",))
    with pytest.warns(gpunn.SlowPathWarning, match="CXX names no-such-compiler"):
        assert cpu_cache.load(other) is None


def edit(bundle, **changes):
    path = bundle / prebuilt.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


UNUSABLE = {
    "another system": (lambda b: edit(b, system="plan9"), "they were built for plan9"),
    "another machine": (lambda b: edit(b, machine="vax"), "they were built for .* on vax"),
    "another format": (lambda b: edit(b, format=99), r"\(format 99\)"),
    "no level of this processor": (lambda b: edit(b, libraries=[]), "this processor lacks"),
    "damaged library": (lambda b: [p.write_bytes(p.read_bytes()[:-1]) for p in b.glob("*.so")], "is damaged"),
    "missing library": (lambda b: [p.unlink() for p in b.glob("*.so")], "No such file"),
    "damaged manifest": (lambda b: (b / prebuilt.MANIFEST).write_text("{"), "cannot be used"),
    "manifest of another form": (lambda b: (b / prebuilt.MANIFEST).write_text("[]"), "cannot be used"),
    "no manifest": (lambda b: (b / prebuilt.MANIFEST).unlink(), "No such file"),
    "writable by others": (lambda b: b.chmod(0o777), "can be written by others"),
    "manifest writable by others": (lambda b: (b / prebuilt.MANIFEST).chmod(0o666), "can be written by others"),
    "library writable by others": (lambda b: [p.chmod(0o666) for p in b.glob("*.so")], "can be written by others"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_bundle_that_cannot_be_used(bundle, monkeypatch, case):
    """The reason is in the warning and the status."""
    change, reason = UNUSABLE[case]
    change(bundle)
    without_compiler(monkeypatch, bundle)
    (fault,) = prebuilt.faults()
    assert re.search(reason, fault) and not prebuilt.bundles()
    with pytest.warns(gpunn.SlowPathWarning, match=reason):
        assert not relu_runs_compiled()
    assert cpu_cache.status().implementation == "numpy" and str(bundle) in cpu_cache.status().reason


# --- processors -----------------------------------------------------------------------------------------------------

FEATURES = {
    "none": ({}, ["x86-64"]),
    "AVX2 without FMA": ({"AVX2": True}, ["x86-64"]),
    "AVX2": ({"AVX2": True, "FMA3": True}, ["x86-64-v3", "x86-64"]),
    "AVX-512": ({"AVX2": True, "FMA3": True, "AVX512_SKX": True}, ["x86-64-v4", "x86-64-v3", "x86-64"]),
    "names of NumPy 2.4": ({"X86_V3": True, "X86_V4": True}, ["x86-64-v4", "x86-64-v3", "x86-64"]),
}


@pytest.mark.parametrize("case", FEATURES)
def test_the_instruction_sets_of_a_processor(monkeypatch, case):
    features, levels = FEATURES[case]
    monkeypatch.setattr(prebuilt, "_features", lambda: features)
    monkeypatch.setattr(prebuilt, "architecture", lambda: "x86_64")
    assert prebuilt.supported_levels() == levels


@pytest.mark.skipif(prebuilt.architecture() != "x86_64" or sys.platform != "linux", reason="needs /proc/cpuinfo")
def test_this_processor_has_the_features_that_linux_reports():
    (flags, *_) = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    flags = set(flags.split())
    expected = ["x86-64"]
    expected += ["x86-64-v3"] * ({"avx2", "fma"} <= flags)
    expected += ["x86-64-v4"] * ({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"} <= flags)
    assert prebuilt.supported_levels() == expected[::-1]


def test_the_smallest_level_is_used_without_features(bundle, monkeypatch):
    monkeypatch.setattr(prebuilt, "_features", dict)
    without_compiler(monkeypatch, bundle)
    assert prebuilt.bundles()[0].level == next(iter(prebuilt.LEVELS[prebuilt.architecture()]))
    assert relu_runs_compiled()


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_bundle_has_every_source_that_a_fit_needs(monkeypatch):
    """The kernels, the executor and the small products are in it."""
    names = {source.name for source in command.all_sources()}
    assert {"executor", "small_gemm float32", "small_gemm float64", "relu float32", "step"} <= names


def test_the_command_makes_a_bundle(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "all_sources", lambda: [ANSWER])
    monkeypatch.setattr(sys, "argv", ["kernels", "build", "--into", str(tmp_path / "made")])
    assert command.main() == 0
    assert capsys.readouterr().out.endswith(f", 1 sources, into {tmp_path / 'made'}\n")
    levels = prebuilt.LEVELS[prebuilt.architecture()]
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"manifest.json", *(f"{x}.so" for x in levels)}
    monkeypatch.setenv("GPUNN_PREBUILT", str(tmp_path / "made"))
    assert prebuilt.bundles()[0].find(ANSWER).answer() == 7


def test_every_target_has_levels_and_a_wheel_tag():
    for name, target in prebuilt.TARGETS.items():
        assert target.machine in prebuilt.LEVELS and target.wheel_tag and target.triple.startswith(target.machine), name
    assert os.fspath(prebuilt.PACKAGED).endswith("_prebuilt")
