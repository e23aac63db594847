"""The contestants, as data. Each one is a module under `peers`, imported in a separate process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["train", "fit", "predict", "setup"]


@dataclass(frozen=True)
class Contestant:
    """A way to train and to predict.

    module     the module with `prepare`
    kind       "ours", "peer", "variant" (gpunn used in another way, compared with no peer), "floor" (the matrix
               products of a step only) or "bytes" (a copy of the bytes that a step must move)
    modes      train (epochs of an existing model), fit (a whole `fit`, including the constructor), predict,
               setup (a new model and its first step)
    rule       the form of Adam: "pytorch" or "scikit-learn"
    quick      True if `--quick` includes it
    nets       the nets it is measured on; empty means all
    sweeps     True if it is part of the sweeps
    options    keyword arguments of its `prepare`
    exclusive  True if its compiler times alternatives, so that nothing else may run during compilation
    """

    name: str
    module: str
    kind: Literal["ours", "peer", "variant", "floor", "bytes"]
    modes: tuple[Mode, ...] = ("train", "predict")
    rule: Literal["pytorch", "scikit-learn"] = "pytorch"
    quick: bool = True
    nets: tuple[str, ...] = ()
    sweeps: bool = True
    options: tuple[tuple[str, Any], ...] = ()
    exclusive: bool = False


CPU = {
    c.name: c
    for c in (
        Contestant("gpunn", "benchmarks.peers.gpunn_sequential", "ours", ("train", "predict", "setup")),
        Contestant(
            "gpunn-watched",
            "benchmarks.peers.gpunn_watched",
            "variant",
            ("train",),
            nets=("digits",),
            sweeps=False,
        ),
        Contestant(
            "gpunn-estimator",
            "benchmarks.peers.gpunn_estimator",
            "ours",
            ("fit", "predict", "setup"),
            "scikit-learn",
            sweeps=False,
        ),
        Contestant(
            "scikit-learn",
            "benchmarks.peers.scikit_learn",
            "peer",
            ("fit", "predict", "setup"),
            "scikit-learn",
            sweeps=False,
        ),
        Contestant("torch-eager", "benchmarks.peers.torch_eager", "peer"),
        Contestant("torch-compiled", "benchmarks.peers.torch_compiled", "peer", quick=False, sweeps=False),
        Contestant("jax-jit", "benchmarks.peers.jax_jit", "peer"),
        Contestant("jax-scan", "benchmarks.peers.jax_scan", "peer"),
        Contestant("numpy", "benchmarks.peers.numpy_plain", "peer"),
        Contestant("floor", "benchmarks.peers.floor", "floor"),
    )
}

_MODES = "benchmarks.peers.torch_modes"

GPU = {
    c.name: c
    for c in (
        Contestant("gpunn", "benchmarks.peers.gpunn_resident", "ours"),
        # as users call it: the order of each epoch is drawn on the host and uploaded
        Contestant(
            "gpunn-shuffling",
            "benchmarks.peers.gpunn_resident",
            "variant",
            ("train",),
            options=(("shuffling", True),),
        ),
        Contestant("torch-eager", "benchmarks.peers.torch_eager", "peer"),
        Contestant("torch-graph", "benchmarks.peers.torch_graph", "peer"),
        Contestant("torch-compiled", _MODES, "peer", options=(("mode", "default"),)),
        Contestant("torch-reduce-overhead", _MODES, "peer", options=(("mode", "reduce-overhead"),)),
        Contestant("jax-jit", "benchmarks.peers.jax_jit", "peer", exclusive=True),
        Contestant("jax-scan", "benchmarks.peers.jax_scan", "peer", exclusive=True),
        Contestant(
            "torch-max-autotune", _MODES, "peer", options=(("mode", "max-autotune"),), quick=False, exclusive=True
        ),
        Contestant("floor", "benchmarks.peers.torch_floor", "floor"),
        Contestant("bytes", "benchmarks.peers.torch_bytes", "bytes", ("train",)),
    )
}
# peers whose whole step is compiled or captured; a goal compares with the best of them
COMPILED = ("torch-graph", "torch-compiled", "torch-reduce-overhead", "torch-max-autotune", "jax-jit", "jax-scan")
