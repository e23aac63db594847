"""Functions that describe objects of gpunn and cases as plain data."""

from __future__ import annotations

from typing import Any

Case = dict[str, Any]
ROWS, N_IN = 23, 5


def new(name: str, *args: Any, **arguments: Any) -> dict[str, Any]:
    """An object of gpunn, by its public name."""
    return {"new": name, "args": list(args), **arguments}


def dense(units: int, activation: Any = None, **arguments: Any) -> dict[str, Any]:
    """A Dense layer."""
    return new("Dense", units, activation, **arguments)


def activation(name: str, **arguments: Any) -> dict[str, Any]:
    """An activation with other constants."""
    return new(f"activations.{name}", **arguments)


def loss(name: str, **arguments: Any) -> dict[str, Any]:
    """A loss with other constants."""
    return new(f"losses.{name}", **arguments)


def schedule(name: str, *args: Any, **arguments: Any) -> dict[str, Any]:
    """A learning rate schedule."""
    return new(f"schedules.{name}", *args, **arguments)


def metric(name: str, **arguments: Any) -> dict[str, Any]:
    """A metric with arguments."""
    return new(f"metrics.{name}", **arguments)


SGD = new("SGD", 0.0625)
MOMENTUM = new("Momentum", 0.03125)
ADAM = new("Adam", 0.015625)
BATCH_NORMALIZATION = new("BatchNormalization")
LABELS, VALUES = "sparse_categorical_crossentropy", "half_squared_error"
# a hidden layer before BatchNormalization has no intercepts: their gradient is 0, and rounding gives it a random sign
BEFORE_NORMALIZATION = {"use_bias": False}


def fit(epochs: int = 2, batch_size: int = 8, shuffle: bool = False, **options: Any) -> dict[str, Any]:
    """A phase: changes of the network, then a fit; with `batches` steps on batches of that size instead."""
    return {"epochs": epochs, "batch_size": batch_size, "shuffle": shuffle, **options}


def network(
    name: str,
    layers: list[Any],
    targets: str,
    loss: Any,
    optimizer: Any = SGD,
    *phases: dict[str, Any],
    rows: int = ROWS,
    n_in: int = N_IN,
    **options: Any,
) -> Case:
    """A network case. Options: metrics, sample_weight, frozen, input, drawn, seed, explain, first_step.

    `first_step` false stores no float32 loss and gradients, where another case has the same.
    """
    return {
        "kind": "network",
        "name": name,
        "layers": layers,
        "targets": targets,
        "loss": loss,
        "optimizer": optimizer,
        "phases": list(phases) or [fit()],
        "rows": rows,
        "n_in": n_in,
        "first_step_rows": 8,
        "first_step": True,
        "input": "dense",
        **options,
    }


def estimator(name: str, kind: str, targets: str, rows: int = 40, **options: Any) -> Case:
    """An estimator case. Its options are sample_weight, validation, partial and input; the others are parameters."""
    own: Case = {k: options.pop(k) for k in ("sample_weight", "validation", "partial", "input") if k in options}
    parameters = {"hidden_layer_sizes": [6], "max_iter": 3, "batch_size": 16, "random_state": 3, **options}
    case = {"kind": "estimator", "name": name, "estimator": kind, "targets": targets, "rows": rows, "n_in": 4}
    return {**case, "input": "dense", "parameters": parameters, **own}
