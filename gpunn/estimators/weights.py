"""Weights of an estimator: the network's parameters as `coefs_` and `intercepts_`, and back."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ..backend import is_device_array, to_host
from ..kernels.state import StateEntry
from ..layers import Dropout
from ..model import Sequential
from ..network import Network
from ..program.groups import SINGLE_PROCESS
from .architecture import MLPArchitecture


class MLPWeights(MLPArchitecture):
    """The network of an estimator, and its parameters as scikit-learn's attributes."""

    net_: Sequential
    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]
    _network_key: Any

    def _network(self, layer_units: list[int], *, continues: bool) -> Sequential:
        """Return a network with the estimator's weights: the present one if `partial_fit` continues, else a new
        one."""
        if continues:
            return self._continued_network()
        layers = self._layers(layer_units)
        # drawn only if dropout uses it, so that scikit-learn's draws are unchanged
        seed = int(self._random_state.randint(2**31 - 1)) if any(isinstance(f, Dropout) for f in layers) else 0
        model = Sequential(layers, seed=seed, dtype=self._net_dtype)
        model._net.build(layer_units[0], draw=False)
        self._compile(model, self.device)
        write_parameters(model._net, self.coefs_, self.intercepts_)
        self._network_key = self._architecture_key()
        return model

    def _continued_network(self) -> Sequential:
        self._sync_weights()
        if self._architecture_key() != self._network_key:
            raise ValueError(
                "partial_fit continues with the present network: leave activation, dropout, loss, out_activation, "
                "optimizer and clipnorm unchanged, or call fit (warm_start=True keeps the weights)"
            )
        theta = self.net_._net.theta
        if isinstance(theta, np.ndarray) and not theta.flags.writeable:
            # joblib maps large arrays read-only
            self.net_ = copy.deepcopy(self.net_)
        if (self.strategy is None) != (self.net_._net.group is SINGLE_PROCESS):
            self.net_.set_strategy(self.strategy)
        return self.net_._move(self.device, self.precision, explicit=True)

    def _export_weights(self) -> None:
        """Set `coefs_` and `intercepts_`: views of the network's parameters on a CPU, read-only copies on a GPU."""
        net = self.net_._net
        theta = to_host(net.theta)
        if is_device_array(net.theta):
            theta.flags.writeable = False
        exported: dict[str, list[np.ndarray]] = {"W": [], "b": []}
        for part in net.slices_in_order():
            exported[part.parameter.name].append(part.of(theta))
        self.coefs_, self.intercepts_ = exported["W"], exported["b"]
        self._exported = [*self.coefs_, *self.intercepts_]

    def _import_weights(self) -> None:
        """Copy `coefs_` and `intercepts_` to the network's parameters."""
        write_parameters(self.net_._net, self.coefs_, self.intercepts_)

    def _sync_weights(self) -> None:
        """Import the weights if an array in `coefs_` or `intercepts_` was replaced. Changes in place need no import."""
        now = [*self.coefs_, *self.intercepts_]
        if len(now) != len(self._exported) or any(a is not b for a, b in zip(now, self._exported, strict=True)):
            self._import_weights()
            self._export_weights()

    def _replace_network(self, model: Sequential) -> None:
        """Make `model` the estimator's network, with the weights in `coefs_` and `intercepts_`."""
        self.net_ = model
        self._import_weights()
        self._export_weights()

    def _build_from_weights(self) -> None:
        """Build the network from `coefs_` and `intercepts_` of another library."""
        self._net_dtype = np.dtype(self.coefs_[0].dtype)
        layer_units = [self.n_features_in_, *self._hidden_sizes(), self.n_outputs_]
        self.net_ = self._network(layer_units, continues=False)
        self._export_weights()


def write_parameters(net: Network, coefs: list[Any], intercepts: list[Any]) -> None:
    """Copy weights and intercepts of each layer to a network's parameters. Raise ValueError if shapes differ."""
    given = {"W": iter(coefs), "b": iter(intercepts)}
    n_layers = len(net.slices) // 2
    if not len(coefs) == len(intercepts) == n_layers:
        raise ValueError(f"coefs_ and intercepts_ must have {n_layers} arrays each, one per layer")
    theta = np.empty(net.size, net.dtype)
    for part in net.slices_in_order():
        view = part.of(theta)
        array = np.asarray(next(given[part.parameter.name]))
        if array.shape != view.shape:
            raise ValueError(f"coefs_ and intercepts_ must keep their shapes: {view.shape}, got {array.shape}")
        view[...] = array
    net.theta[...] = net.backend.asarray(theta)


def step_count(model: Sequential) -> int:
    """The number of updates of a network's parameters so far."""
    net = model._net
    return 0 if net.state is None else int(net.backend.to_host(net.state)[StateEntry.STEP])
