"""Run gpunn of any commit: `python -P adapter.py ROOT [CORE …]`, ROOT a checkout of that commit and on PYTHONPATH.

The process answers requests (lines of JSON on stdin) with lines of JSON on stdout, for `benchmarks.process`. Only this
file knows the names of several commits. It imports nothing of the working tree: cases, networks and arrays arrive as
plain data.
"""

from __future__ import annotations

import base64
import importlib
import inspect
import json
import math
import os
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# names in the cases, with the names of the same objects in other commits; the first one that exists is used
OTHER_NAMES: dict[str, tuple[str, ...]] = {"Rows": ("DiskRows",)}
SEED = 7  # of networks without a seed in their case


def main() -> None:
    """Import gpunn from ROOT, report its version, and answer until stdin is closed."""
    root, *cores = sys.argv[1:]
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in cores])
    # stdout carries answers only; output of libraries goes to stderr
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        send(_hello(Path(root)))
    except ImportError as error:
        send({"absent": f"{type(error).__name__}: {error}"})
        return
    session = Session()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            send({"answer": session.answer(request)})
        except ImportError as error:
            send({"unsupported": str(error)})
        except Exception as error:
            where = request.get("case", {}).get("name") or request.get("mode") or request["method"]
            send({"error": f"{where}: {type(error).__name__}: {error}"})


def _hello(root: Path) -> dict[str, Any]:
    import gpunn

    source = Path(gpunn.__file__).resolve()
    if root.resolve() not in source.parents:
        raise ImportError(f"gpunn was imported from {source.parent}, not from the checkout {root}")
    return {"versions": {"gpunn": gpunn.__version__}, "implementation": _implementation()}


def _implementation() -> str:
    """ "compiled" or "numpy": which implementation of the kernels runs on this CPU."""
    for name in ("_compiler.cpu_cache", "_compiler.host", "host"):
        try:
            status = importlib.import_module(f"gpunn.kernels.{name}").status()
        except ImportError:  # the layout of an earlier commit
            continue
        return str(getattr(status, "implementation", None) or status.body)
    raise ImportError("gpunn.kernels has no module that reports its implementation")


class Session:
    """Answer the requests of `tests.golden` and `python -m benchmarks since`."""

    def __init__(self) -> None:
        self.timed: Timed | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to {"method": name, argument: value, …}."""
        arguments = {name: value for name, value in request.items() if name != "method"}
        if request["method"] == "golden":
            return {name: encode(array) for name, array in results(**arguments)}
        if request["method"] == "prepare":
            self.timed = None
            self.timed = Timed(**arguments)
            return {}
        if request["method"] == "warm":
            return self._timed().warm(**arguments)
        if request["method"] == "window":
            return self._timed().window(**arguments)
        raise ValueError(f"unknown method {request['method']!r}")

    def _timed(self) -> Timed:
        if self.timed is None:
            raise ValueError("nothing is prepared")
        return self.timed


def encode(array: Any) -> dict[str, Any]:
    """An array as JSON: {"dtype", "shape", "data"}, the data in base64."""
    import numpy as np

    array = np.ascontiguousarray(array)
    data = base64.b64encode(array.tobytes()).decode("ascii")
    return {"dtype": array.dtype.str, "shape": array.shape, "data": data}


# --- golden values ---


def results(case: dict[str, Any], more: bool = False) -> Iterator[tuple[str, Any]]:
    """The named arrays of a case of `tests/golden/cases.py`. With `more` those of a float32 fit follow."""
    kinds: dict[str, Callable[..., Iterator[tuple[str, Any]]]] = {
        "network": _network_results,
        "estimator": _estimator_results,
        "many": _many_results,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few epochs do not converge
        yield from kinds[case["kind"]](case, more)


def _network_results(case: dict[str, Any], more: bool) -> Iterator[tuple[str, Any]]:
    yield from _trained(case, network(case, "float64"))
    if case["first_step"]:
        yield from _first_step(case)
    if case.get("explain"):
        net = network(case, "float64")
        x, y, w = training_data(case, "float64")
        yield "input_gradient", net.input_gradient(x, y, sample_weight=w)
        for k, layer in enumerate(net.trace(x, y, True, sample_weight=w)):
            yield f"trace.{k}.a", layer.a
            yield f"trace.{k}.delta", layer.delta
        for method in case["explain"]:
            yield method, getattr(net, method)(numbers(case["name"], "new", (6, case["n_in"])))
    if more:
        for label, array in _trained(case, network(case, "float32")):
            yield f"float32.{label}", array
        if not case["first_step"]:
            yield from _first_step(case)


def _first_step(case: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The loss and the gradients of the first rows in float32."""
    import numpy as np

    rows = case["first_step_rows"]
    x, y, w = training_data(case, "float32")
    x = x.toarray() if hasattr(x, "toarray") else x
    w = None if w is None else w[:rows]
    loss, gradients = network(case, "float32").loss_and_gradients(x[:rows], y[:rows], sample_weight=w)
    yield "float32.loss", np.array([loss], np.float32)
    for k, gradient in enumerate(gradients):
        yield f"float32.gradients.{k}", gradient


