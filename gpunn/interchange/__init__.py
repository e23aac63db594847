"""Conversion of networks from and to other libraries: ONNX, scikit-learn and PyTorch.

`Sequential.export` writes ONNX. `gpunn.from_sklearn` and the estimators' `to_sklearn` convert scikit-learn's
estimators. The functions here are for PyTorch; they need no package but safetensors.
"""

from __future__ import annotations

from .torch import from_torch, load_torch, save_torch, torch_module, torch_state_dict

__all__ = ["from_torch", "load_torch", "save_torch", "torch_module", "torch_state_dict"]


def __dir__() -> list[str]:
    return __all__
