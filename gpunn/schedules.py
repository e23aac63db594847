"""Schedules: the learning rate η as a function of the optimizer's step t = 0, 1, …, or of the epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

from .registry import Configured, Registry
from .validation import boolean, one_of, positive, positive_integer, scalar, unit_interval

_unit = one_of("step", "epoch")


class Schedule(Configured):
    """A schedule of the learning rate: ``schedule(t)`` is η at step t, or at epoch t with per="epoch".

    A subclass defines ``__call__``. It keeps its constructor's arguments, and nothing else, as attributes of the same
    names: files store them, and ``gpunn.load(…, custom={class name: class})`` reads them. The result depends on t
    alone, so that a resumed fit continues with the same rates.

    Parameters
    ----------
    per : {"step", "epoch"}
        The unit of t.

    Attributes
    ----------
    name : str
        The name that files store; the name of the class if a subclass does not set it.
    is_constant : bool
        True if η does not depend on t.

    Examples
    --------
    >>> class Halving(gpunn.schedules.Schedule):
    ...     def __init__(self, start, per="epoch"):
    ...         super().__init__(per)
    ...         self.start = start
    ...
    ...     def __call__(self, t):
    ...         return self.start / 2**t
    """

    name: ClassVar[str] = ""
    is_constant: ClassVar[bool] = False
    per: str = "step"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # the name is not inherited: files would restore the parent class
        cls.name = vars(cls).get("name", cls.__name__)
        REGISTRY.check_free([cls.name])
        REGISTRY.register(cls, cls.name)
        if "__call__" in vars(cls) and "is_constant" not in vars(cls):
            cls.is_constant = False

    def __init__(self, per: str = "step") -> None:
        self.per = _unit("per", per)

    def __call__(self, t: int) -> float:
        """Return η at t."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, t)")

    def get_config(self) -> dict[str, Any]:
        """The name and the constructor's arguments, as JSON."""
        return {"name": self.name, **vars(self)}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items() if k != "name")
        return f"{type(self).__name__}({arguments})"


REGISTRY: Registry[Schedule] = Registry("schedule", Schedule, __name__)


class Constant(Schedule):
    """A constant rate, η(t) = learning_rate.

    Parameters
    ----------
    learning_rate : float
        A number > 0.
    """

    name = "constant"
    is_constant = True

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = positive("learning_rate", learning_rate)

    def __call__(self, t: int) -> float:
        return self.learning_rate

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "learning_rate": self.learning_rate}


class StepDecay(Schedule):
    """Decay in steps, η(t) = η₀ · rate^⌊t/steps⌋.

    Parameters
    ----------
    initial_learning_rate : float
        η₀ > 0.
    decay_steps : int
        The number ≥ 1 of steps between two decays.
    decay_rate : float
        The factor > 0.
    per : {"step", "epoch"}
        The unit of t.
    """

    name = "step_decay"

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, decay_rate: float = 0.1, per: str = "step"
    ) -> None:
        super().__init__(per)
        self.initial_learning_rate = positive("initial_learning_rate", initial_learning_rate)
        self.decay_steps = positive_integer("decay_steps", decay_steps)
        self.decay_rate = positive("decay_rate", decay_rate)

    def __call__(self, t: int) -> float:
        return self.initial_learning_rate * self.decay_rate ** (t // self.decay_steps)


class ExponentialDecay(Schedule):
    """Exponential decay, η(t) = η₀ · rate^(t/steps).

    Parameters
    ----------
    initial_learning_rate : float
        η₀ > 0.
    decay_steps : int
        The number ≥ 1 of steps in which η is multiplied by `decay_rate`.
    decay_rate : float
        The factor > 0.
    staircase : bool
        True makes the exponent ⌊t/steps⌋.
    per : {"step", "epoch"}
        The unit of t.
    """

    name = "exponential_decay"

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        per: str = "step",
    ) -> None:
        super().__init__(per)
        self.initial_learning_rate = positive("initial_learning_rate", initial_learning_rate)
        self.decay_steps = positive_integer("decay_steps", decay_steps)
        self.decay_rate = positive("decay_rate", decay_rate)
        self.staircase = boolean("staircase", staircase)

    def _exponent(self, t: int) -> float:
        """Return t/steps, or ⌊t/steps⌋."""
        return t // self.decay_steps if self.staircase else t / self.decay_steps

    def __call__(self, t: int) -> float:
        factor: float = self.decay_rate ** self._exponent(t)
        return self.initial_learning_rate * factor


