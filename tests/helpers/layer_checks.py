"""Checks of layers that embed columns: equal training on several ranks and on a simulated GPU."""

import numpy as np

from helpers.threaded_group import ThreadedGroup


def check_ranks(build, X, Y, batch_size):
    """Three ranks take the steps of one process. `build` makes a network from keyword arguments of `compile`."""

    def trained(strategy):
        net = build(strategy=strategy)
        net.fit(X, Y, epochs=3, batch_size=batch_size, verbose=0)
        return net.get_weights()

    one, ranks = trained(None), ThreadedGroup(3).run(trained)
    for found in ranks:
        for a, b in zip(found, one, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def check_simulated_gpu(build, X, Y, batch_size, dtype):
    """A simulated GPU trains and predicts as the CPU."""
    found = []
    for device in ("cpu", "cuda"):
        net = build(device=device, dtype=dtype)
        net.fit(X, Y, batch_size=batch_size, epochs=2, verbose=0)
        found.append([*net.get_weights(), net.predict(X)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 if dtype == "float32" else 1e-12)
