"""scikit-learn's bookkeeping at the end of an epoch, and its stopping rules, as a callback of the training loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..training.callbacks import Callback
from .row_orders import draw_orders

# fitted attributes that change from epoch to epoch, in the order of scikit-learn's documentation
COUNTERS = ("n_iter_", "t_", "loss_", "best_loss_", "best_validation_score_", "_no_improvement_count")
CURVES = ("loss_curve_", "validation_scores_", "validation_loss_curve_")
# parameters that a resumed fit must not change
STOPPING_PARAMETERS = ("early_stopping", "validation_fraction", "tol", "n_iter_no_change", "solver", "learning_rate",
                       "power_t")  # fmt: skip


class SklearnStopping(Callback):
    """Update counters, curves and the learning rate, and stop the fit, by scikit-learn's rules.

    Parameters
    ----------
    estimator : BaseMLP
        The estimator whose fitted attributes are updated.
    early_stopping_data : (X, y, sample_weight) or None
        The rows whose score decides, with `early_stopping=True`; None compares training losses.
    rows : array of shape (n,)
        Indices of the training rows. They are shuffled for each epoch by the estimator's generator.
    """

    model: Any  # a Sequential

    def __init__(self, estimator: Any, early_stopping_data: tuple[Any, Any, Any] | None, rows: np.ndarray) -> None:
        self.estimator = estimator
        self.early_stopping_data = early_stopping_data
        self.rows = rows
        self.order = np.arange(len(rows))
        self.learning_rate = estimator._optimizer.learning_rate

    # --- order of the rows ---

    def draw(self, epoch: int, into: np.ndarray) -> None:
        """Write the rows in the orders of epochs: each shuffles the order of the last one, as scikit-learn does."""
        orders, self.order = draw_orders(self.estimator._random_state, self.order, len(into))
        into[...] = self.rows[orders].reshape(into.shape)

    def undecided_epochs(self) -> float:
        """The number of epochs that can neither stop the fit nor change its learning rate, whatever their losses."""
        est = self.estimator
        if est._slow_path_reason() is not None:
            return 1.0
        return max(1.0, float(est.n_iter_no_change) + 1 - est._no_improvement_count)

    # --- callback ---

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Set `history_`."""
        # set at the beginning, so that it exists after an interrupt
        self.estimator.history_ = self.model._run.history

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Update the fitted attributes, and stop the fit if the loss or the score is on a plateau."""
        est, logs = self.estimator, logs or {}
        est.n_iter_ += 1
        est.loss_ = logs["loss"]
        est.t_ += len(self.rows)
        est.loss_curve_.append(est.loss_)
        if "val_loss" in logs:
            est.validation_loss_curve_.append(logs["val_loss"])
        verbose = est.verbose and est.verbose != "bar" and self.model._net.group.rank == 0
        if verbose:
            print(f"Iteration {est.n_iter_}, loss = {est.loss_:.8f}")
        if self.early_stopping_data is None:
            self._compare_loss()
        else:
            self._compare_score(self.early_stopping_data, verbose=verbose)
        est._optimizer.iteration_ends(est.t_)
        if est._no_improvement_count > est.n_iter_no_change:
            self._end_plateau(verbose=verbose)
        if est._optimizer.learning_rate != self.learning_rate:
            self.learning_rate = est._optimizer.learning_rate
            # not by the property, which refuses a rate of 0, where a large power_t underflows
            self.model._net.learning_rate_override = float(self.learning_rate)

    def _compare_loss(self) -> None:
        """Count the consecutive epochs whose loss is not less than the best by tol."""
        est = self.estimator
        loss = est.loss_curve_[-1]
        est._no_improvement_count = est._no_improvement_count + 1 if loss > est.best_loss_ - est.tol else 0
        est.best_loss_ = min(est.best_loss_, loss)

    def _compare_score(self, data: tuple[Any, Any, Any], *, verbose: bool) -> None:
        """Count the consecutive epochs whose validation score is not above the best by tol; keep the best weights."""
        est = self.estimator
        est._export_weights()
        X, y, sample_weight = data
        score = est._score(X, y, sample_weight=sample_weight)
        # ranks may differ in the last bit, so all use that of rank 0
        score = self.model._net.group.allgather("the validation score", score)[0]
        est.validation_scores_.append(score)
        if verbose:
            print(f"Validation score: {score:f}")
        worse = score < est.best_validation_score_ + est.tol
        est._no_improvement_count = est._no_improvement_count + 1 if worse else 0
        if score > est.best_validation_score_:
            est.best_validation_score_ = score
            est._best_coefs = [np.array(c) for c in est.coefs_]
            est._best_intercepts = [np.array(b) for b in est.intercepts_]

    def _end_plateau(self, *, verbose: bool) -> None:
        """Stop the fit, or continue with the lower rate of learning_rate="adaptive"."""
        est = self.estimator
        quantity = "Validation score" if self.early_stopping_data else "Training loss"
        message = f"{quantity} did not improve more than tol={est.tol:f} for {est.n_iter_no_change} consecutive epochs."
        if est._optimizer.trigger_stopping(message, verbose):
            self.model.stop_training = True
        else:
            est._no_improvement_count = 0

    # --- resuming ---

    def get_state(self) -> dict[str, Any]:
        """Return counters, curves, generators and the best weights, for a checkpoint."""
        est = self.estimator
        state: dict[str, Any] = {name: getattr(est, name) for name in COUNTERS}
        for name in CURVES:
            curve = getattr(est, name)
            state[name] = None if curve is None else list(curve)
        state["order"] = self.order
        state["learning_rate"] = float(self.learning_rate)
        state["stopped"] = bool(self.model.stop_training)
        state["parameters"] = {name: getattr(est, name) for name in STOPPING_PARAMETERS}
        generators = {"current": est._random_state.get_state(legacy=False), "initial": est._initial_generator_state}
        for when, generator in generators.items():
            state |= {f"{when}.{name}": value for name, value in generator_state(generator).items()}
        for k, (c, b) in enumerate(zip(est._best_coefs, est._best_intercepts, strict=True)):
            state[f"best_coefs.{k}"] = np.array(c)
            state[f"best_intercepts.{k}"] = np.array(b)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint. Raise ValueError if it belongs to another fit."""
        est = self.estimator
        for name, saved in state["parameters"].items():
            if saved != getattr(est, name):
                raise ValueError(f"{name} is {saved!r} in the file and {getattr(est, name)!r} here")
        generator = generator_from(state, "current")
        layers = range(len(est.coefs_))
        best_coefs = [state[f"best_coefs.{k}"] for k in layers]
        best_intercepts = [state[f"best_intercepts.{k}"] for k in layers]
        if sorted(state["order"]) != list(range(len(self.rows))):
            raise ValueError(f"its order is not a permutation of {len(self.rows)} rows")
        for name in (*COUNTERS, *CURVES):
            setattr(est, name, state[name])
        est._random_state = generator
        est._best_coefs, est._best_intercepts = best_coefs, best_intercepts
        est._optimizer.learning_rate = self.learning_rate = state["learning_rate"]
        self.order = state["order"]
        self.model.stop_training = state["stopped"]


def generator_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of scikit-learn's generator in the form of a checkpoint. Raise ValueError for other
    generators than MT19937."""
    if state["bit_generator"] != "MT19937":
        raise ValueError(f"random_state must draw from MT19937 for a checkpoint, got {state['bit_generator']}")
    return {
        "keys": np.array(state["state"]["key"]),
        "position": int(state["state"]["pos"]),
        "has_gauss": int(state["has_gauss"]),
        "gauss": float(state["gauss"]),
    }


def generator_from(state: dict[str, Any], when: str) -> np.random.RandomState:
    """Make the "initial" or the "current" generator of a checkpoint."""
    keys, position, has_gauss, gauss = (state[f"{when}.{name}"] for name in ("keys", "position", "has_gauss", "gauss"))
    generator = np.random.RandomState()
    generator.set_state(("MT19937", keys, position, has_gauss, gauss))
    return generator
