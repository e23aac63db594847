"""Callbacks: code that observes a running fit, changes its settings or stops it."""

from .base import Callback, CallbackList
from .csv_logger import CSVLogger
from .early_stopping import EarlyStopping
from .learning_rate_scheduler import LearningRateScheduler
from .model_checkpoint import ModelCheckpoint
from .progress import EpochLogger, ProgressBar
from .reduce_lr_on_plateau import ReduceLROnPlateau
from .terminate_on_nan import TerminateOnNaN

# callbacks that write no checkpoint
NEVER_SAVE = (CSVLogger, EarlyStopping, EpochLogger, ProgressBar, ReduceLROnPlateau, TerminateOnNaN)

__all__ = [
    "NEVER_SAVE",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "EpochLogger",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgressBar",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]
