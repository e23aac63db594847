"""Exported graphs in onnxruntime return what `predict` returns, for every layer, activation and kind of label."""

import numpy as np
import pytest
from helpers import internals, limits
from helpers.messages import naming
from helpers.oracles import oracle
from helpers.random_nets import OUTPUTS, random_case
from helpers.snapshots import assert_unchanged
from helpers.user_classes import Doubled, UserSigmoid, UserSoftmax

import gpunn
from gpunn import activations
from gpunn.interchange import onnx as interchange

onnx = oracle("onnx")
runtime = oracle("onnxruntime")

CASES = 120
OWN = {"UserSigmoid": UserSigmoid, "UserSoftmax": UserSoftmax}
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}  # relative to the largest entry; sums of up to 9 terms in another order


def session(path):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def export_and_run(net, path, x):
    net.export(path)
    return session(path).run(["output"], {"X": x})[0]


def assert_same(got, wanted, tolerance):
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max(initial=0))


def as_dtype(net, dtype):
    tensors, metadata = net.to_tensors()
    arrays = {name: a.astype(dtype) for name, a in tensors.items()}
    return gpunn.Sequential.from_tensors(
        arrays, metadata | {"dtype": dtype, "compiled": None}, custom={name: cls() for name, cls in OWN.items()}
    )


