"""Conversion of a caller's arrays to the host arrays that scikit-learn validates, and of results back."""

from __future__ import annotations

from typing import Any

from .. import input_checks as checks
from ..backend import array_module, is_device_array, to_host


def host_numbers(x: Any, name: str = "X") -> Any:
    """Copy GPU arrays and torch tensors to NumPy; return everything else unchanged.

    Raise TypeError for dates, which scikit-learn would read as integers.
    """
    converted = host_labels(x, name)
    checks.reject_dates(converted, name)
    return converted


def host_labels(x: Any, name: str = "y") -> Any:
    """Do the same for class labels, which may be dates."""
    return to_host(x) if is_device_array(x) else checks.tensor_to_numpy(x, name)


def as_input_type(result: Any, given: Any) -> Any:
    """Convert a numeric result to CuPy if the input was CuPy."""
    if is_device_array(given) and result.dtype.kind in "biuf":
        return array_module(given).asarray(result)
    return result