def _trained(case: dict[str, Any], net: Any) -> Iterator[tuple[str, Any]]:
    """Weights, history, predictions and evaluation after all phases of the case."""
    import numpy as np

    histories: dict[str, list[float]] = {}
    for phase in case["phases"]:
        for label, values in _phase(case, net, phase).items():
            histories.setdefault(label, []).extend(values)
    for k, array in enumerate(net.get_weights()):
        yield f"weights.{k}", array
    for label, values in histories.items():
        yield f"history.{label}", np.array(values, np.float64)
    yield "predictions", net.predict(numbers(case["name"], "new", (6, case["n_in"])).astype(net.dtype))
    x, y, w = training_data(case, str(net.dtype))
    yield "evaluation", np.array(list(net.evaluate(x, y, batch_size=16, sample_weight=w).values()), np.float64)


def _phase(case: dict[str, Any], net: Any, phase: dict[str, Any]) -> dict[str, list[float]]:
    """Run one phase: change the network, then fit it or train on batches. Its history."""
    for k in phase.get("freeze", ()):
        net.layers[k].trainable = False
    for k in phase.get("unfreeze", ()):
        net.layers[k].trainable = True
    if "compile" in phase:
        _compile(net, {**case, **phase["compile"]})
    if "learning_rate" in phase:
        net.learning_rate = phase["learning_rate"]
    for owner, attributes in phase.get("set", {}).items():
        for name, value in attributes.items():
            setattr(getattr(net, owner), name, value)
    if not {"batches", "epochs"} & phase.keys():
        return {}
    x, y, w = training_data(case, str(net.dtype))
    if "batches" in phase:
        size = phase["batches"]
        weight = phase.get("class_weight")
        options = {"class_weight": {int(c): v for c, v in weight}} if weight else {}
        starts = range(0, case["rows"], size)
        parts = [(x[k : k + size], y[k : k + size], None if w is None else w[k : k + size]) for k in starts]
        losses = [net.train_on_batch(a, b, sample_weight=c, **options) for a, b, c in parts]
        return {"batches": [float(loss) for loss in losses]}
    history = net.fit(*_fed(case, x, y, w), **_fit_options(case, phase, str(net.dtype)), verbose=0)
    return dict(getattr(history, "history", history))


def _fed(case: dict[str, Any], x: Any, y: Any, w: Any) -> tuple[Any, ...]:
    """The positional arguments of fit: X and y, or a stream of batches."""
    if case["input"] != "stream":
        return x, y

    def batches() -> Iterator[tuple[Any, ...]]:
        for k in range(0, len(x), 7):
            part = (x[k : k + 7], y[k : k + 7])
            yield part if w is None else (*part, w[k : k + 7])

    return (batches,)


