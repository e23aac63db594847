"""Who takes part, as data. Each peer is imported in its own file under `peers`, in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["train", "fit", "predict", "setup"]


@dataclass(frozen=True)
class Contestant:
    """A way to train and to predict.

    module  where `prepare` is
    kind    "ours", "peer", "variant" (ours in other circumstances, which no peer is compared with), or "floor"
    modes   what it takes part in: train (epochs of a model there is), fit (a whole `fit`, from the constructor on),
            predict, setup (a new model and its first step)
    rule    the form of Adam: "pytorch" or "scikit-learn"
    quick   whether `--quick` asks it unless it is named
    nets    the only nets it is asked for; none means all
    sweeps  whether it takes part in the sweeps
    """

    name: str
    module: str
    kind: Literal["ours", "peer", "variant", "floor"]
    modes: tuple[Mode, ...] = ("train", "predict")
    rule: Literal["pytorch", "scikit-learn"] = "pytorch"
    quick: bool = True
    nets: tuple[str, ...] = ()
    sweeps: bool = True


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
