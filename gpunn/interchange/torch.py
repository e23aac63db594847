"""PyTorch state dicts of an `nn.Sequential`, read and written as safetensors without PyTorch.

Each layer becomes the modules that compute the same at prediction (`module.eval()`). Their positions give the names:

Dense(n, use_bias=…)           nn.Linear with weight = Wᵀ (n_out, n_in), bias = b, followed by a module for its
                               activation, unless that is the identity
Activation(f)                  nn.ReLU(), nn.LeakyReLU(α), nn.ELU(α), nn.GELU(approximate='tanh'), nn.SiLU(),
                               nn.SELU(), nn.Mish(), nn.Softplus(), nn.Sigmoid(), nn.Tanh(),
                               nn.Softmax(dim=1), nn.Identity();
                               the exponential and user-defined activations need a module of the user, without arrays
Dropout(p)                     nn.Dropout(p)
BatchNormalization             nn.BatchNorm1d: weight = γ, bias = β, running_mean, running_var, num_batches_tracked
LayerNormalization             nn.LayerNorm: weight = γ, bias = β

A state dict contains no ε, no slope and no rate: `torch_module` returns them. float32 and float64 are kept.
"""

from __future__ import annotations

import copy
import errno
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import safetensors
from safetensors.numpy import save

from .. import activations, layers
from .. import input_checks as checks
from ..activations import Activation
from ..backend import to_host
from ..layers import Layer
from ..training.checkpoint import MAX_HEADER, CheckpointError
from ..training.files import write_bytes
from ..training.parameter_arrays import named_arrays, named_shapes
from .model_protocol import Model

if TYPE_CHECKING:
    from .. import Sequential

M = TypeVar("M", bound=Model)
Source = str | os.PathLike[str] | Mapping[str, Any]

# gpunn does not count batches, and PyTorch reads their number only with momentum=None
BATCH_COUNT = "num_batches_tracked"
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
SCALE_AND_SHIFT = {"weight": "gamma", "bias": "beta"}


def torch_state_dict(net: Model) -> dict[str, np.ndarray]:
    """Return the state dict of the `nn.Sequential` that predicts as `net` does, as NumPy arrays.

    ``module.load_state_dict({k: torch.from_numpy(v) for k, v in torch_state_dict(net).items()})`` loads it.

    Parameters
    ----------
    net : Sequential
        A network whose number of inputs is known.

    Returns
    -------
    dict of str to array
        {"0.weight": …, "0.bias": …, …}

    Raises
    ------
    RuntimeError
        If the number of inputs is unknown.
    ValueError
        For a user-defined layer, and for dropout in the form of the text, which PyTorch does not have.
    """
    net._require_built("torch_state_dict")
    views = named_arrays(net._net)
    state = {}
    for name, own in _array_names(_modules(net.layers)).items():
        array = np.array(0) if own is None else to_host(views[own])
        # C-contiguous copies: safetensors writes the memory of a transposed view in its storage order
        state[name] = np.array(array.T, order="C")
    return state


def save_torch(net: Model, path: str | os.PathLike[str]) -> None:
    """Write `torch_state_dict(net)` to a safetensors file, atomically.

    `safetensors.torch.load_file` reads it; its metadata entry "module" is `torch_module(net)`.

    Parameters
    ----------
    net : Sequential
        A network whose number of inputs is known.
    path : str or path-like
        The file to write or replace.

    Raises
    ------
    RuntimeError, ValueError
        As `torch_state_dict`.
    OSError
        If writing fails. An old file is unchanged.
    """
    data = save(torch_state_dict(net), {"format": "pt", "module": torch_module(net)})
    write_bytes(Path(path), data)


def torch_module(net: Model) -> str:
    """Return the module as Python source, ``nn.Sequential(nn.Linear(4, 8), nn.ReLU(), …)``.

    Parameters
    ----------
    net : Sequential
        A network whose number of inputs is known.

    Raises
    ------
    RuntimeError, ValueError
        As `torch_state_dict`.
    """
    net._require_built("torch_module")
    return _source_code(_modules(net.layers), net.dtype)


