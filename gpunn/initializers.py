"""Initial values of parameters (E10). Drawn on the host in float64, so that every device starts from the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from .validation import Configured, finite, named

_NAMES: dict[str, type[Initializer]] = {}


class Initializer(Configured):
    """``initializer(shape, generator)`` gives a float64 array of that shape; shape[0] is n_in, shape[-1] n_out."""

    names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in vars(cls).get("names", ()):
            _NAMES[name] = cls

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        """The initial values."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


class Zeros(Initializer):
    """0. All-zero weights never learn behind rectifiers."""

    names = ("zeros",)

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.zeros(shape)


class Ones(Initializer):
    """1."""

    names = ("ones",)

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.ones(shape)


class Constant(Initializer):
    """`value` everywhere."""

    names = ("constant",)

    def __init__(self, value: float = 0.0) -> None:
        self.value = finite("value", value)

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.full(shape, self.value)


class Normal(Initializer):
    """N(mean, stddev²), not truncated."""

    names = ("normal", "random_normal")

    def __init__(self, mean: float = 0.0, stddev: float = 0.05) -> None:
        self.mean, self.stddev = finite("mean", mean), finite("stddev", stddev)
        if self.stddev < 0:
            raise ValueError(f"stddev must be ≥ 0, got {stddev!r}")

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return generator.normal(self.mean, self.stddev, shape)


class Uniform(Initializer):
    """U[minval, maxval)."""

    names = ("uniform", "random_uniform")

    def __init__(self, minval: float = -0.05, maxval: float = 0.05) -> None:
        self.minval, self.maxval = finite("minval", minval), finite("maxval", maxval)
        if self.minval > self.maxval:
            raise ValueError(f"minval must not exceed maxval, got {minval!r} and {maxval!r}")

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return generator.uniform(self.minval, self.maxval, shape)


class _Scaled(Initializer):
    """A variance from the number of inputs and outputs; normal, or uniform on ±√(3σ²)."""

    uniform: ClassVar[bool] = False

    def variance(self, n_in: int, n_out: int) -> float:
        """σ²."""
        raise NotImplementedError

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        variance = self.variance(shape[0], shape[-1])
        if self.uniform:
            bound = math.sqrt(3 * variance)
            return generator.uniform(-bound, bound, shape)
        return generator.normal(0.0, math.sqrt(variance), shape)


class LecunNormal(_Scaled):
    """N(0, 1/n_in), not truncated: E[z²] is the mean square of the neuron's input. (E10; LeCun et al. 1998)"""

    names = ("lecun_normal",)

    def variance(self, n_in: int, n_out: int) -> float:
        return 1 / n_in  # mutate: E10 lecun


class LecunUniform(LecunNormal):
    """U(±√(3/n_in)), variance 1/n_in. (E10)"""

    names = ("lecun_uniform",)
    uniform = True


class GlorotNormal(_Scaled):
    """N(0, 2/(n_in + n_out)), not truncated. (Glorot and Bengio 2010)"""

    names = ("glorot_normal",)

    def variance(self, n_in: int, n_out: int) -> float:
        return 2 / (n_in + n_out)


class GlorotUniform(GlorotNormal):
    """U(±√(6/(n_in + n_out))), variance 2/(n_in + n_out)."""

    names = ("glorot_uniform",)
    uniform = True


class HeNormal(_Scaled):
    """N(0, 2/n_in), not truncated: for rectifiers. (E10; He et al. 2015)"""

    names = ("he_normal",)

    def variance(self, n_in: int, n_out: int) -> float:
        return 2 / n_in  # mutate: E10 he


class HeUniform(HeNormal):
    """U(±√(6/n_in)), variance 2/n_in: for rectifiers. (E10)"""

    names = ("he_uniform",)
    uniform = True


class Orthogonal(Initializer):
    """gain · Q with orthonormal columns (rows, where n_in < n_out), drawn uniformly. (Saxe et al. 2013)"""

    names = ("orthogonal",)

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = finite("gain", gain)

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        if len(shape) != 2:
            raise ValueError(f"orthogonal initial values need a matrix, got shape {shape}")
        tall = generator.normal(size=(max(shape), min(shape)))
        q, r = np.linalg.qr(tall)
        # with the signs of R's diagonal Q is uniform over the orthogonal matrices
        q = q * np.sign(np.diag(r))
        return self.gain * (q if shape[0] >= shape[1] else q.T)


class FunctionInitializer(Initializer):
    """A user's own function (shape, generator) → array of that shape."""

    def __init__(self, function: Callable[[tuple[int, ...], np.random.Generator], Any]) -> None:
        self.function = function

    def __call__(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        values = np.asarray(self.function(shape, generator), dtype=np.float64)
        if values.shape != tuple(shape) or not np.isfinite(values).all():
            raise ValueError(f"initializer {_name(self)} must give finite values of shape {shape}, got {values.shape}")
        return values

    def get_config(self) -> dict[str, Any]:
        return {}

    def __repr__(self) -> str:
        return _name(self)


def get(initializer: str | Initializer | type[Initializer] | Callable[..., Any]) -> Initializer:
    """The initialiser of a name, an object, a class or a user's function. ValueError lists the names there are."""
    found = named("initializer", initializer, Initializer, _NAMES)
    if found is not None:
        return found
    if callable(initializer):
        return FunctionInitializer(initializer)
    raise TypeError(
        f"an initializer must be a name, a gpunn.initializers object or a function, got {type(initializer).__name__}"
    )


def _name(initializer: Initializer) -> str:
    if isinstance(initializer, FunctionInitializer):
        return getattr(initializer.function, "__name__", type(initializer.function).__name__)
    return initializer.names[0] if initializer.names else type(initializer).__name__


def to_config(initializer: Initializer) -> dict[str, Any]:
    """The initialiser as JSON: its name and its numbers."""
    return {"name": _name(initializer), **initializer.get_config()}


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Initializer:
    """The inverse of `to_config`. Initial values were drawn long ago, so a user's own that is not in `custom` becomes
    one that refuses to draw."""
    arguments = {k: v for k, v in config.items() if k != "name"}
    name = config["name"]
    if custom and name in custom:
        return get(custom[name])
    if name in _NAMES:
        return _NAMES[name](**arguments)

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
