"""PyTorch state dicts: names, shapes and values are those of torch, and predictions are equal, both ways."""

import copy
import itertools
import os

import numpy as np
import pytest
from helpers.messages import naming
from helpers.oracles import oracle
from helpers.random_nets import OUTPUTS, random_case
from helpers.snapshots import assert_unchanged, bits
from helpers.user_classes import Doubled, UserSigmoid, UserSoftmax
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import gpunn
from gpunn import activations
from gpunn.interchange import from_torch, load_torch, save_torch, torch_module, torch_state_dict

RNG = np.random.default_rng(5)
X = RNG.normal(size=(9, 3))


def layers_of_every_kind():
    return [
        gpunn.Dense(4, "relu"),
        gpunn.Dropout(0.25),
        gpunn.Dense(5, use_bias=False),
        gpunn.BatchNormalization(momentum=0.2, epsilon=1e-3),
        gpunn.Activation(activations.LeakyReLU(0.2)),
        gpunn.LayerNormalization(epsilon=1e-4),
        gpunn.Dense(2, "softmax"),
    ]


def every_kind(dtype="float32", seed=3):
    net = gpunn.Sequential(layers_of_every_kind(), input_shape=3, seed=seed, dtype=dtype)
    return net.compile(gpunn.Adam(0.05), "sparse_categorical_crossentropy")


def trained(net):
    """Train a network, so that running statistics and normalizations change."""
    net.fit(X, np.arange(9) % 2, epochs=5, batch_size=4, verbose=0)
    return net


MODULE = (
    "nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.25), nn.Linear(4, 5, bias=False), "
    "nn.BatchNorm1d(5, eps=0.001, momentum=0.2), nn.LeakyReLU(0.2), nn.LayerNorm(5, eps=0.0001), nn.Linear(5, 2), "
    "nn.Softmax(dim=1))"
)
NAMES = (
    "0.weight 0.bias 3.weight 4.weight 4.bias 4.running_mean 4.running_var 4.num_batches_tracked 6.weight 6.bias "
    "7.weight 7.bias"
).split()
# the modules of `every_kind` without arrays
MODULES = {
    1: "relu",
    2: gpunn.Dropout(0.25),
    4: gpunn.BatchNormalization(momentum=0.2, epsilon=1e-3),
    5: activations.LeakyReLU(0.2),
    6: gpunn.LayerNormalization(epsilon=1e-4),
    8: "softmax",
}


# --- without torch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_dict_names_shapes_and_values(dtype):
    net = trained(every_kind(dtype))
    state = torch_state_dict(net)
    assert torch_module(net) == MODULE + (".double()" if dtype == "float64" else "")
    assert [*state] == NAMES
    W1, b1, W2, gamma, beta, gain, shift, W3, b3 = net.get_weights()
    running = {k.split(".")[-1]: v for k, v in net.to_tensors()[0].items()}
    wanted = [W1.T, b1, W2.T, gamma, beta, running["running_mean"], running["running_variance"]]
    for name, array in zip([n for n in NAMES if "num" not in n], [*wanted, gain, shift, W3.T, b3], strict=True):
        assert state[name].flags.c_contiguous and state[name].dtype == dtype
        np.testing.assert_array_equal(state[name], array)
    assert state["4.num_batches_tracked"].shape == () and state["4.num_batches_tracked"].dtype == np.int64


def test_file_is_stored_in_c_order(tmp_path):
    """safetensors writes a transposed view in its storage order."""
    net = gpunn.Sequential([gpunn.Dense(3)], input_shape=2)
    net.set_weights([[[1, 2, 3], [4, 5, 6]], [7, 8, 9]])
    save_torch(net, tmp_path / "m.safetensors")
    found = load_file(tmp_path / "m.safetensors")
    assert found["0.weight"].tolist() == [[1, 4], [2, 5], [3, 6]] and found["0.bias"].tolist() == [7, 8, 9]
    with safe_open(tmp_path / "m.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt", "module": "nn.Sequential(nn.Linear(2, 3))"}


