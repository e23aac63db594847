"""Layers. The docstring of `Layer` shows how to write one."""

from .activation import Activation
from .base import Layer, Parameter, Quantities, RunningStat, from_config, to_config
from .dense import Dense
from .dropout import Dropout
from .embedding import Embedding
from .normalization import BatchNormalization, LayerNormalization
from .periodic import PeriodicEmbedding

__all__ = [
    "Activation",
    "BatchNormalization",
    "Dense",
    "Dropout",
    "Embedding",
    "Layer",
    "LayerNormalization",
    "Parameter",
    "PeriodicEmbedding",
    "Quantities",
    "RunningStat",
    "from_config",
    "to_config",
]


def __dir__() -> list[str]:
    return __all__
