"""Networks and data for tests of products on a GPU."""

import numpy as np

import gpunn
from helpers.networks import build_network


def net_of(device, sizes=(128, 24, 8), activation="relu", **options):
    """A compiled classifier of 6 inputs and 3 classes."""
    layers = [*(gpunn.Dense(n, activation) for n in sizes), gpunn.Dense(3, "softmax")]
    options = {"input_shape": 6, "seed": 4, "optimizer": gpunn.Momentum(0.05)} | options
    return build_network(*layers, device=device, **options)


def data(rows=40):
    """Inputs and labels for `net_of`."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(rows, 6)), rng.integers(0, 3, rows)


def frozen(layer):
    """The layer, not trainable."""
    layer.trainable = False
    return layer


class UnfusedDense(gpunn.Dense):
    """A user-defined layer that computes f′ by another kernel, so that no product is fused with it."""

    def backward(self, t):
        t.delta = self.activation.derivative(t.z, t.a) * t.grad_a
        t.dW = t.a_prev.T @ t.delta
        t.db = t.delta.sum(axis=0)
        t.grad_prev = t.delta @ t.W.T


def rounded(x):
    """The nearest bfloat16 as float32: 8 bits of the fraction in [½, 1), ties to even, which `np.rint` does."""
    fraction, exponent = np.frexp(np.float64(x))
    return np.ldexp(np.rint(fraction * 2**8) / 2**8, exponent).astype(np.float32)


def integers(*shape, seed=0, dtype=np.float32):
    """Small integers, whose products are exact in every order of summation."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)
