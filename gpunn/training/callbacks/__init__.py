"""Callbacks: what may look at a fit while it runs, and stop it."""

from .base import Callback, CallbackList
from .progress import EpochLines, ProgressBar

__all__ = ["Callback", "CallbackList", "EpochLines", "ProgressBar"]
