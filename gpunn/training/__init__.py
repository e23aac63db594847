"""Training: the loop, callbacks, history, and files that keep a model."""

from .callbacks import Callback, ProgressBar
from .checkpoint import CheckpointError
from .history import History
from .loop import DivergenceError

__all__ = ["Callback", "CheckpointError", "DivergenceError", "History", "ProgressBar"]
