"""The size limits that tests lower so that small data takes the path of large data: one table, by name."""

import importlib

LIMITS = {
    "lbfgs_elements": "gpunn.estimators.base.LBFGS_ELEMENTS",  # of the widest layer in one evaluation of L-BFGS
}


def set(monkeypatch, name, value):
    """Give a limit another value until the end of the test. KeyError for a name that is not in `LIMITS`."""
    module, _, attribute = LIMITS[name].rpartition(".")
    monkeypatch.setattr(importlib.import_module(module), attribute, value)
