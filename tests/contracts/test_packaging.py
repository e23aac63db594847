"""The public names agree, an import is cheap, and an installation contains every package."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib

import pytest
from helpers import ROOT, internals

import gpunn

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = sorted([*(ROOT / "gpunn").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
OPTIONAL = (
    "cupy cupyx sklearn scipy torch jax onnx matplotlib pandas tqdm polars pyarrow threadpoolctl mpi4py dask".split()
)


def package_of(folder):
    """ "gpunn.layers" of gpunn/layers, "gpunn.kernels" of kernels."""
    parts = folder.relative_to(ROOT).parts
    return ".".join(("gpunn", *parts) if parts[0] == "kernels" else parts)


# --- names ----------------------------------------------------------------------------------------------------------


def test_every_public_name_exists():
    for name in gpunn.__all__:
        assert getattr(gpunn, name) is not None
        assert name in dir(gpunn)
    with pytest.raises(AttributeError, match="no attribute 'Sequentail'"):
        _ = gpunn.Sequentail


MODULES = (
    "activations backend initializers interchange kernels layers losses metrics optimizers program schedules theory"
)


@pytest.mark.parametrize(
    "module", [gpunn, *(getattr(gpunn, name) for name in MODULES.split())], ids=lambda m: m.__name__
)
def test_completion_shows_the_public_names_only(module):
    assert dir(module) == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_the_lists_of_public_names_agree():
    tree = ast.parse((ROOT / "gpunn" / "__init__.py").read_text(encoding="utf-8"))
    branch = next(n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")
    typed = {
        alias.name: node.module or alias.name
        for node in branch.body
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    homes = {name: internals.home_modules().get(name, name) for name in gpunn.__all__ if name != "__version__"}
    assert typed == homes
    assert len(set(gpunn.__all__)) == len(gpunn.__all__)


def test_the_two_versions_are_equal():
    assert gpunn.__version__ == PROJECT["project"]["version"]


# --- the cost of an import -------------------------------------------------------------------------------------------


def python(code, *, cwd=None, path=ROOT):
    """Run code in a fresh interpreter and return its output."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_public_name_imports_an_optional_package(tmp_path):
    # the estimators are scikit-learn's own, extended
    code = (
        "import sys, gpunn, gpunn.estimators; "
        "own = {*gpunn.estimators.__all__, 'TabularClassifier', 'TabularRegressor'}; "
        "[getattr(gpunn, name) for name in gpunn.__all__ if name not in own]; print(*sys.modules)"
    )
    assert not {*OPTIONAL} & {*python(code, cwd=tmp_path).split()}


def test_without_scikit_learn_the_estimators_name_the_extra(tmp_path):
    code = (
        "import importlib.util, gpunn\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'sklearn' else find(name, *more)\n"
        "from gpunn import *\n"
        "for name in ('MLPClassifier', 'MLPRegressor'):\n"
        "    try:\n"
        "        getattr(gpunn, name)(hidden_layer_sizes=(3,))\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    said = python(code, cwd=tmp_path).splitlines()
    assert [line.split(" needs ")[0] for line in said] == ["gpunn.MLPClassifier", "gpunn.MLPRegressor"]
    assert all('pip install "gpunn[sklearn]"' in line for line in said)


def test_import_adds_at_most_50_ms_to_numpy(tmp_path):
    code = "import time, numpy; start = time.perf_counter(); import gpunn; print(time.perf_counter() - start)"
    assert min(float(python(code, cwd=tmp_path)) for _ in range(5)) <= 0.050


# --- packages -----------------------------------------------------------------------------------------


def test_every_folder_with_code_is_a_listed_package():
    folders = {p.parent for p in SOURCES}
    assert {package_of(folder) for folder in folders} == set(PROJECT["tool"]["setuptools"]["packages"])
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_an_editable_installation_is_a_folder_that_type_checkers_search():
    """By default setuptools installs an import hook, since the kernels are in another folder; mypy does not run it."""
    assert PROJECT["tool"]["distutils"]["editable_wheel"] == {"mode": "compat"}


def test_a_checkout_works_from_another_folder_with_its_own_kernels(tmp_path):
    # another gpunn, installed in editable mode, offers its kernels too; and there is a foreign package named kernels
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("raise ImportError('not ours')", encoding="utf-8")
    foreign = str(tmp_path / "kernels" / "__init__.py")
    code = (
        "import sys, importlib.util\n"
        "class Other:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'gpunn.kernels':\n"
        f"            return importlib.util.spec_from_file_location(name, {foreign!r})\n"
        "sys.meta_path.append(Other)\n"
        "import gpunn.kernels\n"
        "print(gpunn.kernels.__file__, gpunn.kernels.get('relu').name, 'kernels' in sys.modules)"
    )
    assert python(code, cwd=tmp_path) == f"{ROOT / 'kernels' / '__init__.py'} relu False"


def test_an_installation_ignores_another_package_named_kernels(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gpunn", tmp_path / "gpunn", ignore=ignore)
    shutil.copytree(ROOT / "kernels", tmp_path / "gpunn" / "kernels", ignore=ignore)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("whose = 'another'", encoding="utf-8")
    code = "import gpunn.kernels, kernels; print(gpunn.kernels.__file__, gpunn.kernels.get('relu').name, kernels.whose)"
    expected = f"{tmp_path / 'gpunn' / 'kernels' / '__init__.py'} relu another"
    assert python(code, cwd=tmp_path, path=tmp_path) == expected
