"""Other libraries as oracles: a test that cannot ask one is skipped, or fails where GPUNN_REQUIRE_ORACLES=1."""

import importlib
import os

import pytest


def oracle(name):
    """The module `name` (torch, jax, sklearn, …), at the head of a test or of a test file."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("GPUNN_REQUIRE_ORACLES") == "1":
            pytest.fail(f"GPUNN_REQUIRE_ORACLES=1, but {name} cannot be imported: {error}", pytrace=False)
        pytest.skip(f"{name} cannot be imported: {error}", allow_module_level=True)
