"""The size limits that tests lower so that small data takes the path of large data: one table, by name."""

import pkgutil

LIMITS = {
    "compiled_seconds": "gpunn.training.trainer.POLL_SECONDS",  # that compiled steps run before Python continues
    "epochs_at_once": "gpunn.training.datasets.MAX_EPOCHS",  # per call of compiled code
    "evaluation_rows": "gpunn.training.datasets.EVALUATION_ROWS",  # of one batch of an evaluation
    "graph_polls": "gpunn.backend.cuda.graph.POLLS_PER_WINDOW",  # of the clock before a deadline
    "graph_rates": "gpunn.backend.cuda.graph.MAX_RATES",  # learning rates stored on the device
    "graph_steps": "gpunn.backend.cuda.graph.MAX_STEPS",  # of one CUDA graph
    "launch_elements": "gpunn.backend.cuda.stream_scheduler.SATURATING_ELEMENTS",  # with which one launch fills a GPU
    "lbfgs_elements": "gpunn.estimators.lbfgs.LBFGS_ELEMENTS",  # of the widest layer in one evaluation of L-BFGS
    "onnx_bytes": "gpunn.interchange.onnx.LIMIT",  # of the numbers in one file
    "own_executable_bytes": "gpunn.network.network.MAX_OWN_BYTES",  # of a network's free executables
    "progress_seconds": "gpunn.training.callbacks.progress.MIN_REDRAW_SECONDS",  # of the progress bar
    "rates_at_once": "gpunn.training.learning_rates.MAX_RATES",  # learning rates of a schedule computed together
    "shared_executable_bytes": "gpunn.network.cache.SHARED.max_bytes",  # of free executables of all networks
    "thread_work": "gpunn.backend.cpu.executor.MIN_NS_PER_THREAD",  # with which another thread pays off
    "threads": "gpunn.backend.cpu.executor.MAX_THREADS",  # of one step
    "transfer_bytes": "gpunn.training.datasets.BLOCK_BYTES",  # of the rows copied to a device together
}


def _location(name):
    owner, _, attribute = LIMITS[name].rpartition(".")
    return pkgutil.resolve_name(owner), attribute


def get(name):
    """The value of a limit. KeyError for a name that is not in `LIMITS`."""
    return getattr(*_location(name))


def set(monkeypatch, name, value):
    """Give a limit another value until the end of the test. KeyError for a name that is not in `LIMITS`."""
    monkeypatch.setattr(*_location(name), value)
