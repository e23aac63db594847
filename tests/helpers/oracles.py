"""Other libraries as oracles. A missing one skips the test, or fails it with GPUNN_REQUIRE_ORACLES=1."""

import importlib
import os

import pytest


def strided_tensor(x):
    """Make a non-contiguous torch tensor from an array; it requires gradients if it is floating-point."""
    tensor = oracle("torch").tensor(x.repeat(2, axis=0))[::2]
    assert not tensor.is_contiguous()
    return tensor.requires_grad_(x.dtype.kind == "f")


def oracle(name):
    """Import the module `name` (torch, jax, sklearn, …). To be called at the beginning of a test or of a test file."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("GPUNN_REQUIRE_ORACLES") == "1":
            pytest.fail(f"GPUNN_REQUIRE_ORACLES=1, but {name} cannot be imported: {error}", pytrace=False)
        pytest.skip(f"{name} cannot be imported: {error}", allow_module_level=True)
