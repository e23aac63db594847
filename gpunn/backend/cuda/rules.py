"""The fusions of a GPU: cuBLASLt's epilogues, and kernels that also sum the columns of their output.

cuBLASLt's ReLU maps NaN to 0, and its mask drops infinite gradients. So these epilogues need a program that checks for
values that are not finite, and a layer whose backward pass shows them. The accuracy of cuBLASLt's tanh is undocumented,
so GELU is fused only in a lower precision. A mask is saved only if the backward product of the next layer reads it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...program import Match, Op, Rule, Tensor
from ...program.bfloat16 import BFLOAT16, is_stored_in_bfloat16
from ...program.rewrite import Call, parse
from ...program.tensor import View
from ..activation_rules import Declared, bias_activation_rules, declared_activations
from ..errors import OpRefused
from ..executor import Launch
from .layouts import EPILOGUES, Unsupported, gemm_call, mask_bytes
from .matmul import GpuMatmul

# the operations that rules introduce, and their epilogues. Operands: a, b, a bias, an auxiliary matrix that is read;
# results: a b with its epilogue, column sums, an auxiliary matrix that is written
OPS = {
    "lt_bias": "bias",
    "lt_relu_bias": "relu",
    "lt_relu_aux_bias": "relu_mask",  # mutate: E2 cublaslt
    "lt_gelu_aux_bias": "gelu_z",
    "lt_drelu": "drelu",
    "lt_drelu_bgrad": "drelu_sums",
    "lt_dgelu": "dgelu",
    "lt_dgelu_bgrad": "dgelu_sums",
    "lt_bgrada": "sums",
}
FORWARD = "s = matmul(x, W); z = add_row(s, b)"
UPSTREAM = "g = matmul(e, V')"  # ∂C/∂a of a layer by E5
# f′ and the gradient of the bias in one pass over δ
SUMMED = [
    Rule("d = elu_backward(a, g); db = column_sum(d)", "d, db = elu_backward_summed(a, g)"),
    Rule("d = exp_backward(a, g); db = column_sum(d)", "d, db = exp_backward_summed(a, g)"),
    Rule("d = gelu_backward(z, g); db = column_sum(d)", "d, db = gelu_backward_summed(z, g)"),
    Rule("d = leaky_relu_backward(a, g); db = column_sum(d)", "d, db = leaky_relu_backward_summed(a, g)"),
    Rule("d = mish_backward(z, g); db = column_sum(d)", "d, db = mish_backward_summed(z, g)"),
    Rule("d = relu_backward(a, g); db = column_sum(d)", "d, db = relu_backward_summed(a, g)"),
    Rule("d = selu_backward(a, g); db = column_sum(d)", "d, db = selu_backward_summed(a, g)"),
    Rule("d = sigmoid_backward(a, g); db = column_sum(d)", "d, db = sigmoid_backward_summed(a, g)"),
    Rule("d = silu_backward(z, g); db = column_sum(d)", "d, db = silu_backward_summed(z, g)"),
    Rule("d = softplus_backward(a, g); db = column_sum(d)", "d, db = softplus_backward_summed(a, g)"),
    Rule("d = tanh_backward(a, g); db = column_sum(d)", "d, db = tanh_backward_summed(a, g)"),
]
Condition = Callable[[Match], bool]


def split_operands(epilogue: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> tuple[Any, Any, Any, Any, Any]:
    """a, b, out, vector and auxiliary matrix of a product, from the operands and results of its op."""
    described = EPILOGUES[epilogue]
    (a, b, *read), (out, *written) = inputs, outputs
    vector = aux = None
    if described.vector:
        vector = (read if described.vector == "bias" else written).pop(0)
    if described.aux:
        aux = (read if described.aux_role == "in" else written).pop(0)
    return a, b, out, vector, aux


@dataclass
class _Flags:
    c_contiguous: bool


class _Layout:
    """Shape, strides and type of an array that does not exist yet, for `gemm_call`."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, *, transposed: bool = False) -> None:
        self.shape = shape
        self.ndim = len(shape)
        self.dtype = np.dtype(dtype)
        self.itemsize = self.dtype.itemsize
        last = shape[0] if transposed else shape[-1]
        steps = (last * self.itemsize, self.itemsize)[2 - self.ndim :]
        self.strides = steps[::-1] if transposed else steps
        self.flags = _Flags(c_contiguous=not transposed)


def shows_nan(match: Match) -> bool:
    """True if the backward pass computes xᵀ δ, in which NaN and infinity of the layer's input show.

    It does not for a frozen layer.
    """
    x = match["x"]
    return any(op.inputs and op.inputs[0].transposed and op.inputs[0].base is x for op in match.program.ops)


def has_derivative(match: Match) -> bool:
    """True if the backward pass reads a, and shows NaN."""
    a = match["a"]
    read = any(op.name == "relu_backward" and op.inputs[0].base is a for op in match.program.ops)
    return read and shows_nan(match)


def has_lower_precision(match: Match) -> bool:
    """True for products in TF32 or bfloat16."""
    return match.program.precision is not None


def mask_layout(match: Match) -> tuple[tuple[int, ...], Any]:
    """Shape and type of the mask of a = relu(z)."""
    n, m = match["a"].shape
    return (n, mask_bytes(m)), np.uint8


