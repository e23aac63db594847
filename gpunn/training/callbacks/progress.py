"""Progress on the terminal: a bar (verbose=1) or one line per epoch (verbose=2)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping

from .base import Callback, Logs

FORMAT = "{desc} |{bar}| {elapsed}<{remaining}{postfix}"
MIN_REDRAW_SECONDS = 0.1

_log = logging.getLogger("gpunn")


class ProgressBar(Callback):
    """A tqdm progress bar over epochs and steps, in a terminal or a notebook, with the latest logs.

    Values on the validation data follow in parentheses: "loss 0.431 (0.502)". The bar is redrawn at most ten times per
    second.

    Parameters
    ----------
    scales : dict of float, optional
        Factor by which each metric is multiplied, for example for other units.

    Raises
    ------
    ImportError
        If tqdm is not installed.
    """

    passive = True

    def __init__(self, scales: Mapping[str, float] | None = None) -> None:
        self._scales = scales or {}
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError('a progress bar needs tqdm: pip install "gpunn[cli]", or use verbose=2 or 0') from None
        self._tqdm = tqdm
        self._bar: tqdm[None] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._bar = None
        self._drawn_at = -math.inf

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch
        self._steps = 0
        self._done: float = epoch
        if self._bar is None:
            self._logs: dict[str, float] = {}
            options = {"desc": self._title(), "bar_format": FORMAT, "dynamic_ncols": True}
            self._bar = self._tqdm(total=self.params["epochs"], initial=epoch, **options)

    def on_progress(self, steps: int, logs: Logs | None = None) -> None:
        all_steps = self.params.get("steps")
        # the values of the last validation remain visible
        self._logs = {**self._logs, **(logs or {})}
        self._done = self._epoch + (steps / all_steps if all_steps else 0)
        self._steps = 0 if all_steps else steps
        self._draw()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._logs = dict(logs or {})
        self._done = epoch + 1
        self._steps = 0
        if time.monotonic() - self._drawn_at > MIN_REDRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        assert self._bar is not None
        self._drawn_at = time.monotonic()
        self._bar.n = self._done
        self._bar.set_description_str(self._title(), refresh=False)
        self._bar.set_postfix_str(_format_pairs(_scaled(self._logs, self._scales)), refresh=False)
        self._bar.refresh()

    def _title(self) -> str:
        total = self.params["epochs"]
        step = f", step {self._steps}" if self._steps else ""
        return f"epoch {self._epoch + 1:{len(str(total))}}/{total}{step}"

    def on_train_complete(self, logs: Logs | None = None) -> None:
        if self._bar is not None:
            # a notebook colors a bar below its total as failed, but a fit that was stopped has succeeded
            self._bar.total = self._done

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.close()
            self._bar = None


class EpochLogger(Callback):
    """Log one line per epoch by `logging`: logger "gpunn", level INFO, on stderr unless logging is configured.

    Parameters
    ----------
    scales : dict of float, optional
        Factor by which each metric is multiplied, for example for other units.
    """

    passive = True

    def __init__(self, scales: Mapping[str, float] | None = None) -> None:
        self._scales = scales or {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._handler = None
        if not _log.hasHandlers():
            self._handler = logging.StreamHandler()
            _log.addHandler(self._handler)
        self._level = _log.level
        if _log.getEffectiveLevel() > logging.INFO:
            _log.setLevel(logging.INFO)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        values = ", ".join(f"{name} {value:.4g}" for name, value in _scaled(logs or {}, self._scales).items())
        _log.info("epoch %d/%d: %s", epoch + 1, self.params["epochs"], values)

    def on_train_end(self, logs: Logs | None = None) -> None:
        _log.setLevel(self._level)
        if self._handler is not None:
            _log.removeHandler(self._handler)


def _scaled(logs: Logs, scales: Mapping[str, float]) -> Logs:
    """The values in other units; a value on the validation data has the unit of its metric."""
    return {name: value * scales.get(name.removeprefix("val_"), 1.0) for name, value in logs.items()}


def _format_pairs(logs: Logs) -> str:
    """Format each value, followed by the same value on the validation data in parentheses."""
    pairs = []
    for name, value in logs.items():
        if name.startswith("val_") and name.removeprefix("val_") in logs:
            continue
        validation = logs.get(f"val_{name}")
        pairs.append(f"{name} {value:.4g}" + ("" if validation is None else f" ({validation:.4g})"))
    return ", ".join(pairs)
