"""Registries of named classes: one each for activations, losses, metrics, optimizers, initializers, schedules, layers.

Strings such as ``"relu"`` and the configurations in files name classes. A subclass registers itself when it is defined:
its base class calls `Registry.register` from `__init_subclass__`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one kind, by the names that strings and files use.

    Parameters
    ----------
    kind : str
        The word for such a class in error messages, such as "activation".
    base : type
        Their base class.
    home : str
        The module or package of the built-in classes, whose names `check_free` reserves.
    definition : str
        The kind of object that `custom` dictionaries contain, for error messages.
    """

    def __init__(self, kind: str, base: type[T], home: str, definition: str = "class") -> None:
        self.kind, self.base, self.home, self.definition = kind, base, home, definition
        self.classes: dict[str, type[T]] = {}

    def register(self, cls: type[T], *names: str) -> None:
        """Add a class under its names."""
        self.classes.update(dict.fromkeys(names, cls))

    def check_free(self, names: Iterable[str]) -> None:
        """Check that no built-in class has one of these names, which files store. TypeError if one has."""
        for name in names:
            if name in self.classes and self._is_built_in(self.classes[name]):
                raise TypeError(
                    f"{self.kind} {name!r} exists already in gpunn; files store the name, so choose another"
                )

    def built_in(self) -> list[str]:
        """The sorted names of the built-in classes."""
        return sorted(name for name, cls in self.classes.items() if self._is_built_in(cls))

    def get(self, given: Any) -> T | None:
        """Return the object for a name, a class or an object, and None for anything else.

        ValueError for an unknown name; it suggests a similar one and lists the built-in ones.
        """
        if not isinstance(given, str):
            if isinstance(given, type) and issubclass(given, self.base):
                return given()
            return given if isinstance(given, self.base) else None
        if given not in self.classes:
            similar = "".join(f"did you mean {name!r}? " for name in close_names(given, self.classes))
            raise ValueError(f"{self.kind} {given!r} is unknown; {similar}there are {', '.join(self.built_in())}")
        return self.classes[given]()

    def find(self, name: Any, custom: dict[str, Any] | None = None) -> Any:
        """Return the class of a name in a file. `custom` maps the names of user classes to them, and has priority.

        ValueError for a name that neither has.
        """
        found = (custom or {}).get(name) or self.classes.get(name)
        if found is None:
            raise ValueError(
                f"{self.kind} {name!r} is not built in: pass custom={{{name!r}: its {self.definition}}}; "
                f"there are {', '.join(self.built_in())}"
            )
        return found

    def from_config(self, config: dict[str, Any], custom: dict[str, Any] | None = None, *, key: str = "name") -> T:
        """Make the object that a configuration describes: `config[key]` names its class, the rest are arguments.

        `custom` may contain an object instead of a class.
        """
        found = self.find(config[key], custom)
        if isinstance(found, self.base):
            return found
        made: T = found(**{k: v for k, v in config.items() if k != key})
        return made

    def _is_built_in(self, cls: type) -> bool:
        return f"{cls.__module__}.".startswith(f"{self.home}.")


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the known name that is most similar to a misspelled one, as a list of at most one entry."""
    return difflib.get_close_matches(name.lower(), known, n=1)


class KeywordChecked:
    """An object whose constructor reports an unknown keyword with the name of the class, and suggests another one.

    Attributes
    ----------
    keyword_hints : dict
        What to suggest for keywords of other libraries, by keyword.
    """

    keyword_hints: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _with_known_keywords(vars(cls)["__init__"])  # type: ignore[method-assign]


class Configured(KeywordChecked):
    """An object that its constructor's arguments describe: `repr` shows them, files store them."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON."""
        return {}

    def as_argument(self) -> str:
        """The Python text of this object as an argument: a name if the name alone makes it, otherwise its repr."""
        names = names_of(type(self))
        return repr(names[0]) if names and not _non_defaults(type(self), self.get_config()) else repr(self)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def call_text(cls: type, arguments: dict[str, Any]) -> str:
    """The call of a constructor as Python text, with the arguments that differ from their defaults."""
    shown = _non_defaults(cls, arguments).items()
    required = {p.name for p in _parameters(cls).values() if p.default is p.empty}
    return f"{cls.__name__}({', '.join(text if name in required else f'{name}={text}' for name, text in shown)})"


def _non_defaults(cls: type, arguments: dict[str, Any]) -> dict[str, str]:
    """The arguments of a constructor that differ from their defaults, as Python text."""
    texts = {k: v.as_argument() if isinstance(v, Configured) else repr(v) for k, v in arguments.items()}
    parameters = _parameters(cls)
    return {k: text for k, text in texts.items() if k not in parameters or text != repr(parameters[k].default)}


def _with_known_keywords(constructor: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor, so that TypeError for an unknown keyword names the class of the object."""
    parameters = inspect.signature(constructor).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return constructor  # passes the keyword to the constructor of its base class
    known = {p.name for p in parameters}

    @functools.wraps(constructor)
    def checked(self: KeywordChecked, *args: Any, **keywords: Any) -> None:
        for name in keywords:
            if name not in known:
                raise TypeError(_unknown_keyword(type(self), name, known))
        constructor(self, *args, **keywords)

    return checked


def _unknown_keyword(cls: Any, name: str, known: Iterable[str]) -> str:
    arguments = [k for k in dict.fromkeys([*_arguments_of(cls), *sorted(known)]) if k != "self"]
    hint = next(iter([cls.keyword_hints[name]] if name in cls.keyword_hints else close_names(name, arguments)), None)
    remedy = f"did you mean {hint}?" if hint else f"its arguments are {', '.join(arguments)}"
    return f"{cls.__name__} has no argument {name!r}; {remedy}"


class Versioned(Configured):
    """An object that counts how often its attributes were set, so that a change is found without comparing values."""

    _built_in = False  # True for gpunn's classes
    _attribute_version = 0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._built_in = cls.__module__.startswith("gpunn.")

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        self.__dict__["_attribute_version"] = self._attribute_version + 1


def attribute_versions(owners: Iterable[Versioned]) -> list[object]:
    """The number of times that an attribute of each object was set.

    For a user's class also its configuration, which may change without setting an attribute.
    """
    return [o._attribute_version if o._built_in else (o._attribute_version, repr(o.get_config())) for o in owners]


class Named(Configured):
    """A configured object with names. Strings may use each of `names`; the first one is shown and stored."""

    names: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The first of the class's own `names`, or the name of the class if it defines none."""
        return name_of(type(self))


def names_of(cls: type) -> tuple[str, ...]:
    """The `names` that a class itself defines. A subclass does not inherit them."""
    own: tuple[str, ...] = vars(cls).get("names", ())
    return own


def name_of(cls: type) -> str:
    """The name that files store for a class: the first of its own `names`, or its `__name__`."""
    names = names_of(cls)
    return names[0] if names else cls.__name__


def check_config(thing: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Return `config`. ValueError if it lacks an argument of the constructor, which a file would lose."""
    missing = [name for name in _arguments_of(thing.__class__) if name not in config]
    if missing:
        raise ValueError(f"{type(thing).__name__}.get_config() lacks {', '.join(missing)}: a saved file would lose it")
    return config


@functools.cache
def _parameters(cls: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls).parameters


def _arguments_of(cls: Any) -> list[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in _parameters(cls).values() if p.kind in named]
