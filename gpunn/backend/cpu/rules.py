"""The fusions of a CPU: bias and activation in one pass, and in the registers of a small matrix product."""

from __future__ import annotations

import functools

from ...kernels._compiler.signature import type_name
from ...program import Match, Rule
from ..activation_rules import Declared, bias_activation_rules, declared_activations
from . import blas


def fits_small_gemm(match: Match, *, saves_a_pass: bool = False) -> bool:
    """True if x W is computed by gpunn's product of small matrices."""
    x, W = match["x"], match["W"]
    return blas.uses_small_gemm(x.shape, W.shape, type_name(x.dtype), contiguous=True, saves_a_pass=saves_a_pass)


def csr_products_pay(stored: float, columns: int, width: int, *, gradient: bool) -> bool:
    """True if products of the stored values of a CSR table are faster than a dense copy and dense products.

    With one thread and batches of 200 rows, E1 costs the same at 20 to 30 % stored values. E1 and E6 cost the same at
    4 % for a width of 4, at 14 % for 16 and at 15 to 20 % for 100. The limits are lower, 12.5 % and 10 % for wide
    layers, since dense products gain more from threads.
    """
    if not gradient:
        return 8 * stored < columns
    return 10 * stored * (width + 5) < columns * width


def rewrite_rules() -> list[Rule]:
    """The rules, in the order in which they are applied."""
    return _rules(declared_activations())


@functools.lru_cache(maxsize=1)
def _rules(activations: Declared) -> list[Rule]:
    return [
        Rule(
            "s = matmul(x, W); z = add_row(s, b); a = relu(z)",
            "a = gemm_bias_relu(x, W, b)",
            when=functools.partial(fits_small_gemm, saves_a_pass=True),
        ),
        Rule("s = matmul(x, W); z = add_row(s, b)", "z = gemm_bias(x, W, b)", when=fits_small_gemm),
        *bias_activation_rules(activations),
    ]
