"""Training: the trainer, datasets, callbacks, the history, and files of models and checkpoints."""

from .callbacks import Callback, ProgressBar
from .checkpoint import CheckpointError
from .divergence import DivergenceError
from .history import History

__all__ = ["Callback", "CheckpointError", "DivergenceError", "History", "ProgressBar"]
