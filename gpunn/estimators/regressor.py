"""The regressor."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn import neural_network
from sklearn.base import _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import check_array
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from .. import activations, losses
from ..activations import Activation
from ..interchange import onnx
from ..losses import Loss
from .base import WEIGHTS, BaseMLP, as_input_type, host_numbers
from .sklearn_conventions import ScikitLearnPoisson, ScikitLearnSquaredError

SKLEARN_LOSSES = {
    "squared_error": (ScikitLearnSquaredError, "identity"),
    "poisson": (ScikitLearnPoisson, "exponential"),
}


class MLPRegressor(BaseMLP, neural_network.MLPRegressor):
    """scikit-learn's `MLPRegressor` on gpunn's network: its parameters, defaults, attributes and, in float64 on a CPU
    with the same `random_state`, its very fit.

    loss  "squared_error" and "poisson" are scikit-learn's; or a loss of gpunn ("huber", say)

    Beyond it, by keyword:

    out_activation     None is the identity, the exponential for "poisson", and logistic or softmax for a cross-entropy
    activation, dropout, kernel_initializer, optimizer, clipnorm, callbacks, dtype, device, precision, n_models,
    strategy, verbose="bar", and what `fit` takes and leaves
                       see `gpunn.estimators.base.BaseMLP`
    """

    _kind = "MLPRegressor"
    _score_function = staticmethod(r2_score)
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **neural_network.MLPRegressor._parameter_constraints,
        **BaseMLP._gpunn_constraints,
        "loss": [StrOptions({*SKLEARN_LOSSES, *losses.built_in()}), Loss, callable],
    }

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        out_activation: Any = None,
        dropout: Any = 0.0,
        kernel_initializer: Any = None,
        optimizer: Any = None,
        clipnorm: float | None = None,
        callbacks: Any = None,
        dtype: Any = None,
        device: str = "auto",
        precision: str | None = None,
        n_models: int = 1,
        strategy: Any = None,
    ) -> None:
        self._set_parameters(locals())

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """One epoch over X (n, n_in), y (n,) or (n, n_outputs) and sample_weight (n,); goes on where the last call
        ended. ValueError or TypeError, with the estimator as it was, for input that makes no sense."""
        with self._partial_fit_session():
            return super().partial_fit(
                host_numbers(X), host_numbers(y, "y"), sample_weight=host_numbers(sample_weight, WEIGHTS)
            )

    def predict(self, X: Any, *, return_std: bool = False) -> Any:
        """The predicted values (n,) or (n, n_outputs), in the units of y. CuPy in, CuPy out. Of an ensemble they are
        the means over its nets, and `return_std=True` gives a pair: them, and their standard deviations, as many."""
        mean = super().predict(host_numbers(X))
        if not return_std:
            return as_input_type(mean, X)
        return as_input_type(mean, X), as_input_type(self._predict_std(host_numbers(X)).reshape(mean.shape), X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² of the predictions, the mean over the outputs."""
        return float(
            r2_score(
                host_numbers(y, "y"), host_numbers(self.predict(X)), sample_weight=host_numbers(sample_weight, WEIGHTS)
            )
        )

    # --- what a fit is made of ---

    def _output(self) -> tuple[Loss, Activation]:
        own = isinstance(self.loss, str) and self.loss in SKLEARN_LOSSES
        given, default = SKLEARN_LOSSES[self.loss] if own else (self.loss, None)
        loss = losses.get(given)
        default = default or getattr(loss, "paired_activation", "identity")
        return loss, activations.get(default if self.out_activation is None else self.out_activation)

    def _check_output(self) -> None:
        super()._check_output()
        if losses.get(self._output()[0]).targets == "class_index":
            raise ValueError(f"loss={self.loss!r} is for classes, which MLPClassifier has")

    def _encode(self, y: Any) -> np.ndarray:
        y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
        return y.reshape(-1, 1) if y.ndim == 1 else y

    def _onnx_graph(self) -> onnx.Graph:
        return onnx.regressor(self.net_)
