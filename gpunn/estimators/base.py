"""What both estimators share: scikit-learn's `fit` with gpunn's network, loop and devices in the place of its own.

scikit-learn's classes validate, encode labels, draw weights and choose what to report; everything that computes is
overridden here and runs as recorded launches: `_fit_stochastic`, `_loss_grad_lbfgs`, `_forward_pass_fast`.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from .. import activations, initializers, optimizers
from .. import input_checks as checks
from ..activations import Activation
from ..backend import array_module, is_device_array, to_host
from ..initializers import Initializer
from ..interchange import onnx
from ..interchange.scikit_learn import to_sklearn
from ..kernels.state import Slot
from ..layers import Dense, Dropout, Layer
from ..losses import Loss
from ..model import Sequential
from ..network import Network, Plan
from ..optimizers import Optimizer
from ..parallel import DataParallel
from ..recording import SINGLE_PROCESS
from ..training import checkpoint, fused_epochs, host_dataset, inputs
from ..training import fit as fitting
from ..training import resume as run_file
from ..training.callbacks import Callback, ProgressBar
from ..training.history import History
from ..training.loop import DivergenceError, forward_backward
from ..validation import half_open_unit_interval, integer
from . import ensemble, saving
from .sklearn_conventions import SKLEARN_CONVENTION, ScikitLearnAdam, ScikitLearnNesterov, ScikitLearnSGD
from .stopping import SklearnStopping, generator_from

LBFGS_ELEMENTS = 1 << 22  # of the widest layer that one evaluation for lbfgs holds at once
SOLVER_ONLY = ("solver", "learning_rate", "learning_rate_init", "power_t", "momentum", "nesterovs_momentum",
               "beta_1", "beta_2", "epsilon")  # fmt: skip
ACTIVATIONS = StrOptions(
    {"elu", "exp", "exponential", "gelu", "identity", "leaky_relu", "linear", "logistic", "relu", "sigmoid", "silu",
     "softplus", "swish", "tanh"}
)  # fmt: skip
OUTPUTS = StrOptions({*ACTIVATIONS.options, "softmax"})
WEIGHTS = "sample_weight"
DURING_FIT = ("_validation_data", "_resume", "_has_stepped")  # attributes that an estimator has while it is fitted


@functools.cache
def _parameter_names(cls: Any) -> tuple[str, ...]:
    return tuple(super(BaseMLP, cls)._get_param_names())


class BaseMLP:
    """gpunn's half of an estimator; scikit-learn's class is the other.

    activation          one for all hidden layers, or a list with one each: gpunn's names or objects
    dropout             the share of hidden outputs that a step leaves out: a number, or one for each hidden layer
    loss, out_activation  a loss and an activation of gpunn for the outputs; None takes scikit-learn's
    kernel_initializer  initial weights; None draws scikit-learn's, with its intercepts; else intercepts begin at 0
    optimizer           an update rule of gpunn; `solver`, `learning_rate` and their like then stay at their defaults
    clipnorm            the longest gradient (Euclidean norm over all parameters); None for no limit
    callbacks           `gpunn.Callback` objects; their `model` is the network, `net_`
    dtype               None is scikit-learn's rule: float32 X is fitted in float32 (by lbfgs in float64), all else in
                        float64; "float32" asks for the fast path
    device              "auto", "cpu", "cuda" or "cuda:N"
    precision           "tf32" or "bf16" on a GPU, with dtype="float32"; None computes in `dtype`
    n_models            how many nets, with seeds of their own, are trained side by side; the mean of their outputs is
                        predicted, and `return_std=True` asks for their spread. Then `estimators_` holds the nets as
                        estimators, `coefs_` and `intercepts_` copies of their weights with a leading axis of that size
    strategy            `gpunn.DataParallel()` where `mpiexec` started several processes, which then fit together, each
                        given the same arguments; None fits in this process alone
    verbose             as in scikit-learn, or "bar" for a progress bar

    `fit` also takes validation_data and resume. Fitted attributes beside scikit-learn's: `net_` (the `Sequential`),
    `history_`, `validation_loss_curve_`. Ctrl-C leaves the weights of the last whole step and is raised again.
    """

    _gpunn_constraints: ClassVar[dict[str, list[Any]]] = {
        "activation": [ACTIVATIONS, Activation, list, tuple],
        "verbose": ["verbose", StrOptions({"bar"})],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
        "out_activation": [OUTPUTS, Activation, None],
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

    _kind: ClassVar[str]  # the name in files
    _score_function: ClassVar[Callable[..., float]]  # of y and predictions
    net_: Sequential
    history_: History
    estimators_: list[Any]
    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]
    best_loss_: float | None
    best_validation_score_: float | None
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    _network_key: Any
    _has_stepped: Callable[[], bool]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """scikit-learn's half, which has no types."""

    def _set_parameters(self, arguments: dict[str, Any]) -> None:
        """What the constructor was given, under its names, and nothing else: scikit-learn's convention."""
        super().__init__()
        for name, value in arguments.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    @classmethod
    def _get_param_names(cls) -> list[str]:
        # scikit-learn reads the signature anew for every look at a parameter, many times a fit
        this: Any = cls
        return list(_parameter_names(this))

    # --- fitting ---

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None, resume: Any = None) -> Any:
        """Fit to X (n, n_in), dense, CSR or CSC, and y (n,) or (n, n_outputs); returns the estimator.

        `sample_weight` (n,), ≥ 0; `validation_data` is (X, y) or (X, y, sample_weight), whose loss after each epoch is
        kept in `validation_loss_curve_`; `gpunn.EarlyStopping("val_loss")` among the callbacks stops by it, while
        `early_stopping` holds out rows of X, as in scikit-learn. `resume` names a file that `ModelCheckpoint` writes:
        where it exists the fit goes on from there, as if it had never stopped.

        ValueError or TypeError, with the estimator as it was, for input that makes no sense; ValueError where training
        diverges, with the weights before that step.
        """
        with self._fit_session(validation_data, resume):
            if self.n_models > 1:
                return ensemble.fit(self, X, y, sample_weight, validation_data, resume)
            if hasattr(self, "estimators_"):
                ensemble.reset(self)
            X, y, w = host_numbers(X), self._host_targets(y), host_numbers(sample_weight, WEIGHTS)
            return self._fit(X, y, sample_weight=w, incremental=False)

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Any:
        # scikit-learn compares the sizes with 0 before it calls _validate_input
        self._hidden_sizes()
        return super()._fit(X, y, sample_weight=sample_weight, incremental=incremental)  # type: ignore[misc]

    @contextmanager
    def _fit_session(self, validation_data: Any = None, resume: Any = None) -> Iterator[None]:
        """One fit at a time, and the estimator as before where it is refused; processes that fit together hear of
        it."""
        group = self.strategy.start() if isinstance(self.strategy, DataParallel) else SINGLE_PROCESS
        with group.collective(), self._local_fit_session(validation_data, resume):
            yield

    @contextmanager
    def _partial_fit_session(self) -> Iterator[None]:
        """A fit that goes on with the one net that there is."""
        with self._fit_session():
            if self.n_models > 1 or hasattr(self, "estimators_"):
                raise ValueError(
                    "partial_fit goes on with one net: leave n_models at 1, and begin with a new estimator"
                )
            yield

    @contextmanager
    def _local_fit_session(self, validation_data: Any, resume: Any) -> Iterator[None]:
        lock = self.__dict__.setdefault("_fit_lock", threading.Lock())
        if not lock.acquire(blocking=False):
            raise RuntimeError("fit is running already, in another thread or around a callback; use a clone of it")
        before, shared = dict(vars(self)), self.random_state
        drawn = shared.get_state(legacy=False) if isinstance(shared, np.random.RandomState) else None
        self._validation_data, self._resume, self._has_stepped = validation_data, resume, lambda: False
        try:
            yield
        except BaseException:
            if not self._has_stepped():
                vars(self).update(before)
                for name in set(vars(self)) - set(before):
                    delattr(self, name)
                if drawn is not None:
                    shared.set_state(drawn)
            raise
        finally:
            for name in DURING_FIT:
                vars(self).pop(name, None)
            lock.release()

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        self._check_gpunn_parameters(incremental)
        if not reset and self._resume is not None:
            raise ValueError("resume with warm_start=True begins from two places: use a new estimator, or clone it")
        X, y = super()._validate_input(X, y, incremental, reset)  # type: ignore[misc]
        if not reset:
            self._check_same_shape(y)
        self._check_output()
        self._net_dtype = self._dtype_for(X)
        return X, y

    def _initialize(self, y: Any, layer_units: list[int], dtype: Any) -> None:
        remembered = (
            None if self._resume is None else run_file.read_callback_state(self._resume, SklearnStopping.__name__)
        )
        if remembered is not None:
            # the same draws of weights, split and seed as then, whatever random_state is
            self._random_state = generator_from(remembered, "begin")
        # its state alone: to make another generator takes longer than all the draws of a small net
        self._initial_generator_state = self._random_state.get_state(legacy=False)
        self._next_layer = 0
        super()._initialize(y, layer_units, self._net_dtype)  # type: ignore[misc]
        del self._next_layer
        self.validation_loss_curve_: list[float] | None = [] if self._validation_data is not None else None
        self.out_activation_ = saving.sklearn_name(self._output()[1])

    def _init_coef(self, fan_in: int, fan_out: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """W ~ U(−β, β) and b too, β = √(6/(n_in + n_out)), √(2/…) for logistic hidden layers; or as asked. (E10)"""
        k, self._next_layer = self._next_layer, self._next_layer + 1
        if self.kernel_initializer is not None:
            generator = np.random.default_rng(self._random_state.randint(2**31 - 1))
            W = initializers.get(self.kernel_initializer)((fan_in, fan_out), generator)
            return W.astype(dtype), np.zeros(fan_out, dtype)
        given = self.activation
        each = given if isinstance(given, (list, tuple)) else [given]
        logistic = bool(each) and activations.get(each[min(k, len(each) - 1)]).name == "sigmoid"
        bound = np.sqrt((2.0 if logistic else 6.0) / (fan_in + fan_out))
        W = self._random_state.uniform(-bound, bound, (fan_in, fan_out))
        b = self._random_state.uniform(-bound, bound, fan_out)
        return W.astype(dtype, copy=False), b.astype(dtype, copy=False)

    def _fit_stochastic(self, X: Any, y: Any, sample_weight: Any, *given: Any) -> None:
        *_, layer_units, incremental = given  # before them scikit-learn's own arrays to compute in
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        continues = incremental and hasattr(self, "_optimizer")
        if not continues:
            self._optimizer = self._sklearn_optimizer()
        rows, early_stopping_data = self._split(X, y, sample_weight)
        if self.batch_size != "auto" and self.batch_size > len(rows):
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
            )
        batch_size = min(200 if self.batch_size == "auto" else int(self.batch_size), len(rows))
        model = self._network(layer_units, continues)
        training = self._targets(model, X, y, self._combined_weights(y, sample_weight))
        validation = self._validation(model)
        for layer in model.layers:
            if isinstance(layer, Dense):
                layer.l2 = float(self.alpha)  # which may have been set anew
        stopping = SklearnStopping(self, early_stopping_data, rows)
        callbacks = [stopping, *(self.callbacks or ()), *([ProgressBar()] if self.verbose == "bar" else [])]
        self._prepare_curves()
        self.n_iter_ = 0
        updates = step_count(model)
        self.net_, self._has_stepped = model, lambda: step_count(model) != updates
        self._export_weights()
        orders = stopping.orders if self.shuffle else None
        fit: dict[str, Any] = {
            "batch_size": batch_size,
            "epochs": 1 if incremental else int(self.max_iter),
            "order_of": stopping.order_of if self.shuffle else None,
            "callbacks": callbacks,
            "verbose": self.verbose,
            "rows": rows,
        }
        try:
            watched = (
                incremental
                or validation is not None
                or self._resume is not None
                or self._slow_path_reason() is not None
            )
            if watched or host_dataset.exceeds_device(model._net.backend, *training):
                fitting.train(model, training, validation, resume=self._resume, checkpoint_owner=self, **fit)
            else:
                fused_epochs.run(
                    model._net,
                    fitting.epoch_coroutine(
                        model, training, epochs_until_callback=stopping.ahead, draw_orders=orders, **fit
                    ),
                )
            self._restore_best_weights(early_stopping_data)
        except DivergenceError as error:
            if not self.validation_scores_:
                raise ValueError(
                    "Solver produced non-finite parameter weights. The input data may contain large values and need to "
                    f"be preprocessed. {error}"
                ) from error
            # with early stopping the best weights so far are a result
            model.stop_training = True
            self.loss_ = float("nan")
            self.loss_curve_.append(self.loss_)
            self.validation_scores_.append(float("nan"))
            warnings.warn(f"{error} The best weights so far are kept.", ConvergenceWarning, stacklevel=2)
            self._restore_best_weights(early_stopping_data)
        finally:
            self._export_weights()
        if not incremental and self.n_iter_ == self.max_iter and not model.stop_training:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _fit_lbfgs(self, X: Any, y: Any, sample_weight: Any, *given: Any) -> None:
        model = self._network(given[-1], False)
        w = self._combined_weights(y, sample_weight)
        self._lbfgs_objective = LbfgsObjective(model, self._targets(model, X, y, w), float(self.alpha))
        # scikit-learn puts the result into these lists, and those of an earlier fit are the caller's
        self.coefs_, self.intercepts_ = list(self.coefs_), list(self.intercepts_)
        try:
            super()._fit_lbfgs(X, y, sample_weight, *given)  # type: ignore[misc]
        except KeyboardInterrupt:
            if self._lbfgs_objective.improvements < 2:
                raise
            # the least loss so far: every step of L-BFGS comes down
            self.loss_ = self._lbfgs_objective.best_loss
            self._unpack(self._lbfgs_objective.best_theta)
            self._has_stepped = lambda: True
            self._replace_network(model)
            raise
        finally:
            del self._lbfgs_objective
        self._replace_network(model)

    def _replace_network(self, model: Sequential) -> None:
        """Put a network with `coefs_` and `intercepts_` in the place of the one there was."""
        self.net_ = model
        self._import_weights()
        self._export_weights()

    def _loss_grad_lbfgs(self, packed: np.ndarray, *arguments: Any) -> tuple[float, np.ndarray]:
        """(C, ∂C/∂θ) at the packed θ: all weights, then all intercepts, as the network's own buffer has them."""
        return self._lbfgs_objective(packed)

    def _slow_path_reason(self) -> str | None:
        """What must be asked after every epoch, or None where epochs may pass without Python."""
        if self.callbacks:
            return "callbacks"
        if self.early_stopping:
            return "early_stopping=True, which scores after every epoch"
        if self.strategy is not None:
            return "strategy=…, whose processes meet after every epoch"
        if self.verbose == "bar":
            return "verbose='bar'"
        if self.optimizer is None and self.solver == "sgd" and self.learning_rate == "invscaling":
            return "learning_rate='invscaling', which changes the rate after every epoch"
        return None

    def _prepare_curves(self) -> None:
        """Curves to append to: new lists, since those of an earlier fit are the caller's, and new ones where an
        earlier fit had another solver or another `early_stopping`."""
        self.loss_curve_ = list(getattr(self, "loss_curve_", ()))
        self._no_improvement_count = getattr(self, "_no_improvement_count", 0)
        if self._validation_data is not None:
            self.validation_loss_curve_ = list(self.validation_loss_curve_ or ())
        scores = getattr(self, "validation_scores_", None)
        if self.early_stopping:
            self.validation_scores_, self.best_loss_ = list(scores or ()), None
            if scores is None:
                self.best_validation_score_ = -np.inf
                self._best_coefs = [np.array(c) for c in self.coefs_]
                self._best_intercepts = [np.array(b) for b in self.intercepts_]
        elif getattr(self, "best_loss_", None) is None:
            self.best_loss_, self.validation_scores_, self.best_validation_score_ = np.inf, None, None

    def _restore_best_weights(self, early_stopping_data: Any) -> None:
        """With early stopping the best weights are the result."""
        if early_stopping_data is not None:
            self.coefs_, self.intercepts_ = self._best_coefs, self._best_intercepts
            self._import_weights()

    # --- what a fit is made of ---

    def _check_gpunn_parameters(self, incremental: bool) -> None:
        """ValueError or TypeError where gpunn's own arguments do not fit each other or scikit-learn's."""
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
            optimizers.get(self.optimizer)
            defaults = type(self)()
            changed = [p for p in SOLVER_ONLY if getattr(self, p) != getattr(defaults, p)]
            if changed:
                raise ValueError(
                    f"optimizer={self.optimizer!r} takes the place of {', '.join(changed)}: leave "
                    f"{'it' if len(changed) == 1 else 'them'} at the default, and set the optimizer's own arguments"
                )
            if self.clipnorm is not None:
                raise ValueError("clipnorm with optimizer=: give it to the optimizer, gpunn.Adam(clipnorm=…) say")
        if self._uses_lbfgs:
            refused = {
                "dropout": any(self._dropouts()),
                "callbacks": bool(self.callbacks),
                "clipnorm": self.clipnorm is not None,
                "verbose='bar'": self.verbose == "bar",
                "validation_data": self._validation_data is not None,
                "resume": self._resume is not None,
                "strategy": self.strategy is not None,
            }
            for name, given in refused.items():
                if given:
                    raise ValueError(f"{name} needs mini-batches: choose solver='adam' or 'sgd' instead of 'lbfgs'")
        for callback in self.callbacks or ():
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be gpunn.Callback objects, got {callback!r}")
        if incremental and isinstance(self._class_weight(), str):
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit, which does not see all rows: pass a dict, "
                "or sample_weight"
            )

    def _check_same_shape(self, y: Any) -> None:
        """ValueError where a warm start or partial_fit meets weights of another shape."""
        *have, outputs = [b.shape[0] for b in self.intercepts_]
        if have != self._hidden_sizes():
            raise ValueError(
                f"hidden_layer_sizes is now {self._hidden_sizes()}, but the fitted weights are of layers {have}: set "
                "it back, or fit anew with warm_start=False"
            )
        asked = 1 if y.ndim == 1 else y.shape[1]
        if asked != outputs:
            raise ValueError(
                f"y has {asked} outputs, but the fitted weights are of {outputs}: fit anew with warm_start=False"
            )

    def _check_output(self) -> None:
        """ValueError where loss and out_activation do not fit each other or y."""
        loss, activation = self._output()
        try:
            loss.for_activation(activation)
        except ValueError as error:
            wanted = getattr(loss, "paired_activation", None)
            if wanted is None:
                raise
            raise ValueError(
                f"loss={self.loss!r} does not fit out_activation={self.out_activation!r}, here {activation.name}: "
                f"choose {wanted!r}, or 'identity' for outputs that are logits"
            ) from error

    def _class_weight(self) -> Any:
        """The classes' weights; a regressor has none."""
        return None

    @property
    def _uses_lbfgs(self) -> bool:
        return bool(self.solver == "lbfgs")

    def _hidden_sizes(self) -> list[int]:
        """The units of each hidden layer. TypeError where one is not an integer; scikit-learn checks that it is > 0."""
        sizes = self.hidden_layer_sizes
        if not isinstance(sizes, Iterable):
            return [integer("hidden_layer_sizes", sizes)]
        try:
            entries = list(sizes)
        except TypeError:  # an array without an axis
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
        if self.dtype is not None:
            return checks.float_dtype(self.dtype)
        if self._uses_lbfgs:
            return np.dtype(np.float64)
        return np.dtype(X.dtype)

    def _output(self) -> tuple[Loss, Activation]:
        """The loss, and the activation of the last layer."""
        raise NotImplementedError

    def _sklearn_optimizer(self) -> Any:
        """scikit-learn's object that keeps the learning rate and decides at an epoch's end; it holds no weights."""
        if self.solver == "sgd":
            return SGDOptimizer(
                [], self.learning_rate_init, self.learning_rate, self.momentum, self.nesterovs_momentum, self.power_t
            )
        return AdamOptimizer([], self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)

    def _network_optimizer(self) -> Optimizer:
        if self.optimizer is not None:
            return optimizers.get(self.optimizer)
        if self.solver == "sgd":
            rule = ScikitLearnNesterov if self.nesterovs_momentum else ScikitLearnSGD
            return rule(self.learning_rate_init, self.momentum, clipnorm=self.clipnorm)
        return ScikitLearnAdam(self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon, clipnorm=self.clipnorm)

    def _layers(self, layer_units: list[int]) -> list[Layer]:
        layers: list[Layer] = []
        l2 = 0.0 if self._uses_lbfgs else float(self.alpha)
        for units, activation, rate in zip(
            layer_units[1:-1], self._hidden_activations(), self._dropouts(), strict=True
        ):
            layers.append(Dense(units, activation, l2=l2))
            if rate:
                layers.append(Dropout(rate))
        return [*layers, Dense(layer_units[-1], self._output()[1], l2=l2)]

    def _network(self, layer_units: list[int], continues: bool) -> Sequential:
        """The network with the estimator's weights: the one there is where a `partial_fit` goes on, else a new one."""
        if continues:
            self._sync_weights()
            if self._architecture_key() != self._network_key:
                raise ValueError(
                    "partial_fit goes on with the network there is: leave activation, dropout, loss, out_activation, "
                    "optimizer and clipnorm as they were, or fit anew (warm_start=True keeps the weights)"
                )
            theta = self.net_._net.theta
            if isinstance(theta, np.ndarray) and not theta.flags.writeable:
                # joblib's memory maps are for reading
                self.net_ = copy.deepcopy(self.net_)
            if (self.strategy is None) != (self.net_._net.group is SINGLE_PROCESS):
                self.net_.set_strategy(self.strategy)
            return self.net_._move(self.device, self.precision, explicit=True)
        # only where dropout draws from it, so that scikit-learn's draws stay as they are
        seed = int(self._random_state.randint(2**31 - 1)) if any(self._dropouts()) else 0
        model = Sequential(self._layers(layer_units), seed=seed, dtype=self._net_dtype)
        model._net.build(layer_units[0], draw=False)
        self._compile(model, self.device)
        write_parameters(model._net, self.coefs_, self.intercepts_)
        self._network_key = self._architecture_key()
        return model

    def _architecture_key(self) -> str:
        """What of the parameters the network is made of, beside its sizes and its penalty."""
        parts = self._hidden_activations(), self._dropouts(), *self._output(), self.optimizer, self.clipnorm
        return repr(parts)

    def _compile(self, model: Sequential, device: str, *, asked: bool = True) -> None:
        """Give a network the estimator's update rule, loss, accounting and precision; `asked` as in `Sequential`."""
        model.compile(self._network_optimizer(), self._output()[0], device=device, strategy=self.strategy)
        model._move(device, self.precision, explicit=asked)
        model._net.loss_convention = SKLEARN_CONVENTION

    def _host_targets(self, y: Any) -> Any:
        """y as `host_numbers` gives it."""
        return host_numbers(y, "y")

    def _targets(self, model: Sequential, X: Any, y: Any, w: Any) -> tuple[Any, Any, Any]:
        """X, y and weights as the network takes them."""
        return inputs.validate(model._net, X, y.argmax(axis=1) if model.loss.targets == "class_index" else y, w)

    def _combined_weights(self, y: Any, sample_weight: Any) -> Any:
        """Sample weights times class weights."""
        return sample_weight

    def _labels_of(self, y: Any) -> Any:
        """y as the user gave it, from y as it is fitted."""
        return y

    def _split(self, X: Any, y: Any, sample_weight: Any) -> tuple[np.ndarray, tuple[Any, Any, Any] | None]:
        """The rows that train, and (X, y, sample_weight) of those held out for early stopping.

        The split is of indices, drawn as scikit-learn draws it; the table is not copied.
        """
        rows = np.arange(X.shape[0])
        if not self.early_stopping:
            return rows, None
        training, held = train_test_split(
            rows,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=self._stratify(y),
        )
        if len(held) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        if X.__class__.__name__.startswith("csc"):
            X = X.tocsr()
        weights = None if sample_weight is None else sample_weight[held]
        for part, what in ((training, "trains"), (held, "is held out")):
            if not checks.any_weight(None if sample_weight is None else sample_weight[part]):
                raise ValueError(
                    f"sample_weight is zero in every row that {what} with early_stopping=True; give more rows a weight "
                    "> 0, or change validation_fraction"
                )
        return training, (X[held], self._labels_of(y[held]), weights)

    def _stratify(self, y: Any) -> Any:
        return None

    def _validation(self, model: Sequential) -> tuple[Any, Any, Any] | None:
        given = self._validation_data
        if given is None:
            return None
        if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
            raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
        try:
            X, y, w = (*given, None)[:3]
            X, y, w = host_numbers(X), self._host_targets(y), host_numbers(w, WEIGHTS)
            X = self._validate_X(X)
            check_consistent_length(X, y)
            y = self._encode(y)
            if w is not None:
                w = _check_sample_weight(w, X)
            return self._targets(model, X, y, w)
        except (ValueError, TypeError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"validation_data: {error}") from error

    def _encode(self, y: Any) -> Any:
        """Targets (n, n_outputs) of validation data, as `_validate_input` makes those of training data."""
        raise NotImplementedError

    # --- weights ---

    def _export_weights(self) -> None:
        """`coefs_` and `intercepts_` are the network's own parameters: views on a CPU, read-only copies of a GPU's."""
        net = self.net_._net
        shown: dict[str, list[np.ndarray]] = {"W": [], "b": []}
        for place in net.slices_in_order():
            array = to_host(place.of(net.theta))
            if is_device_array(net.theta):
                array.flags.writeable = False
            shown[place.parameter.name].append(array)
        self.coefs_, self.intercepts_ = shown["W"], shown["b"]
        self._exported = [*self.coefs_, *self.intercepts_]

    def _import_weights(self) -> None:
        """The network's parameters become `coefs_` and `intercepts_`."""
        write_parameters(self.net_._net, self.coefs_, self.intercepts_)

    def _build_from_weights(self) -> None:
        """Make the network of `coefs_` and `intercepts_`, which come from elsewhere."""
        self._net_dtype = np.dtype(self.coefs_[0].dtype)
        self.net_ = self._network([self.n_features_in_, *self._hidden_sizes(), self.n_outputs_], False)
        self._export_weights()

    def _sync_weights(self) -> None:
        """Take over what was put in the place of an array in `coefs_` or `intercepts_`; in place, nothing is to do."""
        now = [*self.coefs_, *self.intercepts_]
        if len(now) != len(self._exported) or any(a is not b for a, b in zip(now, self._exported, strict=True)):
            self._import_weights()
            self._export_weights()

    # --- prediction ---

    def _score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The score that early stopping goes by, NaN where a prediction is not finite."""
        # not by super(): scikit-learn 1.7 and 1.8 stumble over labels that are text
        predicted = self._predict(X, check_input=False)
        if predicted.dtype.kind == "f" and not np.isfinite(predicted).all():
            return math.nan
        return float(self._score_function(y, predicted, sample_weight=sample_weight))

    def _validate_X(self, X: Any) -> Any:
        """X of a fitted estimator, as scikit-learn checks it."""
        return validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> np.ndarray:
        """aᴸ (n, n_outputs), probabilities for a classifier."""
        if check_input:
            X = self._validate_X(X)
        if hasattr(self, "estimators_"):
            return np.asarray(ensemble.outputs(self, X).mean(axis=0))
        # a fit under way shows its weights by itself
        if "_has_stepped" not in vars(self):
            self._sync_weights()
        return self._network_outputs(X)

    def _network_outputs(self, X: Any) -> np.ndarray:
        return self.net_.predict(X)

    def _predict_std(self, X: Any) -> np.ndarray:
        """The standard deviation (n, n_outputs) of aᴸ over the nets of an ensemble. ValueError for one net."""
        if not hasattr(self, "estimators_"):
            check_is_fitted(self)
            raise ValueError("return_std=True needs several nets: fit with n_models=10, say")
        return np.asarray(ensemble.outputs(self, self._validate_X(X)).std(axis=0))

    def _require_single_network(self, what: str) -> None:
        """ValueError for an ensemble, where `what` is for one net."""
        if hasattr(self, "estimators_"):
            raise ValueError(f"{what} is for one net, and these are {len(self.estimators_)}: use those in estimators_")

    # --- files ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to a safetensors file, as one step and without pickle; `gpunn.load` opens it.

        Parameters, weights, classes and curves are kept; callbacks and the optimiser's state are not. OSError where it
        fails, the old file whole; NotFittedError before `fit`.
        """
        checkpoint.write(path, *self.to_tensors())

    def to_tensors(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the JSON metadata that a file of this estimator holds."""
        check_is_fitted(self)
        if hasattr(self, "estimators_"):
            return ensemble.to_tensors(self, self._kind)
        self._sync_weights()
        return saving.to_tensors(self, self._kind)

    @classmethod
    def from_tensors(
        cls,
        tensors: dict[str, np.ndarray],
        metadata: dict[str, Any],
        *,
        custom: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> Any:
        """The inverse of `to_tensors`. CheckpointError where the parts do not fit each other."""
        if "ensemble" in metadata:
            return ensemble.from_tensors(cls, tensors, metadata["ensemble"], custom, device)
        return saving.from_tensors(cls, tensors, metadata, custom, device)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator as an ONNX graph, as one step: input "X" (N, n_features_in_), N any number.

        A classifier's outputs are "label" and "probabilities" (N, n_classes), a regressor's is "variable", in the dtype
        of the network: what `predict` and `predict_proba` give.

        ImportError without onnx (extra `onnx`), ValueError for an activation of one's own, NotFittedError before `fit`;
        OSError where writing fails, the old file whole.
        """
        check_is_fitted(self)
        self._require_single_network("export")
        self._sync_weights()
        onnx.write(self._onnx_graph(), path)

    def _onnx_graph(self) -> onnx.Graph:
        raise NotImplementedError

    def to_sklearn(self) -> Any:
        """The fitted estimator as scikit-learn's own: see `gpunn.interchange.scikit_learn.to_sklearn`."""
        if hasattr(self, "estimators_"):
            self._require_single_network("to_sklearn")
        return to_sklearn(self)

    # --- copies ---

    def __getstate__(self) -> dict[str, Any]:
        """A copy shares no arrays and no lock; weights that are the network's own are kept once, with the network."""
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[call-overload]
        for name in ("_fit_lock", *DURING_FIT):
            state.pop(name, None)
        if hasattr(self, "_exported"):
            self._sync_weights()
            for name in ("coefs_", "intercepts_", "_exported"):
                state.pop(name)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        if hasattr(self, "net_"):
            self._export_weights()


class LbfgsObjective:
    """C and ∂C/∂θ over a whole set, for solvers that step by themselves; in parts, so that memory stays bounded."""

    def __init__(self, model: Sequential, data: tuple[Any, Any, Any], alpha: float) -> None:
        net = model._net
        self.net, self.alpha = net, alpha
        self.set = inputs.on_device(net, data)
        self.weight = float(data[0].shape[0] if data[2] is None else data[2].sum(dtype=np.float64))
        self.penalized = sum(p.stop - p.start for p in net.slices if p.parameter.penalized)
        widest = max(net.n_in, *(layer.n_out or 1 for layer in net.layers))
        rows, n = max(1024, LBFGS_ELEMENTS // widest), self.set.n
        self.blocks = [(start, min(rows, n - start)) for start in range(0, n, rows)]
        # the least C so far, its θ, and how often C fell to a new least
        self.best_loss, self.best_theta, self.improvements = math.inf, np.empty(0), 0

    def __call__(self, packed: np.ndarray) -> tuple[float, np.ndarray]:
        """C = Σwℓ/Σw + ½α ΣW²/Σw and its gradient (E3, E6, E7, E9) in float64."""
        net = self.net
        net.theta[...] = net.backend.asarray(packed.astype(net.dtype))
        gradient, loss = np.zeros(len(packed)), 0.0
        options = {"training": True, "loss": True, "backward": True, "weighted": self.set.w is not None}
        with net.backend.activate():
            for start, n in self.blocks:
                with net.plan(n, **options) as plan:
                    loss += self._block(plan, start, gradient)
        W = packed[: self.penalized]
        gradient[: self.penalized] += self.alpha * W / self.weight
        loss += 0.5 * self.alpha * float(W @ W) / self.weight
        if loss < self.best_loss:
            self.best_loss, self.best_theta, self.improvements = loss, np.array(packed), self.improvements + 1
        return loss, gradient

    def _block(self, plan: Plan, start: int, gradient: np.ndarray) -> float:
        forward_backward(plan, self.set, start)
        state = self.net.backend.to_host(plan.state)
        share = float(state[Slot.WEIGHT]) / self.weight
        if share:
            gradient += share * self.net.backend.to_host(plan.gradient)
        return share * float(state[Slot.LOSS]) if share else 0.0


def write_parameters(net: Network, coefs: list[Any], intercepts: list[Any]) -> None:
    """Copy weights and intercepts, layer by layer, into a network's parameters. ValueError where shapes differ."""
    given, layers = {"W": iter(coefs), "b": iter(intercepts)}, len(net.slices) // 2
    if not len(coefs) == len(intercepts) == layers:
        raise ValueError(f"coefs_ and intercepts_ must hold {layers} arrays each, one for each layer")
    for place in net.slices_in_order():
        view, array = place.of(net.theta), np.asarray(next(given[place.parameter.name]))
        if array.shape != view.shape:
            raise ValueError(f"coefs_ and intercepts_ must keep their shapes: {view.shape}, got {array.shape}")
        view[...] = net.backend.asarray(array.astype(net.dtype))


def step_count(model: Sequential) -> int:
    """How many updates a network's weights have had."""
    net = model._net
    return 0 if net.state is None else int(net.backend.to_host(net.state)[Slot.STEP])


def host_numbers(x: Any, name: str = "X") -> Any:
    """Numbers as scikit-learn takes them: arrays of a GPU and of torch as NumPy arrays, everything else unchanged.

    TypeError for dates, which scikit-learn would read as integers.
    """
    found = host_labels(x, name)
    checks.reject_dates(found, name)
    return found


def host_labels(x: Any, name: str = "y") -> Any:
    """The same for class labels, which may be dates."""
    return to_host(x) if is_device_array(x) else checks.tensor_to_numpy(x, name)


def as_input_type(result: Any, given: Any) -> Any:
    """A result as the kind of array that went in: CuPy for CuPy where it holds numbers."""
    if is_device_array(given) and result.dtype.kind in "biuf":
        return array_module(given).asarray(result)
    return result