def classes_in(net):
    """The classes of a network's layers and activations."""
    return {type(layer) for layer in net.layers} | {type(layer.activation) for layer in net.layers}


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_networks_in_onnxruntime(tmp_path, dtype):
    """Every layer and activation, with and without intercepts, on 1, 7, 0 and all rows."""
    path, seen = tmp_path / "m.onnx", set()
    for number in range(CASES):
        case = random_case(number)
        if classes_in(case.net) & {*OWN.values()}:
            continue
        net, x = as_dtype(case.net, dtype), case.x.astype(dtype)
        net.export(path)
        run = session(path).run
        for n in (1, 7, len(x)):
            rows = np.resize(x, (n, x.shape[1]))
            assert_same(run(None, {"X": rows})[0], net.predict(rows), TOLERANCE[dtype])
        assert run(None, {"X": x[:0]})[0].shape == (0, net.predict(x).shape[1])
        seen |= classes_in(net) | {"no intercepts" for layer in net.layers if getattr(layer, "use_bias", True) is False}
    layers, functions = internals.exported_to_onnx()
    assert seen == layers | functions | {"no intercepts"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_codes_that_an_embedding_lacks(tmp_path, dtype):
    """Codes are rounded, and an unknown one gives NaN."""
    net = gpunn.Sequential([gpunn.Embedding([1, 0], [3, 1], [2, 1])], input_shape=3, seed=0, dtype=dtype)
    codes = [0, 2, 2.4, -0.4, 0.5, 3, 2.5, -1, 1e30, -1e30]
    x = np.array([[0, code, 0.25] for code in codes], dtype)
    wanted = net.predict(x)
    assert np.isnan(wanted).any(axis=1).tolist() == [False] * 5 + [True] * 5
    np.testing.assert_array_equal(export_and_run(net, tmp_path / "m.onnx", x), wanted)


def test_every_activation_can_be_exported():
    assert {type(activations.get(f)) for f in OUTPUTS} == internals.exported_to_onnx()[1]


# values at which exp overflows or sums cancel; at −1e4 no function may multiply a rounding error by z
Z = np.array([-1e4, -300, -88, -20, -17, -1, -0.1, -1e-6, 0, 1e-6, 0.1, 1, 17, 20, 88])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("f", [f for f in OUTPUTS if f != "softmax"], ids=str)
def test_activations_at_large_and_small_values(tmp_path, f, dtype):
    """Compare entry by entry, so that no large one hides others. Only saturated σ needs an absolute tolerance."""
    net = gpunn.Sequential([gpunn.Activation(f)], input_shape=1, dtype=dtype)
    z = Z[:, None].astype(dtype)
    with np.errstate(over="ignore", under="ignore"):
        wanted = net.predict(z)
    got = export_and_run(net, tmp_path / "m.onnx", z)
    u = np.finfo(dtype).eps
    # gelu itself loses what ½(1 + tanh u) cancels; onnxruntime's σ is constant beyond ±18 in float32
    absolute = {"gelu": 20 * u, "sigmoid": u}.get(f, 0)
    np.testing.assert_allclose(got, wanted, rtol=16 * u, atol=absolute + float(np.finfo(dtype).tiny))


@pytest.mark.parametrize("layer", [gpunn.BatchNormalization, gpunn.LayerNormalization])
def test_normalization_with_large_means(tmp_path, layer):
    """Means of 1000 with deviations of at most ½, in float32: x · s + (β − μs) would have errors of 1e-4."""
    rng = np.random.default_rng(3)
    net = gpunn.Sequential([layer()], input_shape=16)
    tensors, metadata = net.to_tensors()
    drawn = {"running_mean": rng.normal(1000, 1, 16), "running_variance": rng.uniform(0.01, 0.25, 16)}
    tensors = {k: drawn.get(k.split(".")[-1], v).astype("f4") for k, v in tensors.items()}
    net = gpunn.Sequential.from_tensors(tensors, metadata)
    centre = drawn["running_mean"] if layer is gpunn.BatchNormalization else 1000
    # multiples of 1/16, so that sums of 16 are exact
    x = (np.round(16 * (centre + rng.normal(0, 0.5, (9, 16)))) / 16).astype("f4")
    assert_same(export_and_run(net, tmp_path / "m.onnx", x), net.predict(x), 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_periodic_embedding_of_large_numbers(tmp_path, dtype):
    """Up to 10⁵ periods; the bound is the rounding of wx, times 2π."""
    net = gpunn.Sequential([gpunn.PeriodicEmbedding([1, 0], 3, scale=10)], input_shape=2, dtype=dtype, seed=0)
    x = np.random.default_rng(0).normal(0, 1e3, (50, 2)).astype(dtype)
    got, wanted = export_and_run(net, tmp_path / "m.onnx", x), net.predict(x)
    np.testing.assert_array_equal(got[:, :2], x)
    np.testing.assert_allclose(got[:, 2:], wanted[:, 2:], rtol=0, atol=4 * np.finfo(dtype).eps)


def test_small_network_by_hand(tmp_path):
    """a = max(0, xW + b) and a₁ − 2a₂, with numbers that are exact in float32."""
    net = gpunn.Sequential([gpunn.Dense(2, "relu"), gpunn.Dense(1, use_bias=False)], input_shape=2)
    net.set_weights([[[1, -1], [2, 0.5]], [0.5, -0.25], [[1], [-2]]])
    got = export_and_run(net, tmp_path / "m.onnx", np.array([[1, 2], [-4, 1]], "f4"))
    # (1 + 4 + 0.5, max(0, −1 + 1 − 0.25)) and (max(0, −4 + 2 + 0.5), 4 + 0.5 − 0.25)
    assert got.tolist() == [[5.5], [-8.5]]


@pytest.mark.parametrize("epsilon", [1e-5, 0.25])
def test_epsilon_of_layer_normalization(tmp_path, epsilon):
    """The output is (−1, 1)/√(1 + ε)."""
    net = gpunn.Sequential([gpunn.LayerNormalization(epsilon)], input_shape=2, dtype="float64")
    got = export_and_run(net, tmp_path / "m.onnx", np.array([[3.0, 5.0]]))
    np.testing.assert_allclose(got, [[-((1 + epsilon) ** -0.5), (1 + epsilon) ** -0.5]], rtol=1e-14)


def test_textbook_dropout_scales(tmp_path):
    net = gpunn.Sequential([gpunn.Dropout(0.25, form="textbook"), gpunn.Dropout(0.5)], input_shape=2)
    assert export_and_run(net, tmp_path / "m.onnx", np.array([[4, -8]], "f4")).tolist() == [[3, -6]]


def test_names_shapes_and_versions(tmp_path):
    """The batch axis has any length, and the versions are fixed."""
    net = gpunn.Sequential([gpunn.Dense(3, "elu"), gpunn.Dense(2, "softmax")], input_shape=4, dtype="float64")
    path = tmp_path / "m.onnx"
    net.export(str(path))
    model = onnx.load(path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    ((x,), (a,)) = model.graph.input, model.graph.output
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (x, a)]
    assert (x.name, a.name, shapes) == ("X", "output", [["N", 4], ["N", 2]])
    assert {v.type.tensor_type.elem_type for v in (x, a)} == {onnx.TensorProto.DOUBLE}
    weights = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
    for name, w in zip(["layers.0.W", "layers.0.b", "layers.1.W", "layers.1.b"], net.get_weights(), strict=True):
        np.testing.assert_array_equal(weights[name], w)
    onnx.checker.check_model(model, full_check=True)


def test_export_is_deterministic_and_changes_nothing(tmp_path):
    case = random_case(9)
    with assert_unchanged(case.net, case.x):
        for name in "ab":
            case.net.export(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_export_from_a_gpu(tmp_path, fake_cupy):
    """The GPU is simulated."""
    layers = [gpunn.Dense(3, "tanh"), gpunn.BatchNormalization(), gpunn.Dense(2)]
    net = gpunn.Sequential(layers, input_shape=4, seed=1)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("f4")
    wanted = net.predict(x)
    assert_same(export_and_run(net.to("cuda"), tmp_path / "m.onnx", x), wanted, 1e-6)


# --- errors --------------------------------------------------------------------------------------------------


class OwnDense(gpunn.Dense):
    """A subclass, which may compute anything."""


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([gpunn.Dense(2), Doubled()], naming("layers[1]", "Doubled", "Dense")),
        ([OwnDense(2)], naming("layers[0]", "OwnDense")),
        ([gpunn.Dense(2, UserSigmoid())], naming("layers[0]", "UserSigmoid", "leaky_relu")),
        ([gpunn.Activation(UserSoftmax())], naming("layers[0]", "UserSoftmax")),
    ],
)
def test_user_defined_parts_are_refused_without_a_file(tmp_path, layers, said):
    net = gpunn.Sequential([*layers], input_shape=3)
    with pytest.raises(ValueError, match=said):
        net.export(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_refused_exports_leave_the_old_file_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    net = gpunn.Sequential([gpunn.Dense(2)])
    with pytest.raises(RuntimeError, match=naming("export", "no weights")):
        net.export(path)
    net.build(3)
    limits.set(monkeypatch, "onnx_bytes", 31)
    with pytest.raises(ValueError, match=naming("0.0 GiB", "2 GiB")):
        net.export(path)
    limits.set(monkeypatch, "onnx_bytes", 32)
    with pytest.raises(FileNotFoundError):
        net.export(tmp_path / "no folder" / "m.onnx")
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]
    net.export(path)
    assert session(path).run(None, {"X": np.zeros((1, 3), "f4")})[0].tolist() == [[0, 0]]


# --- labels -----------------------------------------------------------------------------------------------------------


def answers(graph, path, feed):
    interchange.write(graph, path)
    running = session(path)
    return dict(zip([o.name for o in running.get_outputs()], running.run(None, feed), strict=True))


def drawn(n_out, activation, loss=None, dtype="float64"):
    net = gpunn.Sequential([gpunn.Dense(7, "tanh"), gpunn.Dense(n_out, activation)], input_shape=3, seed=4, dtype=dtype)
    return net if loss is None else net.compile("sgd", loss)


X = np.random.default_rng(1).normal(size=(40, 3))
CROSSENTROPY = "sparse_categorical_crossentropy"


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ([5, -1, 10**12], "int64"),
        (np.array([1, 2, 200], np.uint8), "int64"),
        (["wörd", "", "two words"], "object"),
        (np.array(["a", "b", "c"], object), "object"),
        ([0.5, 1.5, -2], "float64"),
    ],
)
@pytest.mark.parametrize(("activation", "loss"), [("softmax", None), (None, CROSSENTROPY)], ids=["softmax", "logits"])
def test_multiclass_labels(tmp_path, labels, dtype, activation, loss):
    net = drawn(3, activation, loss)
    got = answers(interchange.classifier(net, labels), tmp_path / "m.onnx", {"X": X})
    assert [*got] == ["label", "probabilities"]
    assert_same(got["probabilities"], net.predict_proba(X), 1e-14)
    assert got["label"].dtype == dtype
    assert got["label"].tolist() == [np.asarray(labels).tolist()[k] for k in net.predict_classes(X)]
    assert len({*got["label"].tolist()}) == 3


