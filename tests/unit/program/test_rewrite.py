"""Rewrite rules: what a pattern matches, when a replacement is legal, and the program that results."""

import re

import numpy as np
import pytest
from helpers.program_recorder import interpret
from helpers.programs import names

from gpunn.kernels import get as kernel
from gpunn.kernels.state import SIZE
from gpunn.program import Program, Rule, python_call, rewrite
from gpunn.program.rewrite import parse

BIAS_RELU = Rule("z = add_row(s, b); a = relu(z)", "a = bias_relu(s, b)")
BIAS_TANH = Rule("z = add_row(s, b); a = tanh(z)", "a = bias_tanh(s, b)")
SUMMED = Rule("d = relu_backward(a, g); db = column_sum(d)", "d, db = relu_backward_summed(a, g)")
GRADIENTS = Rule("dW = matmul(x', d); db = column_sum(d)", "dW, db = fused_gradients(x', d)")


class Layer:
    """A program with the tensors of one layer, which tests extend: x (5, 3), W (3, 4), b (4,), s = x W, z = s + b."""

    def __init__(self, **options):
        self.program = Program(**options)
        for name, size in (("theta", 16), ("gradient", 16), ("state", SIZE)):
            self.program.variable(name, size, "float64")
        self.x = self.program.input("x", (5, 3), "float64")
        self.W = self.program.read("theta", 0, 12, (3, 4), "W")
        self.b = self.program.read("theta", 12, 16, (4,), "b")
        self.s = self.x @ self.W
        self.z = self.s + self.b

    def rewritten(self, rules, outputs):
        """The names of the ops after the rules. The outputs are equal before and after, in NumPy."""
        program = self.program
        program.outputs = list(outputs)
        before = self._values()
        rewrite(program, rules, verify=True)
        program.verify()
        for found, expected in zip(self._values(), before, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
        return names(program)

    def _values(self):
        rng = np.random.default_rng(0)
        variables = {"theta": rng.normal(size=16), "gradient": np.zeros(16), "state": np.zeros(SIZE)}
        outputs = interpret(self.program, {"x": rng.normal(size=(5, 3))}, variables)
        return [*outputs, variables["theta"], variables["gradient"]]


# --- the text of rules -----------------------------------------------------------------------------------------------


def test_a_rule_is_parsed():
    (first, second) = parse("s = matmul(x', W); z, m = f( s , b )")
    assert (first.name, first.inputs, first.outputs) == ("matmul", (("x", True), ("W", False)), ("s",))
    assert (second.name, second.inputs, second.outputs) == ("f", (("s", False), ("b", False)), ("z", "m"))


@pytest.mark.parametrize("text", ["matmul(x, W)", "s = ", "s = f(x", "s == f(x)", "", "s = f(x); "])
def test_an_invalid_rule_names_the_part(text):
    with pytest.raises(ValueError, match=r"rule: '.*' is not 'outputs = name\(inputs\)'"):
        parse(text)


def test_an_output_of_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="the layout of mask is unknown, pass new="):
        Rule("a = relu(z)", "a, mask = relu_mask(z)")


def test_a_rule_describes_itself():
    assert repr(BIAS_RELU) == "Rule(z = add_row(s, b); a = relu(z)  →  a = bias_relu(s, b))"
    assert BIAS_RELU.removed == ("z",) and BIAS_RELU.names == {"add_row", "relu"}


# --- matches ---------------------------------------------------------------------------------------------------------


def test_a_match_is_replaced_where_it_was():
    layer = Layer()
    a = kernel("relu")(layer.z)
    assert layer.rewritten([BIAS_RELU], [a * 2]) == ["matmul", "bias_relu", "multiply_scalar"]


def test_every_match_is_replaced():
    layer = Layer()
    a = kernel("relu")(layer.z)
    for _ in range(3):
        a = kernel("relu")(a + layer.b)
    assert layer.rewritten([BIAS_RELU], [a]) == ["matmul", *["bias_relu"] * 4]


