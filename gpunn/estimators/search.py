"""Grid search whose fits run concurrently: scikit-learn's `GridSearchCV`, in threads."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

from joblib import effective_n_jobs, parallel_config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, ParameterGrid

from .. import backend as backends
from .base import BaseMLP
from .row_orders import shared_draws


class MLPSearchCV(GridSearchCV):
    """scikit-learn's `GridSearchCV` for `gpunn.MLPClassifier` and `gpunn.MLPRegressor`, alone or in a pipeline.

    Parameters, attributes, methods and results (splits, scores, `cv_results_`) are those of `GridSearchCV`, and each
    fit equals a separate call of `fit`. Only the execution differs: fits run in threads of this process, which share X
    and y. Each fit uses one thread, and its epochs run in compiled code. On a GPU the fits run one after another.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor or a pipeline with one
        The estimator whose parameters are searched.
    n_jobs : int or None
        The number of concurrent fits. None means the number of BLAS threads on a CPU, and 1 on a GPU.
    param_grid, scoring, refit, cv, verbose, pre_dispatch, error_score, return_train_score
        As in `GridSearchCV`.

    Attributes
    ----------
    n_concurrent_fits_ : int
        The number of concurrent fits.
    slow_path_reason_ : list of str or None
        For each entry of `cv_results_["params"]` the parameter that makes Python run after every epoch, which takes
        longer (early stopping, callbacks, …), or None if epochs run in compiled code.

    Raises
    ------
    TypeError
        If `estimator` contains none of gpunn's estimators.

    See Also
    --------
    gpunn.fit_many : train several networks without scikit-learn.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import gpunn
    >>> X, y = load_iris(return_X_y=True)
    >>> search = gpunn.MLPSearchCV(gpunn.MLPClassifier(max_iter=1000), {"alpha": [1e-4, 1e-2]}, cv=3)
    >>> search.fit(X, y).cv_results_["params"]  # doctest: +SKIP
    [{'alpha': 0.0001}, {'alpha': 0.01}]
    """

    n_concurrent_fits_: int
    slow_path_reason_: list[str | None]

    def fit(self, X: Any, y: Any = None, **params: Any) -> MLPSearchCV:
        """Search, and refit the best candidate to all rows.

        Parameters
        ----------
        X : array of shape (n, n_in)
            Training rows.
        y : array of shape (n,) or (n, n_outputs)
            Labels or values.
        **params
            Further arguments of `GridSearchCV.fit`, for example `sample_weight`.

        Returns
        -------
        self : MLPSearchCV
            The fitted search.
        """
        fits = self._n_concurrent_fits()
        # the threads of joblib set warning filters; restore those from before
        with warnings.catch_warnings(), parallel_config(backend="threading", n_jobs=fits):
            super().fit(X, y, **params)
        self.n_concurrent_fits_ = fits
        self.slow_path_reason_ = [self._slow_path_reason(candidate) for candidate in self.cv_results_["params"]]
        return self

    def _run_search(self, evaluate_candidates: Any) -> None:
        single_threaded = (
            self._backend().single_threaded() if self._n_concurrent_fits() > 1 else contextlib.nullcontext()
        )
        with single_threaded, shared_draws():
            evaluate_candidates(ParameterGrid(self.param_grid))

    def _backend(self) -> Any:
        return backends.get(_find_mlp(self.estimator).device)

    def _n_concurrent_fits(self) -> int:
        if self.n_jobs is None:
            return int(self._backend().max_concurrent_fits())
        with parallel_config(backend="threading"):
            return int(effective_n_jobs(self.n_jobs))

    def _slow_path_reason(self, candidate: dict[str, Any]) -> str | None:
        mlp = _find_mlp(clone(self.estimator).set_params(**clone(candidate, safe=False)))
        return "solver='lbfgs', whose loop runs in SciPy" if mlp._uses_lbfgs else mlp._slow_path_reason()


def _find_mlp(estimator: Any) -> BaseMLP:
    """Return the estimator itself, or the one among its parts, that is gpunn's. Raise TypeError if there is none."""
    parts = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
    for part in (estimator, *parts):
        if isinstance(part, BaseMLP):
            return part
    raise TypeError(
        f"estimator must be a gpunn.MLPClassifier or MLPRegressor, or a pipeline with one, got {estimator!r}: "
        "for others use scikit-learn's GridSearchCV"
    )
