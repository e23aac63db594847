"""`MLPRegressor`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn import neural_network
from sklearn.metrics import r2_score
from sklearn.utils import check_array
from sklearn.utils.metaestimators import available_if

from .. import activations, losses
from ..activations import Activation
from ..interchange import onnx
from ..interchange.onnx_graph import Graph
from ..losses import Loss
from ..user_warnings import warn_user
from .arrays import as_input_type, host_numbers
from .base import BaseMLP
from .sklearn_conventions import ScikitLearnPoisson, ScikitLearnSquaredError
from .sklearn_private import StrOptions, fit_context

# loss and default activation of the last layer, by scikit-learn's name
SKLEARN_LOSSES = {
    "squared_error": (ScikitLearnSquaredError, "identity"),
    "poisson": (ScikitLearnPoisson, "exponential"),
}


MAX_SCALE = 1e3  # of the standard deviation of y or its inverse, and of the mean in standard deviations


def _warn_if_far_from_unit_scale(y: np.ndarray) -> None:
    """Warn if mini-batches hardly learn a column of y, because its mean or standard deviation is far from 0 or 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = y.sum(axis=0, dtype=np.float64) / len(y)
        std = np.sqrt(((y - mean) ** 2).sum(axis=0) / len(y))
    for m, s in zip(mean.tolist(), std.tolist(), strict=True):
        if s > 0 and not (1 / MAX_SCALE <= s <= MAX_SCALE and abs(m) <= MAX_SCALE * s):
            warn_user(
                f"y must be near unit scale, got mean {m:.3g} and standard deviation {s:.3g}: standardize it, for "
                "example with sklearn.compose.TransformedTargetRegressor(regressor=…, transformer=StandardScaler())"
            )
            return


