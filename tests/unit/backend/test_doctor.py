"""`gpunn doctor`: one verdict and one remedy for each fault, and never an exception."""

import os
import sys

import pytest
from helpers import broken_cupy, internals
from helpers import fake_cupy as fake

from gpunn import backend
from gpunn.backend import diagnosis, doctor, select
from gpunn.backend.cuda import errors, probe

INSTALL_12, INSTALL_13 = (f'python -m pip install "gpunn[cuda{n}-ctk]"' for n in (12, 13))


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path_factory):
    """No device selected, a writable cache, no driver but that of the fake, no installed wheel."""
    internals.reset_device_choice(monkeypatch)
    for name in ("GPUNN_DEVICE", "CUDA_VISIBLE_DEVICES", "GPUNN_COMPILE", "GPUNN_EAGER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GPUNN_CACHE", str(tmp_path_factory.mktemp("cache")))
    for module in (diagnosis, errors, probe, select):
        monkeypatch.setattr(module, "installed_cupy", list)
    monkeypatch.setattr("gpunn.backend.cuda.installation.installed_cupy", list)
    monkeypatch.setattr("gpunn.backend.cuda.installation.system_driver", int)
    monkeypatch.setattr(diagnosis, "system_driver", int)


def installed(monkeypatch, *names):
    for module in (diagnosis, errors, probe, select):
        monkeypatch.setattr(module, "installed_cupy", lambda: list(names))
    monkeypatch.setattr("gpunn.backend.cuda.installation.installed_cupy", lambda: list(names))


def check(report, name):
    return next(c for c in report.checks if c.name == name)


def assert_readable(report):
    """The report fits 80 columns, and contains verdict and remedy once, each in one line."""
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
def test_each_fault_has_a_verdict_and_a_remedy(fake_cupy, monkeypatch, breakage, verdict, remedy, failing):
    getattr(broken_cupy, breakage)(monkeypatch, fake_cupy)
    report = doctor()
    assert verdict in report.verdict and report.verdict.endswith("; gpunn uses the CPU")
    assert remedy in report.remedy
    assert not report.ok and [c.name for c in report.checks if c.ok is False] == failing
    assert_readable(report)


def test_a_working_gpu_is_ok(fake_cupy):
    report = doctor()
    assert report.ok and report.verdict == "everything works; gpunn uses cuda:0" and report.remedy == ""
    assert all(c.ok for c in report.checks if c.name not in ("CPU kernels", "CPU steps"))
    assert check(report, "driver").detail == "supports CUDA 13.0; CuPy was built for 12.9"
    assert "Simulated GPU, 7.0 GiB of 8.0 GiB free" in check(report, "devices").detail
    assert check(report, "NVRTC").detail == "12.9"
    assert_readable(report)


