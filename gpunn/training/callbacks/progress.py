"""Progress on the terminal: a bar (verbose=1) or one line an epoch (verbose=2)."""

from __future__ import annotations

import logging
from typing import Any

from .base import Callback

_log = logging.getLogger("gpunn")


class ProgressBar(Callback):
    """A tqdm bar over the epochs with the latest numbers. ImportError names the extra where tqdm is absent."""

    def __init__(self) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError('a progress bar needs tqdm: pip install "gpunn[cli]", or use verbose=2 or 0') from None
        self._tqdm = tqdm
        self._bar: Any = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._bar = self._tqdm(total=self.params["epochs"], unit="epoch", dynamic_ncols=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._bar.set_postfix_str(_numbers(logs or {}), refresh=False)
        self._bar.update()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class EpochLines(Callback):
    """One line an epoch through `logging`, logger "gpunn", level INFO; shown on stderr unless logging is configured."""

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._handler = None
        if not _log.hasHandlers():
            self._handler = logging.StreamHandler()
            _log.addHandler(self._handler)
        self._level = _log.level
        if _log.getEffectiveLevel() > logging.INFO:
            _log.setLevel(logging.INFO)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        _log.info("epoch %d/%d: %s", epoch + 1, self.params["epochs"], _numbers(logs or {}))

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        _log.setLevel(self._level)
        if self._handler is not None:
            _log.removeHandler(self._handler)


def _numbers(logs: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in logs.items())
