"""Who takes part, as data. Each peer is imported in its own file under `peers`, in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["train", "fit", "predict", "setup"]


@dataclass(frozen=True)
class Contestant:
    """A way to train and to predict.

    module  where `prepare` is
    kind    "ours", "peer", "variant" (ours in other circumstances, which no peer is compared with), "floor" (the
            matrix products of a step alone), or "bytes" (what a step must move through the memory, moved by a copy)
    modes   what it takes part in: train (epochs of a model there is), fit (a whole `fit`, from the constructor on),
            predict, setup (a new model and its first step)
    rule    the form of Adam: "pytorch" or "scikit-learn"
    quick   whether `--quick` asks it unless it is named
    nets    the only nets it is asked for; none means all
    sweeps  whether it takes part in the sweeps
    options what its `prepare` is told besides the task
    alone   whether it chooses among its ways by timing them as it compiles, so that nobody else may work then
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
    alone: bool = False


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
        # as its users call it: every epoch's order is drawn on the host and uploaded
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
        Contestant("jax-jit", "benchmarks.peers.jax_jit", "peer", alone=True),
        Contestant("jax-scan", "benchmarks.peers.jax_scan", "peer", alone=True),
        Contestant("torch-max-autotune", _MODES, "peer", options=(("mode", "max-autotune"),), quick=False, alone=True),
        Contestant("floor", "benchmarks.peers.torch_floor", "floor"),
        Contestant("bytes", "benchmarks.peers.torch_bytes", "bytes", ("train",)),
    )
}
# the peers that are compiled or captured as a whole, of which a goal names the best
COMPILED = ("torch-graph", "torch-compiled", "torch-reduce-overhead", "torch-max-autotune", "jax-jit", "jax-scan")
