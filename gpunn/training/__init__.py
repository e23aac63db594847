"""Training: the loop, datasets, callbacks, the history, and files of models and checkpoints."""

from .callbacks import Callback, ProgressBar
from .checkpoint import CheckpointError
from .history import History
from .loop import DivergenceError

__all__ = ["Callback", "CheckpointError", "DivergenceError", "History", "ProgressBar"]
