"""A new activation needs one kernel file, one class and one export. Its tests are generated."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow


KERNEL = '''"""The softsign."""

import numpy as np

from ._compiler.activation import activation


@activation(
    value="a = z / ((T)1 + fabs(z));",
    derivative="const T u = (T)1 - fabs(a); d = u * u;",
    stored="a",
)
class softsign:
    """f(z) = z/(1 + |z|), f′ = (1 − |a|)². (E2)"""

    def f(z):
        return z / (1 + np.abs(z))

    def derivative(a):
        u = 1 - np.abs(a)
        return u * u
'''

CLASS = '''

class Softsign(KernelActivation):
    """f(z) = z/(1 + |z|). (E2)"""

    names = ("softsign",)
    kernels = activation_kernels("softsign")
'''


@pytest.fixture
def checkout(tmp_path):
    for name in ("gpunn", "kernels", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "kernels" / "softsign.py").write_text(KERNEL)
    module = tmp_path / "gpunn" / "activations.py"
    text = module.read_text()
    at = text.index("\n\nclass Softmax(")
    text = text[:at] + CLASS + text[at:]
    module.write_text(text.replace('    "Softplus",\n', '    "Softplus",\n    "Softsign",\n'))
    return tmp_path


def _pytest(checkout, *arguments):
    # the sources are compiled even if the other tests run without a compiler
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "GPUNN_COMPILE")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def test_a_new_activation_is_tested_automatically(checkout):
    done = _pytest(checkout, "tests/unit/kernels", "tests/unit/test_activations.py", "-k", "softsign and not gpu")
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    # four kernels and one class: parity of source and reference, compilation, gradient
    assert passed >= 20, done.stdout


def test_a_wrong_derivative_is_detected(checkout):
    file = checkout / "kernels" / "softsign.py"
    file.write_text(file.read_text().replace("d = u * u;", "d = u;").replace("return u * u", "return u"))
    done = _pytest(checkout, "tests/unit/test_activations.py", "-k", "softsign")
    assert done.returncode == 1 and "test_the_derivative_is_right" in done.stdout
