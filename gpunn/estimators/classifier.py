"""The classifier."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn import neural_network
from sklearn.base import _fit_context
from sklearn.metrics import accuracy_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import column_or_1d

from .. import activations, losses
from ..activations import Activation
from ..interchange import onnx
from ..losses import Loss
from .base import WEIGHTS, BaseMLP, as_input_type, host_labels, host_numbers
from .sklearn_conventions import ScikitLearnBinaryLogLoss, ScikitLearnLogLoss


class MLPClassifier(BaseMLP, neural_network.MLPClassifier):
    """scikit-learn's `MLPClassifier` on gpunn's network: its parameters, defaults, attributes and, in float64 on a CPU
    with the same `random_state`, its very fit.

    Beyond it, by keyword:

    loss               "log_loss", or a loss of gpunn for targets that are one-hot rows (one 0/1 column for two classes)
    out_activation     None is softmax for several classes, logistic for two and for multilabel targets
    class_weight       None, "balanced", or {class: weight}; for multilabel targets a list of such dicts
    activation, dropout, kernel_initializer, optimizer, clipnorm, callbacks, dtype, device, precision, n_models,
    strategy, verbose="bar", and what `fit` takes and leaves
                       see `gpunn.estimators.base.BaseMLP`
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
        self,
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
        loss: Any = "log_loss",
        out_activation: Any = None,
        class_weight: Any = None,
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
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> MLPClassifier:
        """One epoch over X (n, n_in), y (n,) and sample_weight (n,); goes on where the last call ended.

        `classes` lists all labels; the first call needs it. ValueError or TypeError, with the estimator as it was, for
        input that makes no sense.
        """
        with self._partial_fit_session():
            w, classes = host_numbers(sample_weight, WEIGHTS), host_labels(classes, "classes")
            return super().partial_fit(host_numbers(X), host_labels(y), sample_weight=w, classes=classes)

    def predict(self, X: Any, *, return_std: bool = False) -> Any:
        """The classes (n,), or for multilabel targets 0 and 1 (n, n_outputs). CuPy in, CuPy out where they are
        numbers. Of an ensemble they are those of its mean probabilities, and `return_std=True` gives a pair: the
        classes, and the standard deviation over the nets of their probabilities, (n,) or (n, n_outputs)."""
        classes = super().predict(host_numbers(X))
        if not return_std:
            return as_input_type(classes, X)
        std = self._predict_std(host_numbers(X))
        if self._is_multiclass:
            std = std[np.arange(len(std)), np.searchsorted(self.classes_, classes)]
        return as_input_type(classes, X), as_input_type(std[:, 0] if std.ndim == 2 and self._is_binary else std, X)

    def predict_proba(self, X: Any, *, return_std: bool = False) -> Any:
        """Probabilities (n, n_classes), columns in the order of `classes_`. CuPy in, CuPy out. Of an ensemble they are
        the means over its nets, and `return_std=True` gives a pair: them, and their standard deviations, as many."""
        mean = super().predict_proba(host_numbers(X))
        if not return_std:
            return as_input_type(mean, X)
        std = self._predict_std(host_numbers(X))
        return as_input_type(mean, X), as_input_type(np.hstack([std, std]) if self._is_binary else std, X)

    def predict_log_proba(self, X: Any) -> Any:
        """The logarithm of `predict_proba`. CuPy in, CuPy out."""
        return as_input_type(super().predict_log_proba(host_numbers(X)), X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of rows that are classified right."""
        y, predicted = host_labels(y), host_labels(self.predict(X))
        plain = isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype == predicted.dtype and y.shape == predicted.shape
        if plain and sample_weight is None and y.dtype.kind in "biuU":
            # of which scikit-learn makes sure in ten times the time
            return float(np.mean(y == predicted))
        return float(accuracy_score(y, predicted, sample_weight=host_numbers(sample_weight, WEIGHTS)))

    # --- what a fit is made of ---

    def _class_weight(self) -> Any:
        return self.class_weight

    @property
    def _is_multiclass(self) -> bool:
        """Whether each row has one of several classes: neither one of two, nor some of them."""
        return bool(self._label_binarizer.y_type_ == "multiclass")

    @property
    def _is_binary(self) -> bool:
        """Whether the probability of one of two classes is all there is."""
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
                f"loss={self.loss!r} with out_activation={self.out_activation!r} is for several classes, of which each "
                "row has one; for two classes or multilabel targets choose loss='log_loss'"
            )
        raise ValueError(
            f"out_activation={self.out_activation!r} with loss={self.loss!r} gives no probabilities: choose 'softmax' "
            "for several classes, 'logistic' for two or for multilabel targets, or loss='log_loss'"
        )

    def _combined_weights(self, y: Any, sample_weight: Any) -> Any:
        if self.class_weight is None:
            return sample_weight
        try:
            if self._label_binarizer.y_type_ == "multilabel-indicator":
                by_class = compute_sample_weight(self.class_weight, y.astype(int))
            else:
                each = compute_class_weight(self.class_weight, classes=self.classes_, y=self._labels_of(y))
                by_class = each[y.argmax(axis=1) if self._is_multiclass else y[:, 0].astype(int)]
        except (ValueError, TypeError) as error:
            raise ValueError(f"class_weight={self.class_weight!r}: {error}") from error
        if not (np.isfinite(by_class).all() and (by_class >= 0).all() and (by_class > 0).any()):
            raise ValueError(
                f"class_weight={self.class_weight!r} must hold finite numbers ≥ 0, not 0 for every class in y"
            )
        return by_class if sample_weight is None else by_class * sample_weight

    def _host_targets(self, y: Any) -> Any:
        return host_labels(y)

    def _labels_of(self, y: Any) -> Any:
        return self._label_binarizer.inverse_transform(y)

    def _stratify(self, y: Any) -> Any:
        # not in multilabel classification
        return y if self.n_outputs_ == 1 else None

    def _encode(self, y: Any) -> Any:
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if y.ndim == 1:
            unknown = np.setdiff1d(y, self.classes_)
            if len(unknown):
                raise ValueError(f"its y has classes that y lacks: {unknown.tolist()}")
        return self._label_binarizer.transform(y).astype(bool)

    def _network_outputs(self, X: Any) -> np.ndarray:
        return self.net_.predict_proba(X)

    def _onnx_graph(self) -> onnx.Graph:
        several = self._label_binarizer.y_type_ == "multilabel-indicator"
        return onnx.classifier(self.net_, None if several else self.classes_)
