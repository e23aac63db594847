"""Row-major products for a library that stores matrices column by column: which call of it computes which product.

The memory of a matrix stored row by row is that of its transpose stored column by column. So out = a b is asked for as
the transposed product, outᵀ = bᵀ aᵀ: the library's first operand is bᵀ, its second aᵀ, its result D = outᵀ with
m columns of `out` as rows and n rows of `out` as columns, and nothing is copied. What an epilogue does to a row of D it
does to a column of `out`: an intercept a neuron, the sum of a neuron's δ over the batch.

Nothing here calls the library; a test runs the calls on a column-major product in NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MASK_ALIGNMENT = 128  # the rectifier's mask has one bit an element, and its columns begin at multiples of so many
AUX_ALIGNMENT = 8  # columns of kept aggregates begin at multiples of so many elements
MAX_SIZE = 2**31 - 1  # of a size


@dataclass(frozen=True)
class Epilogue:
    """What is done to out = a b before it is written.

    bias     "": none; "in": intercepts, added to every row; "out": sums over rows, which are written
    aux      "": none; "mask" or "z", with `aux_role` "out" where it is written and "in" where it is read
    reduces  "out" where the written sums are those of `out`, "b" where they are those of b
    """

    bias: str = ""
    aux: str = ""
    aux_role: str = ""
    reduces: str = ""


EPILOGUES = {
    "none": Epilogue(),
    "bias": Epilogue("in"),  # a b + v
    "relu": Epilogue("in"),  # max(0, a b + v)
    "relu_mask": Epilogue("in", "mask", "out"),  # and where it is > 0
    "gelu": Epilogue("in"),  # gelu(z), z = a b + v
    "gelu_z": Epilogue("in", "z", "out"),  # and z
    "drelu": Epilogue("", "mask", "in"),  # a b where the mask stands, else 0
    "drelu_sums": Epilogue("out", "mask", "in", "out"),  # and its sums over rows
    "dgelu": Epilogue("", "z", "in"),  # a b ⊙ gelu′(z)
    "dgelu_sums": Epilogue("out", "z", "in", "out"),
    "sums": Epilogue("out", reduces="b"),  # a b, and b's sums over rows
}
# with one term a sum, the library knows neither these nor, before 12.3.4, the sums of an operand
NEEDS_K_GT_1 = {name for name, e in EPILOGUES.items() if e.aux_role == "in" or e.reduces == "b"}


@dataclass(frozen=True)
class MatrixLayout:
    """A matrix as the library is told of it: rows, columns, the step from column to column; taken transposed or not."""

    rows: int
    columns: int
    leading: int
    transposed: bool = False


@dataclass(frozen=True)
class GemmCall:
    """D (m, n) = op(A) op(B), k terms a sum; `kept` is the step between columns of what an epilogue keeps."""

    m: int
    n: int
    k: int
    A: MatrixLayout
    B: MatrixLayout
    D: MatrixLayout
    epilogue: str = "none"
    aux: int = 0


class Unsupported(ValueError):
    """No call of the library computes that product; the message says why."""


def gemm_call(a: Any, b: Any, out: Any, epilogue: str = "none", bias: Any = None, aux: Any = None) -> GemmCall:
    """The call that computes out = a b, a (r, k), b (k, c), out (r, c), with that epilogue.

    `vector` (c,) and `kept`, (r, `mask_bytes(c)`) bytes or (r, c), are there where the epilogue has them. Arrays of any
    library with shape, strides and itemsize. Unsupported says which of them cannot be.
    """
    for name, x in (("a", a), ("b", b), ("out", out)):
        if x.ndim != 2:
            raise Unsupported(f"{name} has {x.ndim} dimensions")
        if not all(0 < n <= MAX_SIZE for n in x.shape):
            raise Unsupported(f"{name} has shape {tuple(x.shape)}")
    (r, k), c = a.shape, b.shape[1]
    A, B, D = _transpose_of("b", b), _transpose_of("a", a), _transpose_of("out", out)
    if D.transposed:
        raise Unsupported("out is not stored row by row")
    what = EPILOGUES[epilogue]
    if (bias is not None) != bool(what.bias) or (aux is not None) != bool(what.aux):
        raise TypeError(f"epilogue {epilogue!r} wants vector: {what.bias or None}, kept: {what.aux or None}")
    if bias is not None and (tuple(bias.shape) != (c,) or not bias.flags.c_contiguous):
        raise Unsupported(f"the vector has shape {tuple(bias.shape)} and strides {tuple(bias.strides)}")
    if k == 1 and epilogue in NEEDS_K_GT_1:
        raise Unsupported("its sums have one term each")
    # NVIDIA's own tests of these sums leave out matrices of one row
    if c == 1 and what.reduces == "b":
        raise Unsupported("it has one column")
    return GemmCall(c, r, k, A, B, D, epilogue, 0 if aux is None else _leading(what.aux, aux, r, c))


def mask_bytes(columns: int) -> int:
    """Bytes of a row of the rectifier's mask for so many columns: a bit each, filled up to a multiple of 128 bits."""
    return -(-columns // MASK_ALIGNMENT) * MASK_ALIGNMENT // 8


def _transpose_of(name: str, x: Any) -> MatrixLayout:
    """xᵀ as the library finds it in x's memory."""
    (p, q), size = x.shape, x.itemsize
    if any(n > 1 and (s <= 0 or s % size) for n, s in zip(x.shape, x.strides, strict=True)):
        raise Unsupported(f"{name} has strides {tuple(x.strides)}")
    # an axis of one element has whatever step suits
    down, along = (s // size if n > 1 else 0 for n, s in zip(x.shape, x.strides, strict=True))
    if along in (0, 1) and (down == 0 or down >= q):
        return MatrixLayout(q, p, max(down, q))
    if down in (0, 1) and (along == 0 or along >= p):
        return MatrixLayout(p, q, max(along, p), transposed=True)
    raise Unsupported(f"{name} has strides {tuple(x.strides)}")


def _leading(kind: str, aux: Any, r: int, c: int) -> int:
    if kind == "mask":
        if tuple(aux.shape) != (r, mask_bytes(c)) or aux.itemsize != 1 or not aux.flags.c_contiguous:
            raise Unsupported(f"the mask has shape {tuple(aux.shape)}")
        return mask_bytes(c) * 8
    stored = _transpose_of("z", aux)
    if tuple(aux.shape) != (r, c) or stored.transposed or stored.leading % AUX_ALIGNMENT:
        raise Unsupported(f"z has shape {tuple(aux.shape)} and strides {tuple(aux.strides)}")
    return stored.leading
