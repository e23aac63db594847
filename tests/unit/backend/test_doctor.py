"""The doctor: one verdict and one remedy for everything that can be wrong, and no exception ever."""

import sys

import pytest
from helpers import broken_cupy, internals
from helpers import fake_cupy as fake

from gpunn import backend
from gpunn.backend import devices, diagnosis, doctor
from gpunn.backend.cuda import errors, probe

INSTALL_12, INSTALL_13 = (f'python -m pip install "gpunn[cuda{n}-ctk]"' for n in (12, 13))


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path_factory):
    """No device chosen, a cache that can be written, no driver but that of the fake, no wheel."""
    internals.reset_device_choice(monkeypatch)
    for name in ("GPUNN_DEVICE", "CUDA_VISIBLE_DEVICES", "GPUNN_COMPILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GPUNN_CACHE", str(tmp_path_factory.mktemp("cache")))
    for module in (diagnosis, errors, probe, devices):
        monkeypatch.setattr(module, "installed_cupy", list)
    monkeypatch.setattr("gpunn.backend.cuda.installation.installed_cupy", list)
    monkeypatch.setattr("gpunn.backend.cuda.installation.system_driver", int)
    monkeypatch.setattr(diagnosis, "system_driver", int)


def installed(monkeypatch, *names):
    for module in (diagnosis, errors, probe, devices):
        monkeypatch.setattr(module, "installed_cupy", lambda: list(names))
    monkeypatch.setattr("gpunn.backend.cuda.installation.installed_cupy", lambda: list(names))


def check(report, name):
    return next(c for c in report.checks if c.name == name)


def assert_readable(report):
    """Fits a terminal of 80 columns, names verdict and remedy once, each of them one line."""
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    assert [line.split(" ")[0] for line in text.splitlines()].count("verdict") == 1
    assert text.count("\nremedy ") == (1 if report.remedy else 0)
    assert "\n" not in report.verdict + report.remedy


# breakage, part of the verdict, part of the remedy, the checks that fail
BROKEN = [
    ("no_driver", "no NVIDIA driver was found", "nvidia.com/drivers", ["driver", "devices", "probe"]),
    (
        "old_driver",
        "too old: it supports CUDA 11.4, CuPy needs 12.9",
        "update the NVIDIA driver",
        ["driver", "devices", "probe"],
    ),
    (
        "driver_of_cuda12_wheel_of_cuda13",
        "supports CUDA 12.4, CuPy needs 13.0",
        INSTALL_12,
        ["driver", "devices", "probe"],
    ),
    ("driver_older_than_the_compiler", "does not fit CuPy's CUDA", "update the NVIDIA driver", ["probe"]),
    ("no_device", "no CUDA device is visible", "nvidia-smi", ["devices", "probe"]),
    ("no_device_counted", "no CUDA device is visible", "nvidia-smi", ["devices", "probe"]),
    ("nvrtc", "NVRTC, which compiles the kernels, is missing", INSTALL_12, ["NVRTC", "probe"]),
    ("nvrtc_of_cupy_13", "NVRTC, which compiles the kernels, is missing", INSTALL_12, ["NVRTC", "probe"]),
    ("nvrtc_builtins", "NVRTC, which compiles the kernels, does not work", INSTALL_12, ["probe"]),
    ("headers", "the headers of CUDA are missing", INSTALL_12, ["probe"]),
    ("headers_in_part", "the headers of CUDA are missing", INSTALL_12, ["probe"]),
    ("cublas", "cuBLAS, which multiplies matrices, is missing", INSTALL_12, ["cuBLAS", "probe"]),
    (
        "memory",
        "cuda:0 is out of memory: 3.9 KiB were needed, 0 bytes of 8.0 GiB are free",
        "smaller batch_size",
        ["probe"],
    ),
    ("memory_of_the_context", "cuda:0 is out of memory", "smaller batch_size", ["devices", "probe"]),
    ("memory_of_cublas", "cuda:0 is out of memory", "smaller batch_size", ["probe"]),
    ("kernel_cache", "CuPy cannot write its kernel cache", "CUPY_CACHE_DIR", ["probe"]),
    ("architecture", "no kernels for the architecture of cuda:0", INSTALL_13, ["probe"]),
    ("wrong_kernel", "cuda:0 ran a kernel, but its numbers are wrong", "kernel_cache", ["probe"]),
    ("wrong_product", "cuda:0 ran a matrix product, but its numbers are wrong", "kernel_cache", ["probe"]),
]