@dataclass(eq=False)
class FusionRules:
    """The rewrite rules of one GPU, and the launches of the ops that they introduce.

    `refused` has the ops that could not be bound although their layout and type are supported: cuBLASLt had no
    algorithm for them. A program that is recorded again does without them.
    """

    matmul: GpuMatmul
    activate: Callable[[], Any]
    refused: set[Any] = field(default_factory=set)
    _made: dict[Declared, list[Rule]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def rules(self) -> list[Rule]:
        """The rules, in the order in which they are applied."""
        activations = declared_activations()
        with self._lock:
            if activations not in self._made:
                self._made = {activations: self._make(activations)}
            return self._made[activations]

    def _make(self, activations: Declared) -> list[Rule]:
        fused = self._fused
        rules = [
            fused(
                f"{FORWARD}; a = relu(z); {UPSTREAM}; d = relu_backward(a, g); db = column_sum(d)",
                "a, m = lt_relu_aux_bias(x, W, b); d, db = lt_drelu_bgrad(e, V', m)",  # mutate: E5 cublaslt
                nan_lost=True,
                when=shows_nan,
            ),
            fused(
                f"{FORWARD}; a = relu(z); {UPSTREAM}; d = relu_backward(a, g)",
                "a, m = lt_relu_aux_bias(x, W, b); d = lt_drelu(e, V', m)",
                nan_lost=True,
                when=shows_nan,
            ),
            fused(f"{FORWARD}; a = relu(z)", "a = lt_relu_bias(x, W, b)", nan_lost=True, when=has_derivative),
            fused(f"{FORWARD}; a = gelu(z)", "a, z = lt_gelu_aux_bias(x, W, b)", when=has_lower_precision),
            fused(FORWARD, "z = lt_bias(x, W, b)"),
            fused(
                f"{UPSTREAM}; d = gelu_backward(z, g); db = column_sum(d)",
                "d, db = lt_dgelu_bgrad(e, V', z)",
                when=has_lower_precision,
            ),
            fused(f"{UPSTREAM}; d = gelu_backward(z, g)", "d = lt_dgelu(e, V', z)", when=has_lower_precision),
            *bias_activation_rules(activations),
        ]
        sums = fused("dW = matmul(x', d); db = column_sum(d)", "dW, db = lt_bgrada(x', d)")  # mutate: E6 cublaslt
        return [*rules, *SUMMED, sums]

    def _fused(self, before: str, after: str, *, nan_lost: bool = False, when: Condition | None = None) -> Rule:
        """A rule whose replacement has products with epilogues."""
        calls = parse(after)
        new = {"m": mask_layout} if any("m" in call.outputs for call in calls) else {}
        accepts = functools.partial(self._accepts, calls, when)
        return Rule(before, after, when=accepts, nan_lost=nan_lost, new=new)

    # --- acceptance ---

    def _accepts(self, calls: Sequence[Call], when: Condition | None, match: Match) -> bool:
        """True if cuBLASLt has all products of a replacement for these operands, and `when` holds."""
        if when is not None and not when(match):
            return False
        with self.activate():
            return all(self._accepts_call(call, match) for call in calls)

    def _accepts_call(self, call: Call, match: Match) -> bool:
        epilogue, precision = OPS[call.name], match.program.precision
        views = [_view(match, name, transposed) for name, transposed in call.inputs]
        if _key(call.name, [x.shape for x in views], views[0].dtype, precision) in self.refused:
            return False
        results = [match.tensors.get(name) for name in call.outputs]
        a, b, out, vector, aux = split_operands(epilogue, views, results)
        stored = BFLOAT16 if is_stored_in_bfloat16(match.program, out) else out.dtype
        if EPILOGUES[epilogue].vector == "sums" and stored != vector.dtype:
            return False  # the gradients of biases are float32
        operand = BFLOAT16 if precision == "bf16" else a.dtype
        if EPILOGUES[epilogue].aux == "mask":
            aux = _Layout((out.shape[0], mask_bytes(out.shape[1])), np.uint8)
        elif aux is not None:
            aux = _Layout(aux.shape, stored)
        left, right = (_Layout(x.shape, operand, transposed=x.transposed) for x in (a, b))
        bias = None if vector is None else _Layout(vector.shape, stored)
        try:
            gemm_call(left, right, _Layout(out.shape, stored), epilogue, bias, aux)
        except Unsupported:
            return False
        return self.matmul.supports(operand.name, precision, stored.name, epilogue)

    # --- binding ---

    def bind(self, op: Op, inputs: Sequence[Any], outputs: Sequence[Any], precision: str | None) -> Launch:
        """Bind an op of `OPS`. Raises OpRefused if cuBLASLt cannot compute it for these arrays."""
        epilogue = OPS[op.name]
        a, b, out, vector, aux = split_operands(epilogue, inputs, outputs)
        launch = self.matmul.bind_with_epilogue(a, b, out, precision, epilogue, vector, aux)
        if launch is None:
            self.refused.add(_key(op.name, [x.shape for x in op.inputs], op.inputs[0].dtype, precision))
            raise OpRefused(f"cuBLASLt has no algorithm for {op.name} of {[x.shape for x in op.inputs]}")
        return launch


def _view(match: Match, name: str, transposed: bool) -> View:
    """A tensor of a match, as a replacement reads it. One that only the replacement has is given by its layout."""
    x = match.tensors.get(name)
    if x is None:
        x = Tensor(match["a"].program, *mask_layout(match))
    return x.T if transposed else x


def _key(name: str, shapes: Sequence[Any], dtype: Any, precision: str | None) -> Any:
    """The key of a refusal. Storage in bfloat16 follows from the precision."""
    return name, tuple(tuple(shape) for shape in shapes), precision or np.dtype(dtype).name
