"""Imports follow the order of the packages, without a cycle, and CuPy is imported in few places."""

import graphlib
import importlib.util
import sys

import pytest
from helpers import ROOT

_specification = importlib.util.spec_from_file_location("draw_packages", ROOT / "docs" / "draw_packages.py")
draw_packages = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(draw_packages)
dependencies, imports, sources = draw_packages.dependencies, draw_packages.imports, draw_packages.sources

# A package imports only packages of its own row and of the rows above it. `theory` follows `backend`, since it computes
# with the arrays of a backend.
ORDER = """
_version kernels user_warnings validation
registry
program
initializers activations losses schedules
layers optimizers metrics
backend
theory
network
parallel
input_checks
training
inspection interchange
compile_options
model
gradient_check device_comparison multi_fit estimators tabular
io
cli
__main__
""".split("\n")[1:-1]
LEVEL = {name: level for level, row in enumerate(ORDER) for name in row.split()}
FACADE = "gpunn"  # its __init__ imports lazily, so it is no part of a cycle
CUPY = ("gpunn.backend.cuda.", "gpunn.kernels._compiler.cuda_launch")  # the only importers of CuPy


def upward(root):
    """The imports of a package that stands below the importing one in ORDER."""
    for name, imported in dependencies(root).items():
        here = name.split(".")[1]
        for other in sorted(imported):
            if LEVEL[other.split(".")[1]] > LEVEL[here]:
                yield name, other


SOURCES = sources(ROOT)


def test_every_module_has_a_place_in_the_order():
    assert {name.split(".")[1] for name in SOURCES if name != FACADE} == set(LEVEL)


def test_no_import_points_down_the_order():
    assert list(upward(ROOT)) == []


def test_the_picture_of_the_packages_is_current():
    """If it is not: python docs/draw_packages.py"""
    assert (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8") == draw_packages.draw(ROOT)


def test_no_module_imports_itself_through_others():
    graphlib.TopologicalSorter(dependencies(ROOT)).prepare()  # CycleError names the modules of a cycle


@pytest.mark.parametrize(
    "text", ["from ..model import Sequential", "def f():\n    from .. import cli", "import gpunn.cli"]
)
def test_an_import_that_points_down_is_found(tmp_path, text):
    for name in ("layers/dense", "layers/base", "model", "cli"):
        path = tmp_path / "gpunn" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"from .base import Layer\n{text}\n" if name == "layers/dense" else "", encoding="utf-8")
    (tmp_path / "kernels").mkdir()
    assert len(list(upward(tmp_path))) == 1


def test_a_cycle_is_found(tmp_path):
    (tmp_path / "gpunn" / "layers").mkdir(parents=True)
    (tmp_path / "gpunn" / "layers" / "a.py").write_text("from . import b", encoding="utf-8")
    (tmp_path / "gpunn" / "layers" / "b.py").write_text("def f():\n    from .a import g", encoding="utf-8")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(dependencies(tmp_path)).prepare()


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("gpunn.kernels")])
def test_kernels_import_numpy_and_the_standard_library_only(name):
    allowed = {*sys.stdlib_module_names, "numpy"} | ({"cupy"} if name.startswith(CUPY) else set())
    own = ("gpunn.kernels", "gpunn.user_warnings")
    found = {other for other in imports(ROOT, SOURCES[name]) if not other.startswith(own)}
    assert {other.split(".")[0] for other in found} <= allowed


def test_cupy_is_imported_by_the_cuda_backend_and_the_launcher_only():
    importing = {name for name, path in SOURCES.items() if any(i.split(".")[0] == "cupy" for i in imports(ROOT, path))}
    assert {name for name in importing if not name.startswith(CUPY)} == set()
