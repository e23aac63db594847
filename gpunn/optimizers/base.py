"""The base class of optimizers: the learning rate's schedule, and gradient clipping. A subclass replaces E8 only."""

from __future__ import annotations

from typing import Any, ClassVar, TypedDict

from .. import schedules
from ..kernels import UpdateRule
from ..kernels import get as kernel
from ..program import Array, as_tuple
from ..registry import Registry, Versioned
from ..validation import Checked, optional, positive


class Clipping(TypedDict, total=False):
    """The keywords of every optimizer that limit the gradient."""

    clipvalue: float | None
    clipnorm: float | None


class Optimizer(Versioned):
    """An update rule θ ← θ − … for the flat parameter vector θ, with gradient g = ∂C/∂θ. (E8)

    An object has hyperparameters only. The network stores the slots, so that one object may serve many networks. There
    are three ways to write an optimizer:

    - A subclass of a built-in optimizer changes its hyperparameters.
    - A subclass sets `rule`, kernels that `gpunn.kernels.update_rule` declares, and `slots`. It overrides
      `hyperparameters` if the kernels have constants.
    - A subclass with ``opaque = True`` defines ``update(t)`` with NumPy's functions. It sets ``t.theta`` and each slot
      ``t.SLOT``. No op is fused with it, and `Sequential.summary` reports it. An update by operators and kernels need
      not be opaque, but only kernels read the learning rate then.

    `update` is given `t`. Its values have the network's dtype, except the state array:

    ===================  ===================================================================================
    ``t.theta``          (p,), parameters that one call updates: all trainable ones, or a range of them
    ``t.g``              (p,), their gradient, clipped
    ``t.SLOT``           (p,), each slot; `initial_value` before the first step
    ``t.are_weights``    bool, True for weights, False for intercepts, γ and β; with `separates_weights`
    ``t.state``          float64, the state array, which only kernels read; if not opaque
    ``t.learning_rate``  float, η of this step; if opaque
    ``t.step``           int, the number of steps before this one; if opaque
    ===================  ===================================================================================

    An opaque update must not change the arrays it is given, but set new ones. They are stored only if the loss, the
    gradient and the new values are finite.

    A subclass whose constructor has more arguments adds them to `get_config`, with `Optimizer.get_config` for the first
    three. A new value of one of them takes effect at the next step. A saved network stores `name` and `get_config`;
    ``gpunn.load(…, custom={name: class})`` restores it.

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
    rule : UpdateRule or None
        The kernels of the update.
    slots : tuple of str
        The names of the state arrays, each as long as θ, such as ("m", "v").
    opaque : bool
        True if `update` takes arrays only.
    separates_weights : bool
        True if one call of `update` is given weights, and another call the other parameters. False by default.

    Raises
    ------
    ValueError, TypeError
        If a hyperparameter is invalid.

    Examples
    --------
    >>> class SlowAdam(gpunn.Adam):
    ...     def __init__(self, learning_rate=1e-4, **options):
    ...         super().__init__(learning_rate, **options)

    >>> class SignDescent(gpunn.Optimizer):
    ...     opaque = True
    ...     slots = ("m",)
    ...
    ...     def __init__(self, learning_rate=1e-3, **clipping):
    ...         super().__init__(learning_rate, **clipping)
    ...
    ...     def update(self, t):
    ...         t.m = 0.9 * t.m + 0.1 * t.g
    ...         t.theta = t.theta - t.learning_rate * np.sign(t.m)
    """

    name = ""
    rule: UpdateRule | None = None
    slots: tuple[str, ...] = ()
    opaque = False
    separates_weights = False
    keyword_hints: ClassVar[dict[str, str]] = {
        "lr": "learning_rate",
        "momentum": "gpunn.Momentum(momentum=…)",
        "nesterov": "gpunn.Nesterov()",
        "weight_decay": "gpunn.AdamW(weight_decay=…)",
    }
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

    def hyperparameters(self) -> dict[str, Any]:
        """The constants of the update rule, by their names in its kernel."""
        return {}

    def hyperparameters_of(self, t: Any) -> dict[str, Any]:
        """The constants of the update rule for the parameters of t, the same for all by default."""
        return self.hyperparameters()

    def step_key(self) -> Any:
        """The attributes that a recorded step depends on. The step is recorded again when they change.

        The learning rate is not one of them: a step reads it from the state array.
        """
        key = self.clipvalue, self.clipnorm, *self.hyperparameters().values()
        if self.rule is not None:
            return key
        return *key, repr({k: v for k, v in self.get_config().items() if k != "learning_rate"})

    def initial_value(self, slot: str) -> float:
        """The value of a slot before the first step."""
        return 0.0

    def clip(self, g: Array, state: Array) -> Array:
        """Return g, clipped by value, then by the norm over all parameters, as far as they are set."""
        if self.clipvalue is not None:
            g = kernel("clip_value")(g, limit=self.clipvalue)
        if self.clipnorm is not None:
            squared_norm = kernel("sum_of_squares")(g, state)
            g = kernel("clip_norm")(squared_norm, state, g, limit=self.clipnorm)
        return g

    def bias_correction(self, state: Array) -> None:
        """Compute scalars that the rule needs once per step in the state array, such as Adam's 1/(1 − β₁ᵗ)."""

    @property
    def uses_rule(self) -> bool:
        """True if the kernels of `rule` compute the update, and so can check it before it is written."""
        return self.rule is not None and not self.opaque and type(self).update is Optimizer.update

    def update(self, t: Any) -> None:
        """Set θ and the slots. (E8)"""
        written = ("theta", *self.slots)
        values = (getattr(t, name) for name in written)
        results = self._rule().update(t.g, t.state, *values, **self.hyperparameters_of(t))
        for name, value in zip(written, as_tuple(results), strict=True):
            setattr(t, name, value)

    def probe(self, t: Any) -> Array:
        """Return one number that is finite if the update is. It is computed only if numbers are near overflow."""
        slots = (getattr(t, name) for name in self.slots)
        return self._rule().probe(t.g, t.theta, *slots, t.state, **self.hyperparameters_of(t))

    def _rule(self) -> UpdateRule:
        if self.rule is None:
            raise NotImplementedError(
                f"{type(self).__name__} must define rule, or opaque = True and update(self, t); see gpunn.Optimizer"
            )
        return self.rule

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
