"""Programs recorded from functions and from the text of a rule, and their outputs in NumPy and on a device."""

import numpy as np

from gpunn.backend import get as get_backend
from gpunn.kernels import get as kernel
from gpunn.network.binding import BoundProgram
from gpunn.program import Program
from gpunn.program.buffers import assign_buffers
from gpunn.program.groups import SINGLE_PROCESS

from .programs import Interpreter


def interpret(program, inputs, variables=None):
    """The program's outputs, computed by the NumPy references. Variables are written."""
    run = Interpreter(program, inputs, variables or {}).run()
    return [np.array(run[x]) for x in program.outputs]


def execute(program, inputs, variables=None, device="cpu"):
    """The program's outputs, computed by the launches of a device. Variables are written."""
    backend = get_backend(device)
    arrays = {x: backend.asarray(np.array(inputs[x.name], x.dtype)) for x in program.inputs}
    bound = BoundProgram(program, assign_buffers(program), backend, SINGLE_PROCESS, arrays, variables or {})
    with np.errstate(all="ignore"):
        for section in bound.launches:
            for launch in section:
                launch()
    return [np.array(backend.to_host(bound.array(x))) for x in program.outputs]


def record(function, batch=(), **layouts):
    """The program of ``function(**tensors)``. Its outputs are the tensors that the function returns, one or a tuple.

    Each layout is an array or a (shape, dtype). `batch` names the inputs whose first axis is that of the batch's rows.
    """
    program = Program()
    layouts = {k: (v.shape, v.dtype) if isinstance(v, np.ndarray) else v for k, v in layouts.items()}
    tensors = {k: program.input(k, shape, dtype, batch=k in batch) for k, (shape, dtype) in layouts.items()}
    found = function(**tensors)
    program.outputs = list(found) if isinstance(found, tuple) else [found]
    return program


def record_rule(rule, scalars=None, **layouts):
    """The program of a rule's pattern. Its outputs are the tensors that the replacement writes, in order.

    `scalars` are numbers by name, for the kernels that have them.
    """

    def pattern(**tensors):
        for call in rule.before:
            inputs = [tensors[name].T if transposed else tensors[name] for name, transposed in call.inputs]
            if call.name == "matmul":
                found = inputs[0] @ inputs[1]
            else:
                called = kernel(call.name)
                names = {o.name for o in called.signature.scalars}
                found = called(*inputs, **{k: v for k, v in (scalars or {}).items() if k in names})
            results = found if isinstance(found, tuple) else (found,)
            tensors |= dict(zip(call.outputs, results, strict=True))
        return tuple(tensors[x] for call in rule.after for x in call.outputs)

    return record(pattern, **layouts)
