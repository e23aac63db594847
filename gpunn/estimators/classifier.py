"""`MLPClassifier`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn import neural_network
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import column_or_1d

from .. import activations, losses
from ..activations import Activation
from ..interchange import onnx
from ..interchange.onnx_graph import Graph
from ..losses import Loss
from .arrays import as_input_type, host_labels, host_numbers
from .base import BaseMLP
from .sklearn_conventions import ScikitLearnBinaryLogLoss, ScikitLearnLogLoss
from .sklearn_private import StrOptions, fit_context


class MLPClassifier(BaseMLP, neural_network.MLPClassifier):
    """scikit-learn's `MLPClassifier` on gpunn's network.

    Parameters, their order and defaults, and attributes are scikit-learn's. With the same `random_state`, in float64 on
    a CPU, weights, losses and scores equal scikit-learn's to rounding. gpunn's own parameters are keyword-only.

    Parameters
    ----------
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
    loss : str, Loss or callable, default="log_loss"
        "log_loss" is scikit-learn's (E3). A loss of gpunn gets one-hot rows, or one 0/1 column for two classes.
    out_activation : str or Activation, optional
        Activation of the last layer. None is softmax for several classes, logistic for two and for multilabel targets.
    class_weight : dict, "balanced" or list of dict, optional
        {class: weight}, multiplied with the sample weights. Multilabel targets need a list with one dict per output.
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
    estimators_ : list of MLPClassifier
        The members, if n_models > 1. `coefs_` and `intercepts_` are then copies of their weights, stacked along a first
        axis of that size.
    coefs_, intercepts_, classes_, loss_curve_, best_loss_, n_iter_, …
        As in scikit-learn. On a CPU `coefs_` and `intercepts_` are views of the network's parameters, on a GPU
        read-only copies.

    Raises
    ------
    ValueError, TypeError
        From `fit`, for an invalid parameter; the message names it.

    See Also
    --------
    MLPRegressor : the estimator for continuous targets.
    gpunn.from_sklearn : convert a fitted estimator of scikit-learn.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import gpunn
    >>> X, y = load_iris(return_X_y=True)
    >>> gpunn.MLPClassifier(dropout=0.1, max_iter=400, random_state=0).fit(X, y).score(X, y)  # doctest: +SKIP
    0.97
    """

    _kind = "MLPClassifier"
    _score_function = staticmethod(accuracy_score)
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **neural_network.MLPClassifier._parameter_constraints,
        **BaseMLP._gpunn_constraints,
        "loss": [StrOptions({"log_loss", *losses.built_in()}), Loss, callable],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(
        self, hidden_layer_sizes: Any = (100,), activation: Any = "relu", *, solver: str = "adam",
        alpha: float = 0.0001, batch_size: Any = "auto", learning_rate: str = "constant",
        learning_rate_init: float = 0.001, power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
        random_state: Any = None, tol: float = 1e-4, verbose: Any = False, warm_start: bool = False,
        momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False,
        validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
        n_iter_no_change: float = 10, max_fun: int = 15000, loss: Any = "log_loss", out_activation: Any = None,
        class_weight: Any = None, dropout: Any = 0.0, kernel_initializer: Any = None, optimizer: Any = None,
        clipnorm: float | None = None, callbacks: Any = None, dtype: Any = None, device: str = "auto",
        precision: str | None = None, n_models: int = 1, strategy: Any = None,
    ) -> None:  # fmt: skip
        self._set_parameters(locals())

    @available_if(lambda estimator: estimator._check_solver())
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> MLPClassifier:
        """Train one epoch, starting from the present weights.

        Parameters
        ----------
        X : array of shape (n, n_in)
            Training rows.
        y : array of shape (n,) or (n, n_outputs)
            Labels.
        sample_weight : array of shape (n,), optional
            Weights ≥ 0 of the rows.
        classes : array, optional
            All labels. Required in the first call.

        Returns
        -------
        self : MLPClassifier
            The fitted estimator.

        Raises
        ------
        ValueError, TypeError
            If an argument or a parameter is invalid. The estimator is unchanged.
        """
        with self._partial_fit_session():
            w = host_numbers(sample_weight, "sample_weight")
            classes = host_labels(classes, "classes")
            return super().partial_fit(host_numbers(X), host_labels(y), sample_weight=w, classes=classes)

    def predict(self, X: Any, *, return_std: bool = False) -> Any:
        """Predict the class of each row.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_in)
            Rows.
        return_std : bool, default=False
            Also return the standard deviation over the networks of an ensemble.

        Returns
        -------
        classes : array of shape (n,) or (n, n_outputs)
            The classes; for multilabel targets 0 or 1. An ensemble predicts the class with the largest mean
            probability. CuPy in, CuPy out, if the classes are numbers.
        std : array of shape (n,) or (n, n_outputs)
            The standard deviation of the predicted class's probability. Only with `return_std`.
        """
        classes = super().predict(host_numbers(X))
        if not return_std:
            return as_input_type(classes, X)
        std = self._predict_std(host_numbers(X))
        if self._is_multiclass:
            std = std[np.arange(len(std)), np.searchsorted(self.classes_, classes)]
        elif self._is_binary:
            std = std[:, 0]
        return as_input_type(classes, X), as_input_type(std, X)

    def predict_proba(self, X: Any, *, return_std: bool = False) -> Any:
        """Predict the probabilities of the classes.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_in)
            Rows.
        return_std : bool, default=False
            Also return the standard deviation over the networks of an ensemble.

        Returns
        -------
        probabilities : array of shape (n, n_classes)
            Columns in the order of `classes_`; the means over an ensemble. CuPy in, CuPy out.
        std : array of shape (n, n_classes)
            Only with `return_std`.
        """
        mean = super().predict_proba(host_numbers(X))
        if not return_std:
            return as_input_type(mean, X)
        std = self._predict_std(host_numbers(X))
        if self._is_binary:
            std = np.hstack([std, std])
        return as_input_type(mean, X), as_input_type(std, X)

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithm of `predict_proba(X)`, (n, n_classes). CuPy in, CuPy out."""
        return as_input_type(super().predict_log_proba(host_numbers(X)), X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy: the weighted fraction of rows that are predicted correctly.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_in)
            Rows.
        y : array of shape (n,) or (n, n_outputs)
            True labels.
        sample_weight : array of shape (n,), optional
            Weights of the rows.

        Returns
        -------
        float
            A number in [0, 1].
        """
        y, predicted = host_labels(y), host_labels(self.predict(X))
        same_type = isinstance(y, np.ndarray) and y.dtype == predicted.dtype and y.shape == predicted.shape
        if same_type and y.ndim == 1 and sample_weight is None and y.dtype.kind in "biuU":
            # the same number as accuracy_score, whose checks take ten times as long
            return float(np.mean(y == predicted))
        return float(accuracy_score(y, predicted, sample_weight=host_numbers(sample_weight, "sample_weight")))

    # --- output and loss ---

    @property
    def _is_multiclass(self) -> bool:
        """True if each row has one of more than two classes."""
        return bool(self._label_binarizer.y_type_ == "multiclass")

    @property
    def _is_binary(self) -> bool:
        """True if each row has one of two classes: the network then has one output."""
        return bool(self._label_binarizer.y_type_ == "binary")

    def _output(self) -> tuple[Loss, Activation]:
        default = "softmax" if self._is_multiclass else "sigmoid"
        activation = activations.get(default if self.out_activation is None else self.out_activation)
        if self.loss == "log_loss":
            return ScikitLearnLogLoss() if self._is_multiclass else ScikitLearnBinaryLogLoss(), activation
        return losses.get(self.loss), activation

    def _check_output(self) -> None:
        super()._check_output()
        loss, activation = self._output()
        meaning = getattr(loss, "paired_activation", activation.name)
        if meaning == "sigmoid" or (meaning == "softmax" and self._is_multiclass):
            return
        if meaning == "softmax":
            raise ValueError(
                f"loss={self.loss!r} with out_activation={self.out_activation!r} needs more than two classes, one per "
                "row; for two classes or multilabel targets choose loss='log_loss'"
            )
        raise ValueError(
            f"out_activation={self.out_activation!r} with loss={self.loss!r} gives no probabilities: choose 'softmax' "
            "for several classes, 'logistic' for two or for multilabel targets, or loss='log_loss'"
        )

    def _network_outputs(self, X: Any) -> np.ndarray:
        return self.net_.predict_proba(X)

    def _onnx_graph(self) -> Graph:
        multilabel = self._label_binarizer.y_type_ == "multilabel-indicator"
        return onnx.classifier(self.net_, None if multilabel else self.classes_)

    # --- data ---

    def _class_weight(self) -> Any:
        return self.class_weight

    def _combined_weights(self, y: Any, sample_weight: Any) -> Any:
        if self.class_weight is None:
            return sample_weight
        try:
            if self._label_binarizer.y_type_ == "multilabel-indicator":
                by_class = compute_sample_weight(self.class_weight, y.astype(int))
            else:
                weights = compute_class_weight(self.class_weight, classes=self.classes_, y=self._labels_of(y))
                by_class = weights[y.argmax(axis=1) if self._is_multiclass else y[:, 0].astype(int)]
        except (ValueError, TypeError) as error:
            raise ValueError(f"class_weight={self.class_weight!r}: {error}") from error
        if not (np.isfinite(by_class).all() and (by_class >= 0).all() and (by_class > 0).any()):
            raise ValueError(
                f"class_weight must have finite numbers ≥ 0, not 0 for every class in y, got {self.class_weight!r}"
            )
        return by_class if sample_weight is None else by_class * sample_weight

    def _host_targets(self, y: Any) -> Any:
        return host_labels(y)

    def _labels_of(self, y: Any) -> Any:
        return self._label_binarizer.inverse_transform(y)

    def _encode_labels(self, y: np.ndarray) -> np.ndarray:
        self._label_binarizer = LabelBinarizer().fit(y)
        self.classes_ = self._label_binarizer.classes_
        if len(self.classes_) == 1:
            return np.zeros((len(y), 1), bool)
        # LabelBinarizer.transform would determine the classes of y again, several times
        return y[:, None] == (self.classes_[1:] if self._is_binary else self.classes_)

    def _stratify(self, y: Any) -> Any:
        # scikit-learn does not stratify multilabel targets
        return y if self.n_outputs_ == 1 else None

    def _encode(self, y: Any) -> Any:
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if y.ndim == 1:
            unknown = np.setdiff1d(y, self.classes_)
            if len(unknown):
                raise ValueError(f"its y has classes that the training y lacks: {unknown.tolist()}")
        return self._label_binarizer.transform(y).astype(bool)
