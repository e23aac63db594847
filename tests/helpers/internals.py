"""The only file of the tests that reads or replaces internals of gpunn.

Tests assert on results. A test whose subject is an internal, or that has no public way to see a result, calls a
function of this file, so that a change of the internals changes one file.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

import gpunn
from gpunn import schedules
from gpunn.backend import select, to_host
from gpunn.backend.cpu import blas
from gpunn.backend.cpu import executor as compiled_steps
from gpunn.backend.cpu.backend import CPUBackend
from gpunn.backend.cuda import cublaslt, graph
from gpunn.backend.cuda.capture import StreamSet
from gpunn.kernels._compiler import (
    activation,
    arguments,
    compiler,
    cpu_cache,
    cuda_launch,
    definition,
    prebuilt,
    registry,
)
from gpunn.kernels.state import StateEntry
from gpunn.network import Executable, ExecutableSpec, cache, recorded
from gpunn.optimizers import base as optimizers
from gpunn.program import bfloat16
from gpunn.program.groups import BatchShard
from gpunn.training import checkpoint, datasets, evaluation, inputs

# --- a network's state -----------------------------------------------------------------------------------------------


def network(net):
    """The network that a Sequential runs, for tests of its plans and buffers."""
    return net._net


def parameters(net):
    """All parameters in their flat buffer, on the network's device. None before the network is built."""
    return net._net.theta


def gradient(net):
    """The gradient of all parameters, on the network's device."""
    return net._net.gradient


def running(net):
    """The running statistics of all layers, on the network's device."""
    return net._net.running


def running_stats_of(net, layer):
    """Copies of the running statistics of one layer, by name."""
    return {name: to_host(v).copy() for name, v in net._net.running_stats_of(layer).items()}


def optimizer_state(net):
    """The optimizer's moments by name, on the network's device."""
    return net._net.slots


def step_state(net):
    """The state array of the steps, on the network's device. None before the network is built."""
    return net._net.state


def steps_taken(net):
    """The number of steps since the network was built or compiled, 0 before."""
    return 0 if net._net.state is None else int(to_host(net._net.state)[StateEntry.STEP])


def epochs_taken(net):
    """The number of epochs that all calls of fit trained."""
    return net._epochs


def compiled(net):
    """The loss that compile was given, and the metrics."""
    return net._net.given_loss, net._net.metrics


def takes_z(net):
    """True if the loss computes the last activation too."""
    return net._net.loss.takes_z


def learning_rate_override(net):
    """The learning rate that a callback set in place of the optimizer's, or None."""
    return net._net.learning_rate_override


def penalties(net):
    """(start, stop, λ) of each penalized slice of the flat buffer."""
    return [(p.start, p.stop, p.l2) for p in net._net.penalties()]


def process_group(net):
    """The process group that the network trains in."""
    return net._net.group


# --- executables -----------------------------------------------------------------------------------------------------


def forget_executables():
    """Empty the cache of executables that networks share."""
    cache.SHARED.clear()


def executables_kept(net):
    """The number of executables in the caches of a network and of the process."""
    return len(net._net._own) + len(cache.SHARED)


def limit_executables(monkeypatch, net, count):
    """Keep no more bytes of free executables, of the process and of a network."""
    for kept in (cache.SHARED, net._net._own):
        monkeypatch.setattr(kept, "max_bytes", count)


@contextmanager
def training_sections(net, rows):
    """The launches of one training step without sample weights by section, and its batch x, as a context."""
    with net._net.executable(datasets.step_spec(net._net, {rows: 1}, weighted=False)) as executable:
        yield _sections(executable)


def _sections(executable):
    step = executable.steps[0]
    names = "normalize_weights forward loss backward update".split()
    return SimpleNamespace(step=step, x=step.x, **dict(zip(names, step.sections, strict=True)))


@contextmanager
def training_step(net, X, y, *, keeps_outputs=False):
    """The launches of one training step on these rows."""
    data = inputs.on_device(net._net, (X, y, None))
    arrays = data.named()
    if keeps_outputs:
        arrays |= datasets.named_rows(net._net.new_row_buffer(len(X), weighted=False))
    with net._net.executable(datasets.step_spec(net._net, {len(X): 1}, weighted=False), arrays) as executable:
        net._net.state[StateEntry.OFFSET] = 0
        executor = executable._executor
        yield [executor] if executable.rebindable else executor.phases[0]


def on_device(net, X, y):
    """Rows and targets on the network's device."""
    return inputs.on_device(net._net, (X, y, None))


def score(net, data):
    """Loss and metrics of rows from `on_device`."""
    with evaluation.BorrowedExecutables(net._net) as executables:
        return evaluation.evaluate(net._net, data, executables)


