"""Weights of an ensemble from predictions on validation rows."""

from __future__ import annotations

import numpy as np

ROUNDS = 32  # the size of a selected ensemble, networks counted as often as they are selected
SMALLEST_PROBABILITY = 1e-7


def softmax(z: np.ndarray) -> np.ndarray:
    """a = eᶻ / Σ eᶻ of the last axis, in float64, so that a row's rounding does not depend on the other rows. (E2)"""
    e = np.exp(z - z.max(axis=-1, keepdims=True), dtype=np.float64)
    a: np.ndarray = e / e.sum(axis=-1, keepdims=True)
    return a


def row_losses(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The loss of each row (…, n): −log p_y for class indices y (n,), (a − y)² for targets y (n, 1). (E3)

    Parameters
    ----------
    outputs : array (…, n, n_out)
        Probabilities or values.
    y : array (n,) of int or (n, 1) of float
        Targets.
    """
    losses: np.ndarray
    if y.ndim == 2:
        losses = ((outputs - y) ** 2).sum(axis=-1)
    else:
        losses = -np.log(np.clip(outputs[..., np.arange(len(y)), y], SMALLEST_PROBABILITY, 1))
    return losses


def mean_loss(outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> np.ndarray:
    """The weighted mean Σ wᵢℓᵢ / Σ wᵢ of `row_losses` over the rows. (E3)"""
    found: np.ndarray = np.average(row_losses(outputs, y), axis=-1, weights=w)
    return found


def select(outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None = None, rounds: int = ROUNDS) -> np.ndarray:
    """Select networks greedily, with replacement, and return their weights (k,), which sum to 1.

    Each round adds the network that gives the smallest mean loss of the average prediction. The weights are the shares
    of the networks in the best of these averages.

    Parameters
    ----------
    outputs : array (k, n, n_out)
        Predictions of k networks for n validation rows.
    y, w
        As in `mean_loss`.

    References
    ----------
    Caruana et al. 2004.
    """
    total = np.zeros(outputs.shape[1:])
    chosen: list[int] = []
    best, size = np.inf, 0
    for r in range(rounds):
        losses = mean_loss((total + outputs) / (r + 1), y, w)
        k = int(np.argmin(losses))
        chosen.append(k)
        total += outputs[k]
        if losses[k] < best:
            best, size = float(losses[k]), r + 1
    return np.bincount(chosen[:size], minlength=len(outputs)) / size