def test_state_dict_arrays_are_copies():
    net = every_kind()
    with assert_unchanged(net, X):
        for array in torch_state_dict(net).values():
            array[...] = 17


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_dict_round_trip(tmp_path, dtype):
    net, path = trained(every_kind(dtype)), tmp_path / "m.safetensors"
    save_torch(net, path)
    other = every_kind(dtype, seed=8)
    assert load_torch(other, path) is other
    assert bits(other.predict(X)) == bits(net.predict(X))
    unbuilt = gpunn.Sequential(layers_of_every_kind(), seed=1, dtype=dtype)
    assert bits(load_torch(unbuilt, torch_state_dict(net)).predict(X)) == bits(net.predict(X))
    made = from_torch(path, MODULES, seed=3)
    assert made.dtype == dtype and made.seed == 3
    assert bits(made.predict(X)) == bits(net.predict(X))
    assert torch_module(made) == torch_module(net) and [*map(repr, made.layers)] == [*map(repr, net.layers)]


def test_other_precisions_are_converted():
    state = torch_state_dict(trained(every_kind("float64")))
    np.testing.assert_array_equal(
        load_torch(every_kind(), state).get_weights()[0], state["0.weight"].T.astype(np.float32)
    )
    halves = {k: v.astype(np.float16) if v.dtype.kind == "f" else v for k, v in state.items()}
    np.testing.assert_array_equal(load_torch(every_kind(), halves).get_weights()[0], halves["0.weight"].T)
    assert from_torch(halves, MODULES).dtype == np.float32


class _Tensor:
    """A bfloat16 tensor of PyTorch, as far as it is used."""

    dtype = "torch.bfloat16"

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def float(self):
        return self.array.astype("float32")


def test_bfloat16_tensors_of_a_state_dict():
    state = linear(3, 4, 2)
    net = from_torch({name: _Tensor(array) for name, array in state.items()}, "relu")
    assert bits(net.predict(X)) == bits(
        from_torch({k: v.astype("float32") for k, v in state.items()}, "relu").predict(X)
    )
    ml_dtypes = pytest.importorskip("ml_dtypes")
    halved = {name: array.astype(ml_dtypes.bfloat16) for name, array in state.items()}
    rounded = {name: array.astype("float32") for name, array in halved.items()}
    assert bits(from_torch(halved, "relu").predict(X)) == bits(from_torch(rounded, "relu").predict(X))