class InverseTimeDecay(ExponentialDecay):
    """Inverse time decay, η(t) = η₀ / (1 + rate · t/steps).

    The parameters are those of `ExponentialDecay`; with staircase=True, t/steps is ⌊t/steps⌋.
    """

    name = "inverse_time_decay"

    def __call__(self, t: int) -> float:
        return self.initial_learning_rate / (1 + self.decay_rate * self._exponent(t))


class CosineDecay(Schedule):
    """Cosine decay from η₀ to αη₀, η(t) = η₀ ((1 − α) · ½(1 + cos(π min(t, T)/T)) + α), T = decay_steps.

    Parameters
    ----------
    initial_learning_rate : float
        η₀ > 0.
    decay_steps : int
        The number T ≥ 1 of steps after which η is constant.
    alpha : float
        α in [0, 1].
    per : {"step", "epoch"}
        The unit of t.
    """

    name = "cosine_decay"

    def __init__(self, initial_learning_rate: float, decay_steps: int, alpha: float = 0.0, per: str = "step") -> None:
        super().__init__(per)
        self.initial_learning_rate = positive("initial_learning_rate", initial_learning_rate)
        self.decay_steps = positive_integer("decay_steps", decay_steps)
        self.alpha = unit_interval("alpha", alpha)

    def __call__(self, t: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(t, self.decay_steps) / self.decay_steps))
        return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)


class PiecewiseConstant(Schedule):
    """Constant pieces, η(t) = values[k], k the number of boundaries < t. At a boundary the earlier value applies.

    The convention is that of Keras.

    Parameters
    ----------
    boundaries : sequence of int
        Increasing numbers ≥ 1.
    values : sequence of float
        One rate > 0 more than boundaries.
    per : {"step", "epoch"}
        The unit of t.
    """

    name = "piecewise_constant"

    def __init__(self, boundaries: Sequence[int], values: Sequence[float], per: str = "step") -> None:
        super().__init__(per)
        self.boundaries = [positive_integer(f"boundaries[{k}]", b) for k, b in enumerate(boundaries)]
        self.values = [positive(f"values[{k}]", v) for k, v in enumerate(values)]
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values must have one more entry than boundaries, got {len(values)} and {len(boundaries)}"
            )
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"boundaries must increase, got {list(boundaries)}")

    def __call__(self, t: int) -> float:
        return self.values[sum(t > b for b in self.boundaries)]

    def get_config(self) -> dict[str, Any]:
        # copies, so that a caller cannot change this object's lists
        return {**super().get_config(), "boundaries": list(self.boundaries), "values": list(self.values)}


class Warmup(Schedule):
    """Linear warmup, η(t) = s(0) · (t + 1)/W for t < W, then s(t − W).

    Parameters
    ----------
    schedule : Schedule or float
        s, the schedule or rate after the warmup.
    warmup_steps : int
        W ≥ 1.
    per : {"step", "epoch"} or None
        The unit of t for a constant s. Another s has a unit; ValueError if `per` differs from it.
    """

    name = "warmup"

    def __init__(self, schedule: Schedule | float, warmup_steps: int, per: str | None = None) -> None:
        self.schedule = get(schedule)
        super().__init__(self.schedule.per if per is None else per)
        if self.per != self.schedule.per and not self.schedule.is_constant:
            raise ValueError(f"per must be {self.schedule.per!r}, as in the schedule after the warmup, got {per!r}")
        self.warmup_steps = positive_integer("warmup_steps", warmup_steps)

    def __call__(self, t: int) -> float:
        if t < self.warmup_steps:
            return self.schedule(0) * (t + 1) / self.warmup_steps
        return self.schedule(t - self.warmup_steps)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "schedule": self.schedule.get_config()}


def get(schedule: Schedule | float) -> Schedule:
    """Return a schedule unchanged, and a number as a constant schedule.

    Parameters
    ----------
    schedule : Schedule or float

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        If a number is not finite and > 0.
    TypeError
        If the argument is anything else.
    """
    if isinstance(schedule, Schedule):
        return schedule
    number = scalar(schedule)
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"learning_rate must be a number or a gpunn.schedules object, got {schedule!r}")
    return Constant(float(number))


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Schedule:
    """Make the schedule that `get_config` described. `custom` maps the names of user schedules to their classes."""
    found = REGISTRY.find(config.get("name"), custom)
    arguments = {k: v for k, v in config.items() if k != "name"}
    if isinstance(arguments.get("schedule"), dict):
        arguments["schedule"] = from_config(arguments["schedule"], custom)
    made: Schedule = found(**arguments)
    return made


__all__ = [
    "Constant",
    "CosineDecay",
    "ExponentialDecay",
    "InverseTimeDecay",
    "PiecewiseConstant",
    "Schedule",
    "StepDecay",
    "Warmup",
    "from_config",
    "get",
]


def __dir__() -> list[str]:
    return __all__
