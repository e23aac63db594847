"""A matrix product in column-major order with the epilogues of cuBLASLt, in NumPy on raw memory.

Element (i, j) of a matrix is stored at i + j·leading. Bit i + j·leading of the ReLU mask is for element (i, j) of D.
"""

import ctypes

import numpy as np


def matrix(pointer, dtype, rows, columns, leading):
    """A view of the matrix at an address."""
    dtype = np.dtype(dtype)
    count = (columns - 1) * leading + rows
    memory = np.frombuffer((ctypes.c_byte * (count * dtype.itemsize)).from_address(pointer), dtype)
    return np.lib.stride_tricks.as_strided(memory, (rows, columns), (dtype.itemsize, leading * dtype.itemsize))


def as_float(x):
    """float32 values of an array of bfloat16 bit patterns; other arrays unchanged."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x


def round_to_storage(x, like):
    """Round to the nearest bfloat16, ties to even, if `like` is an array of bfloat16 bit patterns."""
    if like.dtype != np.uint16:
        return x
    fraction, exponent = np.frexp(np.float64(x))
    return (np.ldexp(np.rint(fraction * 2**8) / 2**8, exponent).astype(np.float32).view(np.uint32) >> 16).astype("u2")


def mask_bytes(pointer, m, n, leading):
    """The mask as rows of bytes, one row per column of D."""
    return matrix(pointer, np.uint8, leading // 8, n, leading // 8).T


def multiply(A, B, D, transposed, epilogue="none", vector=None, mask=None, aux=None, zero_is_above=False):
    """D = op(A) op(B), then the epilogue. `vector` and `aux` are views, `mask` is the result of `mask_bytes`.

    `zero_is_above`: the mask is set for z ≥ 0 instead of z > 0, as in NVIDIA's tests.
    """
    left, right = (as_float(x).T if t else as_float(x) for x, t in zip((A, B), transposed, strict=True))
    with np.errstate(all="ignore"):
        z = np.matmul(left, right, dtype=np.result_type(left, right))
        if epilogue in ("bias", "relu", "relu_mask", "gelu", "gelu_z"):
            z = z + as_float(vector)[:, None]
        if epilogue in ("relu", "relu_mask"):
            # NaN is not above 0 and becomes 0, as in cuBLASLt
            above = z > 0
            if epilogue == "relu_mask":
                above = above | (z == 0) if zero_is_above else above
                mask[:, : -(-len(z) // 8)] = np.packbits(above.T, axis=1, bitorder="little")
            z = np.where(above, z, 0)
        elif epilogue in ("gelu", "gelu_z"):
            if epilogue == "gelu_z":
                aux[...] = round_to_storage(z, aux)
            z = gelu(z)[0]
        elif epilogue.startswith("drelu"):
            z = np.where(np.unpackbits(mask, axis=1, count=len(z), bitorder="little").T, z, 0)
        elif epilogue.startswith("dgelu"):
            z = z * gelu(as_float(aux))[1]
        D[...] = round_to_storage(z, D)
        if epilogue.endswith("lu_sums"):
            vector[...] = round_to_storage(z.sum(axis=1), vector)
        elif epilogue == "sums":
            vector[...] = round_to_storage(left.sum(axis=1), vector)


def gelu(z):
    """GELU in its tanh form and its derivative."""
    c, k = np.sqrt(2 / np.pi), 0.044715
    t = np.tanh(c * (z + k * z**3))
    return tuple(
        x.astype(z.dtype) for x in (z / 2 * (1 + t), (1 + t) / 2 + z / 2 * (1 - t * t) * c * (1 + 3 * k * z * z))
    )