def load_torch(net: M, source: Source) -> M:
    """Load the parameters and running statistics of an `nn.Sequential` into `net`; return `net`.

    The optimizer's state is unchanged, as with `set_weights`.

    Parameters
    ----------
    net : Sequential
        A network with the same architecture. If its number of inputs is unknown, the source determines it.
    source : path or mapping
        A safetensors file of the state dict (`safetensors.torch.save_file(module.state_dict(), path)`), or the state
        dict itself, of tensors or arrays. float16 and bfloat16 become float32.

    Raises
    ------
    CheckpointError
        (a ValueError) If the file is damaged, names or shapes are not those of the network, or a number is not finite.
        The network is unchanged.
    OSError
        If the file cannot be read.
    ValueError
        As `torch_state_dict`.
    """
    origin, state = _read(source)
    n_in = net._net.n_in if net._net.is_built else _input_size(origin, state)
    matching = _matching_arrays(net, n_in, origin, state)
    arrays = {name: net._net.backend.asarray(array) for name, array in matching.items()}
    if not net._net.is_built:
        net._net.build(n_in, draw=False)
    for name, view in named_arrays(net._net).items():
        view[...] = arrays[name]
    return net


def from_torch(source: Source, modules: Any = None, *, seed: int | None = None) -> Sequential:
    """Make a network that predicts as the `nn.Sequential` of a state dict does.

    Its dtype is float64 if the first weights are, else float32.

    Parameters
    ----------
    source : path or mapping
        A safetensors file or a state dict, as for `load_torch`.
    modules : dict, str or Activation, optional
        The modules without arrays, which a state dict does not contain, as {position: activation}: an activation by
        name or as an object, a gpunn layer (`gpunn.Dropout(0.5)`), or None for a module without effect at prediction.
        A single activation is used at every position between two modules with arrays. A layer at the position of a
        normalization replaces the default one, for another ε: {1: gpunn.BatchNormalization(epsilon=1e-3)}.
    seed : int, optional
        Seed of the network, for later training.

    Raises
    ------
    CheckpointError
        As `load_torch`.
    ValueError
        If the module at a position is unknown.
    TypeError
        If a position is not an integer.
    """
    # model.py imports this package, so its class is looked up in the facade
    from .. import Sequential

    origin, state = _read(source)
    _input_size(origin, state)
    groups: dict[int, dict[str, Any]] = {}
    for name, array in state.items():
        groups.setdefault(_position(origin, name), {})[name.partition(".")[2]] = array
    given = dict(modules) if isinstance(modules, Mapping) else _between(groups, modules)
    made = _layers(origin, groups, given)
    weights = to_host(checks.as_real_array(state[f"{min(groups)}.weight"], f"{origin}: {min(groups)}.weight"))
    dtype = "float64" if weights.dtype == np.float64 else "float32"
    return load_torch(Sequential(made, input_shape=None, seed=seed, dtype=dtype), state)


# --- modules ---

# the source code of a module, and gpunn's names of its arrays; None for the number of batches
Module = tuple[str, dict[str, str | None]]


def _modules(sequence: Sequence[Layer]) -> list[Module]:
    """The modules of layers whose sizes are known."""
    modules: list[Module] = []
    for k, layer in enumerate(sequence):
        if type(layer) not in _LAYERS:
            known = ", ".join(cls.__name__ for cls in _LAYERS)
            raise ValueError(f"layers[{k}] must be one of {known} for PyTorch, got {type(layer).__name__}")
        code, arrays = _LAYERS[type(layer)](layer)
        modules.append((code, {name: own and f"layers.{k}.{own}" for name, own in arrays.items()}))
        if isinstance(layer, layers.Dense) and type(layer.activation) is not activations.Identity:
            modules.append((_activation(layer.activation), {}))
    return modules


def _array_names(modules: list[Module]) -> dict[str, str | None]:
    """The names in the state dict, in PyTorch's order, with gpunn's names."""
    return {f"{k}.{name}": own for k, (_, arrays) in enumerate(modules) for name, own in arrays.items()}


