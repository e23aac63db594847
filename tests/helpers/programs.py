"""An interpreter of programs in NumPy: the reference with which tests compare rewritten programs.

Kernels are their NumPy references, products are np.matmul, and the products of a device with an epilogue are their
definitions. Tensors that are stored in bfloat16 are rounded when they are written.
"""

import numpy as np

from gpunn.kernels import activation_kernels, widened
from gpunn.kernels import get as kernel
from gpunn.kernels._compiler.bfloat16 import rounded


def _bits_of(mask, width):
    """A mask of booleans as the bits that cuBLASLt stores, in rows of `width` bytes."""
    packed = np.packbits(mask, axis=1, bitorder="little")
    return np.pad(packed, ((0, 0), (0, width - packed.shape[1])))


def _mask_of(bits, shape):
    return np.unpackbits(bits, axis=1, bitorder="little")[:, : shape[1]].astype(bool)


def _relu(z):
    """max(0, z) as cuBLASLt computes it: NaN becomes 0."""
    return np.where(z > 0, z, np.zeros((), z.dtype))


def _relu_aux(op, x, W, b):
    a = _relu(x @ W + b)
    return a, _bits_of(a > 0, op.outputs[1].shape[1])


def _gelu_aux(op, x, W, b):
    z = x @ W + b
    return activation_kernels("gelu").f(z), z


def _drelu(op, e, VT, bits):
    return np.where(_mask_of(bits, op.outputs[0].shape), e @ VT, np.zeros((), e.dtype))


def _dgelu(op, e, VT, z):
    return activation_kernels("gelu").derivative(z) * (e @ VT)


def _with_sums(function):
    def both(op, *inputs):
        d = function(op, *inputs)
        return d, d.sum(axis=0)

    return both


# the products of all devices: f(op, *inputs) → results
PRODUCTS = {
    "matmul": lambda op, a, b: a @ b,
    "gemm_bias": lambda op, x, W, b: x @ W + b,
    "gemm_bias_relu": lambda op, x, W, b: activation_kernels("relu").f(x @ W + b),
    "lt_bias": lambda op, x, W, b: x @ W + b,
    "lt_relu_bias": lambda op, x, W, b: _relu(x @ W + b),
    "lt_relu_aux_bias": _relu_aux,
    "lt_gelu_aux_bias": _gelu_aux,
    "lt_drelu": _drelu,
    "lt_drelu_bgrad": _with_sums(_drelu),
    "lt_dgelu": _dgelu,
    "lt_dgelu_bgrad": _with_sums(_dgelu),
    "lt_bgrada": lambda op, a, b: (a @ b, b.sum(axis=0)),
}


class Interpreter:
    """Runs a program on arrays. Variables are changed in place.

    Parameters
    ----------
    inputs : dict of str to array
        The program's inputs by name.
    variables : dict of str to array
        The flat arrays by name. A variable that is missing is made of zeros.
    """

    def __init__(self, program, inputs, variables):
        self.program, self.variables = program, dict(variables)
        for name, variable in program.variables.items():
            self.variables.setdefault(name, np.zeros(variable.size, variable.dtype))
        self.values = {x: np.asarray(inputs[x.name]) for x in program.inputs}

    def run(self, *, first_step=True):
        """Run all ops in order, or those of a step that follows another one; returns the interpreter."""
        with np.errstate(all="ignore"):
            for op in self.program.ops:
                if first_step or not op.first_step_only:
                    self._run(op)
        return self

    def __getitem__(self, x):
        """The value of a tensor, as it is stored."""
        base = x.base
        if base.place is not None:
            name, start, stop = base.place.variable.name, base.place.start, base.place.stop
            found = self.variables[name][start:stop].reshape(base.shape)
        else:
            found = self.values[base]
        return found.T if x.transposed else found

    def _write(self, x, value):
        if x.place is not None:
            start, stop = x.place.start, x.place.stop
            self.variables[x.place.variable.name][start:stop] = np.asarray(value).reshape(-1)
        else:
            self.values[x] = np.array(value, x.dtype).reshape(x.shape)

    def _run(self, op):
        inputs = [self[x] for x in op.inputs]
        if op.name in PRODUCTS:
            found = PRODUCTS[op.name](op, *map(_value, inputs))
            for x, value in zip(op.outputs, found if isinstance(found, tuple) else (found,), strict=True):
                self._write(x, rounded(value) if x.dtype == np.uint16 else value)
        elif op.function is not None:
            found = op.function(*inputs)
            for x, value in zip(op.outputs, found if isinstance(found, tuple) else (found,), strict=True):
                self._write(x, value)
        elif op.name == "first_row":
            self._write(op.outputs[0], inputs[0][0])
        else:
            self._run_kernel(op, inputs)

    def _run_kernel(self, op, inputs):
        called = op.kernel
        outs = [
            np.empty(x.shape, x.dtype) if k is None else np.array(inputs[k])
            for x, k in zip(op.outputs, called.updated, strict=True)
        ]
        given = inputs[: len(called.signature.inputs)]
        run_reference(called, given, outs, op.count, op.scalars)
        for x, value in zip(op.outputs, outs, strict=True):
            self._write(x, value)


def run_reference(called, inputs, outs, count, numbers):
    """Run a kernel's NumPy reference. That of a kernel with column sums is its kernel, and the sums of its output."""
    if called.form == "summed":
        run_reference(kernel(called.base.name), inputs, outs[:1], count, numbers)
        outs[1][...] = _value(outs[0]).sum(axis=0)
        return
    out = outs[0] if len(outs) == 1 else tuple(outs)
    called.bind_numpy(*inputs, out=out, count=count, **numbers)()


def _value(x):
    """The value of an operand: bfloat16 is widened, masks of bits stay as they are."""
    return widened(np.ascontiguousarray(x)) if x.dtype == np.uint16 else x


def names(program):
    """The names of the ops, in order."""
    return [op.name for op in program.ops]


def products(program):
    """The names of the products, in order."""
    return [op.name for op in program.ops if op.name in PRODUCTS]


def matrix_ops(program, rows):
    """The names of the ops on matrices of the batch that are no products."""
    return [
        op.name
        for op in program.ops
        if op.name not in PRODUCTS and any(x.ndim == 2 and x.shape[0] == rows for x in (*op.outputs, *_bases(op)))
    ]


def _bases(op):
    return [x.base for x in op.inputs]


def accepting(rule):
    """The rule without its questions to a device."""
    found = object.__new__(type(rule))
    vars(found).update(vars(rule), when=None)
    return found


__all__ = [
    "Interpreter",
    "accepting",
    "matrix_ops",
    "names",
    "products",
    "run_reference",
]
