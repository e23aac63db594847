"""The choice of a device, and the warning or error if a GPU cannot be used."""

import copy
import os
import pickle
import sys
import warnings

import numpy as np
import pytest
from helpers import ROOT, broken_cupy, internals
from helpers.messages import naming
from helpers.processes import run_python

from gpunn import backend
from gpunn.backend import DeviceError, DeviceFallbackWarning, get, select
from gpunn.backend.cpu.backend import CPUBackend
from gpunn.backend.cuda import installation


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No device selected yet, and none requested by the environment."""
    internals.reset_device_choice(monkeypatch)
    monkeypatch.delenv("GPUNN_DEVICE", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)


def test_the_cpu_computes_with_numpy():
    chosen = get("cpu")
    assert chosen.device == "cpu" and chosen.xp is np and chosen.reason == "asked for"


def test_auto_without_cupy_selects_the_cpu_without_a_warning(without_cupy):
    chosen = get("auto")  # warnings are errors here
    assert chosen.device == "cpu" and "CuPy is not installed" in chosen.reason


def test_cuda_without_cupy_raises_with_reason_and_remedy(without_cupy, monkeypatch):
    monkeypatch.setattr(select, "system_driver", lambda: 13010)
    with pytest.raises(DeviceError, match=naming("'cuda'", "CuPy", "gpunn[cuda13-ctk]")):
        get("cuda")


def test_auto_selects_a_gpu_that_ran_a_kernel_and_a_product(fake_cupy):
    chosen = get()
    assert chosen.device == "cuda:0" and chosen.xp is fake_cupy and "Simulated GPU" in chosen.reason
    assert "probe" in internals.kernels_run(fake_cupy) and "matmul" in fake_cupy.state.calls


@pytest.mark.parametrize("breakage", ["wrong_kernel", "wrong_product", "no_driver", "nvrtc", "cublas", "memory"])
def test_auto_falls_back_with_one_warning(fake_cupy, monkeypatch, breakage):
    getattr(broken_cupy, breakage)(monkeypatch, fake_cupy)
    with pytest.warns(DeviceFallbackWarning, match="gpunn uses the CPU: .*Remedy: ") as seen:
        chosen = get("auto")
    assert chosen.device == "cpu"
    assert len(seen) == 1 and seen[0].filename == __file__
    assert chosen.reason in str(seen[0].message)
    assert get("auto") is chosen  # a second warning would be an error here


@pytest.mark.parametrize("breakage", ["wrong_kernel", "wrong_product", "no_driver", "nvrtc", "cublas", "memory"])
def test_cuda_raises_the_text_of_the_warning(fake_cupy, monkeypatch, breakage):
    getattr(broken_cupy, breakage)(monkeypatch, fake_cupy)
    with pytest.raises(DeviceError) as refused:
        get("cuda")
    with pytest.warns(DeviceFallbackWarning) as seen:
        get("auto")
    assert str(seen[0].message).partition("CPU: ")[2] == str(refused.value).partition("but ")[2]


def test_the_warning_is_issued_once_even_as_an_error(fake_cupy, monkeypatch):
    broken_cupy.no_driver(monkeypatch, fake_cupy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeviceFallbackWarning):
            get("auto")
        assert get("auto").device == "cpu"


def test_a_device_that_recovers_is_probed_again(fake_cupy, monkeypatch):
    with monkeypatch.context() as patch:
        broken_cupy.memory(patch, fake_cupy)
        with pytest.raises(DeviceError, match="out of memory"):
            get("cuda")
    assert get("cuda").device == "cuda:0"


def test_a_number_selects_one_of_several_gpus(monkeypatch):
    from helpers import fake_cupy

    fake_cupy.install(monkeypatch, devices=2)
    assert get("cuda").device == get("cuda:0").device == "cuda:0"
    assert get("cuda:1").device == "cuda:1"
    with pytest.raises(DeviceError, match=r"no cuda:7: 2 devices are visible \(cuda:0, cuda:1\)"):
        get("cuda:7")


def test_an_index_out_of_range_reports_the_number_of_gpus(fake_cupy):
    with pytest.raises(DeviceError, match=r"no cuda:7: 1 device is visible \(cuda:0\)\. Remedy: .*cuda:0"):
        get("cuda:7")


def test_the_environment_overrides_only_auto(fake_cupy, monkeypatch):
    monkeypatch.setenv("GPUNN_DEVICE", "cpu")
    assert get("auto").device == "cpu" and "GPUNN_DEVICE=cpu" in get("auto").reason
    assert get("cuda").device == "cuda:0"
    monkeypatch.setenv("GPUNN_DEVICE", "cuda:0")
    assert get("auto").device == "cuda:0" and get("cpu").device == "cpu"
    for nothing in ("", " ", "auto"):
        monkeypatch.setenv("GPUNN_DEVICE", nothing)
        assert get("auto").device == "cuda:0"


def test_a_gpu_requested_by_the_environment_has_no_fallback(without_cupy, monkeypatch):
    monkeypatch.setenv("GPUNN_DEVICE", "cuda")
    with pytest.raises(DeviceError, match="GPUNN_DEVICE=cuda"):
        get("auto")


@pytest.mark.parametrize(
    "wrong", ["gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:1 ", "", "cpu:0", "cuda:²"]
)
def test_unknown_names_are_refused_with_the_accepted_ones(wrong, monkeypatch):
    with pytest.raises(ValueError, match=r'^device must be "auto", "cpu", "cuda" or "cuda:N"') as refused:
        get(wrong)
    assert repr(wrong) in str(refused.value)
    if wrong.strip():
        monkeypatch.setenv("GPUNN_DEVICE", wrong + "!")
        with pytest.raises(ValueError, match=r'^GPUNN_DEVICE must be "auto", "cpu"'):
            get("auto")


@pytest.mark.parametrize("wrong", [None, 0, True, b"cpu", ["cpu"]])
def test_other_types_are_refused_with_the_accepted_names(wrong):
    with pytest.raises(TypeError, match='must be "auto", "cpu", "cuda" or "cuda:N"'):
        get(wrong)


def test_a_backend_is_returned_unchanged(fake_cupy):
    for chosen in (get("cpu"), get("cuda")):
        assert get(chosen) is chosen


def test_each_device_has_one_backend(fake_cupy):
    assert get("cuda") is get("cuda:0") is get("auto")
    assert get("cpu") is get("cpu")
    assert get("cpu") != get("cuda") and len({get("cpu"), get("cuda"), get("auto")}) == 2


def test_backends_survive_pickle_and_deepcopy(fake_cupy):
    for chosen in (get("cpu"), get("cuda")):
        assert pickle.loads(pickle.dumps(chosen)) is chosen
        assert copy.deepcopy(chosen) is chosen


def test_a_subclass_of_a_backend_survives_pickle_and_deepcopy():
    class Other(CPUBackend):
        pass

    for again in (pickle.loads(pickle.dumps(Other("a test"))), copy.deepcopy(Other("a test"))):
        assert again is get("cpu")


def test_an_empty_folder_named_cupy_is_not_an_installation(monkeypatch, tmp_path):
    (tmp_path / "cupy").mkdir()
    broken_cupy.path(monkeypatch, tmp_path)
    assert get("auto").device == "cpu"  # no warning: after an uninstall of CuPy a user expects the CPU
    with pytest.raises(DeviceError, match="empty folder"):
        get("cuda")


def test_an_empty_folder_of_an_installed_cupy_is_reported(monkeypatch, tmp_path):
    (tmp_path / "cupy").mkdir()
    broken_cupy.metadata(tmp_path, "cupy-cuda13x")
    broken_cupy.path(monkeypatch, tmp_path)
    with pytest.warns(DeviceFallbackWarning, match="empty folder"):
        assert get("auto").device == "cpu"


def test_importing_and_selecting_the_cpu_do_not_import_cupy(tmp_path):
    (tmp_path / "cupy.py").write_text("raise SystemExit('cupy was imported')")
    program = (
        "import sys, gpunn.backend as b; b.get('cpu'); b.to_host([1]); assert 'cupy' not in sys.modules; b.get('cuda')"
    )
    done = run_python(program, env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))})
    assert done.stderr.strip() == "cupy was imported"  # by the last call only


def test_the_public_names_are_importable_from_gpunn():
    import gpunn

    assert gpunn.doctor is backend.doctor and gpunn.DeviceError is DeviceError


def test_versions_of_cuda_are_formatted_with_a_dot():
    assert [installation.format_version(v) for v in (11040, 12090, 13000)] == ["11.4", "12.9", "13.0"]
