"""Snapshots of a network as bytes, for tests that a call changes nothing."""

from contextlib import contextmanager

import numpy as np

from gpunn.backend import to_host
from helpers import internals


def bits(array):
    """Type, shape and bytes, so that NaN equals NaN and −0 is not 0."""
    host = to_host(array)
    return host.dtype.str, host.shape, host.tobytes()


def state_of(net):
    """Weights, running statistics, optimizer state and step of a network; None for those that do not exist yet."""
    held = {"theta": internals.parameters(net), "running": internals.running(net), "state": internals.step_state(net)}
    held |= internals.optimizer_state(net)
    frozen = [layer.trainable for layer in net.layers]
    return {name: None if a is None else bits(a) for name, a in held.items()} | {
        "epochs": internals.epochs_taken(net),
        "frozen": frozen,
        "compiled": repr(internals.compiled(net)),
    }


def weights_of(net):
    """All weights as bits."""
    return [bits(w) for w in net.get_weights()]


@contextmanager
def assert_unchanged(net, X=None):
    """Fail unless the state, and the prediction of X, are the same bits afterwards."""
    before, predicted = state_of(net), None if X is None else bits(net.predict(X))
    yield
    assert state_of(net) == before
    if X is not None:
        assert bits(net.predict(X)) == predicted
        assert state_of(net) == before


def read_only_copy(array):
    """A copy that is not writeable."""
    copied = np.array(array)
    copied.flags.writeable = False
    return copied