def _fit_options(case: dict[str, Any], phase: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The keyword arguments of fit."""
    options = {k: v for k, v in phase.items() if k in ("epochs", "shuffle", "validation_split", "steps_per_epoch")}
    options["callbacks"] = make(phase.get("callbacks", []))
    if case["input"] != "stream":
        options["batch_size"] = phase["batch_size"]
        options["sample_weight"] = training_data(case, dtype)[2]
        weight = phase.get("class_weight")
        options["class_weight"] = {int(c): v for c, v in weight} if isinstance(weight, list) else weight
    if phase.get("validation"):
        n = phase["validation"]
        x = numbers(case["name"], "validation", (n, case["n_in"])).astype(dtype)
        options["validation_data"] = (x, targets(case, "validation", x))
        if case.get("sample_weight"):
            options["validation_data"] += (row_weights(case["name"], "validation", n),)
    return options


def network(case: dict[str, Any], dtype: str) -> Any:
    """The compiled network of a case, with weights that depend on the case's name only, unless they are drawn."""
    gpunn = _gpunn()
    net = gpunn.Sequential(make(case["layers"]), input_shape=case["n_in"], seed=case.get("seed", SEED), dtype=dtype)
    if not case.get("drawn"):
        net.set_weights([_weight(case["name"], k, w) for k, w in enumerate(net.get_weights())])
    for k in case.get("frozen", ()):
        net.layers[k].trainable = False
    _compile(net, case)
    return net


def _compile(net: Any, case: dict[str, Any]) -> None:
    net.compile(make(case["optimizer"]), make(case["loss"]), make(case.get("metrics", [])), device="cpu")


def _weight(name: str, k: int, initial: Any) -> Any:
    """A matrix of multiples of 2⁻¹² with variance about 2/n_in; vectors move by up to ¼ from their initial value."""
    drawn = numbers(name, f"weight {k}", initial.shape)
    if initial.ndim == 1:
        return (initial + drawn / 8).astype(initial.dtype)
    return (drawn * 2.0 ** -round(math.log2(initial.shape[0]) / 2)).astype(initial.dtype)


def _many_results(case: dict[str, Any], more: bool) -> Iterator[tuple[str, Any]]:
    """Weights, histories and predictions of networks that are trained together."""
    import numpy as np

    def build(seed: int = SEED) -> Any:
        return network({**case, "seed": seed}, "float64")

    x, y, w = training_data(case, "float64")
    (phase,) = case["phases"]
    trained = _gpunn().fit_many(build, x, y, case["candidates"], sample_weight=w, **phase)
    for i, result in enumerate(trained):
        net, history = (result.network, result.history) if hasattr(result, "network") else result
        for k, array in enumerate(net.get_weights()):
            yield f"{i}.weights.{k}", array
        for label, values in getattr(history, "history", history).items():
            yield f"{i}.history.{label}", np.array(values, np.float64)
        yield f"{i}.predictions", net.predict(numbers(case["name"], "new", (6, case["n_in"])))


def _estimator_results(case: dict[str, Any], more: bool) -> Iterator[tuple[str, Any]]:
    """Weights, curves and predictions of an estimator fitted in float64, with `more` also in float32."""
    for dtype in ("float64", "float32")[: 1 + more]:
        prefix = "" if dtype == "float64" else "float32."
        for label, array in _fitted(case, dtype):
            yield prefix + label, array


def _fitted(case: dict[str, Any], dtype: str) -> Iterator[tuple[str, Any]]:
    import numpy as np

    estimator = _gpunn_name(case["estimator"])(**make(case["parameters"]), device="cpu")
    x, y, w = training_data(case, dtype)
    y = y[:, 0] if case["targets"] == "values 1" else y
    options = {} if w is None else {"sample_weight": w}
    if case.get("validation"):
        xv = numbers(case["name"], "validation", (case["validation"], case["n_in"])).astype(dtype)
        yv = targets(case, "validation", xv)
        yv = yv[:, 0] if case["targets"] == "values 1" else yv
        if "X_val" in inspect.signature(estimator.fit).parameters:
            options |= {"X_val": xv, "y_val": yv}
        else:
            options["validation_data"] = (xv, yv)
    if case.get("partial"):
        first = {"classes": np.unique(y)} if case["estimator"] == "MLPClassifier" else {}
        for k in range(case["partial"]):
            estimator.partial_fit(x, y, **options, **(first if k == 0 else {}))
    else:
        estimator.fit(x, y, **options)
    for k, pair in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
        yield f"coefs.{k}", np.asarray(pair[0])
        yield f"intercepts.{k}", np.asarray(pair[1])
    yield "loss", np.array([estimator.loss_], np.float64)
    for label in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
        if getattr(estimator, label, None) is not None:
            yield label.rstrip("_"), np.array(getattr(estimator, label), np.float64)
    new = numbers(case["name"], "new", (6, case["n_in"])).astype(dtype)
    predict = estimator.predict if case["estimator"] == "MLPRegressor" else estimator.predict_proba
    yield "predictions", np.asarray(predict(new))


# --- objects and arrays of a case ---


def _gpunn() -> Any:
    import gpunn

    return gpunn


def _gpunn_name(name: str) -> Any:
    """The object with a dotted name in gpunn, or with one of its OTHER_NAMES."""
    for candidate in (name, *OTHER_NAMES.get(name, ())):
        found: Any = _gpunn()
        for part in candidate.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise AttributeError(
        f"this commit has no gpunn.{name}; add its name in this commit to OTHER_NAMES in {Path(__file__).name}"
    )


def make(value: Any) -> Any:
    """Make an object of gpunn from {"new": name, "args": […], argument: value, …}, or one of OWN from {"own": name}."""
    if isinstance(value, list):
        return [make(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "own" in value:
        return OWN[value["own"]]()
    made = {k: make(v) for k, v in value.items() if k not in ("new", "args")}
    if "new" not in value:
        return made
    return _gpunn_name(value["new"])(*make(value.get("args", [])), **made)


def _own_activation() -> Any:
    def value(self: Any, z: Any) -> Any:
        return z + z**3 / 8

    def derivative(self: Any, z: Any, a: Any = None) -> Any:
        return 1 + 3 * z**2 / 8

    # the derivative has two names, of this commit and of earlier ones
    members = {"f": value, "slope": derivative, "derivative": derivative, "opaque": True}
    return type("OwnCubic", (_gpunn_name("activations.Activation"),), members)()


def _own_loss() -> Any:
    def quartic(y: Any, a: Any) -> Any:
        return ((a - y) ** 4).sum(axis=1) / 4, (a - y) ** 3

    return quartic


def _own_schedule() -> Any:
    return lambda epoch, rate: rate / (1 + epoch)


OWN: dict[str, Callable[[], Any]] = {"cubic": _own_activation, "quartic": _own_loss, "falling": _own_schedule}


def integers(name: str, purpose: str, shape: tuple[int, ...]) -> Any:
    """Integers in [0, 2¹⁴), a function of the case's name and the purpose: raw output of Philox, stable everywhere."""
    import numpy as np

    raw = np.random.Philox(key=zlib.crc32(f"{name}/{purpose}".encode())).random_raw(math.prod(shape))
    return (np.asarray(raw, np.uint64) >> np.uint64(50)).astype(np.int64).reshape(shape)


def numbers(name: str, purpose: str, shape: tuple[int, ...]) -> Any:
    """Multiples of 2⁻¹² in [−2, 2), exact in float32."""
    return (integers(name, purpose, shape) - (1 << 13)) / float(1 << 12)


def row_weights(name: str, purpose: str, n: int) -> Any:
    """Sample weights 0, ¼, …, 1½."""
    return integers(name, f"{purpose} weights", (n,)) % 7 / 4.0


def training_data(case: dict[str, Any], dtype: str) -> tuple[Any, Any, Any]:
    """X (rows, n_in), y and the sample weights, None where the case has none."""
    n = case["rows"]
    x = numbers(case["name"], "X", (n, case["n_in"])).astype(dtype)
    y = targets(case, "X", x)
    if case["input"] == "sparse":
        from scipy.sparse import csr_matrix

        x[abs(x) < 1] = 0
        x = csr_matrix(x)
    return x, y, row_weights(case["name"], "X", n) if case.get("sample_weight") else None


def targets(case: dict[str, Any], purpose: str, x: Any) -> Any:
    """Targets of the kind that `case["targets"]` names: "labels 3", "values 2", …."""
    import numpy as np

    kind, width = case["targets"].split()
    n, m = len(x), int(width)
    drawn = integers(case["name"], f"{purpose} targets", (n, m))
    if kind == "labels":
        return drawn[:, 0] % m
    if kind == "values":
        mixed = sum(x[:, [k % x.shape[1]]] * (-1) ** k for k in range(3)) / 2
        return (mixed + drawn / float(1 << 14)).astype(x.dtype)
    if kind == "counts":
        return (drawn % 5).astype(x.dtype)
    if kind == "binary":
        return (drawn % 2).astype(x.dtype)
    one_hot = np.eye(m)[drawn[:, 0] % m]
    if kind == "probabilities":
        one_hot = 0.75 * one_hot + 0.25 * np.eye(m)[drawn[:, -1] // m % m]
    return one_hot.astype(x.dtype)


# --- times ---


class Timed:
    """A network of `benchmarks.nets` that is timed in four modes.

    fit        epochs of one network
    predict    predictions of all rows
    setup      a new network, built, compiled, and fitted for one step
    estimator  an estimator's fit for one epoch, from its constructor on
    """

    def __init__(self, net: dict[str, Any], seed: int, arrays: str) -> None:
        import numpy as np

        self.net, self.seed = net, seed
        with np.load(arrays, allow_pickle=False) as stored:
            self.X, self.y = stored["X"], stored["y"]
            self.weights = [stored[f"weights{k}"] for k in range(2 * len(net["sizes"]) - 2)]
        self.model = self._model()
        self.pace: dict[str, float] = {}  # seconds of a unit, by mode

    def _model(self) -> Any:
        gpunn, net = _gpunn(), self.net
        cross_entropy = net["loss"] == "crossentropy"
        layers = [gpunn.Dense(width, "relu") for width in net["sizes"][1:-1]]
        layers.append(gpunn.Dense(net["sizes"][-1], "softmax" if cross_entropy else None))
        model = gpunn.Sequential(layers, input_shape=net["sizes"][0], seed=self.seed, dtype=str(self.X.dtype))
        model.set_weights(self.weights)
        rule = {"sgd": gpunn.SGD, "adam": gpunn.Adam}[net["rule"]]
        loss = "sparse_categorical_crossentropy" if cross_entropy else "half_squared_error"
        model.compile(rule(net["learning_rate"]), loss, device="cpu")
        return model

    def _fit(self, units: int) -> None:
        self.model.fit(self.X, self.y, batch_size=self.net["batch"], epochs=units, verbose=0)

    def _predict(self, units: int) -> None:
        for _ in range(units):
            self.model.predict(self.X, batch_size=self.net["block"])

    def _setup(self, units: int) -> None:
        n = self.net["batch"]
        for _ in range(units):
            self._model().fit(self.X[:n], self.y[:n], batch_size=n, verbose=0)

    def _estimator(self, units: int) -> None:
        gpunn, net = _gpunn(), self.net
        classes = net["loss"] == "crossentropy"
        kind = gpunn.MLPClassifier if classes else gpunn.MLPRegressor
        for _ in range(units):
            estimator = kind(
                hidden_layer_sizes=net["sizes"][1:-1],
                solver=net["rule"],
                batch_size=net["batch"],
                learning_rate_init=net["learning_rate"],
                max_iter=1,
                random_state=self.seed,
                device="cpu",
            )
            estimator.fit(self.X, self.y if classes else self.y[:, 0])

    def _seconds(self, mode: str, units: int) -> float:
        run = {"fit": self._fit, "predict": self._predict, "setup": self._setup, "estimator": self._estimator}[mode]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one epoch does not converge
            begun = time.perf_counter()
            run(units)
            return time.perf_counter() - begun

    def warm(self, mode: str) -> dict[str, Any]:
        """Run one unit, after which everything is compiled, and measure the pace with a second one."""
        first = self._seconds(mode, 1)
        self.pace[mode] = first if first > 0.5 else self._seconds(mode, 1)
        return {}

    def window(self, mode: str, seconds: float) -> dict[str, Any]:
        """Run units for at least `seconds`; the microseconds of one unit."""
        units, spent = 0, 0.0
        while spent < seconds:
            more = max(1, math.ceil((1.05 * seconds - spent) / self.pace[mode]))
            spent += self._seconds(mode, more)
            units += more
            self.pace[mode] = spent / units
        return {"us": 1e6 * spent / units}


if __name__ == "__main__":
    main()