def _source_code(modules: list[Module], dtype: np.dtype) -> str:
    double = ".double()" if dtype == np.float64 else ""
    return f"nn.Sequential({', '.join(code for code, _ in modules)}){double}"


def _dense(layer: layers.Dense) -> Module:
    if layer.use_bias:
        return f"nn.Linear({layer.n_in}, {layer.n_out})", {"weight": "W", "bias": "b"}
    return f"nn.Linear({layer.n_in}, {layer.n_out}, bias=False)", {"weight": "W"}


def _dropout(layer: layers.Dropout) -> Module:
    if layer.form == "textbook" and layer.rate > 0:
        raise ValueError(f"{layer!r} scales at prediction, which PyTorch's dropout does not: use form='inverted'")
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
    activations.SELU: lambda f: "nn.SELU()",
    activations.Mish: lambda f: "nn.Mish()",
    activations.Softplus: lambda f: "nn.Softplus()",
    activations.Sigmoid: lambda f: "nn.Sigmoid()",
    activations.Tanh: lambda f: "nn.Tanh()",
    activations.Identity: lambda f: "nn.Identity()",
    activations.Softmax: lambda f: "nn.Softmax(dim=1)",
}


def _activation(f: Activation) -> str:
    """The module's source code, or gpunn's repr if torch.nn has no such module."""
    return _ACTIVATIONS.get(type(f), repr)(f)


# --- layers ---


def _between(groups: dict[int, dict[str, Any]], activation: Any) -> dict[int, Any]:
    """Put the activation at the first position of each gap between modules with arrays, and None at the others."""
    if activation is None:
        return {}
    empty = [k for k in range(min(groups), max(groups)) if k not in groups]
    return {k: activation if k - 1 in groups else None for k in empty}


def _layers(origin: str, groups: dict[int, dict[str, Any]], given: dict[int, Any]) -> list[Layer]:
    """The layers of a state dict: `groups` are its arrays by position, `given` the modules without arrays."""
    wrong = [k for k in given if not isinstance(k, int) or k < 0]
    if wrong:
        raise TypeError(f"modules must have integers ≥ 0 as positions, got {wrong[0]!r}")
    made: list[Layer] = []
    for k in range(max([*groups, *given]) + 1):
        module = given.get(k)
        if k in groups and module is None:
            made.append(_layer_of(origin, k, groups[k]))
        elif isinstance(module, Layer):
            made.append(copy.deepcopy(module))
        elif k in groups:
            raise ValueError(f"modules[{k}] must be a layer, since {origin} has arrays at position {k}, got {module!r}")
        elif k not in given:
            raise ValueError(
                f"{origin} has no arrays at position {k}: pass its activation in modules, for example {{{k}: 'relu'}}, "
                f"or {{{k}: None}} for a module without effect at prediction"
            )
        elif module is not None and k - 1 in groups and isinstance(made[-1], layers.Dense):
            made[-1] = layers.Dense(made[-1].units, module, use_bias=made[-1].use_bias)
        else:
            made.append(layers.Activation(activations.get(module)))
    return made


def _layer_of(origin: str, k: int, arrays: dict[str, Any]) -> Layer:
    """The layer with these parameters."""
    shape = tuple(getattr(arrays.get("weight"), "shape", ()))
    if len(shape) == 2:
        return layers.Dense(shape[0], use_bias="bias" in arrays)
    if len(shape) == 1 and "running_mean" in arrays:
        return layers.BatchNormalization()
    if len(shape) == 1 and "bias" in arrays:
        return layers.LayerNormalization()
    if len(shape) == 1:
        raise CheckpointError(
            f"{origin}: position {k} must have a bias, got a weight of shape {shape} alone, as in nn.PReLU or a "
            f"normalization without bias; gpunn has neither. For LayerNorm or BatchNorm add '{k}.bias' with zeros"
        )
    raise CheckpointError(
        f"{origin}: position {k} must be nn.Linear, nn.BatchNorm1d or nn.LayerNorm, got {_listed([*arrays])}"
    )


# --- state dicts ---


