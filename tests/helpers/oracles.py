"""Other libraries as oracles: a test that cannot ask one is skipped, or fails where GPUNN_REQUIRE_ORACLES=1."""

import importlib
import os

import pytest


def strided_tensor(x):
    """What an array holds as a tensor of torch: a view with gaps, which remembers gradients where it can."""
    tensor = oracle("torch").tensor(x.repeat(2, axis=0))[::2]
    assert not tensor.is_contiguous()
    return tensor.requires_grad_(x.dtype.kind == "f")


def oracle(name):
    """The module `name` (torch, jax, sklearn, …), at the head of a test or of a test file."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("GPUNN_REQUIRE_ORACLES") == "1":
            pytest.fail(f"GPUNN_REQUIRE_ORACLES=1, but {name} cannot be imported: {error}", pytrace=False)
        pytest.skip(f"{name} cannot be imported: {error}", allow_module_level=True)
