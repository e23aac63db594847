"""Weights of an ensemble from predictions on validation rows."""

from __future__ import annotations

import numpy as np

from .criteria import Criterion

ROUNDS = 32  # the size of a selected ensemble, networks counted as often as they are selected


def select(
    criterion: Criterion, outputs: np.ndarray, y: np.ndarray, w: np.ndarray | None = None, rounds: int = ROUNDS
) -> np.ndarray:
    """Select networks greedily, with replacement, and return their weights (k,), which sum to 1.

    Each round adds the network that gives the best metric of the average prediction; between equal values the smallest
    mean loss decides. The weights are the shares of the networks in the best of these averages.

    Parameters
    ----------
    criterion : Criterion
    outputs : array (k, n, n_out)
        Predictions of k networks for n validation rows.
    y, w
        As in `Criterion.loss`.

    References
    ----------
    Caruana et al. 2004.
    """
    total = np.zeros(outputs.shape[1:])
    chosen: list[int] = []
    best: tuple[float, ...] = (np.inf,)
    size = 0
    for r in range(rounds):
        keys = criterion.sort_keys((total + outputs) / (r + 1), y, w)
        k = min(range(len(keys)), key=keys.__getitem__)
        chosen.append(k)
        total += outputs[k]
        if keys[k] < best:
            best, size = keys[k], r + 1
    return np.bincount(chosen[:size], minlength=len(outputs)) / size
