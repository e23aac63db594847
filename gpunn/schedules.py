"""Schedules: the learning rate η as a function of the optimiser's step t = 0, 1, … (of the epoch with per="epoch")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

from .validation import boolean, free, positive, scalar, unit_interval

_NAMES: dict[str, type[Schedule]] = {}


class Schedule:
    """``schedule(t)`` is η at step t, or at epoch t with per="epoch".

    A schedule of one's own is a subclass with ``__call__(self, t)`` that keeps its constructor's arguments, and
    nothing else, under their names: that is what is saved, and `gpunn.load(…, custom={class name: class})` reads. It is
    pure, so that resuming needs t alone.
    """

    name: ClassVar[str] = ""
    is_constant: ClassVar[bool] = False
    per: str = "step"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # a subclass without a name of its own goes by its class's, and takes no built-in one's place
        cls.name = vars(cls).get("name", cls.__name__)
        free("a schedule", [cls.name], _NAMES, __name__)
        _NAMES[cls.name] = cls
        if "__call__" in vars(cls) and "is_constant" not in vars(cls):
            cls.is_constant = False

    def __init__(self, per: str = "step") -> None:
        if per not in ("step", "epoch"):
            raise ValueError(f'per must be "step" or "epoch", got {per!r}')
        self.per = per

    def __call__(self, t: int) -> float:
        """η at t."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The name and the constructor's arguments, as JSON."""
        return {"name": self.name, **vars(self)}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items() if k != "name")
        return f"{type(self).__name__}({arguments})"


class Constant(Schedule):
    """η(t) = learning_rate."""

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
    """η(t) = η₀ · rate^⌊t/steps⌋."""

    name = "step_decay"

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, decay_rate: float = 0.1, per: str = "step"
    ) -> None:
        super().__init__(per)
        self.initial_learning_rate = positive("initial_learning_rate", initial_learning_rate)
        self.decay_steps = _count("decay_steps", decay_steps)
        self.decay_rate = positive("decay_rate", decay_rate)

    def __call__(self, t: int) -> float:
        return self.initial_learning_rate * self.decay_rate ** (t // self.decay_steps)


class ExponentialDecay(Schedule):
    """η(t) = η₀ · rate^(t/steps); with staircase=True the exponent is ⌊t/steps⌋."""

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
        self.decay_steps = _count("decay_steps", decay_steps)
        self.decay_rate = positive("decay_rate", decay_rate)
        self.staircase = boolean("staircase", staircase)

    def _passed(self, t: int) -> float:
        """t/steps, or ⌊t/steps⌋."""
        return t // self.decay_steps if self.staircase else t / self.decay_steps

    def __call__(self, t: int) -> float:
        factor: float = self.decay_rate ** self._passed(t)
        return self.initial_learning_rate * factor


class InverseTimeDecay(ExponentialDecay):
    """η(t) = η₀ / (1 + rate · t/steps); with staircase=True t/steps is ⌊t/steps⌋."""

    name = "inverse_time_decay"

    def __call__(self, t: int) -> float:
        return self.initial_learning_rate / (1 + self.decay_rate * self._passed(t))


class CosineDecay(Schedule):
    """η(t) = η₀ ((1 − α) · ½(1 + cos(π min(t, T)/T)) + α), T = decay_steps: from η₀ down to αη₀."""

    name = "cosine_decay"

    def __init__(self, initial_learning_rate: float, decay_steps: int, alpha: float = 0.0, per: str = "step") -> None:
        super().__init__(per)
        self.initial_learning_rate = positive("initial_learning_rate", initial_learning_rate)
        self.decay_steps = _count("decay_steps", decay_steps)
        self.alpha = unit_interval("alpha", alpha)

    def __call__(self, t: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(t, self.decay_steps) / self.decay_steps))
        return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)


class PiecewiseConstant(Schedule):
    """η(t) = values[k], k the number of boundaries < t: values[0] up to and at the first boundary, as in Keras."""

    name = "piecewise_constant"

    def __init__(self, boundaries: Sequence[int], values: Sequence[float], per: str = "step") -> None:
        super().__init__(per)
        self.boundaries = [_count("boundaries", b) for b in boundaries]
        self.values = [positive("values", v) for v in values]
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values must hold one more entry than boundaries, got {len(values)} and {len(boundaries)}"
            )
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"boundaries must increase, got {list(boundaries)}")

    def __call__(self, t: int) -> float:
        return self.values[sum(t > b for b in self.boundaries)]

    def get_config(self) -> dict[str, Any]:
        # copies: the lists inside stay this object's
        return {**super().get_config(), "boundaries": list(self.boundaries), "values": list(self.values)}


class Warmup(Schedule):
    """η(t) = s(0) · (t + 1)/W for t < W = warmup_steps, then s(t − W), s the schedule (or number) that follows.

    t counts what s counts; `per` is for a constant s, which counts nothing. ValueError where the two differ.
    """

    name = "warmup"

    def __init__(self, schedule: Schedule | float, warmup_steps: int, per: str | None = None) -> None:
        self.schedule = get(schedule)
        super().__init__(self.schedule.per if per is None else per)
        if self.per != self.schedule.per and not self.schedule.is_constant:
            raise ValueError(f"per must be {self.schedule.per!r}, as in the schedule that follows, got {per!r}")
        self.warmup_steps = _count("warmup_steps", warmup_steps)

    def __call__(self, t: int) -> float:
        if t < self.warmup_steps:
            return self.schedule(0) * (t + 1) / self.warmup_steps
        return self.schedule(t - self.warmup_steps)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "schedule": self.schedule.get_config()}


def get(schedule: Schedule | float) -> Schedule:
    """A schedule as it is, or a number as a constant one. TypeError for anything else."""
    if isinstance(schedule, Schedule):
        return schedule
    number = scalar(schedule)
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"learning_rate must be a number or a gpunn.schedules object, got {schedule!r}")
    return Constant(float(number))


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Schedule:
    """The inverse of `get_config`; `custom` maps the names of the user's own schedules to their classes."""
    arguments = {k: v for k, v in config.items() if k != "name"}
    found = (custom or {}).get(config.get("name", "")) or _NAMES.get(config.get("name", ""))
    if found is None:
        raise ValueError(f"schedule {config.get('name')!r} is unknown; there are {', '.join(sorted(_NAMES))}")
    if isinstance(arguments.get("schedule"), dict):
        arguments["schedule"] = from_config(arguments["schedule"], custom)
    return found(**arguments)


def _count(name: str, value: Any) -> int:
    number = scalar(value)
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
        raise ValueError(f"{name} must be an integer ≥ 1, got {value!r}")
    return int(number)


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
