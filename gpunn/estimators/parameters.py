"""Parameters of the estimators: constraints, validation, and the values that are derived from them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import activations, optimizers
from .. import input_checks as checks
from ..activations import Activation
from ..initializers import Initializer
from ..optimizers import Optimizer
from ..parallel import DataParallel
from ..training.callbacks import Callback
from ..validation import half_open_unit_interval, integer
from .sklearn_private import Interval, StrOptions, validate_parameter_constraints

# parameters that only scikit-learn's solvers read: optimizer= replaces them
SOLVER_PARAMETERS = ("solver", "learning_rate", "learning_rate_init", "power_t", "momentum", "nesterovs_momentum",
                     "beta_1", "beta_2", "epsilon")  # fmt: skip
ACTIVATIONS = StrOptions(
    {"elu", "exp", "exponential", "gelu", "identity", "leaky_relu", "linear", "logistic", "mish", "relu", "selu",
     "sigmoid", "silu", "softplus", "swish", "tanh"}
)  # fmt: skip
OUTPUT_ACTIVATIONS = StrOptions({*ACTIVATIONS.options, "softmax"})
PLAIN_TYPES = {bool, int, float, str, type(None)}


@functools.cache
def _parameter_names(cls: Any) -> tuple[str, ...]:
    return tuple(super(MLPParameters, cls)._get_param_names())


@functools.lru_cache(maxsize=128, typed=True)
def _validate(cls: Any, **parameters: Any) -> None:
    """Raise ValueError if a parameter is invalid."""
    validate_parameter_constraints(cls._parameter_constraints, parameters, caller_name=cls.__name__)


class MLPParameters:
    """Parameters of an estimator and their validation."""

    _gpunn_constraints: ClassVar[dict[str, list[Any]]] = {
        "activation": [ACTIVATIONS, Activation, list, tuple],
        "verbose": ["verbose", StrOptions({"bar"})],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
        "out_activation": [OUTPUT_ACTIVATIONS, Activation, None],
        "kernel_initializer": [str, Initializer, None],
        "optimizer": [str, Optimizer, None],
        "clipnorm": [Interval(Real, 0, None, closed="neither"), None],
        "callbacks": [list, tuple, None],
        "dtype": [StrOptions({"float32", "float64"}), type, np.dtype, None],
        "device": [str],
        "precision": [StrOptions({"tf32", "bf16", "float32", "float64"}), None],
        "n_models": [Interval(Integral, 1, None, closed="left")],
        "strategy": [DataParallel, None],
    }

    # set only while fit or partial_fit runs
    _validation_data: Any
    _resume: Any
    _has_stepped: Callable[[], bool]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Attributes of scikit-learn's base class, which has no types."""

    def _set_parameters(self, arguments: dict[str, Any]) -> None:
        """Store the constructor's arguments under their names, unchanged: scikit-learn's convention."""
        super().__init__()
        for name, value in arguments.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    @classmethod
    def _get_param_names(cls) -> list[str]:
        # scikit-learn inspects the signature on every access to a parameter, many times per fit
        this: Any = cls
        return list(_parameter_names(this))

    # --- derived values ---

    @property
    def _uses_lbfgs(self) -> bool:
        return bool(self.solver == "lbfgs")

    def _class_weight(self) -> Any:
        """Class weights; a regressor has none."""
        return None

    def _hidden_sizes(self) -> list[int]:
        """Return the units of each hidden layer; scikit-learn checks that they are > 0. Raise TypeError for
        non-integers."""
        sizes = self.hidden_layer_sizes
        if not isinstance(sizes, Iterable):
            return [integer("hidden_layer_sizes", sizes)]
        try:
            entries = list(sizes)
        except TypeError:  # a 0-d array
            raise TypeError(f"hidden_layer_sizes must be an integer or a list of integers, got {sizes!r}") from None
        return [integer(f"hidden_layer_sizes[{k}]", units) for k, units in enumerate(entries)]

    def _hidden_activations(self) -> list[Activation]:
        given = self.activation
        each = given if isinstance(given, (list, tuple)) else [given] * len(self._hidden_sizes())
        return [activations.get(a) for a in each]

    def _dropouts(self) -> list[float]:
        given = self.dropout
        if isinstance(given, (list, tuple)):
            return [half_open_unit_interval(f"dropout[{k}]", rate) for k, rate in enumerate(given)]
        return [half_open_unit_interval("dropout", given)] * len(self._hidden_sizes())

    def _dtype_for(self, X: Any) -> np.dtype:
        """The network's dtype. With dtype=None it is X's, except that L-BFGS uses float64."""
        if self.dtype is not None:
            return checks.float_dtype(self.dtype)
        if self._uses_lbfgs:
            return np.dtype(np.float64)
        return np.dtype(X.dtype)

    # --- validation ---

    def _validate_params(self) -> None:
        """Raise ValueError if a parameter is invalid, by scikit-learn's rules. Plain values that were valid are valid
        again."""
        parameters = self.get_params(deep=False)
        others = [v for v in parameters.values() if type(v) not in PLAIN_TYPES]
        if all(type(v) is tuple and PLAIN_TYPES.issuperset(map(type, v)) for v in others):
            this: Any = type(self)
            _validate(this, **parameters)
        else:
            super()._validate_params()  # type: ignore[misc]

    def _check_gpunn_parameters(self, incremental: bool) -> None:
        """Raise ValueError or TypeError if gpunn's parameters conflict with each other or with scikit-learn's."""
        hidden = self._hidden_sizes()
        for name in ("activation", "dropout"):
            given = getattr(self, name)
            if isinstance(given, (list, tuple)) and len(given) != len(hidden):
                raise ValueError(
                    f"{name} has {len(given)} entries, but there are {len(hidden)} hidden layers: give one for each"
                )
        self._hidden_activations()
        self._dropouts()
        if self.dtype is not None:
            checks.float_dtype(self.dtype)
        if self.optimizer is not None:
            self._check_optimizer()
        if self._uses_lbfgs:
            self._check_lbfgs()
        for callback in self.callbacks or ():
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be gpunn.Callback objects, got {callback!r}")
        if incremental and isinstance(self._class_weight(), str):
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit, which does not see all rows: pass a dict, "
                "or sample_weight"
            )

    def _check_optimizer(self) -> None:
        """Raise ValueError if a parameter is set that optimizer= replaces."""
        optimizers.get(self.optimizer)
        defaults = type(self)()
        changed = [p for p in SOLVER_PARAMETERS if getattr(self, p) != getattr(defaults, p)]
        if changed:
            pronoun = "it" if len(changed) == 1 else "them"
            raise ValueError(
                f"optimizer={self.optimizer!r} replaces {', '.join(changed)}: leave {pronoun} at the default, and set "
                "the optimizer's own arguments"
            )
        if self.clipnorm is not None:
            raise ValueError(
                "clipnorm must be None with optimizer=: pass it to the optimizer, for example gpunn.Adam(clipnorm=1.0)"
            )

    def _check_lbfgs(self) -> None:
        """Raise ValueError if a parameter is set that needs mini-batches."""
        needs_batches = {
            "dropout": any(self._dropouts()),
            "callbacks": bool(self.callbacks),
            "clipnorm": self.clipnorm is not None,
            "verbose='bar'": self.verbose == "bar",
            "validation_data": self._validation_data is not None,
            "resume": self._resume is not None,
            "strategy": self.strategy is not None,
        }
        for name, is_set in needs_batches.items():
            if is_set:
                raise ValueError(f"{name} needs mini-batches: choose solver='adam' or 'sgd' instead of 'lbfgs'")