def sections_without_rows(net):
    """The launches of a training step in which this process has no row of the batch."""
    network = net._net
    network.prepare_training()
    return _sections(Executable(network, ExecutableSpec(datasets.STEP, (BatchShard(1, 1, 0, network.group),)), {}))


def round_before_each_step(monkeypatch):
    """Round the weights to bfloat16 before every step, not in the update."""
    monkeypatch.setattr(bfloat16._Copies, "_updates_parameters", lambda self, op: False)
    monkeypatch.setattr(recorded, "_cache", recorded._Cache())


def rounded_copy(sections):
    """The copy in bfloat16 of all parameters, which the products of a step read."""
    (found,) = [b for b in sections.step._buffers if b.dtype == np.uint16 and b.ndim == 1 and b is not sections.x]
    return found


# --- recorded steps --------------------------------------------------------------------------------------------------


def forget_recorded_steps():
    """Empty the cache of recorded steps."""
    recorded._cache.steps.clear()


def recorded_steps():
    """The number of recorded steps in the cache."""
    return len(recorded._cache.steps)


def limit_recorded_steps(monkeypatch, count):
    """Keep at most `count` recorded steps."""
    monkeypatch.setattr(recorded, "MAX_PROGRAMS", count)


def use_rules(monkeypatch, found):
    """Rewrite programs for the CPU by these rules, until the end of the test."""
    monkeypatch.setattr(CPUBackend, "rewrite_rules", lambda self: found)
    monkeypatch.setattr(CPUBackend, "rewrite_key", lambda self: tuple(map(id, found)))


def program_of(net, rows, **options):
    """The program of a step with these options, from the cache or recorded."""
    network = net._net
    network.apply_attribute_changes()
    network.prepare_training()
    return recorded.recorded_step(network, BatchShard.of(rows), recorded.StepOptions(**options)).program


# --- compiled epochs and CUDA graphs ---------------------------------------------------------------------------------


def record_executables(monkeypatch, *, updates=False):
    """A list that gets the spec of each executable that is made, of those alone that update parameters if asked for."""
    made = []

    def make(net, spec, arrays):
        if spec.options.update or not updates:
            made.append(spec)
        return Executable(net, spec, arrays)

    monkeypatch.setattr(cache, "Executable", make)
    return made


def record_captures(monkeypatch):
    """A list that gets an entry each time launches are captured."""
    calls, capture = [], StreamSet.capture
    monkeypatch.setattr(StreamSet, "capture", lambda self, record: calls.append(self) or capture(self, record))
    return calls


def refuse_graphs(monkeypatch, refuse):
    """Call `refuse` in place of running a CUDA graph of steps."""
    monkeypatch.setattr(graph.StepGraph, "_graph", refuse)


def refuse_capture(monkeypatch, refuse):
    """Call `refuse` in place of capturing a CUDA graph, of one network or of several."""
    monkeypatch.setattr(graph.StepGraph, "_capture", refuse)


def expect_seconds(steps, seconds):
    """Set the time that a graph assumes for one step."""
    steps._each = seconds


# --- what ran on the fake device since its calls were cleared --------------------------------------------------------


def kernels_run(cupy):
    """The names of the kernels that were launched one by one, in order."""
    return [call.removeprefix("kernel gpunn_") for call in cupy.state.calls if call.startswith("kernel ")]


def products_run(cupy):
    """The epilogues of the matrix products by cuBLASLt, in order."""
    return [call.removeprefix("product ") for call in cupy.state.calls if call.startswith("product ")]


def graphs_run(cupy):
    """The number of launches in each CUDA graph that was replayed, in order."""
    return [int(call.removeprefix("graph of ")) for call in cupy.state.calls if call.startswith("graph of ")]


def only_launches(cupy):
    """True if nothing was allocated, copied or read back: kernels and products only."""
    return {call.split()[0] for call in cupy.state.calls} <= {"kernel", "product"}


# --- estimators, optimizers, callbacks, files ------------------------------------------------------------------------


def slow_path_reason(estimator):
    """The reason for a fit's return to Python after each epoch, or None."""
    return estimator._slow_path_reason()


def generator(estimator):
    """The random generator that an estimator draws from."""
    return estimator._random_state


def optimizer_of(estimator):
    """The optimizer of an estimator's last fit, as scikit-learn has it."""
    return estimator._optimizer


def classes_by_name(module):
    """The registered classes of gpunn.activations or gpunn.losses by each of their names."""
    return module.REGISTRY.classes


def forget_schedule(name):
    """Remove a schedule that a test defined."""
    del schedules.REGISTRY.classes[name]


def home_modules():
    """The module that defines each name of gpunn.__all__ which is not a module itself."""
    return gpunn._HOME


def keep_optimizer_names(monkeypatch):
    """Forget the optimizers that a test defines at the end of the test."""
    monkeypatch.setattr(optimizers.REGISTRY, "classes", dict(optimizers.REGISTRY.classes))


