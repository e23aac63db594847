"""The part of a model that conversions use. `model.py` imports this package, so this package cannot import it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..layers import Layer
from ..network import Network


class Model(Protocol):
    """A network and its layers, as `gpunn.Sequential` has them."""

    _net: Network

    @property
    def layers(self) -> list[Layer]:
        """The layers, first to last."""

    @property
    def dtype(self) -> np.dtype:
        """The type of parameters and activations."""

    def _require_built(self, name: str) -> None: ...

    def _probability(self) -> tuple[str, bool]: ...
