"""Tensors: every operator records what it computes on arrays, and everything else is refused with the remedy."""

import re

import numpy as np
import pytest
from helpers.program_recorder import execute, interpret, record
from helpers.programs import names

from gpunn.kernels import get as kernel
from gpunn.program import Program, first_row, python_call

N, M = 3, 4
SHAPES = {"x": (N, M), "y": (N, M), "r": (M,), "v": (M,), "W": (M, 2), "U": (2, M), "q": (N, 2)}


def arrays(dtype="float64"):
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.5, 2, size=shape).astype(dtype) for name, shape in SHAPES.items()}


def tensors():
    """A program and tensors of SHAPES. The program is returned too, since tensors do not keep it alive."""
    program = Program()
    return program, {name: program.input(name, shape, "float32") for name, shape in SHAPES.items()}


OPERATIONS = {
    # tensors of one shape
    "add": lambda x, y, **_: x + y,
    "subtract": lambda x, y, **_: x - y,
    "multiply": lambda x, y, **_: x * y,
    "divide": lambda x, y, **_: x / y,
    "add vectors": lambda r, v, **_: r + v,
    "divide vectors": lambda r, v, **_: r / v,
    # a row vector, on either side
    "add row": lambda x, r, **_: x + r,
    "row add": lambda x, r, **_: r + x,
    "subtract row": lambda x, r, **_: x - r,
    "row subtract": lambda x, r, **_: r - x,
    "multiply row": lambda x, r, **_: x * r,
    "row multiply": lambda x, r, **_: r * x,
    "divide row": lambda x, r, **_: x / r,
    "row divide": lambda x, r, **_: r / x,
    # numbers, on either side
    "add number": lambda x, **_: x + 2,
    "number add": lambda x, **_: 2.5 + x,
    "subtract number": lambda x, **_: x - 2,
    "number subtract": lambda x, **_: 2 - x,
    "multiply number": lambda x, **_: x * 0.5,
    "number multiply": lambda x, **_: 3 * x,
    "divide number": lambda x, **_: x / 3,
    "number divide": lambda x, **_: 3 / x,
    "negate": lambda x, **_: -x,
    "vector number": lambda r, **_: 1 - r,
    # products and reductions
    "product": lambda x, W, **_: x @ W,
    "transposed left": lambda x, q, **_: x.T @ q,
    "transposed right": lambda x, U, **_: x @ U.T,
    "transposed both": lambda x, W, **_: W.T @ x.T,
    "transposed twice": lambda x, W, **_: x.T.T @ W,
    "column sums": lambda x, **_: x.sum(axis=0),
    "chain": lambda x, y, r, **_: 2 * (x - r) * y / (1 + x * x) - y,
    "kernel": lambda x, y, **_: kernel("multiply")(x, y),
    "kernel of a transposed tensor": lambda x, **_: kernel("relu")(x.T),
    "kernel of tensor and transposed tensor": lambda x, q, **_: kernel("multiply")(x @ (x.T @ q), (q.T @ (x @ x.T)).T),
    "first row": lambda x, **_: first_row(x),
    "python": lambda x, r, **_: python_call(lambda a, b: np.sqrt(a) + b, (x, r), (x,), "a square root"),
}
for c in (np.float32(3), np.float64(3), np.float16(3), np.int64(3), np.uint8(3)):
    OPERATIONS |= {
        f"{type(c).__name__} + ": lambda x, c=c, **_: c + x,
        f"{type(c).__name__} - ": lambda x, c=c, **_: c - x,
        f"{type(c).__name__} * ": lambda x, c=c, **_: c * x,
        f"{type(c).__name__} / ": lambda x, c=c, **_: c / x,
        f" / {type(c).__name__}": lambda x, c=c, **_: x / c,
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_records_what_it_computes_on_arrays(name):
    given = arrays()
    expected = OPERATIONS[name](**given)
    program = record(OPERATIONS[name], batch=("x", "y", "q"), **given)
    program.verify()
    (x,) = program.outputs
    assert x.shape == expected.shape and x.dtype == expected.dtype
    for found in (interpret(program, given)[0], execute(program, given)[0]):
        np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("c", [np.float64(0.1), np.float32(0.1), 0.1, 3, np.int32(3)])
def test_a_number_does_not_change_the_type(c):
    """NumPy's float64 would promote a float32 array; the equations of a layer have one type."""
    _program, given = tensors()
    for found in (c * given["x"], given["x"] - c, c / given["x"], c + given["r"]):
        assert found.dtype == np.float32


def test_augmented_assignment_makes_a_new_tensor():
    program, given = tensors()
    x = found = given["x"]
    found += given["y"]
    found *= 2
    assert found is not x and names(program) == ["add", "multiply_scalar"]


def test_the_batch_axis_is_known():
    program = Program()
    x, W = program.input("x", (N, M), "float32"), program.input("W", (M, 2), "float32", batch=False)
    z = x @ W
    assert z.batch and (z * 2).batch and kernel("relu")(z).batch
    dW, db = x.T @ z, z.sum(axis=0)
    assert not dW.batch and not db.batch and not (W * 2).batch and not (dW / 2).batch
    assert [op.partial for op in program.ops] == [False, False, False, True, True, False, False]


REFUSALS = {
    "numpy.exp is": lambda x, **_: np.exp(x),
    "numpy.maximum": lambda x, **_: np.maximum(x, 0),
    "numpy.add": lambda x, y, **_: np.add(x, y),
    "numpy.negative": lambda x, **_: np.negative(x),
    "numpy.add of a tensor and an array": lambda x, **_: np.ones((N, M)) + x,
    "numpy.multiply of a tensor and an array": lambda x, **_: np.ones(M) * x,
    "numpy.divide of a tensor and an array": lambda x, **_: np.array(2.0) / x,
    "numpy.matmul of a tensor and an array": lambda x, **_: np.ones((N, N)) @ x,
    "numpy.where": lambda x, y, **_: np.where(x, x, y),
    "numpy.sum": lambda x, **_: np.sum(x),
    "numpy.concatenate": lambda x, y, **_: np.concatenate([x, y]),
    "numpy.clip": lambda x, **_: np.clip(x, 0, 1),
    "the conversion to an array": lambda x, **_: np.asarray(x),
    "the comparison > of a tensor": lambda x, **_: x > 0,
    "the comparison <= ": lambda x, **_: x <= 0,
    "the comparison < ": lambda x, **_: x < 0,
    "the power **": lambda x, **_: x**2,
    "the power ** of": lambda x, **_: 2**x,
    "the remainder %": lambda x, **_: x % 2,
    "the division //": lambda x, **_: x // 2,
    "abs()": lambda x, **_: abs(x),
    "the operator ~": lambda x, **_: ~x,
    "the truth value": lambda x, **_: bool(x),
    "float()": lambda x, **_: float(x),
    "len()": lambda x, **_: len(x),
    "iteration": lambda x, **_: list(x),
    "indexing": lambda x, **_: x[:, 0],
    "the assignment to elements": lambda x, **_: x.__setitem__(0, 1),
    "the attribute mean": lambda x, **_: x.mean(axis=0),
    "the attribute copy": lambda x, **_: x.copy(),
    "the attribute astype": lambda x, **_: x.astype("float64"),
    "sum(axis=None)": lambda x, **_: x.sum(),
    "sum(axis=1)": lambda x, **_: x.sum(axis=1),
    "sum(axis=0) of a tensor of shape (4,)": lambda r, **_: r.sum(axis=0),
    "add of a tensor and an array": lambda x, **_: x + np.ones((N, M)),
    "multiply of a tensor and an array": lambda x, **_: x * np.array(2.0),
    "multiply of a tensor and a bool": lambda x, **_: x * True,
    "add of a tensor and a complex": lambda x, **_: x + 1j,
    "add of a tensor and a complex64": lambda x, **_: x + np.complex64(1),
    "add of a tensor and a str": lambda x, **_: x + "1",
    "multiply of a tensor and a transposed tensor": lambda x, **_: x * x.T,
    "@ of a tensor and an array": lambda x, **_: x @ np.ones((M, 2)),
    "@ of a transposed tensor and an array": lambda x, **_: x.T @ np.ones((N, 2)),
    "numpy.matmul of a transposed tensor": lambda x, **_: np.ones((2, M)) @ x.T,
    "numpy.exp of a transposed tensor": lambda x, **_: np.exp(x.T),
    "numpy.mean of a transposed tensor": lambda x, **_: np.mean(x.T),
    "add of a transposed tensor": lambda x, **_: x.T + 1,
    "rsub of a transposed tensor": lambda x, **_: 1 - x.T,
    "truediv of a transposed tensor": lambda x, **_: x.T / x.T,
    "neg of a transposed tensor": lambda x, **_: -x.T,
    "the comparison > of a transposed tensor": lambda x, **_: x.T > 0,
    "the attribute sum of a transposed tensor": lambda x, **_: x.T.sum(axis=0),
    "kernel add of an array": lambda x, **_: kernel("add")(x, np.ones((N, M), "float32")),
    "kernel add of an array, which": lambda x, **_: kernel("add")(np.ones((N, M), "float32"), x),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_other_operations_are_refused_with_their_name_and_the_remedy(name):
    program, given = tensors()
    with pytest.raises(TypeError, match=re.escape(name)) as info:
        REFUSALS[name](**given)
    assert "@ + - * /, .T, .sum(axis=0) and kernels (gpunn.kernels.get), or set opaque = True" in str(info.value)
    assert program.ops == []


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            lambda x, W, **_: x + W,
            "add: shapes (3, 4) and (4, 2) differ; only a row vector (m,) is broadcast to (n, m)",
        ),
        (lambda x, q, **_: x * q, "multiply: shapes (3, 4) and (3, 2) differ"),
        (lambda q, r, **_: q - r, "subtract: shapes (3, 2) and (4,) differ"),
        (lambda q, r, **_: r / q, "divide: shapes (4,) and (3, 2) differ"),
        (lambda x, y, **_: x @ y, "@: shapes must be (n, k) and (k, m), got (3, 4) and (3, 4)"),
        (lambda x, r, **_: x @ r, "got (3, 4) and (4,)"),
        (lambda x, y, **_: x.T @ y.T, "got (4, 3) and (4, 3)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_both(operation, message):
    program, given = tensors()
    with pytest.raises(ValueError, match=re.escape(message)):
        operation(**given)
    assert program.ops == []


def test_only_matrices_are_transposed():
    _program, given = tensors()
    with pytest.raises(TypeError, match=re.escape(".T of a tensor of shape (4,): only a matrix")):
        _ = given["r"].T


def test_tensors_describe_themselves():
    program, given = tensors()
    assert repr(given["x"]) == "<Tensor x (3, 4) float32>"
    assert repr(given["x"] + 1) == "<Tensor without a name (3, 4) float32>"
    assert repr(program.variable("theta", 9, "float32")) == "<Variable theta (9,) float32>"
    assert (given["x"].ndim, given["x"].size, given["x"].nbytes) == (2, 12, 48)
    assert given["x"].T.shape == (4, 3) and given["x"].T.dtype == np.float32


def test_python_code_on_arrays_is_called_immediately():
    x = np.ones((2, 3))
    assert python_call(lambda a: a + 1, (x,), (x,), "no reason").sum() == 12
    np.testing.assert_array_equal(first_row(np.arange(6).reshape(2, 3)), [0, 1, 2])


def test_a_tensor_has_no_other_attributes():
    x = Program().input("x", (2, 3), "float32")
    assert hasattr(x, "shape") and not hasattr(x, "mean") and not hasattr(x.T, "mean")
    with pytest.raises(TypeError, match=r"the attribute mean of a tensor is not an operation.*opaque = True"):
        x.mean()
