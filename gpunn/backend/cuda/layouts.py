"""Row-major products by a column-major library: the call of cuBLASLt that computes each product.

A matrix stored row by row occupies memory like its transpose stored column by column. So out = a b is computed as the
transposed product outᵀ = bᵀ aᵀ, and nothing is copied. The library's first operand A is bᵀ, its second operand B is aᵀ.
Its result D = outᵀ has the m columns of `out` as rows and the n rows of `out` as columns. An epilogue on a row of D is
one on a column of `out`: one bias per neuron, the sum of a neuron's δ over the batch.

This module does not call the library. A test runs its calls with a column-major product in NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MASK_ALIGNMENT = 128  # bits; the mask of ReLU has one bit per element, and its columns begin at multiples of this
AUX_ALIGNMENT = 8  # elements; the columns of a saved z begin at multiples of this
MAX_SIZE = 2**31 - 1  # of one dimension


@dataclass(frozen=True)
class Epilogue:
    """An operation on out = a b before it is written.

    Attributes
    ----------
    vector : {"", "bias", "sums"}
        "bias": a vector that is added to every row; "sums": column sums that are written.
    aux : {"", "mask", "z"}
        An auxiliary matrix: the mask of ReLU, or z.
    aux_role : {"", "in", "out"}
        The auxiliary matrix is read ("in") or written ("out").
    reduces : {"", "out", "b"}
        The matrix whose column sums are written.
    """

    vector: str = ""
    aux: str = ""
    aux_role: str = ""
    reduces: str = ""


EPILOGUES = {
    "none": Epilogue(),
    "bias": Epilogue("bias"),  # a b + bias
    "relu": Epilogue("bias"),  # max(0, a b + bias)
    "relu_mask": Epilogue("bias", "mask", "out"),  # and the mask of its positive elements
    "gelu": Epilogue("bias"),  # gelu(z), z = a b + bias
    "gelu_z": Epilogue("bias", "z", "out"),  # and z
    "drelu": Epilogue("", "mask", "in"),  # a b where the mask is set, else 0
    "drelu_sums": Epilogue("sums", "mask", "in", "out"),  # and its column sums
    "dgelu": Epilogue("", "z", "in"),  # a b ⊙ gelu′(z)
    "dgelu_sums": Epilogue("sums", "z", "in", "out"),
    "sums": Epilogue("sums", reduces="b"),  # a b, and the column sums of b
}
# for k = 1 the library supports neither these nor, before 12.3.4, the sums of an operand
NEEDS_K_GT_1 = {name for name, e in EPILOGUES.items() if e.aux_role == "in" or e.reduces == "b"}


@dataclass(frozen=True)
class MatrixLayout:
    """A matrix as the library sees it. `leading` is the distance between columns, in elements."""

    rows: int
    columns: int
    leading: int
    transposed: bool = False


@dataclass(frozen=True)
class GemmCall:
    """D (m, n) = op(A) op(B) with sums of k terms. `aux` is the distance between columns of the auxiliary matrix."""

    m: int
    n: int
    k: int
    A: MatrixLayout
    B: MatrixLayout
    D: MatrixLayout
    epilogue: str = "none"
    aux: int = 0


class Unsupported(ValueError):
    """Raised if no call of the library computes a product. The message gives the reason."""


def gemm_call(a: Any, b: Any, out: Any, epilogue: str = "none", bias: Any = None, aux: Any = None) -> GemmCall:
    """Translate a product into the library's call.

    Parameters
    ----------
    a, b, out : array, shapes (r, k), (k, c) and (r, c)
        Arrays of any library with shape, strides and itemsize.
    epilogue : str
        A key of `EPILOGUES`.
    bias : array of shape (c,) or None
        The epilogue's vector, a bias or column sums, if it has one.
    aux : array of shape (r, `mask_bytes(c)`) in bytes, or (r, c), or None
        Given if the epilogue has one.

    Returns
    -------
    GemmCall

    Raises
    ------
    Unsupported
        For an array that the library cannot read or write.
    """
    for name, x in (("a", a), ("b", b), ("out", out)):
        if x.ndim != 2:
            raise Unsupported(f"{name} has {x.ndim} dimensions")
        if not all(0 < n <= MAX_SIZE for n in x.shape):
            raise Unsupported(f"{name} has shape {tuple(x.shape)}")
    r, k = a.shape
    c = b.shape[1]
    A = _transpose_of("b", b)
    B = _transpose_of("a", a)
    D = _transpose_of("out", out)
    if D.transposed:
        raise Unsupported("out is not stored row by row")
    described = EPILOGUES[epilogue]
    if (bias is not None) != bool(described.vector) or (aux is not None) != bool(described.aux):
        raise TypeError(f"epilogue {epilogue!r} takes bias: {described.vector or None}, aux: {described.aux or None}")
    if bias is not None and (tuple(bias.shape) != (c,) or not bias.flags.c_contiguous):
        raise Unsupported(f"the bias has shape {tuple(bias.shape)} and strides {tuple(bias.strides)}")
    if k == 1 and epilogue in NEEDS_K_GT_1:
        raise Unsupported("its sums have one term each")
    # NVIDIA's tests of these sums exclude matrices of one row
    if c == 1 and described.reduces == "b":
        raise Unsupported("it has one column")
    return GemmCall(c, r, k, A, B, D, epilogue, 0 if aux is None else _aux_leading(described.aux, aux, r, c))


def mask_bytes(columns: int) -> int:
    """Bytes per row of the mask of ReLU: one bit per column, padded to a multiple of 128 bits."""
    return -(-columns // MASK_ALIGNMENT) * MASK_ALIGNMENT // 8


def _transpose_of(name: str, x: Any) -> MatrixLayout:
    """The layout of xᵀ, as the library reads it from the memory of x."""
    p, q = x.shape
    size = x.itemsize
    if any(n > 1 and (s <= 0 or s % size) for n, s in zip(x.shape, x.strides, strict=True)):
        raise Unsupported(f"{name} has strides {tuple(x.strides)}")
    # the stride of an axis with one element is arbitrary
    down, along = (s // size if n > 1 else 0 for n, s in zip(x.shape, x.strides, strict=True))
    if along in (0, 1) and (down == 0 or down >= q):
        return MatrixLayout(q, p, max(down, q))
    if down in (0, 1) and (along == 0 or along >= p):
        return MatrixLayout(p, q, max(along, p), transposed=True)
    raise Unsupported(f"{name} has strides {tuple(x.strides)}")


def _aux_leading(kind: str, aux: Any, r: int, c: int) -> int:
    """The distance between columns of an auxiliary matrix, in elements."""
    if kind == "mask":
        if tuple(aux.shape) != (r, mask_bytes(c)) or aux.itemsize != 1 or not aux.flags.c_contiguous:
            raise Unsupported(f"the mask has shape {tuple(aux.shape)}")
        return mask_bytes(c) * 8
    stored = _transpose_of("z", aux)
    if tuple(aux.shape) != (r, c) or stored.transposed or stored.leading % AUX_ALIGNMENT:
        raise Unsupported(f"z has shape {tuple(aux.shape)} and strides {tuple(aux.strides)}")
    return stored.leading
