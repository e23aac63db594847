"""Options of every test run: the CPU unless GPU tests run, a separate kernel cache, and a header that reports both."""

import os
import shutil
import signal
import tempfile

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # the workers share the cores; read when NumPy is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

GPU_MISSING = pytest.StashKey[str]()
CACHE = pytest.StashKey[str]()


def pytest_configure(config):
    os.environ["GPUNN_VERIFY"] = "1"  # before gpunn is imported: verify programs after every pass
    if "GPUNN_CACHE" not in os.environ:
        # never the user's cache. Its files are named by content, so that later runs find what this one compiled
        cache = getattr(config, "cache", None)
        if cache is None:  # -p no:cacheprovider
            config.stash[CACHE] = folder = tempfile.mkdtemp(prefix="gpunn-tests-")
        else:
            folder = str(cache.mkdir("gpunn-kernels"))
            os.chmod(folder, 0o700)  # gpunn refuses a folder that others may write to
        os.environ["GPUNN_CACHE"] = folder
    missing = _why_no_gpu()
    config.stash[GPU_MISSING] = missing
    if missing:
        os.environ["GPUNN_DEVICE"] = "cpu"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # a shell's background job starts without Python's answer to Ctrl-C, and so would what it starts
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config):
    if CACHE in config.stash:
        del os.environ["GPUNN_CACHE"]
        shutil.rmtree(config.stash[CACHE], ignore_errors=True)


def pytest_report_header(config):
    missing = config.stash[GPU_MISSING]
    return f"GPU tests: NOT RUN ({missing})" if missing else "GPU tests: run"


def pytest_itemcollected(item):
    # the simulated GPU compiles hundreds of CUDA sources for the host
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    if "fake_cupy" in item.fixturenames or not {"simulated", "cuda"}.isdisjoint(map(str, parameters)):
        item.add_marker("slow")


@pytest.fixture(autouse=True)
def no_shared_executables():
    """Make no test depend on the executables that an earlier one left."""
    from helpers import internals

    internals.forget_executables()


def pytest_runtest_setup(item):
    missing = item.config.stash[GPU_MISSING]
    if missing and item.get_closest_marker("gpu"):
        if os.environ.get("GPUNN_REQUIRE_GPU") == "1":
            pytest.fail(f"GPUNN_REQUIRE_GPU=1, but there is no GPU to test on: {missing}", pytrace=False)
        pytest.skip(f"needs a GPU: {missing}")


def _why_no_gpu():
    """Why no GPU test can run, in one line, or "" where they can."""
    if os.environ.get("GPUNN_DEVICE") == "cpu" and os.environ.get("GPUNN_REQUIRE_GPU") != "1":
        return "GPUNN_DEVICE=cpu"
    from gpunn.backend import DeviceError, get

    try:
        get("cuda")
    except DeviceError as error:
        return str(error).partition(", but ")[2].partition(". Remedy")[0]
    return ""


@pytest.fixture
def fake_cupy(monkeypatch):
    """The fake CuPy of fake_cupy.py in CuPy's place. What passes on it is simulated, never a GPU result."""
    from helpers import fake_cupy

    return fake_cupy.install(monkeypatch)


@pytest.fixture(params=["simulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def cuda(request):
    """The fake CuPy, and the real one on a machine with a GPU."""
    if request.param == "simulated":
        return request.getfixturevalue("fake_cupy")
    import cupy

    return cupy


@pytest.fixture(params=["cpu", "simulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def backend(request):
    """The backends of the CPU, the fake CuPy, and the GPU of a machine that has one."""
    from gpunn.backend import get

    if request.param == "simulated":
        request.getfixturevalue("fake_cupy")
    return get("cpu" if request.param == "cpu" else "cuda")


@pytest.fixture
def file(tmp_path):
    """The path of a model or a checkpoint."""
    return tmp_path / "run.safetensors"
