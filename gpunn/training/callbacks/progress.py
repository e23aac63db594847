"""Progress on the terminal: a bar (verbose=1) or one line an epoch (verbose=2)."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

from .base import Callback, Logs

FORMAT = "{desc} |{bar}| {elapsed}<{remaining}{postfix}"
MIN_REDRAW_SECONDS = 0.1  # seconds between two drawings of the bar

_log = logging.getLogger("gpunn")


class ProgressBar(Callback):
    """A tqdm bar over the epochs and the steps within them, in a terminal or a notebook, with the latest numbers.

    A number in brackets is that on the validation set: "loss 0.431 (0.502)". It is drawn at most ten times a second.
    ImportError names the extra where tqdm is absent.
    """

    passive = True

    def __init__(self) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError('a progress bar needs tqdm: pip install "gpunn[cli]", or use verbose=2 or 0') from None
        self._tqdm = tqdm
        self._bar: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._bar, self._shown = None, -math.inf

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch, self._steps = epoch, 0
        self._done: float = epoch
        if self._bar is None:
            self._numbers: dict[str, float] = {}
            options = {"desc": self._title(), "bar_format": FORMAT, "dynamic_ncols": True}
            self._bar = self._tqdm(total=self.params["epochs"], initial=epoch, **options)

    def on_progress(self, steps: int, logs: Logs | None = None) -> None:
        all_steps = self.params.get("steps")
        # what was validated last stays to be seen
        self._numbers = {**self._numbers, **(logs or {})}
        self._done = self._epoch + (steps / all_steps if all_steps else 0)
        self._steps = 0 if all_steps else steps
        self._draw()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._numbers, self._done, self._steps = dict(logs or {}), epoch + 1, 0
        if time.monotonic() - self._shown > MIN_REDRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        self._shown = time.monotonic()
        self._bar.n = self._done
        self._bar.set_description_str(self._title(), refresh=False)
        self._bar.set_postfix_str(_format(self._numbers), refresh=False)
        self._bar.refresh()

    def _title(self) -> str:
        total = self.params["epochs"]
        step = f", step {self._steps}" if self._steps else ""
        return f"epoch {self._epoch + 1:{len(str(total))}}/{total}{step}"

    def on_train_complete(self, logs: Logs | None = None) -> None:
        if self._bar is not None:
            # a fit that was stopped is done as well, and a notebook would colour it as one that failed
            self._bar.total = self._done

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.close()
            self._bar = None


class EpochLogger(Callback):
    """One line an epoch through `logging`, logger "gpunn", level INFO; shown on stderr unless logging is configured."""

    passive = True

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._handler = None
        if not _log.hasHandlers():
            self._handler = logging.StreamHandler()
            _log.addHandler(self._handler)
        self._level = _log.level
        if _log.getEffectiveLevel() > logging.INFO:
            _log.setLevel(logging.INFO)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        _log.info("epoch %d/%d: %s", epoch + 1, self.params["epochs"], _numbers(logs or {}))

    def on_train_end(self, logs: Logs | None = None) -> None:
        _log.setLevel(self._level)
        if self._handler is not None:
            _log.removeHandler(self._handler)


def _numbers(logs: Logs) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in logs.items())


def _format(logs: Logs) -> str:
    """Every number with that on the validation set behind it, as short as can be."""
    pairs = []
    for name, value in logs.items():
        if name.startswith("val_") and name.removeprefix("val_") in logs:
            continue
        there = logs.get(f"val_{name}")
        pairs.append(f"{name} {value:.4g}" + ("" if there is None else f" ({there:.4g})"))
    return ", ".join(pairs)
