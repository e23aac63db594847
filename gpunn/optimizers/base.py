"""The base class of optimizers: the learning rate's schedule, and gradient clipping. A subclass replaces E8 only."""

from __future__ import annotations

from typing import Any

from .. import schedules
from ..kernels import UpdateRule
from ..kernels import get as kernel
from ..kernels.state import StateEntry
from ..recording import Array, Recorder
from ..registry import Registry
from ..validation import Checked, optional, positive


class Optimizer:
    """An update rule θ ← θ − … for the flat parameter vector θ, with gradient g = ∂C/∂θ. (E8)

    An object has hyperparameters only. The network stores the state, so that one object may serve many networks.

    A subclass sets `rule`, a kernel that `gpunn.kernels.update_rule` declares, and `slots`. It overrides
    `hyperparameters` if the kernel has constants. A subclass of a built-in optimizer can change its hyperparameters.

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0, or a schedule of `gpunn.schedules`.
    clipvalue : float or None
        Clips every entry of the gradient to ±clipvalue first.
    clipnorm : float or None
        Then scales the gradient of all parameters back to this Euclidean norm if it is longer.

    Attributes
    ----------
    name : str
        The name that strings and files use; the name of the class if a subclass does not set it.
    rule : UpdateRule
        The kernels of the update.
    slots : tuple of str
        The names of the state arrays, each as long as θ, such as ("m", "v").

    Raises
    ------
    ValueError, TypeError
        If a hyperparameter is invalid.

    Examples
    --------
    >>> class SlowAdam(gpunn.Adam):
    ...     def __init__(self, learning_rate=1e-4, **options):
    ...         super().__init__(learning_rate, **options)
    """

    name = ""
    rule: UpdateRule
    slots: tuple[str, ...] = ()
    schedule = Checked(lambda _, value: schedules.get(value))
    clipvalue = Checked(optional(positive))
    clipnorm = Checked(optional(positive))

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # the name is not inherited: files would restore the parent class
        cls.name = vars(cls).get("name", cls.__name__)
        REGISTRY.register(cls, cls.name)

    def __init__(self, learning_rate: Any, *, clipvalue: float | None = None, clipnorm: float | None = None) -> None:
        self.schedule = learning_rate
        self.clipvalue = clipvalue
        self.clipnorm = clipnorm

    @property
    def learning_rate(self) -> Any:
        """The learning rate as given: a number or a schedule."""
        return self.schedule.learning_rate if type(self.schedule) is schedules.Constant else self.schedule

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.schedule = value

    def hyperparameters(self) -> dict[str, float]:
        """The constants of the update rule, by their names in its kernel."""
        return {}

    def plan_key(self) -> Any:
        """The attributes that a recorded step depends on. The step is recorded again when they change.

        The learning rate is not one of them: a step reads it from the state array.
        """
        return self.clipvalue, self.clipnorm, *self.hyperparameters().values()

    def initial_value(self, slot: str) -> float:
        """The value of a slot before the first step."""
        return 0.0

    def record_clipping(self, ops: Recorder, g: Array, state: Array) -> None:
        """Record the clipping of g by value, then by the norm over all parameters, as far as they are set."""
        if self.clipvalue is not None:
            ops(kernel("clip_value"), out=g, limit=self.clipvalue)
        if self.clipnorm is not None:
            ops(kernel("sum_of_squares"), g, state, out=state[StateEntry.SQUARED_NORM : StateEntry.SQUARED_NORM + 1])
            ops(kernel("clip_norm"), state, out=g, limit=self.clipnorm)

    def record_bias_correction(self, ops: Recorder, state: Array) -> None:
        """Record scalars that the rule needs once per step, such as Adam's 1/(1 − β₁ᵗ)."""

    def record_overflow_check(
        self, ops: Recorder, theta: Array, g: Array, slots: dict[str, Array], state: Array
    ) -> None:
        """Record a check of the update before it is written. It runs only if numbers are near the overflow limit."""
        slot_arrays = [slots[name] for name in self.slots]
        probe = state[StateEntry.UPDATE_PROBE : StateEntry.UPDATE_PROBE + 1]
        ops(self.rule.probe, g, theta, *slot_arrays, state, out=probe, **self.hyperparameters())
        ops(kernel("check_update_finite"), out=state, count=1)

    def record(self, ops: Recorder, theta: Array, g: Array, slots: dict[str, Array], state: Array) -> None:
        """Record the update of θ and the slots, which are flat buffers. (E8)"""
        out = (theta, *(slots[name] for name in self.slots))
        theta_bf16 = ops.bf16_copy(theta)
        if theta_bf16 is None:
            ops(self.rule.update, g, state, out=out, **self.hyperparameters())
        else:
            ops(self.rule.update_with_bf16_copy, g, state, out=(*out, theta_bf16), **self.hyperparameters())
            ops.mark_current()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON."""
        common = {"learning_rate": self.schedule.get_config(), "clipvalue": self.clipvalue, "clipnorm": self.clipnorm}
        return common | self.hyperparameters()

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.get_config().items() if k != "learning_rate" and v is not None}
        return f"{type(self).__name__}({self.learning_rate!r}{''.join(f', {k}={v!r}' for k, v in shown.items())})"


REGISTRY: Registry[Optimizer] = Registry("optimizer", Optimizer, __package__)


def get(optimizer: str | Optimizer | type[Optimizer]) -> Optimizer:
    """Return an optimizer from its name in any case, an object or a class.

    Parameters
    ----------
    optimizer : str, Optimizer or class

    Returns
    -------
    Optimizer

    Raises
    ------
    ValueError
        If the name is unknown. The message lists the built-in names.
    TypeError
        If the argument is anything else.
    """
    # an unknown name is reported as it was given
    lower = optimizer.lower() if isinstance(optimizer, str) else ""
    found = REGISTRY.get(lower if lower in REGISTRY.classes else optimizer)
    if found is None:
        raise TypeError(f"optimizer must be a name or a gpunn.optimizers.Optimizer, got {type(optimizer).__name__}")
    return found


def to_config(optimizer: Optimizer) -> dict[str, Any]:
    """Describe an optimizer as JSON: its name and its hyperparameters."""
    return {"name": optimizer.name, **optimizer.get_config()}


def from_config(config: dict[str, Any], custom: dict[str, Any] | None = None) -> Optimizer:
    """Make the optimizer that `to_config` described. `custom` maps the names of user rules and schedules to classes."""
    found = REGISTRY.find(config["name"], custom)
    arguments = {k: v for k, v in config.items() if k != "name"}
    if isinstance(arguments.get("learning_rate"), dict):
        arguments["learning_rate"] = schedules.from_config(arguments["learning_rate"], custom)
    made: Optimizer = found(**arguments)
    return made
