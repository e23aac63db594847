"""Construction of ONNX graphs: nodes, constants, inputs and outputs in a network's dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._version import __version__

# of ONNX 1.12 (2022), which onnxruntime reads since 1.13; the operators used here need no newer one
OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
BATCH = "N"


def import_onnx() -> Any:
    """Import the module onnx. Raise ImportError that names the extra if it is missing."""
    try:
        import onnx
    except ImportError:
        raise ImportError('export needs the library onnx: pip install "gpunn[onnx]"') from None
    return onnx


class Graph:
    """A graph under construction. A value is identified by its name, which is unique.

    A call adds a node: ``z = graph("Gemm", x, w, b)``. A number among the inputs becomes a constant of the graph's
    dtype.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self.onnx = import_onnx()
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.prefix = ""  # of the names of nodes and constants
        self._names: set[str] = set()

    def __call__(self, operator: str, *inputs: str | float, **attributes: Any) -> str:
        """Add a node with one output, and return the output's name."""
        values = [x if isinstance(x, str) else self.constant("constant", self.dtype.type(x)) for x in inputs]
        name = self._unique_name(f"{self.prefix}{operator}")
        self.nodes.append(self.onnx.helper.make_node(operator, values, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Any) -> str:
        """Add a constant: an array of numbers or booleans, or an object array of strings."""
        name = self._unique_name(f"{self.prefix}{name}")
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def input(self, name: str, dtype: Any, width: int, doc: str = "") -> str:
        """Add an input (N, width)."""
        name = self._unique_name(name)
        self.inputs.append(self._value_info(name, dtype, (width,), doc))
        return name

    def output(self, name: str, value: str, dtype: Any, *shape: int) -> None:
        """Make a value an output (N, …) with that name."""
        name = self._unique_name(name)
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name], name=name))
        self.outputs.append(self._value_info(name, dtype, shape))

    def cast(self, value: str, dtype: Any) -> str:
        """Convert a value to another numeric type."""
        return self("Cast", value, to=self._type(dtype))

    def squeeze(self, value: str) -> str:
        """Remove the second axis of a value, which has length 1."""
        return self("Squeeze", value, self.constant("axes", np.array([1])))

    def model(self) -> Any:
        """Return the graph as an onnx.ModelProto."""
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "gpunn", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain for node in self.nodes):
            opsets.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="gpunn", producer_version=__version__
        )

    def _value_info(self, name: str, dtype: Any, shape: tuple[int, ...], doc: str = "") -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self._type(dtype), [BATCH, *shape], doc_string=doc)

    def _type(self, dtype: Any) -> int:
        if np.dtype(dtype).kind == "O":
            return int(self.onnx.TensorProto.STRING)
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _unique_name(self, base: str) -> str:
        """Return the name, with a number appended if it is already used."""
        name, count = base, 1
        while name in self._names:
            name, count = f"{base}_{count}", count + 1
        self._names.add(name)
        return name
