"""Construction of an estimator's network: layers, output activation, loss and optimizer from its parameters."""

from __future__ import annotations

from typing import Any

from .. import optimizers
from ..activations import Activation
from ..layers import Dense, Dropout, Layer
from ..losses import Loss
from ..model import Sequential
from ..optimizers import Optimizer
from .parameters import MLPParameters
from .sklearn_conventions import SKLEARN_CONVENTION, ScikitLearnAdam, ScikitLearnNesterov, ScikitLearnSGD
from .sklearn_private import AdamOptimizer, SGDOptimizer


class MLPArchitecture(MLPParameters):
    """Layers, loss and optimizer of an estimator."""

    def _output(self) -> tuple[Loss, Activation]:
        """The loss and the activation of the last layer."""
        raise NotImplementedError

    def _check_output(self) -> None:
        """Raise ValueError if loss and out_activation conflict with each other or with y."""
        loss, activation = self._output()
        try:
            loss.resolve(activation)
        except ValueError as error:
            expected = getattr(loss, "paired_activation", None)
            if expected is None:
                raise
            raise ValueError(
                f"loss={self.loss!r} does not fit out_activation={self.out_activation!r}, here {activation.name}: "
                f"choose {expected!r}, or 'identity' for outputs that are logits"
            ) from error

    def _sklearn_optimizer(self) -> Any:
        """scikit-learn's optimizer object without weights; it keeps the learning rate and decides when to stop."""
        if self.solver == "sgd":
            return SGDOptimizer(
                [], self.learning_rate_init, self.learning_rate, self.momentum, self.nesterovs_momentum, self.power_t
            )
        return AdamOptimizer([], self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)

    def _network_optimizer(self) -> Optimizer:
        """gpunn's optimizer, which updates the parameters."""
        if self.optimizer is not None:
            return optimizers.get(self.optimizer)
        if self.solver == "sgd":
            sgd = ScikitLearnNesterov if self.nesterovs_momentum else ScikitLearnSGD
            return sgd(self.learning_rate_init, self.momentum, clipnorm=self.clipnorm)
        return ScikitLearnAdam(self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon, clipnorm=self.clipnorm)

    def _layers(self, layer_units: list[int]) -> list[Layer]:
        layers: list[Layer] = []
        l2 = 0.0 if self._uses_lbfgs else float(self.alpha)
        for units, activation, rate in zip(
            layer_units[1:-1], self._hidden_activations(), self._dropouts(), strict=True
        ):
            layers.append(Dense(units, activation, l2=l2))
            if rate:
                layers.append(Dropout(rate))
        return [*layers, Dense(layer_units[-1], self._output()[1], l2=l2)]

    def _architecture_key(self) -> str:
        """The parameters that determine the network, except its sizes and its penalty, as one string."""
        return repr((self._hidden_activations(), self._dropouts(), *self._output(), self.optimizer, self.clipnorm))

    def _compile(self, model: Sequential, device: str, *, explicit: bool = True) -> None:
        """Compile a network with the estimator's optimizer, loss, precision and scikit-learn's conventions.

        `explicit` as in `Sequential._move`.
        """
        precision = self.precision if explicit else None
        model.compile(
            self._network_optimizer(), self._output()[0], device=device, precision=precision, strategy=self.strategy
        )
        if not explicit:
            model._move(device, self.precision, explicit=False)
        model._net.loss_convention = SKLEARN_CONVENTION