def test_a_missing_cupy_is_not_a_fault(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    report = doctor()
    assert report.ok and report.verdict == "CuPy is not installed; gpunn uses the CPU"
    assert report.remedy == f"for an NVIDIA GPU: {INSTALL_12}"
    assert check(report, "CuPy").ok is None
    assert_readable(report)


def test_a_missing_cupy_with_a_driver_names_the_matching_extra(monkeypatch):
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


def test_two_installed_wheels(fake_cupy, monkeypatch):
    installed(monkeypatch, "cupy-cuda13x 14.2.0", "cupy-cuda12x 14.2.0")
    report = doctor()
    assert (
        "several CuPy packages are installed and overwrite each other" in report.verdict
        and "gpunn uses cuda:0" in report.verdict
    )
    assert report.remedy == f"python -m pip uninstall -y cupy-cuda13x cupy-cuda12x && {INSTALL_12}"
    assert [c.name for c in report.checks if c.ok is False] == ["CuPy"]
    assert_readable(report)


@pytest.mark.parametrize("breakage", ["nvrtc", "cublas", "wrong_kernel"])
def test_two_wheels_are_the_cause_of_other_faults(fake_cupy, monkeypatch, breakage):
    installed(monkeypatch, "cupy-cuda13x 14.2.0", "cupy-cuda12x 14.2.0")
    getattr(broken_cupy, breakage)(monkeypatch, fake_cupy)
    assert "several CuPy packages" in doctor().verdict
    with pytest.raises(backend.DeviceError, match="several CuPy packages"):
        backend.get("cuda")


def test_two_wheels_are_not_the_cause_of_a_missing_driver(fake_cupy, monkeypatch):
    installed(monkeypatch, "cupy-cuda13x 14.2.0", "cupy-cuda12x 14.2.0")
    broken_cupy.no_driver(monkeypatch, fake_cupy)
    with pytest.raises(backend.DeviceError, match="no NVIDIA driver"):
        backend.get("cuda")


def test_wheels_are_found_in_the_metadata_of_pip(monkeypatch, tmp_path):
    monkeypatch.undo()
    broken_cupy.metadata(tmp_path, "cupy-cuda12x", "13.6.0")
    broken_cupy.metadata(tmp_path, "cupy-cuda13x", "14.2.0")
    broken_cupy.path(monkeypatch, tmp_path)
    from gpunn.backend.cuda import installation

    found = installation.installed_cupy()
    assert found == ["cupy-cuda13x 14.2.0", "cupy-cuda12x 13.6.0"]
    assert installation.pip_reinstall(0) == f"python -m pip uninstall -y cupy-cuda13x cupy-cuda12x && {INSTALL_12}"
    assert installation.pip_add_libraries() == INSTALL_13  # the libraries of the newer one, CUDA 13


def test_the_remedy_matches_the_wheel(fake_cupy, monkeypatch):
    installed(monkeypatch, "cupy-cuda13x 14.2.0")
    broken_cupy.nvrtc(monkeypatch, fake_cupy)
    assert doctor().remedy == INSTALL_13


def test_an_architecture_that_cuda_13_dropped_needs_cuda_12(fake_cupy, monkeypatch):
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
def test_a_cupy_that_cannot_be_imported(monkeypatch, tmp_path, cause, verdict):
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
def test_a_cupy_that_fails_in_other_ways(monkeypatch, tmp_path, text):
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text(text)
    broken_cupy.path(monkeypatch, tmp_path)
    report = doctor()
    assert "CuPy is broken" in report.verdict and not report.ok
    assert_readable(report)


@pytest.mark.parametrize("value", ["", "7", "-1"])
def test_gpus_hidden_by_the_environment(fake_cupy, monkeypatch, value):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    broken_cupy.no_device(monkeypatch, fake_cupy)
    report = doctor()
    assert f'CUDA_VISIBLE_DEVICES is "{value}"' in report.verdict and "unset CUDA_VISIBLE_DEVICES" in report.remedy


@pytest.mark.parametrize("with_gpu", [True, False])
def test_a_cache_folder_without_write_permission(fake_cupy, monkeypatch, tmp_path, with_gpu):
    if not with_gpu:
        monkeypatch.setitem(sys.modules, "cupy", None)
    doctor()  # loads the kernels of the simulated GPU, which is not at fault
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPUNN_CACHE", str(tmp_path / "file" / "cache"))  # not even root can create it
    report = doctor()
    assert f"the cache folder {tmp_path / 'file' / 'cache'} cannot be written" in report.verdict
    assert report.remedy == "set GPUNN_CACHE to a folder that you may write" and not report.ok
    assert check(report, "cache folder").ok is False
    assert_readable(report)


def test_the_device_setting_is_checked(fake_cupy, monkeypatch):
    monkeypatch.setenv("GPUNN_DEVICE", "gpu")
    report = doctor()
    assert "GPUNN_DEVICE must be" in report.verdict and "unset GPUNN_DEVICE" in report.remedy and not report.ok
    assert_readable(report)
    monkeypatch.setenv("GPUNN_DEVICE", "cpu")
    report = doctor()
    assert report.ok and report.verdict == "everything works; gpunn uses the CPU"
    assert check(report, "device").detail == "cpu: asked for by GPUNN_DEVICE=cpu"


def test_a_broken_gpu_requested_by_the_environment(fake_cupy, monkeypatch):
    monkeypatch.setenv("GPUNN_DEVICE", "cuda")
    broken_cupy.nvrtc(monkeypatch, fake_cupy)
    report = doctor()
    assert "NVRTC" in report.verdict and "uses" not in report.verdict
    assert check(report, "device").ok is False
    assert_readable(report)


def test_the_implementation_of_the_cpu_kernels_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setenv("GPUNN_COMPILE", "0")
    seen = check(doctor(), "CPU kernels")
    assert seen.ok is None and seen.detail == "numpy: GPUNN_COMPILE=0"


def test_a_kernel_is_compiled_and_run(monkeypatch, tmp_path):
    """A compiler that only exists is not enough. Its remedy comes first: it brings more than CuPy."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delenv("GPUNN_COMPILE", raising=False)
    monkeypatch.setenv("GPUNN_CACHE", str(tmp_path))
    broken = tmp_path / "compiler"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o700)
    for cxx, path, verdict, remedy in (
        (str(broken), os.environ["PATH"], f"{broken} exited with 3, without a message", "let CXX name a compiler"),
        ("", str(tmp_path), "no C++ compiler was found", "install g++ or clang++"),
    ):
        monkeypatch.setenv("CXX", cxx)
        monkeypatch.setenv("PATH", path)
        with internals.no_libraries():
            report = doctor()
        assert report.verdict == f"compiled kernels do not run: {verdict}; gpunn uses the CPU"
        assert report.remedy.startswith(remedy) and report.remedy.endswith("up to 50 times faster") and not report.ok
        assert check(report, "CPU kernels").ok is False
        assert_readable(report)


def test_eager_mode_by_the_environment_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "eager" not in str(doctor())
    monkeypatch.setenv("GPUNN_EAGER", "1")
    seen = check(doctor(), "steps")
    assert seen.ok is None and "GPUNN_EAGER" in seen.detail and doctor().ok


def test_doctor_never_raises(fake_cupy, monkeypatch):
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


def test_doctor_issues_no_warning_and_leaves_it_to_the_selection(fake_cupy, monkeypatch):
    broken_cupy.no_driver(monkeypatch, fake_cupy)
    doctor()  # warnings are errors here
    with pytest.warns(backend.DeviceFallbackWarning):
        backend.get("auto")


def test_with_the_real_cupy_and_no_driver():
    """With CuPy and without a driver the real exceptions lead to the same verdict."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if cupy.cuda.runtime.driverGetVersion() != 0:
        pytest.skip("this machine has a driver")
    report = doctor()
    assert "no NVIDIA driver was found" in report.verdict and not report.ok
    assert_readable(report)


@pytest.mark.gpu
def test_a_real_gpu_is_ok():
    report = doctor()
    assert report.ok and report.verdict == "everything works; gpunn uses cuda:0", str(report)


def test_doctor_reports_how_steps_run(monkeypatch):
    from gpunn.backend import diagnosis

    steps = lambda: next(c for c in doctor().checks if c.name == "CPU steps")  # noqa: E731
    monkeypatch.setattr(diagnosis.blas, "find_gemm", lambda dtype: diagnosis.blas.Gemm(1, "cblas_sgemm"))
    monkeypatch.setattr(diagnosis.blas, "thread_count", lambda: 3)
    monkeypatch.setattr(diagnosis.native, "executor_library", lambda: object())
    assert steps().ok is True
    assert steps().detail.endswith("at most 3 threads; large products by cblas_sgemm, small ones by gpunn's own code")
    monkeypatch.setattr(diagnosis.blas, "find_gemm", lambda dtype: None)
    assert (steps().ok, steps().detail[:31]) == (None, "return to Python for each produ")
    monkeypatch.setattr(diagnosis.native, "executor_library", lambda: None)
    assert (steps().ok, steps().detail[:19]) == (None, "run from Python, be")


def test_a_finding_is_the_whole_first_line_of_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    line = "the BLAS of this NumPy is unknown; " * 10

    def fail():
        raise RuntimeError(line + "\nmore")

    monkeypatch.setattr(diagnosis, "_blas", fail)
    assert check(doctor(), "NumPy").detail == f"RuntimeError: {line}"
