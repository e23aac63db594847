"""The progress of an ensemble's training: networks, the best validation loss, and the time left."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from .ensemble import TrainedNetwork


class Progress:
    """A tqdm bar over networks, called with the members so far. ImportError if it is visible and tqdm is missing."""

    def __init__(self, n_networks: int, deadline: float | None, *, visible: bool) -> None:
        self._deadline = deadline
        self._bar: Any = None
        if visible:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                raise ImportError('a progress bar needs tqdm: pip install "gpunn[cli]", or use verbose=0') from None
            self._bar = tqdm(total=n_networks, unit="network", dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __call__(self, members: list[TrainedNetwork]) -> None:
        if self._bar is None:
            return
        values = f"best validation loss {min(member.loss for member in members):.4g}"
        if self._deadline is not None:
            values += f", {max(0.0, self._deadline - time.monotonic()):.0f} s left"
        self._bar.set_postfix_str(values, refresh=False)
        self._bar.update(len(members) - self._bar.n)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
