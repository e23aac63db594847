"""Initializers: the initial values of parameters (E10).

They are drawn on the host in float64, so that every device starts from the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from .registry import Configured, Registry, names_of
from .validation import finite, nonnegative


class Initializer(Configured):
    """The initial values of a parameter, ``initializer(shape, generator)``. (E10)

    The simplest custom initializer is a function of these two arguments: see `FunctionInitializer`. A subclass defines
    ``__call__`` and keeps its constructor's arguments as attributes of the same names.

    Attributes
    ----------
    names : tuple of str
        The names that strings may use. Files store the first one, or the name of the class if there are none.

    Examples
    --------
    >>> class Checkerboard(gpunn.initializers.Initializer):
    ...     def __call__(self, shape, generator):
    ...         return np.indices(shape).sum(axis=0) % 2 - 0.5
    """

    names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        REGISTRY.register(cls, *names_of(cls))

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        """Draw the values.

        Parameters
        ----------
        shape : tuple of int
            shape[0] is n_in, shape[-1] is n_out.
        generator : numpy.random.Generator

        Returns
        -------
        array
            float64, of that shape.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, shape, generator)")

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


REGISTRY: Registry[Initializer] = Registry("initializer", Initializer, __name__, "function")


class Zeros(Initializer):
    """Zeros. A layer of rectifiers with such weights does not learn."""

    names = ("zeros",)

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.zeros(shape)


class Ones(Initializer):
    """Ones."""

    names = ("ones",)

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.ones(shape)


class Constant(Initializer):
    """One value everywhere.

    Parameters
    ----------
    value : float
    """

    names = ("constant",)

    def __init__(self, value: float = 0.0) -> None:
        self.value = finite("value", value)

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.full(shape, self.value)


class Normal(Initializer):
    """Normally distributed values, N(mean, stddev²), not truncated.

    Parameters
    ----------
    mean : float
    stddev : float
        The standard deviation, ≥ 0.
    """

    names = ("normal", "random_normal")

    def __init__(self, mean: float = 0.0, stddev: float = 0.05) -> None:
        self.mean = finite("mean", mean)
        self.stddev = nonnegative("stddev", stddev)

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return generator.normal(self.mean, self.stddev, shape)


class Uniform(Initializer):
    """Uniformly distributed values, U[minval, maxval).

    Parameters
    ----------
    minval, maxval : float
        minval ≤ maxval.
    """

    names = ("uniform", "random_uniform")

    def __init__(self, minval: float = -0.05, maxval: float = 0.05) -> None:
        self.minval = finite("minval", minval)
        self.maxval = finite("maxval", maxval)
        if self.minval > self.maxval:
            raise ValueError(f"minval must be ≤ maxval, got {minval!r} and {maxval!r}")

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return generator.uniform(self.minval, self.maxval, shape)


class _VarianceScaling(Initializer):
    """A variance σ² that depends on the number of inputs and outputs: N(0, σ²), or uniform on ±√(3σ²)."""

    uniform: ClassVar[bool] = False

    def variance(self, n_in: int, n_out: int) -> float:
        """The variance σ²."""
        raise NotImplementedError

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        variance = self.variance(shape[0], shape[-1])
        if self.uniform:
            bound = math.sqrt(3 * variance)
            return generator.uniform(-bound, bound, shape)
        return generator.normal(0.0, math.sqrt(variance), shape)


class LecunNormal(_VarianceScaling):
    """N(0, 1/n_in), not truncated, so that E[z²] is the mean square of the inputs. (E10; LeCun et al. 1998)"""

    names = ("lecun_normal",)

    def variance(self, n_in: int, n_out: int) -> float:
        return 1 / n_in  # mutate: E10 lecun


class LecunUniform(LecunNormal):
    """U(±√(3/n_in)), with variance 1/n_in. (E10)"""

    names = ("lecun_uniform",)
    uniform = True


class GlorotNormal(_VarianceScaling):
    """N(0, 2/(n_in + n_out)), not truncated. (Glorot and Bengio 2010)"""

    names = ("glorot_normal",)

    def variance(self, n_in: int, n_out: int) -> float:
        return 2 / (n_in + n_out)