class MLPRegressor(BaseMLP, neural_network.MLPRegressor):
    """scikit-learn's `MLPRegressor` on gpunn's network.

    Parameters, their order and defaults, and attributes are scikit-learn's. With the same `random_state`, in float64 on
    a CPU, weights, losses and scores equal scikit-learn's to rounding. gpunn's own parameters are keyword-only.

    "adam" and "sgd" hardly learn values that are far from unit scale. `fit` warns if the standard deviation of y is
    outside of 1e-3 to 1e3, or its mean above 1000 standard deviations.

    Parameters
    ----------
    loss : str, Loss or callable, default="squared_error"
        "squared_error" and "poisson" are scikit-learn's (E3); or a loss of gpunn, for example "huber".
    hidden_layer_sizes : int or sequence of int, default=(100,)
        The number of units of each hidden layer.
    activation : str, Activation or list, default="relu"
        Activation of the hidden layers (E2): scikit-learn's and gpunn's names, or one entry per hidden layer.
    solver : {"adam", "sgd", "lbfgs"}, default="adam"
        The optimizer, in scikit-learn's form. "lbfgs" is a quasi-Newton method that uses all rows in every step.
    alpha : float, default=0.0001
        As in scikit-learn: the penalty of a batch is ½α ΣW²/Σw. That of E9 is not divided by Σw.
    batch_size : int or "auto", default="auto"
        Number of rows per step. "auto" is min(200, n); "lbfgs" does not use it.
    learning_rate : {"constant", "invscaling", "adaptive"}, default="constant"
        The schedule of solver="sgd". "invscaling" divides by t ** `power_t`, where t counts rows. "adaptive" divides by
        5 where the fit would otherwise stop on a plateau.
    learning_rate_init : float, default=0.001
        The initial learning rate η of "sgd" and "adam". (E8)
    power_t : float, default=0.5
        The exponent of learning_rate="invscaling".
    max_iter : int, default=200
        Maximum number of epochs, or of iterations of "lbfgs".
    shuffle : bool, default=True
        Draw a new order of the rows in every epoch of "sgd" and "adam".
    random_state : int, RandomState or None, default=None
        Seed of initial weights, row orders, the early-stopping split and dropout masks. An integer repeats the fit.
    tol : float, default=0.0001
        The smallest change of loss or validation score that counts as an improvement: see `n_iter_no_change`.
    verbose : bool, int or "bar", default=False
        Print the loss of every epoch, as scikit-learn does, or show a progress bar with "bar".
    warm_start : bool, default=False
        Start `fit` from the weights of the last one instead of new ones.
    momentum : float, default=0.9
        The momentum of solver="sgd", in [0, 1].
    nesterovs_momentum : bool, default=True
        Use Nesterov's form of that momentum.
    early_stopping : bool, default=False
        Stop by the score on `validation_fraction` of the rows, and keep the weights of the best epoch.
    validation_fraction : float, default=0.1
        The fraction of the rows that `early_stopping` does not train with.
    beta_1, beta_2 : float, default=0.9 and 0.999
        The decay rates of Adam's moments, in [0, 1).
    epsilon : float, default=1e-8
        ε of Adam's denominator.
    n_iter_no_change : int, default=10
        Stop after more than this number of epochs without an improvement by `tol`.
    max_fun : int, default=15000
        Maximum number of evaluations of the loss by "lbfgs".
    out_activation : str or Activation, optional
        Activation of the last layer. None is the identity, the exponential for loss="poisson", and logistic or softmax
        for a cross-entropy.
    dropout : float or list of float, default=0.0
        Probability that a hidden output is dropped in a step (E11): one number, or one per hidden layer.
    kernel_initializer : str or Initializer, optional
        Distribution of the initial weights (E10); intercepts then start at 0. None draws scikit-learn's weights and
        intercepts.
    optimizer : str or Optimizer, optional
        An optimizer of gpunn. `solver`, `learning_rate`, `learning_rate_init`, `power_t`, `momentum`,
        `nesterovs_momentum`, `beta_1`, `beta_2` and `epsilon` must then stay at their defaults.
    clipnorm : float, optional
        The largest Euclidean norm of the gradient over all parameters. None does not limit it.
    callbacks : list of Callback, optional
        Callbacks of the fit; their `model` is the network, `net_`.
    dtype : {"float32", "float64"}, optional
        Type of parameters and activations. None is scikit-learn's rule: float32 for float32 X (but float64 with
        solver="lbfgs"), float64 for all other X. "float32" is the fastest.
    device : str, default="auto"
        "auto", "cpu", "cuda" or "cuda:N".
    precision : {"tf32", "bf16"}, optional
        Precision of matrix products on a GPU, with dtype="float32". None computes in `dtype`.
    n_models : int, default=1
        The number of networks, with different seeds, that are trained concurrently. Above 1 the estimator predicts the
        mean of their outputs, and `predict(X, return_std=True)` also returns the standard deviation.
    strategy : DataParallel, optional
        `gpunn.DataParallel()` trains one network in all processes that `mpiexec` started, each with the same arguments.

    Attributes
    ----------
    net_ : Sequential
        The network.
    history_ : History
        Loss, metrics and learning rate of each epoch.
    validation_loss_curve_ : list of float or None
        The loss on `validation_data` after each epoch.
    estimators_ : list of MLPRegressor
        The members, if n_models > 1. `coefs_` and `intercepts_` are then copies of their weights, stacked along a first
        axis of that size.
    coefs_, intercepts_, loss_curve_, best_loss_, n_iter_, …
        As in scikit-learn. On a CPU `coefs_` and `intercepts_` are views of the network's parameters, on a GPU
        read-only copies.

    Raises
    ------
    ValueError, TypeError
        From `fit`, for an invalid parameter; the message names it.

    See Also
    --------
    MLPClassifier : the estimator for class labels.
    gpunn.from_sklearn : convert a fitted estimator of scikit-learn.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> import gpunn
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = gpunn.MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", alpha=1.0, max_iter=2000, n_models=5)
    >>> model = model.set_params(random_state=0).fit(X, y)
    >>> mean, std = model.predict(X[:3], return_std=True)
    """

    _kind = "MLPRegressor"
    _score_function = staticmethod(r2_score)
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **neural_network.MLPRegressor._parameter_constraints,
        **BaseMLP._gpunn_constraints,
        "loss": [StrOptions({*SKLEARN_LOSSES, *losses.built_in()}), Loss, callable],
    }

    def __init__(
        self, loss: Any = "squared_error", hidden_layer_sizes: Any = (100,), activation: Any = "relu", *,
        solver: str = "adam", alpha: float = 0.0001, batch_size: Any = "auto", learning_rate: str = "constant",
        learning_rate_init: float = 0.001, power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
        random_state: Any = None, tol: float = 1e-4, verbose: Any = False, warm_start: bool = False,
        momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False,
        validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
        n_iter_no_change: float = 10, max_fun: int = 15000, out_activation: Any = None, dropout: Any = 0.0,
        kernel_initializer: Any = None, optimizer: Any = None, clipnorm: float | None = None, callbacks: Any = None,
        dtype: Any = None, device: str = "auto", precision: str | None = None, n_models: int = 1,
        strategy: Any = None,
    ) -> None:  # fmt: skip
        self._set_parameters(locals())

    @available_if(lambda estimator: estimator._check_solver())
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """Train one epoch, starting from the present weights.

        Parameters
        ----------
        X : array of shape (n, n_in)
            Training rows.
        y : array of shape (n,) or (n, n_outputs)
            Values.
        sample_weight : array of shape (n,), optional
            Weights ≥ 0 of the rows.

        Returns
        -------
        self : MLPRegressor
            The fitted estimator.

        Raises
        ------
        ValueError, TypeError
            If an argument or a parameter is invalid. The estimator is unchanged.
        """
        with self._partial_fit_session():
            w = host_numbers(sample_weight, "sample_weight")
            return super().partial_fit(host_numbers(X), host_numbers(y, "y"), sample_weight=w)

    def predict(self, X: Any, *, return_std: bool = False) -> Any:
        """Predict the values of each row.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_in)
            Rows.
        return_std : bool, default=False
            Also return the standard deviation over the networks of an ensemble.

        Returns
        -------
        values : array of shape (n,) or (n, n_outputs)
            The predicted values, in the units of y; the means over an ensemble. CuPy in, CuPy out.
        std : array of shape (n,) or (n, n_outputs)
            Only with `return_std`.
        """
        mean = super().predict(host_numbers(X))
        if not return_std:
            return as_input_type(mean, X)
        return as_input_type(mean, X), as_input_type(self._predict_std(host_numbers(X)).reshape(mean.shape), X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R² of the predictions, the mean over the outputs.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_in)
            Rows.
        y : array of shape (n,) or (n, n_outputs)
            True values.
        sample_weight : array of shape (n,), optional
            Weights of the rows.

        Returns
        -------
        float
            1 for perfect predictions, 0 for those of a constant mean.
        """
        w = host_numbers(sample_weight, "sample_weight")
        return float(r2_score(host_numbers(y, "y"), host_numbers(self.predict(X)), sample_weight=w))

    # --- output, loss and data ---

    def _output(self) -> tuple[Loss, Activation]:
        if isinstance(self.loss, str) and self.loss in SKLEARN_LOSSES:
            cls, default = SKLEARN_LOSSES[self.loss]
            loss = losses.get(cls)
        else:
            loss = losses.get(self.loss)
            default = getattr(loss, "paired_activation", "identity")
        return loss, activations.get(default if self.out_activation is None else self.out_activation)

    def _check_output(self) -> None:
        super()._check_output()
        if self._output()[0].targets == "class_index":
            raise ValueError(f"loss={self.loss!r} needs class labels: use MLPClassifier")

    def _check_scale(self, y: Any) -> None:
        if self._output()[1].name == "identity":
            _warn_if_far_from_unit_scale(y)

    def _encode(self, y: Any) -> np.ndarray:
        y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
        return y.reshape(-1, 1) if y.ndim == 1 else y

    def _onnx_graph(self) -> Graph:
        return onnx.regressor(self.net_)
