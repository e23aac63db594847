"""What scikit-learn does at the end of an epoch, as a callback of the training loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..training import recording_cache
from ..training.callbacks import Callback

# what changes from epoch to epoch, in the order of scikit-learn's documentation
NUMBERS = ("n_iter_", "t_", "loss_", "best_loss_", "best_validation_score_", "_no_improvement_count")
RULES = ("early_stopping", "validation_fraction", "tol", "n_iter_no_change", "solver", "learning_rate", "power_t")
CURVES = ("loss_curve_", "validation_scores_", "validation_loss_curve_")


class SklearnStopping(Callback):
    """Counts, curves, the learning rate and when to stop, by scikit-learn's rules.

    estimator  whose fitted attributes it keeps
    held_out   (X, y, sample_weight) of early stopping, or None
    rows       (n,) indices of the rows that train; shuffled anew each epoch from the estimator's generator
    """

    def __init__(self, estimator: Any, early_stopping_data: tuple[Any, Any, Any] | None, rows: np.ndarray) -> None:
        self.estimator, self.early_stopping_data, self.rows = estimator, early_stopping_data, rows
        self.order = np.arange(len(rows))
        self.rate = estimator._optimizer.learning_rate

    def order_of(self, epoch: int) -> np.ndarray:
        """The rows in the order of the next epoch: the order before it, shuffled again, as scikit-learn does."""
        # `shuffle(order)` of scikit-learn is a permutation of indices, drawn in place
        picks = np.arange(len(self.order))
        self.estimator._random_state.shuffle(picks)
        self.order = self.order[picks]
        return self.rows[self.order]

    def orders(self, count: int) -> np.ndarray:
        """The orders of the next epochs, one behind the other, as so many calls of `order_of` give them."""
        generator = self.estimator._random_state
        begun = generator.get_state(legacy=False)
        key = (count, *(part.tobytes() if isinstance(part, np.ndarray) else part for part in _parts(begun)))

        def draw() -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
            each = np.concatenate([self.order_of(0) for _ in range(count)])
            return each, self.order, generator.get_state(legacy=False)

        drawn, self.order, ended = recording_cache.memoize_draw((*key, self.order.tobytes(), self.rows.tobytes()), draw)
        generator.set_state(ended)
        return np.asarray(drawn)

    def ahead(self) -> float:
        """How many epochs from now on cannot stop the fit nor change its rate, whatever their losses."""
        est = self.estimator
        return float(est.n_iter_no_change) + 1 - est._no_improvement_count

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        # from the beginning, so that it is there when the fit is interrupted
        self.estimator.history_ = self.model._run.history

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        est, logs = self.estimator, logs or {}
        est.n_iter_ += 1
        est.loss_ = logs["loss"]
        est.t_ += len(self.rows)
        est.loss_curve_.append(est.loss_)
        if "val_loss" in logs:
            est.validation_loss_curve_.append(logs["val_loss"])
        # of processes that fit together the first one shows
        lines = est.verbose and est.verbose != "bar" and self.model._net.group.rank == 0
        if lines:
            print(f"Iteration {est.n_iter_}, loss = {est.loss_:.8f}")
        self._count_improvement(lines)
        est._optimizer.iteration_ends(est.t_)
        if est._no_improvement_count > est.n_iter_no_change:
            what = "Validation score" if self.early_stopping_data else "Training loss"
            improved = f"did not improve more than tol={est.tol:f}"
            message = f"{what} {improved} for {est.n_iter_no_change} consecutive epochs."
            if est._optimizer.trigger_stopping(message, lines):
                self.model.stop_training = True
            else:
                est._no_improvement_count = 0
        if est._optimizer.learning_rate != self.rate:
            self.rate = est._optimizer.learning_rate
            # not by the property, which refuses the 0 that a large power_t comes to
            self.model._net.learning_rate_override = float(self.rate)

    def _count_improvement(self, lines: bool) -> None:
        """How many epochs in a row brought less than tol, and the best so far."""
        est = self.estimator
        if self.early_stopping_data is None:
            loss = est.loss_curve_[-1]
            est._no_improvement_count = est._no_improvement_count + 1 if loss > est.best_loss_ - est.tol else 0
            est.best_loss_ = min(est.best_loss_, loss)
            return
        est._export_weights()
        score = est._score(*self.early_stopping_data[:2], sample_weight=self.early_stopping_data[2])
        # processors may differ in the last bit: one score decides for all
        score = self.model._net.group.allgather("the validation score", score)[0]
        est.validation_scores_.append(score)
        if lines:
            print(f"Validation score: {score:f}")
        worse = score < est.best_validation_score_ + est.tol
        est._no_improvement_count = est._no_improvement_count + 1 if worse else 0
        if score > est.best_validation_score_:
            est.best_validation_score_ = score
            est._best_coefs = [np.array(c) for c in est.coefs_]
            est._best_intercepts = [np.array(b) for b in est.intercepts_]

    # --- resuming ---

    def get_state(self) -> dict[str, Any]:
        est = self.estimator
        state: dict[str, Any] = {name: getattr(est, name) for name in NUMBERS}
        state |= {name: None if getattr(est, name) is None else list(getattr(est, name)) for name in CURVES}
        state |= {"order": self.order, "learning_rate": float(self.rate), "stopped": bool(self.model.stop_training)}
        state |= {"rules": {name: getattr(est, name) for name in RULES}}
        state |= {
            f"now.{name}": value for name, value in generator_state(est._random_state.get_state(legacy=False)).items()
        }
        state |= {f"begin.{name}": value for name, value in generator_state(est._initial_generator_state).items()}
        for k, (c, b) in enumerate(zip(est._best_coefs, est._best_intercepts, strict=True)):
            state |= {f"best_coefs.{k}": np.array(c), f"best_intercepts.{k}": np.array(b)}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        est = self.estimator
        for name, there in state["rules"].items():
            if there != getattr(est, name):
                raise ValueError(f"{name} is {there!r} in the file and {getattr(est, name)!r} here")
        generator = generator_from(state, "now")
        best = [[state[f"{name}.{k}"] for k in range(len(est.coefs_))] for name in ("best_coefs", "best_intercepts")]
        if sorted(state["order"]) != list(range(len(self.rows))):
            raise ValueError(f"its order is none of {len(self.rows)} rows")
        for name in (*NUMBERS, *CURVES):
            setattr(est, name, state[name])
        est._random_state = generator
        est._best_coefs, est._best_intercepts = best
        est._optimizer.learning_rate = self.rate = state["learning_rate"]
        self.order, self.model.stop_training = state["order"], state["stopped"]


def _parts(state: dict[str, Any]) -> list[Any]:
    """A generator's state, numbers and arrays one after another."""
    return [p for v in state.values() for p in (_parts(v) if isinstance(v, dict) else [v])]


def generator_state(state: dict[str, Any]) -> dict[str, Any]:
    """What scikit-learn's generator needs to go on, from its state. ValueError where it is none of the usual ones."""
    if state["bit_generator"] != "MT19937":
        raise ValueError(f"random_state draws from {state['bit_generator']}; checkpoints are kept of MT19937 alone")
    return {
        "keys": np.array(state["state"]["key"]),
        "position": int(state["state"]["pos"]),
        "has_gauss": int(state["has_gauss"]),
        "gauss": float(state["gauss"]),
    }


def generator_from(state: dict[str, Any], when: str) -> np.random.RandomState:
    """A generator as it was: "begin" of the fit, or "now"."""
    keys, position, has_gauss, gauss = (state[f"{when}.{name}"] for name in ("keys", "position", "has_gauss", "gauss"))
    generator = np.random.RandomState()
    generator.set_state(("MT19937", keys, position, has_gauss, gauss))
    return generator
