"""What every update rule shares: the learning rate's schedule and clipping. A rule replaces E8 only."""

from __future__ import annotations

from typing import Any

from .. import schedules
from ..kernels import get as kernel
from ..kernels._compiler.update_rule import UpdateRule
from ..kernels.state import Slot
from ..recording import Array, Recorder
from ..validation import Checked, named, optional, positive

_NAMES: dict[str, type[Optimizer]] = {}


class Optimizer:
    """An update rule θ ← θ − …: its hyper-parameters, not its state, so one object may serve many nets.

    learning_rate  a number > 0 or a schedule of `gpunn.schedules`
    clipvalue      clip every gradient entry to ±clipvalue first; None for no clipping
    clipnorm       then scale the whole gradient back to this Euclidean norm where it is longer; None for no clipping

    ValueError or TypeError where a hyper-parameter makes no sense.
    """

    name = ""
    rule: UpdateRule
    slots: tuple[str, ...] = ()
    schedule = Checked(lambda _, value: schedules.get(value))
    clipvalue = Checked(optional(positive))
    clipnorm = Checked(optional(positive))

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # a subclass without a name of its own goes by its class's, and takes no other's place
        cls.name = vars(cls).get("name", cls.__name__)
        _NAMES[cls.name] = cls

    def __init__(self, learning_rate: Any, *, clipvalue: float | None = None, clipnorm: float | None = None) -> None:
        self.schedule = learning_rate
        self.clipvalue = clipvalue
        self.clipnorm = clipnorm

    @property
    def learning_rate(self) -> Any:
        """The learning rate as it was given: a number, or the schedule."""
        return self.schedule.learning_rate if type(self.schedule) is schedules.Constant else self.schedule

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.schedule = value

    def hyperparameters(self) -> dict[str, float]:
        """The rule's numbers, by the names that its kernel gives them."""
        return {}

    def plan_key(self) -> Any:
        """The values that a plan records from the rule's attributes. A plan is recorded again if they change.

        The learning rate is not among them: a step reads it from the state array."""
        return self.clipvalue, self.clipnorm, *self.hyperparameters().values()

    def initial_value(self, slot: str) -> float:
        """What a moment is filled with before the first step."""
        return 0.0

    def record_clipping(self, ops: Recorder, g: Array, state: Array) -> None:
        """Record g ← g clipped by value, then by the global norm; nothing unless asked."""
        if self.clipvalue is not None:
            ops(kernel("clip_value"), out=g, limit=self.clipvalue)
        if self.clipnorm is not None:
            ops(kernel("sum_of_squares"), g, state, out=state[Slot.SQUARED_NORM : Slot.SQUARED_NORM + 1])
            ops(kernel("clip_norm"), state, out=g, limit=self.clipnorm)

    def record_bias_correction(self, ops: Recorder, state: Array) -> None:
        """Record what the rule computes once a step, whatever the number of parameters."""

    def record_overflow_check(
        self, ops: Recorder, theta: Array, g: Array, slots: dict[str, Array], state: Array
    ) -> None:
        """Record the trial of the update, which runs only where numbers are large, and its judgement."""
        mine = [slots[m] for m in self.slots]
        probe = state[Slot.UPDATE_PROBE : Slot.UPDATE_PROBE + 1]
        ops(self.rule.probe, g, theta, *mine, state, out=probe, **self.hyperparameters())
        ops(kernel("check_update_finite"), out=state, count=1)

    def record(self, ops: Recorder, theta: Array, g: Array, slots: dict[str, Array], state: Array) -> None:
        """Record the update of θ and the moments, flat buffers all. (E8)"""
        out = (theta, *(slots[m] for m in self.slots))
        held = ops.bf16_view(theta)
        if held is None:
            ops(self.rule.update, g, state, out=out, **self.hyperparameters())
        else:
            ops(self.rule.update_with_bf16_copy, g, state, out=(*out, held), **self.hyperparameters())
            ops.mark_current()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON."""
        common = {"learning_rate": self.schedule.get_config(), "clipvalue": self.clipvalue, "clipnorm": self.clipnorm}
        return common | self.hyperparameters()

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.get_config().items() if k != "learning_rate" and v is not None}
        return f"{type(self).__name__}({self.learning_rate!r}{''.join(f', {k}={v!r}' for k, v in shown.items())})"


def get(optimizer: str | Optimizer | type[Optimizer]) -> Optimizer:
    """The optimiser of a name, an object or a class. ValueError lists the names there are."""
    # names in any case; one that is none is shown as it was given
    lower = optimizer.lower() if isinstance(optimizer, str) else optimizer
    given = lower if isinstance(lower, str) and lower in _NAMES else optimizer
    found = named("optimizer", given, Optimizer, _NAMES, _built_in())
    if found is None:
        raise TypeError(f"optimizer must be a name or a gpunn.optimizers.Optimizer, got {type(optimizer).__name__}")
    return found


def to_config(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser as JSON: its name and its hyper-parameters."""
    return {"name": optimizer.name, **optimizer.get_config()}


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Optimizer:
    """The inverse of `to_config`; `custom` maps the names of the user's own rules and schedules to their classes."""
    arguments = {k: v for k, v in config.items() if k != "name"}
    found = (custom or {}).get(config["name"]) or _NAMES.get(config["name"])
    if found is None:
        raise ValueError(f"optimizer {config['name']!r} is unknown; there are {', '.join(_built_in())}")
    if isinstance(arguments.get("learning_rate"), dict):
        arguments["learning_rate"] = schedules.from_config(arguments["learning_rate"], custom)
    return found(**arguments)


def _built_in() -> list[str]:
    return sorted(name for name, rule in _NAMES.items() if rule.__module__.startswith(f"{__package__}."))
