"""Requests to a worker: prepare a net, compute its first losses, time a window, report its memory."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np

from . import memory
from .clocks import Clock, Span
from .conventions import CHECKED_STEPS, Task, forward, task
from .nets import Net

CHECKED_ROWS = 256  # the predictions of this number of first and last rows are checked
PRODUCT = (256, 2048, 128)  # rows, terms and columns of the product that identifies a precision
HOST = Clock()


class Session:
    """A contestant's module and its prepared net."""

    def __init__(self, module: ModuleType, threads: int) -> None:
        self.module, self.threads = module, threads
        self.task: Task
        self.prepared: Any = None
        self.imports = memory.now()
        self.pace: dict[str, float] = {}  # seconds of a unit

    def info(self, seconds: float) -> dict[str, Any]:
        """The facts known after the imports."""
        return {"import_s": seconds, "versions": {name: version(name) for name in self.module.PACKAGES}}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to {"method": name, argument: value, …}."""
        arguments = {name: value for name, value in request.items() if name != "method"}
        answers: dict[str, Callable[..., dict[str, Any]]] = {
            "prepare": self.prepare,
            "losses": self.losses,
            "warm": self.warm,
            "window": self.window,
            "memory": self.memory,
            "outputs": self.outputs,
            "product": self.product,
            "release": self.release,
        }
        return answers[request["method"]](**arguments)

    def prepare(
        self,
        net: dict[str, Any],
        seed: int,
        precision: str,
        exactly: bool = False,
        device: str = "cpu",
        store: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Draw the data and prepare the contestant. `exactly` computes in float64 with data of `precision`."""
        self.release()
        self.task = task(Net(**{**net, "sizes": tuple(net["sizes"])}), seed, precision, device, store)
        if exactly:
            self.task = self.task.in_float64()
        begun = time.perf_counter()
        self.prepared = self.module.prepare(self.task, self.threads, **options)
        self.preparing = time.perf_counter() - begun
        return {}

    def losses(self) -> dict[str, Any]:
        """The losses before the first steps, and the seconds since `prepare` for `steps` steps."""
        begun = time.perf_counter()
        found = self.prepared.losses(CHECKED_STEPS)
        seconds = self.preparing + time.perf_counter() - begun
        return {"losses": found[:CHECKED_STEPS], "seconds": seconds, "steps": len(found)}

    def run(self, mode: str, units: int) -> Span:
        """Time units: epochs of train and fit, passes of predict, models of setup."""
        clock: Clock = getattr(self.prepared, "clock", HOST)
        clock.begin()
        if mode in ("train", "fit"):
            span = self.prepared.train(units)
            if span is not None:
                return Span(*span)
        else:
            call = self.prepared.predict if mode == "predict" else self.prepared.setup
            for _ in range(units):
                call()
        return clock.end()

    def warm(self, mode: str) -> dict[str, Any]:
        """Run one unit, after which everything is compiled, and a second one to measure the pace."""
        first = self.run(mode, 1).host
        self.pace[mode] = first if first > 0.5 else self.run(mode, 1).host
        return {}

    def window(self, mode: str, seconds: float) -> dict[str, Any]:
        """Run units for at least `seconds`; returns µs per step by the host's clock and, if possible, the device's."""
        units, spent = 0, 0.0
        on_device: float | None = 0.0
        while spent < seconds:
            more = max(1, math.ceil((1.05 * seconds - spent) / self.pace[mode]))
            span = self.run(mode, more)
            spent += span.host
            on_device = None if on_device is None or span.device is None else on_device + span.device
            units += more
            self.pace[mode] = spent / units
        steps = units * (1 if mode == "setup" else self.task.net.steps)
        answer = {"us_per_step": 1e6 * spent / steps}
        return answer if on_device is None else answer | {"device_us_per_step": 1e6 * on_device / steps}

    def memory(self) -> dict[str, Any]:
        """The process's peak memory, and its memory after the imports, in bytes."""
        return {"peak": memory.peak(), "imports": self.imports}

    def outputs(self) -> dict[str, Any]:
        """The largest difference of predictions from float64 with the contestant's weights, relative to the largest."""
        found = self.to_host(self.prepared.predict())
        expected_shape = (self.task.net.rows, self.task.net.sizes[-1])
        if found.shape != expected_shape:
            raise ValueError(f"predictions must have shape {expected_shape}, got {found.shape}")
        rows = np.r_[:CHECKED_ROWS, -CHECKED_ROWS:0]
        expected = forward(self.prepared.weights(), self.task.X[rows], self.task.net.loss)
        difference = float(np.abs(found[rows] - expected).max() / np.abs(expected).max())
        return {"disagreement": difference if math.isfinite(difference) else None}

    def product(self) -> dict[str, Any]:
        """The error ‖computed − exact‖ / ‖exact‖ of a matrix product, which identifies the precision."""
        n, k, m = PRODUCT
        draws = np.random.default_rng(self.task.seed)
        a, b = (draws.standard_normal(shape).astype(self.task.dtype) for shape in ((n, k), (k, m)))
        exact = a.astype(np.float64) @ b.astype(np.float64)
        difference = self.to_host(self.prepared.product(a, b)).astype(np.float64) - exact
        error = float(np.linalg.norm(difference) / np.linalg.norm(exact))
        return {"error": error if math.isfinite(error) else None}

    def release(self) -> dict[str, Any]:
        """Delete the prepared net and release a GPU's memory."""
        on_gpu = self.prepared is not None and self.task.device != "cpu"
        self.prepared, self.pace = None, {}
        if on_gpu:
            gc.collect()
            getattr(self.module, "release", lambda: None)()
        return {}

    def to_host(self, x: Any) -> np.ndarray:
        """A contestant's array as a NumPy array."""
        found: np.ndarray = getattr(self.module, "to_host", np.asarray)(x)
        return found


def version(package: str) -> str:
    """A package's version. gpunn is the checkout's, and CuPy has wheels of several names."""
    if package in ("gpunn", "cupy") and package in sys.modules:
        return str(sys.modules[package].__version__)
    return "unknown" if package == "cupy" else metadata.version(package)