@pytest.mark.parametrize("labels", [[3, 7], ["no", "yes"], [False, True], np.array([False, True], object)])
@pytest.mark.parametrize(("activation", "loss"), [("sigmoid", None), (None, "binary_crossentropy")])
def test_binary_labels_with_one_output(tmp_path, labels, activation, loss):
    net = drawn(1, activation, loss, "float32")
    x = X.astype("f4")
    got = answers(interchange.classifier(net, labels), tmp_path / "m.onnx", {"X": x})
    p = net.predict_proba(x)
    assert_same(got["probabilities"], np.hstack([1 - p, p]), 1e-6)
    assert got["label"].tolist() == [labels[k] for k in net.predict_classes(x)]
    assert len({*got["label"].tolist()}) == 2


def test_probability_one_half_is_the_first_class(tmp_path):
    net = gpunn.Sequential([gpunn.Dense(1, "sigmoid", kernel_initializer="zeros")], input_shape=3)
    got = answers(interchange.classifier(net, ["no", "yes"]), tmp_path / "m.onnx", {"X": X.astype("f4")[:2]})
    assert got["label"].tolist() == ["no", "no"] and got["probabilities"].tolist() == [[0.5, 0.5]] * 2


def test_single_class(tmp_path):
    got = answers(interchange.classifier(drawn(1, "sigmoid"), ["all"]), tmp_path / "m.onnx", {"X": X})
    assert {*got["label"]} == {"all"} and got["probabilities"].shape == (40, 2)


