"""Multi-layer perceptrons on NumPy (CPU) and CuPy (GPU), from the same source.

>>> import gpunn
>>> net = gpunn.Sequential([gpunn.Dense(256, activation="relu"), gpunn.Dropout(0.5), gpunn.Dense(10)], seed=0)
>>> net = net.compile(optimizer=gpunn.Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])

then `net.fit(X, y)`, `net.evaluate(X, y)`, `net.predict(X)` and `net.save("net.safetensors")`.

==========================  ====================================================================================
Networks                    Sequential, Dense, Activation, Dropout, Embedding, BatchNormalization,
                            LayerNormalization, PeriodicEmbedding, Layer
Optimizers                  SGD, Momentum, Nesterov, RMSprop, Adagrad, Adam, AdamW, Optimizer
Callbacks                   EarlyStopping, ModelCheckpoint, ReduceLROnPlateau, LearningRateScheduler, CSVLogger,
                            ProgressBar, TerminateOnNaN, Callback
scikit-learn estimators     MLPClassifier, MLPRegressor, MLPSearchCV, from_sklearn
Tables                      TabularClassifier, TabularRegressor
Many networks and ranks     fit_many, DataParallel, Rows
Files                       load
Inspection                  check_gradients, compare_devices, doctor
Errors, results             DivergenceError, CheckpointError, DeviceError, DeviceFallbackWarning, History
Modules                     theory (the equations E1 to E11), activations, losses, metrics, initializers, schedules,
                            optimizers, layers, kernels, program, backend, interchange
==========================  ====================================================================================

Names are imported at their first use: `import gpunn` imports only the standard library.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from . import activations as activations
    from . import backend as backend
    from . import initializers as initializers
    from . import interchange as interchange
    from . import kernels as kernels
    from . import layers as layers
    from . import losses as losses
    from . import metrics as metrics
    from . import optimizers as optimizers
    from . import program as program
    from . import schedules as schedules
    from . import theory as theory
    from .backend import DeviceError, DeviceFallbackWarning, doctor
    from .device_comparison import compare_devices
    from .estimators import MLPClassifier, MLPRegressor, MLPSearchCV
    from .gradient_check import check_gradients
    from .interchange.scikit_learn import from_sklearn
    from .io import load
    from .kernels import SlowPathWarning
    from .layers import (
        Activation,
        BatchNormalization,
        Dense,
        Dropout,
        Embedding,
        Layer,
        LayerNormalization,
        PeriodicEmbedding,
    )
    from .model import Sequential
    from .multi_fit import fit_many
    from .optimizers import SGD, Adagrad, Adam, AdamW, Momentum, Nesterov, Optimizer, RMSprop
    from .parallel import DataParallel, Rows
    from .tabular import TabularClassifier, TabularRegressor
    from .training import CheckpointError, DivergenceError, History
    from .training.callbacks import (
        Callback,
        CSVLogger,
        EarlyStopping,
        LearningRateScheduler,
        ModelCheckpoint,
        ProgressBar,
        ReduceLROnPlateau,
        TerminateOnNaN,
    )

__all__ = [
    "SGD",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "BatchNormalization",
    "CSVLogger",
    "Callback",
    "CheckpointError",
    "DataParallel",
    "Dense",
    "DeviceError",
    "DeviceFallbackWarning",
    "DivergenceError",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "History",
    "Layer",
    "LayerNormalization",
    "LearningRateScheduler",
    "MLPClassifier",
    "MLPRegressor",
    "MLPSearchCV",
    "ModelCheckpoint",
    "Momentum",
    "Nesterov",
    "Optimizer",
    "PeriodicEmbedding",
    "ProgressBar",
    "RMSprop",
    "ReduceLROnPlateau",
    "Rows",
    "Sequential",
    "SlowPathWarning",
    "TabularClassifier",
    "TabularRegressor",
    "TerminateOnNaN",
    "__version__",
    "activations",
    "backend",
    "check_gradients",
    "compare_devices",
    "doctor",
    "fit_many",
    "from_sklearn",
    "initializers",
    "interchange",
    "kernels",
    "layers",
    "load",
    "losses",
    "metrics",
    "optimizers",
    "program",
    "schedules",
    "theory",
]

# the module of each public name that is not a module
_HOMES = {
    "backend": "DeviceError DeviceFallbackWarning doctor",
    "estimators": "MLPClassifier MLPRegressor MLPSearchCV",
    "device_comparison": "compare_devices",
    "gradient_check": "check_gradients",
    "interchange.scikit_learn": "from_sklearn",
    "kernels": "SlowPathWarning",
    "layers": "Activation BatchNormalization Dense Dropout Embedding Layer LayerNormalization PeriodicEmbedding",
    "io": "load",
    "multi_fit": "fit_many",
    "model": "Sequential",
    "optimizers": "SGD Adagrad Adam AdamW Momentum Nesterov Optimizer RMSprop",
    "parallel": "DataParallel Rows",
    "tabular": "TabularClassifier TabularRegressor",
    "training": "CheckpointError DivergenceError History",
    "training.callbacks": "CSVLogger Callback EarlyStopping LearningRateScheduler ModelCheckpoint ProgressBar "
    "ReduceLROnPlateau TerminateOnNaN",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    elif name in __all__:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Checkout:
    """Find `gpunn.kernels` in the folder kernels/ of a checkout, next to gpunn/."""

    folder = os.path.join(os.path.dirname(__path__[0]), "kernels")

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != f"{__name__}.kernels":
            return None
        init = os.path.join(cls.folder, "__init__.py")
        return importlib.util.spec_from_file_location(name, init, submodule_search_locations=[cls.folder])


if not os.path.isfile(os.path.join(__path__[0], "kernels", "__init__.py")):
    # first in the list: an editable install of another gpunn would find its own kernels
    sys.meta_path.insert(0, _Checkout)
