"""PyTorch's state dicts of an `nn.Sequential` as safetensors, written and read without PyTorch.

A layer becomes the modules that compute the same at prediction (`module.eval()`), and their positions give the names:

Dense(n, use_bias=…)           nn.Linear: weight = Wᵀ (n_out, n_in), bias = b; and then, as a module of its own, its
                               activation, unless that is the identity
Activation(f)                  nn.ReLU(), nn.LeakyReLU(α), nn.ELU(α), nn.GELU(approximate='tanh'), nn.SiLU(),
                               nn.Softplus(), nn.Sigmoid(), nn.Tanh(), nn.Softmax(dim=1), nn.Identity();
                               nn has none for the exponential and for your own: a module of yours, with no arrays
Dropout(p)                     nn.Dropout(p)
BatchNormalization             nn.BatchNorm1d: weight = γ, bias = β, running_mean, running_var, num_batches_tracked
LayerNormalization             nn.LayerNorm: weight = γ, bias = β

A state dict holds no ε, no slope and no rate: `torch_module` writes them down. float32 and float64 stay as they are.
"""

from __future__ import annotations

import copy
import errno
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from .. import activations, layers
from .. import input_checks as checks
from ..activations import Activation
from ..backend import to_host
from ..layers import Layer
from ..model import Sequential
from ..training.checkpoint import MAX_HEADER, CheckpointError, write_bytes
from ..training.parameter_arrays import named_arrays, named_shapes

# gpunn counts no batches, and PyTorch reads their number with momentum=None alone
BATCH_COUNT = "num_batches_tracked"
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
SCALE_AND_SHIFT = {"weight": "gamma", "bias": "beta"}


def torch_state_dict(net: Sequential) -> dict[str, np.ndarray]:
    """The state dict of the `nn.Sequential` that predicts as `net` does, as NumPy arrays: {"0.weight": …, "0.bias": …}.

    ``module.load_state_dict({k: torch.from_numpy(v) for k, v in torch_state_dict(net).items()})``

    RuntimeError before the number of inputs is known; ValueError for a layer of one's own, or dropout in the text's
    form, which PyTorch does not have.
    """
    net._require_built("torch_state_dict")
    views = named_arrays(net._net)
    state = {}
    for name, own in _names(_modules(net.layers)).items():
        array = np.array(0) if own is None else to_host(views[own])
        # C-contiguous copies: safetensors would write a transposed view's memory as it lies
        state[name] = np.array(array.T, order="C")
    return state


def save_torch(net: Sequential, path: str | os.PathLike[str]) -> None:
    """Write `torch_state_dict(net)` to a safetensors file, as one step: `safetensors.torch.load_file` reads it, and its
    metadata "module" is `torch_module(net)`. Errors as there; OSError where writing fails, the old file whole."""
    data = save(torch_state_dict(net), {"format": "pt", "module": torch_module(net)})
    write_bytes(Path(path), data)


def torch_module(net: Sequential) -> str:
    """The module in Python, ``nn.Sequential(nn.Linear(4, 8), nn.ReLU(), …)``. Errors as `torch_state_dict`."""
    net._require_built("torch_module")
    return _text(_modules(net.layers), net.dtype)


def load_torch(net: Sequential, source: str | os.PathLike[str] | Mapping[str, Any]) -> Sequential:
    """Give `net` the parameters and running statistics of an `nn.Sequential`; returns `net`.

    source  a safetensors file of its state dict (`safetensors.torch.save_file(module.state_dict(), path)`), or the
            state dict itself, of tensors or arrays

    A network whose number of inputs is not known learns it. The optimiser's state stays, as with `set_weights`.

    CheckpointError (a ValueError), with nothing changed, where the file is damaged, names or shapes are not those of
    the network, or a number is not finite; OSError where the file cannot be read; ValueError as in `torch_state_dict`.
    """
    where, state = _read(source)
    n_in = net._net.n_in if net._net.is_built else _inputs(where, state)
    built = copy.deepcopy(net.layers)
    parameters, running = named_shapes(built, n_in)
    shapes = parameters | running
    modules = _modules(built)
    names = _names(modules)
    misfit = f"{where} does not fit {_text(modules, net.dtype)}"
    lacking = [name for name, own_name in names.items() if own_name is not None and name not in state]
    foreign = [name for name in state if name not in names]
    if lacking or foreign:
        said = [f"it lacks {_listed(lacking)}"] * bool(lacking) + [f"it has {_listed(foreign)}"] * bool(foreign)
        raise CheckpointError(f"{misfit}: {' and '.join(said)}")
    found = {}
    for name, own_name in names.items():
        if own_name is not None:
            wanted = shapes[own_name][::-1]
            array = to_host(checks.as_real_array(state[name], f"{where}: {name}"))
            if array.shape != wanted or array.dtype.kind != "f":
                raise CheckpointError(f"{misfit}: {name} should be floats {wanted}, got {array.dtype} {array.shape}")
            with np.errstate(over="ignore"):
                converted = array.T.astype(net.dtype)
            if not np.isfinite(converted).all():
                raise CheckpointError(f"{where}: {name} holds NaN, infinity or a number too large for {net.dtype}")
            found[own_name] = net._net.backend.asarray(converted)
    if not net._net.is_built:
        net._net.build(n_in, draw=False)
    for name, view in named_arrays(net._net).items():
        view[...] = found[name]
    return net