def test_bfloat16_file(tmp_path):
    """The upper 16 bits of a float32: 1, −2.5, ¹⁄₁₂₈ and 3.140625, and a bias of 0."""
    held = {"0.weight": ("[2,2]", "803f20c0003c4940"), "0.bias": ("[2]", "00000000")}
    header, data = [], b""
    for name, (shape, numbers) in held.items():
        ends = [len(data), len(data) + len(numbers) // 2]
        header.append(f'"{name}":{{"dtype":"BF16","shape":{shape},"data_offsets":{ends}}}')
        data += bytes.fromhex(numbers)
    text = f"{{{','.join(header)}}}".encode()
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    net = from_torch(tmp_path / "m.safetensors")
    assert net.dtype == np.float32
    assert net.predict(np.eye(2)).T.tolist() == [[1, -2.5], [2**-7, 3.140625]]


def test_batch_count_is_optional_and_the_optimizer_state_is_kept():
    net = trained(every_kind())
    state = torch_state_dict(net)
    del state["4.num_batches_tracked"]
    with assert_unchanged(net, X):
        load_torch(net, state)


def test_load_and_save_on_a_simulated_gpu(fake_cupy):
    """The GPU is simulated."""
    net = trained(every_kind())
    state, wanted = torch_state_dict(net), net.predict(X)
    other = every_kind(seed=8).to("cuda")
    assert torch_state_dict(load_torch(other, state)).keys() == state.keys()
    np.testing.assert_allclose(other.predict(X), wanted, rtol=1e-5)
    assert {k: bits(v) for k, v in torch_state_dict(other).items()} == {k: bits(v) for k, v in state.items()}


# --- building from a state dict ---------------------------------------------------------------------------------------


def linear(*widths):
    """The state dict of Linear layers two positions apart."""
    return {
        f"{2 * k}.{name}": RNG.normal(size=(n_out, n_in)[: 2 if name == "weight" else 1])
        for k, (n_in, n_out) in enumerate(itertools.pairwise(widths))
        for name in ("weight", "bias")
    }


def test_single_activation_for_all_gaps():
    state = linear(3, 5, 4, 2)
    net = from_torch(state, "tanh")
    assert [*map(repr, net.layers)] == ["Dense(5, activation='tanh')", "Dense(4, activation='tanh')", "Dense(2)"]
    a = X
    for k in (0, 2):
        a = np.tanh(a @ state[f"{k}.weight"].T + state[f"{k}.bias"])
    np.testing.assert_allclose(net.predict(X), a @ state["4.weight"].T + state["4.bias"], rtol=1e-13, atol=1e-14)


def test_single_activation_with_wide_gaps():
    state = linear(3, 5, 2)
    apart = {name.replace("2.", "4."): array for name, array in state.items()}
    net = from_torch(apart, "relu")
    assert torch_module(net) == (
        "nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Identity(), nn.Identity(), nn.Linear(5, 2)).double()"
    )
    assert bits(net.predict(X)) == bits(from_torch(state, "relu").predict(X))


def test_modules_before_and_after_the_arrays():
    net = from_torch({"1.weight": np.eye(3), "1.bias": np.zeros(3)}, {0: "relu", 2: None, 3: "softplus"})
    assert torch_module(net) == ("nn.Sequential(nn.ReLU(), nn.Linear(3, 3), nn.Identity(), nn.Softplus()).double()")
    np.testing.assert_allclose(net.predict(X), np.log1p(np.exp(np.maximum(X, 0))), rtol=1e-13)


def test_given_layers_are_copied():
    given = {1: gpunn.Dropout(0.5)}
    for _ in range(2):
        from_torch(linear(3, 4, 2), given)
    gpunn.Sequential([given[1]])


@pytest.mark.parametrize(
    ("modules", "error", "said"),
    [
        (None, ValueError, naming("modules", "position 1", "{1: 'relu'}")),
        ({3: "tanh"}, ValueError, "no arrays at position 1"),
        ({1: "relu", 4: "relu"}, ValueError, "no arrays at position 3"),
        ({0: "relu", 1: "relu"}, ValueError, naming("modules[0]", "'relu'", "position 0")),
        ({1: "rleu"}, ValueError, "activation 'rleu' is unknown"),
        ({1: 5}, TypeError, naming("activation", "int")),
        ({1: "relu", 2: gpunn.LayerNormalization()}, ValueError, "does not match .* 2.weight must be floats"),
        ({1: "relu", 2: gpunn.Dense(7)}, ValueError, r"2.weight must be floats \(7, 4\), got float64 \(2, 4\)"),
        ({"1": "relu"}, TypeError, naming("modules", "'1'")),
        ({-1: "relu"}, TypeError, naming("modules", -1)),
    ],
)
def test_invalid_modules_are_refused(modules, error, said):
    with pytest.raises(error, match=said):
        from_torch(linear(3, 4, 2), modules)


# --- errors --------------------------------------------------------------------------------------------------


def changed(**arrays):
    """The state dict of `every_kind` with some arrays replaced, or removed if None; in their names, _ is the point."""
    state = torch_state_dict(every_kind())
    for name, array in arrays.items():
        name = name[1:].replace("_", ".", 1)
        if array is None:
            del state[name]
        else:
            state[name] = np.asarray(array)
    return state


BAD = {
    "lacks": (changed(_0_bias=None), r"does not match nn.Sequential\(nn.Linear\(3, 4\), nn.ReLU.*: it lacks 0.bias$"),
    "has": (changed(_3_bias=np.zeros(5)), r"does not match nn.Sequential.*: it has 3.bias$"),
    "both": (changed(_9_weight=np.zeros(5), _7_weight=None), "it lacks 7.weight and it has 9.weight"),
    "transposed": (changed(_0_weight=np.zeros((3, 4))), r"0.weight must be floats \(4, 3\), got float64 \(3, 4\)"),
    "wide": (changed(_4_running_var=np.ones(6)), r"4.running_var must be floats \(5,\), got float64 \(6,\)"),
    "whole numbers": (
        changed(_0_bias=np.zeros(4, np.int8)),
        r"0\.bias .*(int8|I8)",
    ),
    "NaN": (changed(_7_bias=[0, np.nan]), naming("7.bias", "NaN", "infinity", "float32", "too large")),
    "too large": (changed(_4_running_var=[1, 1, 1, 1, 1e39]), naming("4.running_var", "NaN", "infinity")),
    "nothing": ({}, "it lacks 0.weight, 0.bias, 3.weight, 4.weight, 4.bias, 4.running_mean and 5 more"),
    "other names": ({"fc1.weight": np.zeros((4, 3))}, "and it has fc1.weight"),
}


@pytest.mark.parametrize("state", BAD)
def test_mismatched_state_dict_changes_nothing(tmp_path, state):
    given, said = BAD[state]
    path = tmp_path / "m.safetensors"
    save_file(given, path)
    net = trained(every_kind())
    for source in (given, path):
        with assert_unchanged(net, X), pytest.raises(gpunn.CheckpointError, match=said):
            load_torch(net, source)
    unbuilt = gpunn.Sequential(layers_of_every_kind())
    with assert_unchanged(unbuilt), pytest.raises(gpunn.CheckpointError):
        load_torch(unbuilt, given)
    assert {layer.n_in for layer in unbuilt.layers} == {None}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, "number of inputs"),
        ({"fc1.weight": np.zeros((4, 3))}, "names must be like '0.weight', .*got 'fc1.weight'"),
        ({"0.0.weight": np.zeros((4, 3))}, "got '0.0.weight'"),
        ({"0.bias": np.zeros(4)}, naming("0.weight", "()")),
        ({"0.weight": np.zeros((4, 3, 3, 3)), "0.bias": np.zeros(4)}, naming("0.weight", "(4, 3, 3, 3)")),
        ({"0.weight": np.zeros((4, 3)), "1.gain": np.zeros(4)}, naming("position 1", "gain", "nn.Linear")),
        ({"0.weight": np.zeros(4)}, "position 0 must have a bias, .*nn.PReLU"),
        (linear(4, 3) | {"1.weight": np.full(1, 0.25)}, "position 1 must have a bias, .*nn.PReLU"),
    ],
)
def test_state_dicts_of_other_modules_are_refused(state, said):
    with pytest.raises(gpunn.CheckpointError, match=said):
        from_torch(state)