def test_rules_apply_in_their_order():
    longer = Rule("s = matmul(x, W); z = add_row(s, b); a = relu(z)", "a = gemm_bias_relu(x, W, b)")
    for rules, expected in (
        ([longer, BIAS_RELU], ["gemm_bias_relu"]),
        ([BIAS_RELU, longer], ["matmul", "bias_relu"]),
    ):
        layer = Layer()
        assert layer.rewritten(rules, [kernel("relu")(layer.z)]) == expected


def test_a_replacement_can_be_replaced():
    second = Rule("s = matmul(x, W); a = bias_relu(s, b)", "a = gemm_bias_relu(x, W, b)")
    layer = Layer()
    assert layer.rewritten([BIAS_RELU, second], [kernel("relu")(layer.z)]) == ["gemm_bias_relu"]


def test_another_function_does_not_match():
    layer = Layer()
    assert layer.rewritten([BIAS_RELU], [kernel("tanh")(layer.z)]) == ["matmul", "add_row", "tanh"]


def test_equal_names_are_the_same_tensor():
    square = Rule("y = multiply(x, x)", "y = squared(x)")
    layer = Layer()
    program = layer.program
    program.outputs = [layer.z * layer.z, layer.z * layer.s]
    rewrite(program, [square], verify=True)
    assert names(program) == ["matmul", "add_row", "squared", "multiply"]


def test_transposition_is_part_of_the_pattern():
    layer = Layer()
    g = layer.z * 2
    dW, db = layer.x.T @ g, g.sum(axis=0)
    program = layer.program
    program.outputs = [dW, db, g @ layer.W.T]
    rewrite(program, [Rule("y = matmul(x, d); db = column_sum(d)", "y, db = wrong(x, d)")], verify=True)
    assert "wrong" not in names(program)
    rewrite(program, [GRADIENTS], verify=True)
    assert names(program) == ["matmul", "add_row", "multiply_scalar", "fused_gradients", "matmul"]
    fused = program.ops[3]
    assert [x.transposed for x in fused.inputs] == [True, False] and fused.outputs == (dW, db)
    assert fused.partial


def test_numbers_are_passed_to_the_replacement():
    rule = Rule("z = add_row(s, b); a = leaky_relu(z)", "a = bias_leaky_relu(s, b)")
    layer = Layer()
    found = layer.rewritten([rule], [kernel("leaky_relu")(layer.z, alpha=0.25)])
    assert found == ["matmul", "bias_leaky_relu"]
    assert layer.program.ops[-1].scalars == {"alpha": 0.25} and "alpha=0.25" in str(layer.program)


# --- legality --------------------------------------------------------------------------------------------------------


def test_another_reader_of_a_removed_tensor_prevents_a_match():
    layer = Layer()
    a = kernel("relu")(layer.z)
    assert layer.rewritten([BIAS_RELU], [a, layer.z * 2]) == ["matmul", "add_row", "relu", "multiply_scalar"]


def test_two_readers_within_the_match_are_allowed():
    rule = Rule("z = add_row(s, b); a = relu(z); d = multiply(z, a)", "d = fused(s, b)")
    layer = Layer()
    program = layer.program
    program.outputs = [layer.z * kernel("relu")(layer.z)]
    rewrite(program, [rule], verify=True)
    assert names(program) == ["matmul", "fused"]


def test_an_output_is_not_removed():
    layer = Layer()
    a = kernel("relu")(layer.z)
    assert layer.rewritten([BIAS_RELU], [a, layer.z]) == ["matmul", "add_row", "relu"]


def test_a_removed_tensor_may_not_be_another_input_of_the_replacement():
    """e is z here, which would no longer exist."""
    layer = Layer()
    V = layer.program.read("theta", 0, 12, (3, 4), "V")
    d = kernel("relu_backward")(kernel("relu")(layer.z) @ V.T, layer.z @ V.T)
    rule = Rule("z = add_row(s, b); g = matmul(e, V'); d = relu_backward(a, g)", "d = fused(s, b, e, V', a)")
    assert "fused" not in layer.rewritten([rule], [d])


