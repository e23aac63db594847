"""Models from and for other libraries: ONNX graphs, scikit-learn's networks, PyTorch's state dicts.

`Sequential.export` writes ONNX; `gpunn.from_sklearn` and `to_sklearn` of the estimators are scikit-learn's side. The
functions here are PyTorch's, and need nothing but safetensors.
"""

from __future__ import annotations

from .torch import from_torch, load_torch, save_torch, torch_module, torch_state_dict

__all__ = ["from_torch", "load_torch", "save_torch", "torch_module", "torch_state_dict"]