def test_invalid_files_are_refused(tmp_path):
    path, net = tmp_path / "m.safetensors", every_kind()
    save_torch(net, path)
    whole = path.read_bytes()
    header = b'{"0.weight":{"dtype":"I8","shape":[4,3],"data_offsets":[0,12]}}'
    bad = {
        b"": "damaged",
        whole[:100]: "damaged",
        whole[:-1]: "damaged",
        b"PK\x03\x04\x00\x00\x08\x08" + bytes(100): naming("safetensors file"),
        len(header).to_bytes(8, "little") + header + bytes(12): naming("0.weight", "I8"),
    }
    for data, said in bad.items():
        path.write_bytes(data)
        with assert_unchanged(net, X), pytest.raises(gpunn.CheckpointError, match=said):
            load_torch(net, path)
    with pytest.raises(FileNotFoundError):
        load_torch(net, tmp_path / "none")
    with pytest.raises(OSError, match="not a regular file"):
        load_torch(net, tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="not a regular file"):
            from_torch(tmp_path / "pipe")
    with pytest.raises(TypeError, match=naming("source", "Sequential")):
        load_torch(net, net)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Doubled(), naming("layers[1]", "Doubled")),
        (gpunn.Embedding([0], [2], 1), naming("layers[1]", "Embedding")),
        (gpunn.Dropout(0.5, form="textbook"), r"Dropout\(0.5, form='textbook'\) scales at prediction"),
    ],
)
def test_layers_that_torch_lacks_are_refused(tmp_path, layer, said):
    net = gpunn.Sequential([gpunn.Dense(2), copy.deepcopy(layer)], input_shape=3)
    state = torch_state_dict(gpunn.Sequential([gpunn.Dense(2)], input_shape=3))
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    with assert_unchanged(net, X):
        for call in (
            lambda: torch_state_dict(net),
            lambda: torch_module(net),
            lambda: save_torch(net, path),
            lambda: load_torch(net, state),
        ):
            with pytest.raises(ValueError, match=said):
                call()
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


def test_unbuilt_network_is_refused(tmp_path):
    net = gpunn.Sequential([gpunn.Dense(2)])
    for call in (torch_state_dict, torch_module, lambda net: save_torch(net, tmp_path / "m.safetensors")):
        with pytest.raises(RuntimeError, match="no weights"):
            call(net)
    assert not list(tmp_path.iterdir())


# --- with torch -------------------------------------------------------------------------------------------------------


