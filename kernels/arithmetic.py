"""The operators of array code, element by element: x ∘ y, and x with a row vector r or a number c.

    add        subtract        multiply        divide           x ∘ y
    add_row    subtract_row    multiply_row    divide_row       x ∘ r    (add_row.py)
               rsubtract_row                   rdivide_row      r ∘ x
    add_scalar subtract_scalar multiply_scalar divide_scalar    x ∘ c
               rsubtract_scalar                rdivide_scalar   c ∘ x

For matrices and vectors, without broadcasting other than that of r. Division by zero gives ±inf or NaN.
"""

from ._compiler.registry import elementwise


@elementwise("T x, T y -> T result", "result = x + y;", ulp=0)
def add(x, y):
    """x + y."""
    return x + y


@elementwise("T x, T y -> T result", "result = x - y;", ulp=0)
def subtract(x, y):
    """x − y."""
    return x - y


@elementwise("T x, T y -> T result", "result = x * y;", ulp=0)
def multiply(x, y):
    """x ⊙ y."""
    return x * y


@elementwise("T x, T y -> T result", "result = x / y;", ulp=0)
def divide(x, y):
    """x / y."""
    return x / y


# --- with a row vector ----------------------------------------------------------------------------------------------


@elementwise("T x, row T r -> T result", "result = x - r;", ulp=0)
def subtract_row(x, r):
    """x − r, the same r for every row."""
    return x - r


@elementwise("T x, row T r -> T result", "result = r - x;", ulp=0)
def rsubtract_row(x, r):
    """r − x, the same r for every row."""
    return r - x


@elementwise("T x, row T r -> T result", "result = x * r;", ulp=0)
def multiply_row(x, r):
    """x ⊙ r, the same r for every row."""
    return x * r


@elementwise("T x, row T r -> T result", "result = x / r;", ulp=0)
def divide_row(x, r):
    """x / r, the same r for every row."""
    return x / r


@elementwise("T x, row T r -> T result", "result = r / x;", ulp=0)
def rdivide_row(x, r):
    """r / x, the same r for every row."""
    return r / x


# --- with a number --------------------------------------------------------------------------------------------------


@elementwise("T x, scalar T c -> T result", "result = x + c;", ulp=0)
def add_scalar(x, c):
    """x + c."""
    return x + c


@elementwise("T x, scalar T c -> T result", "result = x - c;", ulp=0)
def subtract_scalar(x, c):
    """x − c."""
    return x - c


@elementwise("T x, scalar T c -> T result", "result = c - x;", ulp=0)
def rsubtract_scalar(x, c):
    """c − x."""
    return c - x


@elementwise("T x, scalar T c -> T result", "result = x * c;", ulp=0)
def multiply_scalar(x, c):
    """x · c."""
    return x * c


@elementwise("T x, scalar T c -> T result", "result = x / c;", ulp=0)
def divide_scalar(x, c):
    """x / c."""
    return x / c


@elementwise("T x, scalar T c -> T result", "result = c / x;", ulp=0)
def rdivide_scalar(x, c):
    """c / x."""
    return c / x
