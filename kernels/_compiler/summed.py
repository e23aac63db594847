"""Declaration of a kernel that also sums the columns of its output: one pass over the arrays on a GPU.

    summed(get("relu_backward"))    registers relu_backward_summed: δ, and the sums of δ over the rows    (E5, E7)

The kernel equals the launches of its base kernel and of column_sum, one after another. That is how a CPU runs it, and a
GPU if the arrays are not contiguous.
"""

from __future__ import annotations

import inspect
from typing import Any

from .registry import Kernel, register
from .signature import Operand, Signature


def summed(base: Kernel) -> Kernel:
    """Declare `NAME_summed` for an elementwise kernel that computes one matrix from several. Returns the kernel."""
    signature = base.signature
    matrices = all(o.kind == "element" and o.type_variable == "T" for o in signature.arrays)
    single = [o.role for o in signature.outputs] == ["out"] and len(signature.inputs) > 1
    if base.form != "elementwise" or base.guard is not None or not matrices or not single:
        raise ValueError(
            f"kernel {base.name}: summed takes an elementwise kernel without a guard, of matrices of type T"
        )
    (out,) = signature.outputs

    def reference(**arguments: Any) -> Any:
        result = base.reference(**arguments)
        return result, result.sum(axis=0)

    reference.__signature__ = inspect.signature(base.reference)  # type: ignore[attr-defined]
    return register(
        Kernel(
            name=f"{base.name}_summed",
            form="summed",
            signature=Signature(signature.inputs, (out, Operand("sums", "T", "row", "out")), signature.scalars),
            source=base.source,
            reference=reference,
            module=base.module,
            prologue=base.prologue,
            ulp=base.ulp,
            doc=f"{base.doc}\n\nAnd sumsⱼ = Σᵢ {out.name}ᵢⱼ. (E7)",
            base=base,
        )
    )