CASES = 100


def module_of(text, torch):
    """Evaluate the source code from `torch_module`; the user defines the modules that torch.nn lacks."""
    lambdas = {
        "Exponential": torch.exp,
        "UserSigmoid": torch.sigmoid,
        "UserSoftmax": lambda z: torch.softmax(z, dim=1),
    }

    class Own(torch.nn.Module):
        def __init__(self, f):
            super().__init__()
            self.forward = f

    own = {name: lambda f=f: Own(f) for name, f in lambdas.items()}
    return eval(text, {"nn": torch.nn, **own})


def torch_lacks_a_layer(net):
    return any(
        isinstance(layer, (gpunn.Embedding, gpunn.PeriodicEmbedding))
        or (isinstance(layer, gpunn.Dropout) and layer.form == "textbook")
        for layer in net.layers
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_networks_predict_the_same_in_torch(tmp_path, dtype):
    torch = oracle("torch")
    from safetensors.torch import load_file as load_tensors

    path, seen = tmp_path / "m.safetensors", set()
    own = {"UserSigmoid": UserSigmoid(), "UserSoftmax": UserSoftmax()}
    for number in range(CASES):
        case = random_case(number)
        if torch_lacks_a_layer(case.net):
            continue
        tensors, metadata = case.net.to_tensors()
        metadata |= {"dtype": dtype, "compiled": None}
        net = gpunn.Sequential.from_tensors({k: a.astype(dtype) for k, a in tensors.items()}, metadata, custom=own)
        save_torch(net, path)
        module = module_of(torch_module(net), torch).eval()
        module.load_state_dict(load_tensors(path))
        x = case.x.astype(dtype)
        with torch.no_grad():
            wanted = module(torch.from_numpy(x)).numpy()
        assert wanted.dtype == dtype
        tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype] * np.abs(wanted).max()
        np.testing.assert_allclose(net.predict(x), wanted, rtol=0, atol=tolerance)
        seen |= {type(layer) for layer in net.layers} | {type(layer.activation) for layer in net.layers}
    layers = (gpunn.Dense, gpunn.Activation, gpunn.Dropout, gpunn.BatchNormalization, gpunn.LayerNormalization)
    assert seen == {*layers, UserSigmoid, UserSoftmax, *(type(activations.get(f)) for f in OUTPUTS)}


def trained_torch_module(torch, dtype):
    """Train a module in torch for a few steps; return it in evaluation mode."""
    torch.manual_seed(0)
    module = eval(MODULE, {"nn": torch.nn}).to(dtype)
    steps = torch.optim.Adam(module.parameters(), lr=0.05)
    x, y = torch.from_numpy(X).to(dtype), torch.arange(9) % 2
    for _ in range(6):
        steps.zero_grad()
        torch.nn.functional.nll_loss(torch.log(module(x)), y).backward()
        steps.step()
    return module.eval()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_file_written_by_torch(tmp_path, dtype):
    """Predictions are equal, and gpunn writes an equal file."""
    torch = oracle("torch")
    from safetensors.torch import load_file as load_tensors
    from safetensors.torch import save_file as save_tensors

    module = trained_torch_module(torch, getattr(torch, dtype))
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    save_tensors(module.state_dict(), theirs)
    x = X.astype(dtype)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    for net in (
        load_torch(every_kind(dtype), theirs),
        load_torch(every_kind(dtype), module.state_dict()),
        from_torch(theirs, MODULES),
        from_torch(module.state_dict(), MODULES),
    ):
        np.testing.assert_allclose(net.predict(x), wanted, rtol={"float32": 1e-5, "float64": 1e-13}[dtype])
        save_torch(net, ours)
        a, b = load_tensors(ours), load_tensors(theirs)
        assert [*a] == [*b]
        for name in a:
            assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape)
            # only torch counts batches
            assert name.endswith("num_batches_tracked") or torch.equal(a[name], b[name])
        module.load_state_dict(a, strict=True)


def test_names_equal_torchs_state_dict(tmp_path):
    """Names and their order are those of torch's state dict."""
    torch = oracle("torch")
    for number in range(CASES):
        net = random_case(number).net
        if not torch_lacks_a_layer(net):
            module = module_of(torch_module(net), torch)
            assert [*torch_state_dict(net)] == [*module.state_dict()]