def from_torch(
    source: str | os.PathLike[str] | Mapping[str, Any], modules: Any = None, *, seed: int | None = None
) -> Sequential:
    """A network that predicts as the `nn.Sequential` of a state dict does.

    source   a safetensors file or a state dict, as for `load_torch`
    modules  what a state dict does not tell: the modules without arrays, as {position: activation}, an activation by
             name or as an object, a gpunn layer (`gpunn.Dropout(0.5)`), or None for what does nothing at prediction;
             or one activation, for every place between two modules that have arrays. A layer at the position of a
             normalisation takes the place of the usual one, for another ε: {1: gpunn.BatchNormalization(epsilon=1e-3)}
    seed     of the network, for what follows

    The dtype is float64 where the first weights are, else float32. CheckpointError as in `load_torch`, and ValueError
    where a position is left open.
    """
    where, state = _read(source)
    _inputs(where, state)
    groups: dict[int, dict[str, Any]] = {}
    for name, array in state.items():
        groups.setdefault(_position(where, name), {})[name.partition(".")[2]] = array
    given = modules if isinstance(modules, Mapping) else _between(groups, modules)
    wrong = [k for k in given if not isinstance(k, int) or k < 0]
    if wrong:
        raise TypeError(f"modules must name positions by whole numbers ≥ 0, got {wrong[0]!r}")
    made: list[Layer] = []
    for k in range(max([*groups, *given]) + 1):
        what = given.get(k)
        if k in groups and what is None:
            made.append(_layer_of(where, k, groups[k]))
        elif isinstance(what, Layer):
            made.append(copy.deepcopy(what))
        elif k in groups:
            raise ValueError(f"modules[{k}] is {what!r}, but {where} has arrays of its own at position {k}")
        elif k not in given:
            raise ValueError(
                f"{where} has no arrays at position {k}: say in modules which activation is there, "
                f"{{{k}: 'relu'}} say, or {{{k}: None}} for one that does nothing at prediction"
            )
        elif what is not None and k - 1 in groups and isinstance(made[-1], layers.Dense):
            made[-1] = layers.Dense(made[-1].units, what, use_bias=made[-1].use_bias)
        else:
            made.append(layers.Activation(activations.get(what)))
    weights = to_host(checks.as_real_array(state[f"{min(groups)}.weight"], f"{where}: {min(groups)}.weight"))
    dtype = "float64" if weights.dtype == np.float64 else "float32"
    return load_torch(Sequential(made, input_shape=None, seed=seed, dtype=dtype), state)


# --- modules ---

# a module in Python, and what our files call its arrays; None for the count of batches
Module = tuple[str, dict[str, str | None]]


def _modules(of: Sequence[Layer]) -> list[Module]:
    """The modules of layers that know their widths."""
    found: list[Module] = []
    for k, layer in enumerate(of):
        if type(layer) not in _LAYERS:
            raise ValueError(
                f"layers[{k}] is a layer of your own, {type(layer).__name__}: PyTorch's state dicts have only what "
                f"{', '.join(each.__name__ for each in _LAYERS)} hold"
            )
        text, arrays = _LAYERS[type(layer)](layer)
        found.append((text, {name: own and f"layers.{k}.{own}" for name, own in arrays.items()}))
        if isinstance(layer, layers.Dense) and type(layer.activation) is not activations.Identity:
            found.append((_activation(layer.activation), {}))
    return found


def _names(modules: list[Module]) -> dict[str, str | None]:
    """The names in the state dict, in PyTorch's order, and what our files call them."""
    return {f"{k}.{name}": own for k, (_, arrays) in enumerate(modules) for name, own in arrays.items()}


def _text(modules: list[Module], dtype: np.dtype) -> str:
    double = ".double()" if dtype == np.float64 else ""
    return f"nn.Sequential({', '.join(text for text, _ in modules)}){double}"


def _dense(layer: layers.Dense) -> Module:
    if layer.use_bias:
        return f"nn.Linear({layer.n_in}, {layer.n_out})", {"weight": "W", "bias": "b"}
    return f"nn.Linear({layer.n_in}, {layer.n_out}, bias=False)", {"weight": "W"}


def _dropout(layer: layers.Dropout) -> Module:
    if not layer.is_identity(training=False):
        raise ValueError(f"{layer!r} scales at prediction, where PyTorch's dropout does nothing: use form='inverted'")
    return f"nn.Dropout({layer.rate})", {}