def _read(source: Any) -> tuple[str, dict[str, Any]]:
    """Return a description of the source for messages, and its state dict."""
    if isinstance(source, Mapping):
        return "the state dict", {name: _without_bfloat16(array) for name, array in source.items()}
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a safetensors file or a state dict, got {type(source).__name__}")
    path = Path(source)
    # a pipe or a device may never end
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise CheckpointError(
                f"{path} is not a safetensors file: write safetensors.torch.save_file(module.state_dict(), …)"
            )
        file.seek(0)
        data = file.read()
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
        return str(path), {name: _array(path, name, entry) for name, entry in entries}
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def _without_bfloat16(array: Any) -> Any:
    """Convert a bfloat16 tensor or array, which NumPy lacks, to float32; return anything else unchanged."""
    if str(getattr(array, "dtype", "")) not in ("bfloat16", "torch.bfloat16"):
        return array
    return array.float() if hasattr(array, "float") else array.astype(np.float32)


def _array(path: Path, name: str, entry: dict[str, Any]) -> np.ndarray:
    """Convert one array of a file. A bfloat16, which NumPy lacks, is the upper half of a float32."""
    if name.endswith(f".{BATCH_COUNT}"):
        return np.array(0)
    if entry["dtype"] == "BF16":
        array = (np.frombuffer(entry["data"], "<u2").astype("<u4") << 16).view("<f4")
    elif entry["dtype"] in FLOATS:
        array = np.frombuffer(entry["data"], FLOATS[entry["dtype"]])
    else:
        raise CheckpointError(f"{path}: {name} must be floats, got {entry['dtype']}")
    return array.reshape(entry["shape"])


def _position(origin: str, name: str) -> int:
    if re.fullmatch("[0-9]{1,6}[.][a-z_]+", name) is None:
        raise CheckpointError(
            f"{origin}: names must be like '0.weight', as in an nn.Sequential, got {name!r}; pass the state dict of "
            "the Sequential alone, or rename its entries"
        )
    return int(name.partition(".")[0])


def _input_size(origin: str, state: dict[str, Any]) -> int:
    """The number of inputs of the first module with arrays."""
    if not state:
        raise CheckpointError(f"{origin} contains no arrays, so the number of inputs is unknown")
    first = min(_position(origin, name) for name in state)
    shape = tuple(getattr(state.get(f"{first}.weight"), "shape", ()))
    if len(shape) not in (1, 2) or shape[-1] < 1:
        raise CheckpointError(f"{origin}: {first}.weight must have one or two axes, got shape {shape}")
    return int(shape[-1])


def _matching_arrays(net: Model, n_in: int, origin: str, state: dict[str, Any]) -> dict[str, np.ndarray]:
    """The network's arrays by gpunn's names. Raise CheckpointError if the state dict does not match the network."""
    built = copy.deepcopy(net.layers)
    parameters, running = named_shapes(built, n_in)
    shapes = parameters | running
    modules = _modules(built)
    names = _array_names(modules)
    mismatch = f"{origin} does not match {_source_code(modules, net.dtype)}"
    missing = [name for name, own in names.items() if own is not None and name not in state]
    unknown = [name for name in state if name not in names]
    if missing or unknown:
        parts = [f"it lacks {_listed(missing)}"] * bool(missing) + [f"it has {_listed(unknown)}"] * bool(unknown)
        raise CheckpointError(f"{mismatch}: {' and '.join(parts)}")
    arrays = {}
    for name, own in names.items():
        if own is None:
            continue
        shape = shapes[own][::-1]
        array = to_host(checks.as_real_array(state[name], f"{origin}: {name}"))
        if array.shape != shape or array.dtype.kind != "f":
            raise CheckpointError(f"{mismatch}: {name} must be floats {shape}, got {array.dtype} {array.shape}")
        with np.errstate(over="ignore"):
            converted = array.T.astype(net.dtype)
        if not np.isfinite(converted).all():
            raise CheckpointError(f"{origin}: {name} has NaN, infinity or a number too large for {net.dtype}")
        arrays[own] = converted
    return arrays


def _listed(names: list[str]) -> str:
    if len(names) > 6:
        return f"{', '.join(names[:6])} and {len(names) - 6} more"
    return ", ".join(names)
