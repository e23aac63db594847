"""A search over parameters whose fits run side by side: scikit-learn's `GridSearchCV`, in threads."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

from joblib import effective_n_jobs, parallel_config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, ParameterGrid

from .. import backend as backends
from ..training.recording_cache import reuse as reuse_recordings
from .base import BaseMLP


class MLPSearchCV(GridSearchCV):
    """scikit-learn's `GridSearchCV` for `gpunn.MLPClassifier` and `gpunn.MLPRegressor`, alone or in a pipeline.

    Parameters, attributes and methods are those of `GridSearchCV`, and so is what comes out: splits, scores and
    `cv_results_` are scikit-learn's own, and each fit is the one that `fit` gives. What differs is how the fits run:
    in threads of this process, which share X and y; each fit takes one thread, and its epochs run in compiled code
    without Python. On a GPU they run one after another.

    n_jobs  how many fits run at a time; None takes as many as BLAS is set to use threads on a CPU, and 1 on a GPU

    Of its own it has, after `fit`:

    n_concurrent_fits_  how many fits ran at a time
    slow_path_reason_   for each entry of `cv_results_["params"]` why Python looked
                        at its fits after every epoch, which takes longer
                        (early stopping, callbacks, …); None where whole stretches of epochs ran at once

    TypeError where the estimator holds no perceptron of gpunn; else what `GridSearchCV` raises.
    """

    n_concurrent_fits_: int
    slow_path_reason_: list[str | None]

    def fit(self, X: Any, y: Any = None, **params: Any) -> MLPSearchCV:
        """Search, and refit the best candidate on all of X (n, n_in) and y; returns the search. `params` as in
        `GridSearchCV.fit`: `sample_weight`, say."""
        fits = self._n_concurrent_fits()
        # threads hand warning filters to and fro; what there was before comes back
        with warnings.catch_warnings(), parallel_config(backend="threading", n_jobs=fits):
            super().fit(X, y, **params)
        self.n_concurrent_fits_ = fits
        self.slow_path_reason_ = [self._slow_path_reason(candidate) for candidate in self.cv_results_["params"]]
        return self

    def _run_search(self, evaluate_candidates: Any) -> None:
        one_each = self._backend().single_threaded() if self._n_concurrent_fits() > 1 else contextlib.nullcontext()
        with one_each, reuse_recordings():
            evaluate_candidates(ParameterGrid(self.param_grid))

    def _backend(self) -> Any:
        return backends.get(_find_mlp(self.estimator).device)

    def _n_concurrent_fits(self) -> int:
        if self.n_jobs is None:
            return int(self._backend().max_concurrent_fits())
        with parallel_config(backend="threading"):
            return int(effective_n_jobs(self.n_jobs))

    def _slow_path_reason(self, candidate: dict[str, Any]) -> str | None:
        found = _find_mlp(clone(self.estimator).set_params(**clone(candidate, safe=False)))
        return "solver='lbfgs', which steps by itself" if found._uses_lbfgs else found._slow_path_reason()


def _find_mlp(estimator: Any) -> BaseMLP:
    """The perceptron in an estimator, itself or one of its parts. TypeError where there is none."""
    parts = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
    for part in (estimator, *parts):
        if isinstance(part, BaseMLP):
            return part
    raise TypeError(
        f"estimator must be a gpunn.MLPClassifier or MLPRegressor, or a pipeline with one, got {estimator!r}: "
        "for others use scikit-learn's GridSearchCV"
    )