def _batch_normalization(layer: layers.BatchNormalization) -> Module:
    running = {"running_mean": "running_mean", "running_var": "running_variance", BATCH_COUNT: None}
    return f"nn.BatchNorm1d({layer.n_in}, eps={layer.epsilon}, momentum={layer.momentum})", SCALE_AND_SHIFT | running


def _layer_normalization(layer: layers.LayerNormalization) -> Module:
    return f"nn.LayerNorm({layer.n_in}, eps={layer.epsilon})", {**SCALE_AND_SHIFT}


_LAYERS: dict[type[Layer], Callable[[Any], Module]] = {
    layers.Dense: _dense,
    layers.Activation: lambda layer: (_activation(layer.activation), {}),
    layers.Dropout: _dropout,
    layers.BatchNormalization: _batch_normalization,
    layers.LayerNormalization: _layer_normalization,
}

_ACTIVATIONS: dict[type[Activation], Callable[[Any], str]] = {
    activations.ReLU: lambda f: "nn.ReLU()",
    activations.LeakyReLU: lambda f: f"nn.LeakyReLU({f.alpha})",
    activations.ELU: lambda f: f"nn.ELU({f.alpha})",
    activations.GELU: lambda f: "nn.GELU(approximate='tanh')",
    activations.SiLU: lambda f: "nn.SiLU()",
    activations.Softplus: lambda f: "nn.Softplus()",
    activations.Sigmoid: lambda f: "nn.Sigmoid()",
    activations.Tanh: lambda f: "nn.Tanh()",
    activations.Identity: lambda f: "nn.Identity()",
    activations.Softmax: lambda f: "nn.Softmax(dim=1)",
}


def _activation(f: Activation) -> str:
    """The module, or where nn has none, the activation as gpunn writes it."""
    return _ACTIVATIONS.get(type(f), repr)(f)


# --- state dicts ---


def _read(source: Any) -> tuple[str, dict[str, Any]]:
    """What to call it, and the state dict."""
    if isinstance(source, Mapping):
        return "the state dict", dict(source)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a safetensors file or a state dict, got {type(source).__name__}")
    path = Path(source)
    # a pipe or a device might never end
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a file that could hold a state dict", str(path))
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise CheckpointError(
                f"{path} is not a safetensors file: write safetensors.torch.save_file(module.state_dict(), …)"
            )
        file.seek(0)
        data = file.read()
    try:
        found = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
        return str(path), {name: _array(path, name, held) for name, held in found}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def _array(path: Path, name: str, held: dict[str, Any]) -> np.ndarray:
    """One array of a file. NumPy has no bfloat16: the first half of a float32."""
    if name.endswith(f".{BATCH_COUNT}"):
        return np.array(0)
    if held["dtype"] == "BF16":
        array = (np.frombuffer(held["data"], "<u2").astype("<u4") << 16).view("<f4")
    elif held["dtype"] in FLOATS:
        array = np.frombuffer(held["data"], FLOATS[held["dtype"]])
    else:
        raise CheckpointError(f"{path}: {name} holds numbers of type {held['dtype']}; weights are floats")
    return array.reshape(held["shape"])


def _position(where: str, name: str) -> int:
    if re.fullmatch("[0-9]{1,6}[.][a-z_]+", name) is None:
        raise CheckpointError(
            f"{where} holds {name!r}, but an nn.Sequential's names are like '0.weight'; give the state dict of the "
            "Sequential alone, or a dict with its names"
        )
    return int(name.partition(".")[0])


def _inputs(where: str, state: dict[str, Any]) -> int:
    """The number of inputs that the first module with arrays has."""
    if not state:
        raise CheckpointError(f"{where} holds no arrays, so that the number of inputs is not known")
    first = min(_position(where, name) for name in state)
    shape = tuple(getattr(state.get(f"{first}.weight"), "shape", ()))
    if len(shape) not in (1, 2) or shape[-1] < 1:
        raise CheckpointError(f"{where}: {first}.weight should have one or two axes, got shape {shape}")
    return int(shape[-1])


def _between(groups: dict[int, dict[str, Any]], activation: Any) -> dict[int, Any]:
    """That activation at the first of the positions without arrays between two with some; nothing at the others."""
    if activation is None:
        return {}
    empty = [k for k in range(min(groups), max(groups)) if k not in groups]
    return {k: activation if k - 1 in groups else None for k in empty}


def _layer_of(where: str, k: int, arrays: dict[str, Any]) -> Layer:
    """The layer whose parameters these are."""
    shape = tuple(getattr(arrays.get("weight"), "shape", ()))
    if len(shape) == 2:
        return layers.Dense(shape[0], use_bias="bias" in arrays)
    if len(shape) == 1:
        return layers.BatchNormalization() if "running_mean" in arrays else layers.LayerNormalization()
    raise CheckpointError(
        f"{where}: position {k} holds {_listed([*arrays])}, which is none of nn.Linear, nn.BatchNorm1d and nn.LayerNorm"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
