"""The addition of a row vector, in a source of its own: every network uses it."""

from ._compiler.registry import elementwise


@elementwise("H x, row T b -> H y", "y = x + b;", ulp=0)
def add_row(x, b):
    """y = x + b, the same b for every row: z = s + b with s = a_prev W. (E1)"""
    return x + b
