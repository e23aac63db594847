"""Checks of arguments. Each returns the checked value, or raises an error that names the argument and the value.

A check is a function ``check(name, value)``. `Checked` applies it to every assignment of an attribute, so that a value
that is set later is checked as the constructor's argument was.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any, Generic, TypeVar

T = TypeVar("T")


class Checked(Generic[T]):
    """An attribute that is checked on assignment.

    The value is stored in the instance's dictionary. The descriptor has no `__get__`, so Python reads the value as fast
    as any other attribute.

    Parameters
    ----------
    check : callable
        ``check(name, value)`` returns the value to store, or raises.
    """

    def __init__(self, check: Callable[[str, Any], T]) -> None:
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.name] = self.check(self.name, value)

    if TYPE_CHECKING:

        def __get__(self, instance: Any, owner: type) -> T: ...


def optional(check: Callable[[str, Any], T]) -> Callable[[str, Any], T | None]:
    """Return a check that accepts None and whatever `check` accepts."""

    def checked(name: str, value: Any) -> T | None:
        if value is None:
            return None
        try:
            return check(name, value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error}; None is allowed too") from None

    return checked


def one_of(*choices: str) -> Callable[[str, Any], str]:
    """Return a check that accepts the given strings only. ValueError lists them."""
    listed = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"

    def checked(name: str, value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{name} must be {listed}, got {value!r}")
        return str(value)

    return checked


def positive(name: str, value: Any) -> float:
    """Return a finite number > 0 as a float. ValueError for any other value."""
    if not 0 < _real(value) < math.inf:
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
    return float(value)


def nonnegative(name: str, value: Any) -> float:
    """Return a finite number ≥ 0 as a float. ValueError for any other value."""
    if not 0 <= _real(value) < math.inf:
        raise ValueError(f"{name} must be a finite number ≥ 0, got {value!r}")
    return float(value)


def finite(name: str, value: Any) -> float:
    """Return a finite number as a float. ValueError for any other value."""
    if not math.isfinite(_real(value)):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def unit_interval(name: str, value: Any) -> float:
    """Return a number in [0, 1] as a float. ValueError for any other value."""
    if not 0 <= _real(value) <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")
    return float(value)


def half_open_unit_interval(name: str, value: Any) -> float:
    """Return a number in [0, 1) as a float. ValueError for any other value."""
    if not 0 <= _real(value) < 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")
    return float(value)


def open_unit_interval(name: str, value: Any) -> float:
    """Return a number in (0, 1) as a float. ValueError for any other value."""
    if not 0 < _real(value) < 1:
        raise ValueError(f"{name} must be a number in (0, 1), got {value!r}")
    return float(value)


def integer(name: str, value: Any) -> int:
    """Return an integer of Python or NumPy as an int. TypeError for any other value."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} must be an integer, got {value!r}")


def positive_integer(name: str, value: Any) -> int:
    """Return an integer ≥ 1 as an int. ValueError for a smaller one, TypeError if it is not an integer."""
    return _integer_from(1, name, value)


def nonnegative_integer(name: str, value: Any) -> int:
    """Return an integer ≥ 0 as an int. ValueError for a smaller one, TypeError if it is not an integer."""
    return _integer_from(0, name, value)


def _integer_from(minimum: int, name: str, value: Any) -> int:
    number = integer(name, value)
    if number < minimum:
        raise ValueError(f"{name} must be an integer ≥ {minimum}, got {value!r}")
    return number


def boolean(name: str, value: Any) -> bool:
    """Return True or False; 1 and 0 are accepted for them. ValueError for any other value."""
    if isinstance(value, bool):
        return value
    number = scalar(value)
    if not isinstance(number, Real) or number not in (True, False):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(number)


def as_list(name: str, value: Any, entries: str) -> list[Any]:
    """Return the entries of an iterable as a list. TypeError for strings, dictionaries and scalars.

    `entries` says in the message which entries the list must have, such as "gpunn layers".
    """
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of {entries}, got {value!r}")
    return list(value)


def scalar(value: Any) -> Any:
    """Return a NumPy scalar or a 0-d array as a Python number, and any other value unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _real(value: Any) -> float:
    """Return a real number or a 0-d array as a float, and NaN, which is in no range, for any other value."""
    if type(value) is float:
        return value
    number = scalar(value)
    with contextlib.suppress(OverflowError):
        if isinstance(number, Real) and not isinstance(number, bool):
            return float(number)
    return math.nan