def test_multilabel_outputs(tmp_path):
    for n_out in (3, 1):
        net = drawn(n_out, "sigmoid")
        got = answers(interchange.classifier(net, None), tmp_path / "m.onnx", {"X": X})
        assert_same(got["probabilities"], net.predict(X), 1e-14)
        assert got["label"].dtype == np.int64
        np.testing.assert_array_equal(got["label"], net.predict(X) > 0.5)
        assert {*got["label"].ravel()} == {0, 1}


@pytest.mark.parametrize("n_out", [1, 3])
def test_regression(tmp_path, n_out):
    net = drawn(n_out, None)
    got = answers(interchange.regressor(net), tmp_path / "m.onnx", {"X": X})
    assert [*got] == ["variable"]
    assert_same(got["variable"], net.predict(X).reshape((40, 3) if n_out == 3 else 40), 1e-14)


@pytest.mark.parametrize(
    ("n_out", "activation", "labels", "said"),
    [
        (3, "softmax", [1, 2], naming("labels", 3, 2)),
        (1, "sigmoid", [1, 2, 3], naming("labels", 3)),
        (1, "sigmoid", [], naming("labels", 0)),
        (2, "softmax", [1j, 2j], naming("labels", "integers")),
        (2, "softmax", [[1, 2], [3, 4]], naming("labels", "integers")),
        (2, "softmax", np.array([1, "a"], object), naming("labels", "integers")),
        (2, "softmax", np.array([1, 2**64 - 1], np.uint64), naming("labels", "integers")),
        (2, "tanh", [1, 2], naming("tanh", "probabilities")),
    ],
)
def test_invalid_labels_are_refused(n_out, activation, labels, said):
    with pytest.raises(ValueError, match=said):
        interchange.classifier(drawn(n_out, activation), labels)