def test_a_tensor_stored_in_a_variable_is_not_removed():
    layer = Layer()
    sums = kernel("column_sum")(layer.z)
    layer.program.assign("gradient", 12, sums)
    scaled = kernel("relu")(sums)
    rule = Rule("s = column_sum(z); a = relu(s)", "a = fused(z)")
    assert layer.rewritten([rule], [scaled]) == ["matmul", "add_row", "column_sum", "relu"]


def test_a_written_tensor_keeps_its_variable():
    """A result of the match that the replacement writes too may be stored in a variable."""
    layer = Layer()
    d = kernel("relu_backward")(layer.z, layer.s)
    db = layer.program.assign("gradient", 12, d.sum(axis=0))
    assert layer.rewritten([SUMMED], [d]) == ["matmul", "add_row", "relu_backward_summed"]
    assert layer.program.ops[-1].outputs == (d, db) and db.place.start == 12


def test_an_op_between_that_depends_on_the_match_and_is_needed_by_it():
    """y = f(d), s = Σ(d ⊙ y) cannot be one op of d alone if y needs another op between."""
    rule = Rule("d = relu_backward(a, g); s = column_dot(d, y)", "d, s = fused(a, g, y)")
    layer = Layer()
    d = kernel("relu_backward")(layer.z, layer.s)
    y = kernel("tanh")(d)
    s = kernel("column_dot")(d, y)
    assert layer.rewritten([rule], [d, s]) == ["matmul", "add_row", "relu_backward", "tanh", "column_dot"]


def test_an_op_between_that_is_independent_is_allowed():
    layer = Layer()
    d = kernel("relu_backward")(layer.z, layer.s)
    other = kernel("tanh")(d)
    db = d.sum(axis=0)
    found = layer.rewritten([SUMMED], [d, db, other])
    assert found == ["matmul", "add_row", "relu_backward_summed", "tanh"]


def update(layer, start, stop):
    """θ ← θ − ηg of a range, which writes a variable."""
    program = layer.program
    theta, g = (program.read(name, start, stop, (stop - start,)) for name in ("theta", "gradient"))
    program.assign("theta", start, kernel("sgd")(g, program.read("state", 0, SIZE, (SIZE,)), theta))


@pytest.mark.parametrize(("stop", "fused"), [(4, True), (12, True), (16, False)])
def test_a_write_to_a_variable_that_the_match_reads_prevents_it(stop, fused):
    """b is θ[12:16]. The add_row before the update cannot move after it, nor the relu before it."""
    rule = Rule("z = add_row(s, b); a = multiply_row(z, b)", "a = fused(s, b)")
    layer = Layer()
    update(layer, 0, stop)
    program = layer.program
    program.outputs = [layer.z * layer.b]
    rewrite(program, [rule], verify=True)
    assert ("fused" in names(program)) == fused


def test_a_read_of_a_variable_between_is_allowed():
    rule = Rule("z = add_row(s, b); a = relu(z)", "a = bias_relu(s, b)")
    layer = Layer()
    read = kernel("max_abs")(layer.program.read("theta", 0, 16, (16,)))
    a = kernel("relu")(layer.z)
    assert "bias_relu" in layer.rewritten([rule], [a, read])


def test_python_code_between_prevents_nothing_but_is_never_fused():
    layer = Layer()
    y = python_call(np.sqrt, (layer.x * layer.x,), (layer.x,), "a square root")
    a = kernel("relu")(layer.z)
    found = layer.rewritten([BIAS_RELU], [a, y])
    assert sorted(found) == ["bias_relu", "matmul", "multiply", "python"]


# --- conditions ------------------------------------------------------------------------------------------------------


def test_when_decides_on_the_match():
    seen = []

    def when(match):
        seen.append((match["s"].shape, match["b"].shape, len(match.ops), match.program))
        return match["s"].shape[1] > 4

    rule = Rule("z = add_row(s, b); a = relu(z)", "a = bias_relu(s, b)", when=when)
    layer = Layer()
    a = kernel("relu")(layer.z)
    a = kernel("relu")(a + layer.b)
    assert layer.rewritten([rule], [a]) == ["matmul", "add_row", "relu", "add_row", "relu"]
    assert seen == [((5, 4), (4,), 2, layer.program)] * 2