def draw_with(bar, make):
    """Let a progress bar draw with make(**options) in place of tqdm."""
    bar._tqdm = make


def digest(arrays, metadata, version):
    """The digest of a checkpoint with these contents."""
    return checkpoint._digest(arrays, metadata, version)


def exported_to_onnx():
    """The classes of layers and of activations that the ONNX exporter can write."""
    from gpunn.interchange import onnx_layers

    return {*onnx_layers.LAYERS}, {*onnx_layers.ACTIVATIONS}


# --- devices and products --------------------------------------------------------------------------------------------


def reset_device_choice(monkeypatch):
    """Choose the device again, as in a new process, until the end of the test."""
    monkeypatch.setattr(select, "_registry", select._DeviceRegistry())


def use_threads(monkeypatch, count):
    """Run each step in `count` threads, whatever its size."""
    monkeypatch.setattr(compiled_steps, "thread_count_for", lambda work: count)
    forget_executables()


def train_sequentially(monkeypatch):
    """Train several networks on a CPU one after another."""
    monkeypatch.setattr(CPUBackend, "max_concurrent_fits", lambda self: 1)


def train_concurrently(monkeypatch, count):
    """Train up to `count` networks at a time on a CPU."""
    monkeypatch.setattr(CPUBackend, "max_concurrent_fits", lambda self: count)


def hide_cublaslt(monkeypatch):
    """Find no cuBLASLt library."""
    monkeypatch.setattr(cublaslt, "candidates", lambda major: [])


def fail_to_load_cublaslt(monkeypatch):
    """Raise OSError for each copy of cuBLASLt that is loaded."""

    def load(path):
        raise OSError(f"{path}: cannot open shared object file")

    monkeypatch.setattr(cublaslt, "load_library", load)


def blas_product(a, b, out):
    """The launch of out = a b by the library that NumPy uses."""
    return blas._bind_blas_gemm(a, b, out, blas.find_gemm(a.dtype.name).address)


def register_product(a, b, out):
    """The launch of out = a b by the compiled loops that keep sums in registers."""
    return blas.bind_small_gemm([a, b, out])


def workspaces(lt):
    """The workspaces of cuBLASLt by stream pointer."""
    return lt._workspaces


@contextmanager
def no_self_tests():
    """Use every epilogue of cuBLASLt without a self-test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cublaslt.CublasLt, "_passes_selftest", lambda *_: True)
        patch.setattr(recorded, "_cache", recorded._Cache())
        yield


def make_product(lt, *operands, **options):
    """Create the descriptors of one cuBLASLt product and ask for an algorithm."""
    return lt._bind_unverified(*operands, **options)


# --- kernels ---------------------------------------------------------------------------------------------------------


@contextmanager
def no_libraries():
    """Forget all compiled kernels, and bring them back afterwards."""
    before, warned = dict(cpu_cache._libraries), cpu_cache._warned
    cpu_cache.invalidate()
    prebuilt._opened.cache_clear()
    cpu_cache._warned = False
    try:
        yield
    finally:
        cpu_cache.invalidate()
        cpu_cache._libraries.update(before)
        cpu_cache._warned = warned


def optimize(monkeypatch, level):
    """Compile kernels with another optimization level than -O3."""
    monkeypatch.setattr(compiler, "FLAGS", tuple(level if flag == "-O3" else flag for flag in compiler.FLAGS))


def add_flag(monkeypatch, flag):
    """Compile kernels with one more flag."""
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, flag))


def set_processor(monkeypatch, name):
    """Compile kernels as on another processor."""
    monkeypatch.setattr(compiler, "cpu", lambda: name)


def pack(kernel, inputs, out, scalars):
    """The number of elements that one thread of a GPU reads together."""
    return cuda_launch._pack(kernel, arguments.check_arguments(kernel, inputs, out, scalars, None))


def device_function(source, name):
    """The CuPy object of an elementwise kernel, compiled once per CuPy module."""
    return cuda_launch._compiled(source, name)


def register_kernel(kernel):
    """Add a kernel to the registry."""
    return registry.register(kernel)


@contextmanager
def own_registry():
    """Remove at the end the kernels that are registered within."""
    before = dict(definition.DEFINITIONS)
    try:
        yield
    finally:
        definition.DEFINITIONS.clear()
        definition.DEFINITIONS.update(before)


def is_registered(name):
    """True if a kernel has that name."""
    return name in definition.DEFINITIONS


def activations_with_kernels():
    """The names of all activations that have kernels."""
    return sorted(activation._ACTIVATIONS)


def forget_kernel(kernel):
    """Remove a kernel and the library of its family."""
    definition.DEFINITIONS.pop(kernel.name)
    cpu_cache.invalidate(kernel.module)
