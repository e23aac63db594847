"""One process of `python -m benchmarks scale`, started by mpiexec: prints the step times of each load as JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

import gpunn

STEPS = 25  # per epoch, after which the processes check that they are in sync


def measured(load: dict[str, Any], rounds: int, seconds: float, strategy: gpunn.DataParallel | None) -> list[float]:
    """Seconds per step, one number per round; rank 0 decides the number of epochs."""
    sizes, batch = load["sizes"], load["batch"]
    rng = np.random.default_rng(0)
    X = rng.standard_normal((STEPS * batch, sizes[0]), dtype=np.float32)
    y = rng.integers(0, sizes[-1], STEPS * batch)
    layers = [gpunn.Dense(n, "relu") for n in sizes[1:-1]]
    net = gpunn.Sequential([*layers, gpunn.Dense(sizes[-1], "softmax")], seed=0)
    net.compile("adam", "sparse_categorical_crossentropy", device="cpu", strategy=strategy)
    group = net._net.group

    def epochs(count: int) -> float:
        group.allgather("a round", None)
        begun = time.perf_counter()
        net.fit(X, y, batch_size=batch, epochs=count, verbose=0)
        return time.perf_counter() - begun

    epochs(1)
    pace = group.allgather("the pace", epochs(1))[0]
    count = max(1, round(seconds / pace))
    return [epochs(count) / (count * STEPS) for _ in range(rounds)]


def main() -> None:
    """Measure the loads in the first argument, which is JSON."""
    request = json.loads(sys.argv[1])
    strategy = gpunn.DataParallel() if request["processes"] > 1 else None
    for load in request["loads"]:
        found = measured(load, request["rounds"], request["seconds"], strategy)
        if strategy is None or strategy.start().rank == 0:
            print(json.dumps({**load, "processes": request["processes"], "seconds": found}), flush=True)


if __name__ == "__main__":
    main()