def test_a_refused_match_does_not_hide_another():
    first = []
    rule = Rule(
        "z = add_row(s, b); a = relu(z)",
        "a = bias_relu(s, b)",
        when=lambda match: bool(first) or bool(first.append(match)),
    )
    layer = Layer()
    a = kernel("relu")(layer.z)
    a = kernel("relu")(a + layer.b)
    assert layer.rewritten([rule], [a]) == ["matmul", "add_row", "relu", "bias_relu"]


@pytest.mark.parametrize("nan_checked", [False, True])
def test_a_rule_that_loses_nan_needs_a_program_that_checks(nan_checked):
    rule = Rule("z = add_row(s, b); a = relu(z)", "a = bias_relu(s, b)", nan_lost=True)
    layer = Layer(nan_checked=nan_checked)
    found = layer.rewritten([rule], [kernel("relu")(layer.z)])
    assert found == (["matmul", "bias_relu"] if nan_checked else ["matmul", "add_row", "relu"])


def test_a_tensor_that_only_the_replacement_has():
    def layout(match):
        n, m = match["a"].shape
        return (n, -(-m // 8)), np.uint8

    rule = Rule(
        "z = add_row(s, b); a = relu(z); d = relu_backward(a, g)",
        "a, mask = relu_mask(s, b); d = masked(g, mask)",
        new={"mask": layout},
    )
    layer = Layer()
    a = kernel("relu")(layer.z)
    program = layer.program
    program.outputs = [a, kernel("relu_backward")(a, layer.s)]
    rewrite(program, [rule], verify=True)
    assert names(program) == ["matmul", "relu_mask", "masked"]
    _, mask = program.ops[1].outputs
    assert mask.shape == (5, 1) and mask.dtype == np.uint8 and program.ops[2].inputs[1] is mask


# --- the order after a replacement -----------------------------------------------------------------------------------


def test_the_program_is_sorted_after_a_replacement():
    """A replacement takes the place of its first op. An input that is written later moves before it."""
    rule = Rule("d = relu_backward(a, g); t = column_dot(d, y)", "d, t = fused(a, g, y)")
    layer = Layer()
    d = kernel("relu_backward")(layer.z, layer.s)
    y = layer.s * 3
    t = kernel("column_dot")(d, y)
    program = layer.program
    program.outputs = [d, t]
    rewrite(program, [rule], verify=True)
    assert names(program) == ["matmul", "add_row", "multiply_scalar", "fused"]


def test_replacements_stay_in_their_sections():
    rule = Rule("z = add_row(s, b); a = relu(z); d = relu_backward(a, g)", "a = bias_relu(s, b); d = masked(a, g)")
    layer = Layer()
    program = layer.program
    program.section = 1
    a = kernel("relu")(layer.z)
    program.section = 3
    d = kernel("relu_backward")(a, layer.s)
    program.outputs = [a, d]
    rewrite(program, [rule], verify=True)
    assert [(op.name, op.section) for op in program.ops] == [("matmul", 0), ("bias_relu", 1), ("masked", 3)]


def test_each_intermediate_program_is_verified(monkeypatch):
    calls = []
    original = Program.verify
    monkeypatch.setattr(Program, "verify", lambda self: calls.append(names(self)) or original(self))
    layer = Layer()
    a = kernel("tanh")(kernel("relu")(layer.z) + layer.b)
    layer.program.outputs = [a]
    rewrite(layer.program, [BIAS_RELU, BIAS_TANH], verify=True)
    assert calls == [["matmul", "bias_relu", "add_row", "tanh"], ["matmul", "bias_relu", "bias_tanh"]]


def test_rules_whose_ops_are_missing_do_nothing():
    layer = Layer()
    refused = Rule("y = dropout(x, s)", "y = f(x, s)", when=lambda match: pytest.fail("there is no match"))
    assert layer.rewritten([refused], [layer.z]) == ["matmul", "add_row"]


def test_a_rule_text_with_constants_is_refused():
    with pytest.raises(ValueError, match=re.escape("'y = f(x) + 1' is not")):
        Rule("y = f(x) + 1", "y = g(x)")
