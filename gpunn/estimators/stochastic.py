"""Stochastic fits (solver="adam", "sgd" or optimizer=): scikit-learn's steps in gpunn's training loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from .. import activations, initializers
from ..layers import Dense
from ..training import fit, resume
from ..training.callbacks import ProgressBar
from ..training.divergence import DivergenceError, warn_if_loss_rose
from ..training.shard import Shard
from ..user_warnings import warn_user
from .fit_data import DataRows, MLPFitData, is_valid
from .saving import sklearn_name
from .stopping import SklearnStopping, generator_from
from .weights import step_count


class MLPStochasticFit(MLPFitData):
    """Initial weights and fitting with mini-batches."""

    best_loss_: float | None
    best_validation_score_: float | None
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    validation_loss_curve_: list[float] | None

    # --- before the first step ---

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        self._check_gpunn_parameters(incremental)
        if not reset and self._resume is not None:
            raise ValueError(
                "resume cannot be combined with warm_start=True, since both set the initial weights: use a new "
                "estimator, or clone it"
            )
        if incremental or self.warm_start or not is_valid(X, y):
            X, y = super()._validate_input(X, y, incremental, reset)  # type: ignore[misc]
        else:
            vars(self).pop("feature_names_in_", None)
            self.n_features_in_ = X.shape[1]
            y = self._encode_labels(y)
        if not reset:
            self._check_same_shape(y)
        self._check_output()
        self._net_dtype = self._dtype_for(X)
        return X, y

    def _initialize(self, y: Any, layer_units: list[int], dtype: Any) -> None:
        state = None if self._resume is None else resume.read_callback_state(self._resume, SklearnStopping.__name__)
        if state is not None:
            # draw the same weights, split and seed as the interrupted fit, whatever random_state is now
            self._random_state = generator_from(state, "initial")
        # for checkpoints, which only callbacks write: reading the state takes longer than all draws of a small network
        self._initial_generator_state = self._random_state.get_state(legacy=False) if self.callbacks else None
        self._next_layer = 0
        super()._initialize(y, layer_units, self._net_dtype)  # type: ignore[misc]
        del self._next_layer
        self.validation_loss_curve_ = [] if self._validation_data is not None else None
        self.out_activation_ = sklearn_name(self._output()[1])

    def _init_coef(self, fan_in: int, fan_out: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """Draw W and b ~ U(−β, β), β = √(6/(n_in + n_out)), √(2/…) for logistic hidden layers. (E10)

        With `kernel_initializer` that draws W, and b is 0.
        """
        k = self._next_layer
        self._next_layer += 1
        if self.kernel_initializer is not None:
            generator = np.random.default_rng(self._random_state.randint(2**31 - 1))
            W = initializers.get(self.kernel_initializer)((fan_in, fan_out), generator)
            return W.astype(dtype), np.zeros(fan_out, dtype)
        given = self.activation
        each = given if isinstance(given, (list, tuple)) else [given]
        logistic = bool(each) and activations.get(each[min(k, len(each) - 1)]).name == "sigmoid"
        bound = math.sqrt((2.0 if logistic else 6.0) / (fan_in + fan_out))
        W = self._random_state.uniform(-bound, bound, (fan_in, fan_out))
        b = self._random_state.uniform(-bound, bound, fan_out)
        return W.astype(dtype, copy=False), b.astype(dtype, copy=False)

    # --- training ---

    def _fit_stochastic(self, X: Any, y: Any, sample_weight: Any, *given: Any) -> None:
        *_, layer_units, incremental = given  # preceded by scikit-learn's own work arrays
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        continues = incremental and hasattr(self, "_optimizer")
        if not continues:
            self._optimizer = self._sklearn_optimizer()
        rows, early_stopping_data = self._split(X, y, sample_weight)
        batch_size = self._clipped_batch_size(len(rows))
        model = self._network(layer_units, continues=continues)
        training = self._targets(model, X, y, self._combined_weights(y, sample_weight))
        validation = self._validation(model)
        if not incremental:
            self._check_scale(training[1])
        for layer in model.layers if continues else ():
            if isinstance(layer, Dense):
                layer.l2 = float(self.alpha)  # may differ from that of an earlier partial_fit
        stopping = SklearnStopping(self, early_stopping_data, rows)
        self._prepare_curves()
        self.n_iter_ = 0
        updates = step_count(model)
        self.net_ = model
        self._has_stepped = lambda: step_count(model) != updates
        self._export_weights()
        try:
            self._train(stopping, training, validation, batch_size=batch_size, incremental=incremental)
            self._restore_best_weights(early_stopping_data)
        except DivergenceError as error:
            self._end_diverged(error)
            self._restore_best_weights(early_stopping_data)
        finally:
            self._export_weights()
        if not incremental and self.n_iter_ == self.max_iter and not model.stop_training:
            warn_user(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
            )

    def _clipped_batch_size(self, n_rows: int) -> int:
        if self.batch_size == "auto":
            return min(200, n_rows)
        if self.batch_size > n_rows:
            warn_user("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped")
        return min(int(self.batch_size), n_rows)

    def _train(
        self,
        stopping: SklearnStopping,
        training: DataRows,
        validation: DataRows | None,
        *,
        batch_size: int,
        incremental: bool,
    ) -> None:
        """Run the epochs."""
        progress = [ProgressBar()] if self.verbose == "bar" else []
        options = fit.FitOptions(
            batch_size,
            epochs=1 if incremental else int(self.max_iter),
            callbacks=[stopping, *(self.callbacks or ()), *progress],
            verbose=self.verbose,
            resume=self._resume,
        )
        data = fit.FitData(
            Shard(*training),
            None if validation is None else Shard(*validation),
            training[0].shape[1],
            rows=stopping.rows,
            order=stopping if self.shuffle else None,
        )
        settings = {"batch_size": batch_size, "shuffle": bool(self.shuffle)}
        warn_if_loss_rose(fit.run(self.net_, data, options, settings, self))

    def _slow_path_reason(self) -> str | None:
        """Return the parameter that needs Python after every epoch, or None if epochs can run in compiled code."""
        if self.callbacks:
            return "callbacks"
        if self.early_stopping:
            return "early_stopping=True, which computes a score after every epoch"
        if self.strategy is not None:
            return "strategy=…, whose processes communicate after every epoch"
        if self.verbose == "bar":
            return "verbose='bar'"
        if self.optimizer is None and self.solver == "sgd" and self.learning_rate == "invscaling":
            return "learning_rate='invscaling', which changes the learning rate after every epoch"
        return None

    def _prepare_curves(self) -> None:
        """Make the lists to which the fit appends.

        They are copies, since those of an earlier fit belong to the caller. They are empty if the earlier fit had
        another solver or another `early_stopping`.
        """
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

    def _restore_best_weights(self, early_stopping_data: DataRows | None) -> None:
        if early_stopping_data is not None:
            self.coefs_, self.intercepts_ = self._best_coefs, self._best_intercepts
            self._import_weights()

    def _end_diverged(self, error: DivergenceError) -> None:
        """Raise ValueError, or only warn if early stopping has weights to restore."""
        if not self.validation_scores_:
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to "
                f"be preprocessed. {error}"
            ) from error
        self.net_.stop_training = True
        self.loss_ = float("nan")
        self.loss_curve_.append(self.loss_)
        self.validation_scores_.append(float("nan"))
        warn_user(f"{error} The best weights so far are kept.", ConvergenceWarning)
