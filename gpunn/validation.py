"""Checks of numbers that users give: each returns a Python float, or raises ValueError naming the argument.

`Checked` applies such a check to every assignment of an attribute.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

T = TypeVar("T")


class Checked(Generic[T]):
    """An attribute that is validated on assignment: `check(name, value)` returns the value to store, or raises.

    The value is stored in the instance's dictionary. Without `__get__` Python reads it from there, as fast as any other
    attribute.
    """

    def __init__(self, check: Callable[[str, Any], T]) -> None:
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self.name] = self.check(self.name, value)

    if TYPE_CHECKING:

        def __get__(self, instance: Any, owner: type) -> T: ...


def optional(check: Callable[[str, Any], T]) -> Callable[[str, Any], T | None]:
    """The same check, which also accepts None."""

    def checked(name: str, value: Any) -> T | None:
        return None if value is None else check(name, value)

    return checked


def positive(name: str, value: Any) -> float:
    """A finite number > 0."""
    if not 0 < _real(value) < math.inf:
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
    return float(value)


def nonnegative(name: str, value: Any) -> float:
    """A finite number ≥ 0."""
    if not 0 <= _real(value) < math.inf:
        raise ValueError(f"{name} must be a finite number ≥ 0, got {value!r}")
    return float(value)


def finite(name: str, value: Any) -> float:
    """A finite number."""
    if not math.isfinite(_real(value)):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def half_open_unit_interval(name: str, value: Any) -> float:
    """A number in [0, 1)."""
    if not 0 <= _real(value) < 1:
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")
    return float(value)


def unit_interval(name: str, value: Any) -> float:
    """A number in [0, 1]."""
    if not 0 <= _real(value) <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")
    return float(value)


def open_unit_interval(name: str, value: Any) -> float:
    """A number in (0, 1)."""
    if not 0 < _real(value) < 1:
        raise ValueError(f"{name} must be a number in (0, 1), got {value!r}")
    return float(value)


def integer(name: str, value: Any) -> int:
    """An integer of Python or NumPy. TypeError for everything else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return number


def nonnegative_integer(name: str, value: Any) -> int:
    """An integer ≥ 0. TypeError where it is no integer."""
    return positive_integer(name, value, least=0)


def positive_integer(name: str, value: Any, least: int = 1) -> int:
    """An integer ≥ `least`. TypeError where it is no integer."""
    number = integer(name, value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return number


def boolean(name: str, value: Any) -> bool:
    """True or False; 1 and 0 are accepted for them."""
    number = scalar(value)
    if not isinstance(number, Real) or number not in (True, False):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(number)


def as_list(name: str, given: Any, what: str) -> list[Any]:
    """The entries of a list that an argument should be. TypeError for anything else."""
    if isinstance(given, (str, bytes, dict)) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list of {what}, got {given!r}")
    return list(given)


def named(
    what: str, given: Any, base: type[T], names: Mapping[str, type[T]], known: Iterable[str] | None = None
) -> T | None:
    """What a name, a class or an object gives, one of `base`; None for everything else. ValueError for a name that is
    not among `names`, of which it lists the `known` ones, all unless given."""
    if isinstance(given, base):
        return given
    if isinstance(given, type) and issubclass(given, base):
        return given()
    if not isinstance(given, str):
        return None
    if given not in names:
        listed = ", ".join(sorted(names if known is None else known))
        raise ValueError(f"{what} {given!r} is unknown; there are {listed}")
    return names[given]()


def free(what: str, names: Iterable[str], taken: Mapping[str, type], home: str) -> None:
    """TypeError where a class of gpunn's own, of a module whose name begins with `home`, has one of the names."""
    for name in names:
        if name in taken and taken[name].__module__.startswith(home):
            raise TypeError(f"gpunn has {what} {name!r} already: give yours another name, files keep it")


def enter(what: str, cls: type[T], names: dict[str, type[T]], home: str) -> None:
    """Enter a class under its `names`. TypeError as `free`."""
    own = vars(cls).get("names", ())
    free(what, own or (cls.__name__,), names, home)
    names.update(dict.fromkeys(own, cls))


class Configured:
    """What its constructor's arguments make of it, by which it is shown and saved."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON."""
        return {}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class Named(Configured):
    """`names` are what strings may call it, the first its own."""

    names: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The name that strings use; a subclass without `names` of its own goes by its class's."""
        return next(iter(vars(type(self)).get("names", ())), type(self).__name__)


def scalar(value: Any) -> Any:
    """A NumPy scalar or a 0-d array as a Python number; any other value unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _real(value: Any) -> float:
    """A real number or a 0-d array as a float; NaN, which is in no range, for everything else."""
    number = scalar(value)
    with contextlib.suppress(OverflowError):
        if isinstance(number, Real) and not isinstance(number, bool):
            return float(number)
    return math.nan


def complete(thing: Any, config: dict[str, Any]) -> dict[str, Any]:
    """`config` if it holds every argument that the thing's class takes, or ValueError: a file would forget it."""
    missing = [name for name in _taken(thing.__class__) if name not in config]
    if missing:
        raise ValueError(
            f"{type(thing).__name__}.get_config() lacks {', '.join(missing)}: a saved file would forget it"
        )
    return config


@functools.cache
def _taken(cls: Any) -> list[str]:
    """The names of the arguments that a class takes."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in inspect.signature(cls).parameters.values() if p.kind in named]
