"""How gpunn is put together: which module may import which, what an import costs, what an installation contains."""

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

# from the ground up: a module imports its own row or those above it here, never one below
HOUSE = """
_version kernels validation registry
backend
recording
parallel
initializers activations losses schedules
layers optimizers
network
input_checks metrics training
inspection compile_options
model
gradient_check device_comparison estimators tabular interchange multi_fit
io
cli
__main__
""".split("\n")[1:-1]
LEVEL = {name: level for level, row in enumerate(HOUSE) for name in row.split()}
EXPORT = "gpunn.interchange.onnx"  # the one import that points up, inside Sequential.export


def module_of(path):
    """("gpunn", "layers", "dense") of gpunn/layers/dense.py, ("gpunn", "kernels", "relu") of kernels/relu.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ("gpunn", *parts) if parts[0] == "kernels" else parts


def imports(path):
    """The absolute names of all modules that a file imports, wherever in the file it does."""
    package = module_of(path)[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return found


def wrong_arrows(path):
    """What a file imports of gpunn and should not."""
    here = module_of(path)[1]
    if here == "__init__":
        return []
    allowed = {"gpunn.__version__"} | ({EXPORT} if here == "model" else set())
    theirs = [name for name in imports(path) - allowed if name.split(".")[0] == "gpunn"]
    rooms = {name: name.split(".")[1] for name in theirs}
    if here == "theory":
        return [name for name, room in rooms.items() if room not in ("theory", "backend")]
    return [name for name, room in rooms.items() if room not in LEVEL or LEVEL[room] > LEVEL[here]]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: ".".join(module_of(path)[1:]))
def test_no_import_points_up(path):
    assert module_of(path)[1] in {*LEVEL, "__init__", "theory"}, "say in HOUSE where this module stands"
    assert not wrong_arrows(path)


def test_an_import_that_points_up_is_seen(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for text in ("from ..model import Sequential", "def f():\n    from .. import cli", "import gpunn.cli"):
        path = tmp_path / "gpunn" / "layers" / "dense.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"from .base import Layer\nfrom ..kernels import get\n{text}\n", encoding="utf-8")
        assert len(wrong_arrows(path)) == 1


@pytest.mark.parametrize("path", [p for p in SOURCES if "kernels" in p.parts], ids=lambda path: path.stem)
def test_kernels_import_nothing_of_gpunn_by_name(path):
    allowed = {*sys.stdlib_module_names, "numpy"} | ({"cupy"} if path.stem == "cuda_launch" else set())
    absolute = {name.split(".")[0] for name in imports(path) if not name.startswith("gpunn.kernels.")}
    assert absolute <= allowed


def test_only_the_shim_and_the_dispatcher_import_cupy():
    importing = {".".join(module_of(p)[1:]) for p in SOURCES if any(i.split(".")[0] == "cupy" for i in imports(p))}
    assert all(name.startswith("backend.") or name == "kernels._compiler.cuda_launch" for name in importing)


# --- names ----------------------------------------------------------------------------------------------------------


def test_every_public_name_is_there():
    for name in gpunn.__all__:
        assert getattr(gpunn, name) is not None
        assert name in dir(gpunn)
    with pytest.raises(AttributeError, match="no attribute 'Sequentail'"):
        _ = gpunn.Sequentail


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


def test_the_version_is_written_twice_and_equal():
    assert gpunn.__version__ == PROJECT["project"]["version"]


# --- what an import costs -------------------------------------------------------------------------------------------


def python(code, *, cwd=None, path=ROOT):
    """What a fresh interpreter prints."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_public_name_imports_an_optional_package(tmp_path):
    # the estimators are scikit-learn's own, extended
    code = (
        "import sys, gpunn, gpunn.estimators; "
        "[getattr(gpunn, name) for name in gpunn.__all__ if name not in gpunn.estimators.__all__]; print(*sys.modules)"
    )
    assert not {*OPTIONAL} & {*python(code, cwd=tmp_path).split()}


def test_without_scikit_learn_the_estimators_names_say_what_they_need(tmp_path):
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


def test_import_takes_no_longer_than_numpys_and_50_ms(tmp_path):
    code = "import time, numpy; start = time.perf_counter(); import gpunn; print(time.perf_counter() - start)"
    assert min(float(python(code, cwd=tmp_path)) for _ in range(5)) <= 0.050


# --- where the packages lie -----------------------------------------------------------------------------------------


def test_every_folder_with_code_is_a_listed_package():
    folders = {p.parent for p in SOURCES}
    packages = {".".join(module_of(p / "__init__.py")[:-1]) for p in folders}
    assert packages == set(PROJECT["tool"]["setuptools"]["packages"])
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_a_checkout_works_from_elsewhere_and_binds_its_own_kernels(tmp_path):
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


def test_an_installation_beside_another_package_named_kernels(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gpunn", tmp_path / "gpunn", ignore=ignore)
    shutil.copytree(ROOT / "kernels", tmp_path / "gpunn" / "kernels", ignore=ignore)
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("whose = 'another'", encoding="utf-8")
    code = "import gpunn.kernels, kernels; print(gpunn.kernels.__file__, gpunn.kernels.get('relu').name, kernels.whose)"
    expected = f"{tmp_path / 'gpunn' / 'kernels' / '__init__.py'} relu another"
    assert python(code, cwd=tmp_path, path=tmp_path) == expected
