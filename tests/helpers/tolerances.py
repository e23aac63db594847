"""Every tolerance of the tests, with its reason. u is the unit roundoff, half the spacing of numbers at 1."""

import numpy as np

# a GPU's addition to a kernel's `ulp`: its exp, tanh and log1p have errors up to 2 ulp, the host's up to 1, and each
# fused multiply-add omits a rounding
DEVICE_ULP = 6
# relative to the largest entry of a float64 array after a few steps. Different BLAS kernels and math libraries reach
# about 1e-15 there
GOLDEN = 1e-11


def unit_roundoff(dtype):
    return np.finfo(dtype).eps / 2


def sums(dtype, terms, scale):
    """64·u·√K·scale: two sums of K terms in different orders, K the longest reduction, scale the largest entry."""
    return 64 * unit_roundoff(dtype) * np.sqrt(max(terms, 1)) * scale


def ulps(dtype, count, scale):
    """`count` units in the last place of `scale`, the largest term; at least `count` subnormals."""
    limits = np.finfo(dtype)
    return count * np.maximum(np.abs(scale) * limits.eps, float(limits.smallest_subnormal))


def flushed(dtype, scale):
    """CuPy compiles with -ftz=true: a float32 below the smallest normal number is 0, and so is what it multiplies."""
    return float(np.finfo(dtype).tiny) * np.maximum(1, scale) if dtype == np.float32 else 0.0


def assert_within(got, wanted, atol, what=""):
    """|got − wanted| ≤ atol where both are finite; NaN equals NaN, and an infinity the same infinity."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.dtype == wanted.dtype and got.shape == wanted.shape, f"{what}: {got.dtype}{got.shape}"
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, wanted, err_msg=what)
        return
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(got[~finite], wanted[~finite], err_msg=f"{what}: non-finite values")
    assert np.isfinite(got[finite]).all(), f"{what}: not finite where the other is"
    # in float64, and halved so that the difference of two huge numbers is one
    half = np.float64(0.5)
    apart = np.abs(got[finite] * half - wanted[finite] * half) * 2
    bound = np.broadcast_to(atol, got.shape)[finite]
    if (apart > bound).any():
        k = int(np.argmax(apart - bound))
        raise AssertionError(
            f"{what}: {got[finite][k]!r} against {wanted[finite][k]!r}, apart by {apart[k]:.3g} where {bound[k]:.3g} "
            f"is allowed, and {int((apart > bound).sum())} more of {apart.size}"
        )


def rounded_operands(terms, scale, roundoff):
    """Bound the difference of two sums of K products with operands rounded from float32, for example to bfloat16.

    Before that rounding the operands of the two sums differ by a float32 roundoff.
    Rounding maps nearly all such pairs to the same number. About one pair in 2¹⁶ has a midpoint between its members and
    is mapped to adjacent numbers, 2·roundoff apart. The bound allows the sums in float32 plus one such pair; `scale` is
    the largest product.
    """
    return sums(np.float32, terms, scale) + 2 * roundoff * scale