@pytest.mark.parametrize(("breakage", "verdict", "remedy", "failing"), BROKEN, ids=[b[0] for b in BROKEN])
def test_each_fault_has_its_verdict_and_its_remedy(fake_cupy, monkeypatch, breakage, verdict, remedy, failing):
    getattr(broken_cupy, breakage)(monkeypatch, fake_cupy)
    report = doctor()
    assert verdict in report.verdict and report.verdict.endswith("; gpunn uses the CPU")
    assert remedy in report.remedy
    assert not report.ok and [c.name for c in report.checks if c.ok is False] == failing
    assert_readable(report)


def test_a_gpu_that_works_is_well(fake_cupy):
    report = doctor()
    assert report.ok and report.verdict == "all is well; gpunn uses cuda:0" and report.remedy == ""
    assert all(c.ok for c in report.checks if c.name not in ("CPU kernels", "CPU steps"))
    assert check(report, "driver").detail == "supports CUDA 13.0; CuPy was built for 12.9"
    assert "Simulated GPU, 7.0 GiB of 8.0 GiB free" in check(report, "devices").detail
    assert check(report, "NVRTC").detail == "12.9"
    assert_readable(report)


def test_cupy_absent_is_news_and_no_fault(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    report = doctor()
    assert report.ok and report.verdict == "CuPy is not installed; gpunn uses the CPU"
    assert report.remedy == f"for an NVIDIA GPU: {INSTALL_12}"
    assert check(report, "CuPy").ok is None
    assert_readable(report)


def test_cupy_absent_where_a_driver_is_names_the_fitting_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(diagnosis, "system_driver", lambda: 13010)
    report = doctor()
    assert "though a driver for CUDA 13.1 is" in report.verdict and INSTALL_13 in report.remedy


def test_an_empty_folder_left_by_an_uninstall(monkeypatch, tmp_path):
    (tmp_path / "cupy" / "core").mkdir(parents=True)
    broken_cupy.path(monkeypatch, tmp_path)
    report = doctor()
    assert f"{tmp_path / 'cupy'} is an empty folder left by an uninstall" in report.verdict
    assert report.remedy.startswith("delete that folder") and not report.ok
    assert_readable(report)


def test_an_empty_folder_that_was_imported_before(monkeypatch, tmp_path):
    (tmp_path / "cupy").mkdir()
    broken_cupy.path(monkeypatch, tmp_path)
    import cupy

    assert cupy.__file__ is None
    assert "is an empty folder left by an uninstall" in doctor().verdict


def test_two_wheels_at_once(fake_cupy, monkeypatch):
    installed(monkeypatch, "cupy-cuda13x 14.2.0", "cupy-cuda12x 14.2.0")
    report = doctor()
    assert "several CuPy packages are installed at once" in report.verdict and "gpunn uses cuda:0" in report.verdict
    assert report.remedy == f"python -m pip uninstall -y cupy-cuda13x cupy-cuda12x && {INSTALL_12}"
    assert [c.name for c in report.checks if c.ok is False] == ["CuPy"]
    assert_readable(report)


@pytest.mark.parametrize("breakage", ["nvrtc", "cublas", "wrong_kernel"])
def test_two_wheels_are_the_cause_of_what_else_is_wrong(fake_cupy, monkeypatch, breakage):
    installed(monkeypatch, "cupy-cuda13x 14.2.0", "cupy-cuda12x 14.2.0")
    getattr(broken_cupy, breakage)(monkeypatch, fake_cupy)
    assert "several CuPy packages" in doctor().verdict
    with pytest.raises(backend.DeviceError, match="several CuPy packages"):
        backend.get("cuda")


def test_two_wheels_are_not_blamed_for_the_driver(fake_cupy, monkeypatch):
    installed(monkeypatch, "cupy-cuda13x 14.2.0", "cupy-cuda12x 14.2.0")
    broken_cupy.no_driver(monkeypatch, fake_cupy)
    with pytest.raises(backend.DeviceError, match="no NVIDIA driver"):
        backend.get("cuda")


def test_wheels_are_found_in_the_records_of_pip(monkeypatch, tmp_path):
    monkeypatch.undo()
    broken_cupy.metadata(tmp_path, "cupy-cuda12x", "13.6.0")
    broken_cupy.metadata(tmp_path, "cupy-cuda13x", "14.2.0")
    broken_cupy.path(monkeypatch, tmp_path)
    from gpunn.backend.cuda import installation

    found = installation.installed_cupy()
    assert found == ["cupy-cuda13x 14.2.0", "cupy-cuda12x 13.6.0"]
    assert installation.pip_reinstall(0) == f"python -m pip uninstall -y cupy-cuda13x cupy-cuda12x && {INSTALL_12}"
    assert installation.pip_add_libraries() == INSTALL_13  # CUDA 13's libraries for the newer of the two


def test_the_remedy_fits_the_wheel(fake_cupy, monkeypatch):
    installed(monkeypatch, "cupy-cuda13x 14.2.0")
    broken_cupy.nvrtc(monkeypatch, fake_cupy)
    assert doctor().remedy == INSTALL_13


def test_an_architecture_that_cuda_13_gave_up_needs_cuda_12(fake_cupy, monkeypatch):
    installed(monkeypatch, "cupy-cuda13x 14.2.0")
    broken_cupy.architecture(monkeypatch, fake_cupy)
    assert doctor().remedy == f"python -m pip uninstall -y cupy-cuda13x && {INSTALL_12}"


PAGE = """
================================================================
Failed to import CuPy.

If you installed CuPy via wheels (cupy-cudaXXX or cupy-rocm-X-X), make sure that the package matches.

Original error:
  ImportError: {}
================================================================
"""


@pytest.mark.parametrize(
    ("cause", "verdict"),
    [
        ("numpy.core.multiarray failed to import", "it cannot be imported (ImportError: numpy.core.multiarray failed"),
        (
            "libcublas.so.12: cannot open shared object file: No such file or directory",
            "cuBLAS, which multiplies matrices, is missing",
        ),
        (
            "libnvrtc.so.12: cannot open shared object file: No such file or directory",
            "NVRTC, which compiles the kernels, is missing",
        ),
    ],
)
def test_cupy_that_does_not_import(monkeypatch, tmp_path, cause, verdict):
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text(f"raise ImportError({PAGE.format(cause)!r})")
    broken_cupy.path(monkeypatch, tmp_path)
    report = doctor()
    assert verdict in report.verdict and INSTALL_12 in report.remedy
    assert check(report, "CuPy").ok is False
    assert_readable(report)


@pytest.mark.parametrize(
    "text", ["import nosuchmodule", "1 / 0", "import warnings; warnings.warn('two of me')", "ndarray = 1"]
)
def test_cupy_that_fails_in_any_other_way(monkeypatch, tmp_path, text):
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text(text)
    broken_cupy.path(monkeypatch, tmp_path)
    report = doctor()
    assert "CuPy is broken" in report.verdict and not report.ok
    assert_readable(report)


@pytest.mark.parametrize("value", ["", "7", "-1"])
def test_devices_hidden_by_the_environment(fake_cupy, monkeypatch, value):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    broken_cupy.no_device(monkeypatch, fake_cupy)
    report = doctor()
    assert f'CUDA_VISIBLE_DEVICES is "{value}"' in report.verdict and "unset CUDA_VISIBLE_DEVICES" in report.remedy


@pytest.mark.parametrize("with_gpu", [True, False])
def test_a_cache_folder_that_cannot_be_written(fake_cupy, monkeypatch, tmp_path, with_gpu):
    if not with_gpu:
        monkeypatch.setitem(sys.modules, "cupy", None)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUNN_CACHE", str(tmp_path / "file" / "cache"))  # not even root can make it
    report = doctor()
    assert f"the cache folder {tmp_path / 'file' / 'cache'} cannot be written" in report.verdict
    assert report.remedy == "set GPUNN_CACHE to a folder that you may write" and not report.ok
    assert check(report, "cache folder").ok is False
    assert_readable(report)


def test_the_setting_of_the_device_is_examined(fake_cupy, monkeypatch):
    monkeypatch.setenv("GPUNN_DEVICE", "gpu")
    report = doctor()
    assert "GPUNN_DEVICE must be" in report.verdict and "unset GPUNN_DEVICE" in report.remedy and not report.ok
    assert_readable(report)
    monkeypatch.setenv("GPUNN_DEVICE", "cpu")
    report = doctor()
    assert report.ok and report.verdict == "all is well; gpunn uses the CPU"
    assert check(report, "device").detail == "cpu: asked for by GPUNN_DEVICE=cpu"


def test_a_gpu_demanded_by_the_environment_and_broken(fake_cupy, monkeypatch):
    monkeypatch.setenv("GPUNN_DEVICE", "cuda")
    broken_cupy.nvrtc(monkeypatch, fake_cupy)
    report = doctor()
    assert "NVRTC" in report.verdict and "uses" not in report.verdict
    assert check(report, "device").ok is False
    assert_readable(report)


def test_the_bodies_of_the_cpu_kernels_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setenv("GPUNN_COMPILE", "0")
    seen = check(doctor(), "CPU kernels")
    assert seen.ok is None and seen.detail == "numpy: GPUNN_COMPILE=0"


def test_the_doctor_survives_anything(fake_cupy, monkeypatch):
    def collapse(*_, **__):
        raise RuntimeError("collapsed\nin two lines")

    for where, name in ((diagnosis, "_blas"), (diagnosis, "installed_cupy"), (diagnosis, "choose"), (sys, "platform")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, collapse)
            assert_readable(doctor())
    monkeypatch.setattr(fake.State, "record", collapse)
    report = doctor()
    assert not report.ok and "cuda:0 does not work (RuntimeError: collapsed)" in report.verdict
    assert_readable(report)


def test_the_doctor_warns_of_nothing_and_leaves_the_warning_to_the_choice(fake_cupy, monkeypatch):
    broken_cupy.no_driver(monkeypatch, fake_cupy)
    doctor()  # warnings are errors here
    with pytest.warns(backend.DeviceFallbackWarning):
        backend.get("auto")


def test_with_the_real_cupy_and_no_driver():
    """Where CuPy is installed and no driver is, the real exceptions lead to the same verdict."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if cupy.cuda.runtime.driverGetVersion() != 0:
        pytest.skip("this machine has a driver")
    report = doctor()
    assert "no NVIDIA driver was found" in report.verdict and not report.ok
    assert_readable(report)


@pytest.mark.gpu
def test_a_real_gpu_is_well():
    report = doctor()
    assert report.ok and report.verdict == "all is well; gpunn uses cuda:0", str(report)


def test_the_doctor_says_how_steps_run(monkeypatch):
    from gpunn.backend import diagnosis

    steps = lambda: next(c for c in doctor().checks if c.name == "CPU steps")  # noqa: E731
    monkeypatch.setattr(diagnosis.blas, "find_gemm", lambda dtype: diagnosis.blas.Gemm(1, "cblas_sgemm"))
    monkeypatch.setattr(diagnosis.blas, "thread_count", lambda: 3)
    monkeypatch.setattr(diagnosis.native, "executor_library", lambda: object())
    assert steps().ok is True
    assert steps().detail.endswith("on 3 threads at most; products by cblas_sgemm, small ones in registers")
    monkeypatch.setattr(diagnosis.blas, "find_gemm", lambda dtype: None)
    assert (steps().ok, steps().detail[:31]) == (None, "back to Python for each product")
    monkeypatch.setattr(diagnosis.native, "executor_library", lambda: None)
    assert (steps().ok, steps().detail[:19]) == (None, "launched one by one")
