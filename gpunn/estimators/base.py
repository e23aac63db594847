"""gpunn's part of both estimators: scikit-learn's `fit` with gpunn's network, training loop and devices.

scikit-learn's classes validate input, encode labels, order the draws of weights and fill the fitted attributes. The
methods that compute are overridden: `_fit_stochastic` (stochastic.py), `_fit_lbfgs` and `_loss_grad_lbfgs` (lbfgs.py),
`_forward_pass_fast` and `_score` (outputs.py).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..interchange import onnx
from ..interchange.onnx_graph import Graph
from ..interchange.scikit_learn import to_sklearn
from ..parallel import DataParallel
from ..program.groups import SINGLE_PROCESS
from ..training import checkpoint
from ..training.history import History
from . import ensemble, saving
from .arrays import host_numbers
from .lbfgs import MLPLbfgsFit
from .outputs import MLPOutputs
from .sklearn_private import fit_context
from .stochastic import MLPStochasticFit

DURING_FIT = ("_validation_data", "_resume", "_has_stepped")  # attributes that exist only while a fit runs


class BaseMLP(MLPStochasticFit, MLPLbfgsFit, MLPOutputs):
    """The methods of `MLPClassifier` and `MLPRegressor` that do not depend on the kind of target.

    Each of them inherits from this class and from scikit-learn's class of the same name.
    """

    _kind: ClassVar[str]  # the class name in files
    history_: History

    # --- fitting ---

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None, resume: Any = None) -> Any:
        """Fit the network to X and y.

        Parameters
        ----------
        X : array or sparse matrix (CSR, CSC) of shape (n, n_in)
            Training rows.
        y : array of shape (n,) or (n, n_outputs)
            Labels or values.
        sample_weight : array of shape (n,), optional
            Weights ≥ 0 of the rows, wᵢ in C = Σ wᵢℓᵢ / Σ wᵢ. (E3)
        validation_data : (X, y) or (X, y, sample_weight), optional
            Data whose loss after each epoch is appended to `validation_loss_curve_`. `gpunn.EarlyStopping("val_loss")`
            among the callbacks stops by it; `early_stopping=True` uses rows of X instead, as in scikit-learn.
        resume : path, optional
            A checkpoint that `gpunn.ModelCheckpoint` writes. If it exists, the fit continues from it and gives the
            same result, bit for bit, as a fit that was never stopped.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError, TypeError
            If an argument or a parameter is invalid. The estimator is unchanged.
        ValueError
            If training diverges. The weights of the last finite step are kept.
        KeyboardInterrupt
            On Ctrl-C. The weights of the last complete step are kept.
        """
        with self._fit_session(validation_data, resume):
            if self.n_models > 1:
                return ensemble.fit(self, X, y, sample_weight, validation_data, resume)
            if hasattr(self, "estimators_"):
                ensemble.reset(self)
            X, y, w = host_numbers(X), self._host_targets(y), host_numbers(sample_weight, "sample_weight")
            return self._fit(X, y, sample_weight=w, incremental=False)

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Any:
        # scikit-learn compares the sizes with 0 before it calls _validate_input
        self._hidden_sizes()
        return super()._fit(X, y, sample_weight=sample_weight, incremental=incremental)  # type: ignore[misc]

    @contextmanager
    def _fit_session(self, validation_data: Any = None, resume: Any = None) -> Iterator[None]:
        """Run one fit in the strategy's process group, so that an error on one rank reaches all."""
        group = self.strategy.start() if isinstance(self.strategy, DataParallel) else SINGLE_PROCESS
        with group.collective(), self._local_fit_session(validation_data, resume):
            yield

    @contextmanager
    def _partial_fit_session(self) -> Iterator[None]:
        """Run one call of partial_fit."""
        with self._fit_session():
            if self.n_models > 1 or hasattr(self, "estimators_"):
                raise ValueError(
                    "partial_fit needs a single network: leave n_models at 1, and start with a new estimator"
                )
            yield

    @contextmanager
    def _local_fit_session(self, validation_data: Any, resume: Any) -> Iterator[None]:
        """Exclude concurrent fits, and restore the estimator if the fit fails before its first step."""
        lock = self.__dict__.setdefault("_fit_lock", threading.Lock())
        if not lock.acquire(blocking=False):
            raise RuntimeError("fit is already running, in another thread or around a callback; use a clone of it")
        before = dict(vars(self))
        generator = self.random_state
        drawn = generator.get_state(legacy=False) if isinstance(generator, np.random.RandomState) else None
        self._validation_data, self._resume = validation_data, resume
        self._has_stepped = lambda: False
        try:
            yield
        except BaseException:
            if not self._has_stepped():
                vars(self).update(before)
                for name in set(vars(self)) - set(before):
                    delattr(self, name)
                if drawn is not None:
                    generator.set_state(drawn)
            raise
        finally:
            for name in DURING_FIT:
                vars(self).pop(name, None)
            lock.release()

    # --- files ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the fitted estimator to a safetensors file, atomically and without pickle; `gpunn.load` opens it.

        The file contains parameters, weights, classes and curves, but neither callbacks nor the optimizer's state.

        Parameters
        ----------
        path : str or path-like
            The file to write or replace.

        Raises
        ------
        OSError
            If writing fails. An old file is unchanged.
        sklearn.exceptions.NotFittedError
            Before `fit`.

        See Also
        --------
        gpunn.load : open the file.
        """
        checkpoint.write(path, *self.to_tensors())

    def to_tensors(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the arrays and the JSON metadata of this estimator's file."""
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
        """Make an estimator from the arrays and metadata of `to_tensors`.

        Raises
        ------
        CheckpointError
            If arrays and metadata do not match.
        """
        if "ensemble" in metadata:
            return ensemble.from_tensors(cls, tensors, metadata["ensemble"], custom, device)
        return saving.from_tensors(cls, tensors, metadata, custom, device)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Export the fitted estimator to an ONNX file, atomically.

        The input is "X" (N, n_features_in_) for any N. A classifier's outputs are "label" and "probabilities"
        (N, n_classes), a regressor's is "variable", in the dtype of the network: the values of `predict` and
        `predict_proba`.

        Parameters
        ----------
        path : str or path-like
            The file to write or replace.

        Raises
        ------
        ImportError
            Without the package onnx (extra `onnx`).
        ValueError
            For a user-defined activation, and for an ensemble.
        sklearn.exceptions.NotFittedError
            Before `fit`.
        OSError
            If writing fails. An old file is unchanged.
        """
        check_is_fitted(self)
        self._require_single_network("export")
        self._sync_weights()
        onnx.write(self._onnx_graph(), path)

    def _onnx_graph(self) -> Graph:
        raise NotImplementedError

    def to_sklearn(self) -> Any:
        """Convert the fitted estimator to scikit-learn's class: see `gpunn.interchange.scikit_learn.to_sklearn`."""
        self._require_single_network("to_sklearn")
        return to_sklearn(self)

    # --- copies ---

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock and the weights, which are views of the network's parameters."""
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