class GlorotUniform(GlorotNormal):
    """U(±√(6/(n_in + n_out))), with variance 2/(n_in + n_out)."""

    names = ("glorot_uniform",)
    uniform = True


class HeNormal(_VarianceScaling):
    """N(0, 2/n_in), not truncated, for rectifiers. (E10; He et al. 2015)"""

    names = ("he_normal",)

    def variance(self, n_in: int, n_out: int) -> float:
        return 2 / n_in  # mutate: E10 he


class HeUniform(HeNormal):
    """U(±√(6/n_in)), with variance 2/n_in, for rectifiers. (E10)"""

    names = ("he_uniform",)
    uniform = True


class Orthogonal(Initializer):
    """A uniformly drawn gain · Q with orthonormal columns, or rows if n_in < n_out. (Saxe et al. 2013)

    Parameters
    ----------
    gain : float
    """

    names = ("orthogonal",)

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = finite("gain", gain)

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        if len(shape) != 2:
            raise ValueError(f"the orthogonal initializer needs a matrix, got shape {shape}")
        tall = generator.normal(size=(max(shape), min(shape)))
        q, r = np.linalg.qr(tall)
        # the signs of R's diagonal make Q uniform over the orthogonal matrices
        q = q * np.sign(np.diag(r))
        return self.gain * (q if shape[0] >= shape[1] else q.T)


class FunctionInitializer(Initializer):
    """An initializer that is a Python function.

    Parameters
    ----------
    function : callable
        ``function(shape, generator)`` returns finite values of that shape. Anything else is a ValueError when the
        parameter is drawn.
    """

    def __init__(self, function: Callable[[tuple[int, ...], np.random.Generator], Any]) -> None:
        self.function = function

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        values = np.asarray(self.function(shape, generator), dtype=np.float64)
        if values.shape != tuple(shape) or not np.isfinite(values).all():
            raise ValueError(f"initializer {self!r} must return finite values of shape {shape}, got {values.shape}")
        return values

    def get_config(self) -> dict[str, Any]:
        return {}

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


def get(initializer: str | Initializer | type[Initializer] | Callable[..., Any]) -> Initializer:
    """Return an initializer from its name, an object, a class or a function.

    Parameters
    ----------
    initializer : str, Initializer, class or callable
        A function becomes a `FunctionInitializer`.

    Returns
    -------
    Initializer

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the built-in names.
    TypeError
        If the argument is anything else.
    """
    found = REGISTRY.get(initializer)
    if found is not None:
        return found
    if callable(initializer):
        return FunctionInitializer(initializer)
    raise TypeError(
        f"initializer must be a name, a gpunn.initializers object or a function, got {type(initializer).__name__}"
    )


def to_config(initializer: Initializer) -> dict[str, Any]:
    """Describe an initializer as JSON: its name and its numbers."""
    return {"name": _name(initializer), **initializer.get_config()}


def _name(initializer: Initializer) -> str:
    if isinstance(initializer, FunctionInitializer):
        return repr(initializer)
    return initializer.names[0] if initializer.names else type(initializer).__name__


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Initializer:
    """Make the initializer that `to_config` described. `custom` maps the names of user initializers to them.

    The values of a stored network are already drawn, so an unknown name is no error here: the result raises ValueError
    when it is asked to draw.
    """
    name = config["name"]
    if custom and name in custom:
        return get(custom[name])
    if name in REGISTRY.classes:
        return REGISTRY.from_config(config)

    def unknown(shape: tuple[int, ...], generator: np.random.Generator) -> Any:
        raise ValueError(f"initializer {name!r} is not built in: pass custom={{{name!r}: the function}} to load")

    unknown.__name__ = name
    return FunctionInitializer(unknown)


__all__ = [
    "Constant",
    "FunctionInitializer",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Normal",
    "Ones",
    "Orthogonal",
    "Uniform",
    "Zeros",
    "from_config",
    "get",
    "to_config",
]


def __dir__() -> list[str]:
    return __all__
