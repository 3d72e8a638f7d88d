"""When a scheduler ends before all is done: at its time, or because it is asked to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from dstbench.runner.trial import interruption

MARGIN = 120.0
"""Seconds before its time at which trials are asked to stop where they can go on, at most a quarter of the time."""
_NOTICE = {signal.SIGTERM: 20.0, signal.SIGINT: 20.0, interruption.SIGNAL: MARGIN - 20.0}
"""Seconds that trials have once this signal came: clusters send SIGKILL 30 s after SIGTERM, and the other first."""


class Stop:
    """Whether to end, and by when. Something to wait for, too: it can be read from once someone asked."""

    def __init__(self, seconds: float | None = None) -> None:
        """End ``seconds`` from now; None: only when asked."""
        self.signal: int | None = None  # that asked
        now = time.monotonic()
        self._end = float("inf") if seconds is None else now + seconds
        self._begin = float("inf") if seconds is None else self._end - min(MARGIN, seconds / 4)
        self._asked, self._ask = os.pipe()
        os.set_blocking(self._ask, False)

    @property
    def is_due(self) -> bool:
        """Whether to begin no more trials, and to ask those that run to stop."""
        return time.monotonic() >= self._begin

    @property
    def is_over(self) -> bool:
        """Whether to wait no longer."""
        return time.monotonic() >= self._end

    @property
    def seconds(self) -> float:
        """Until the next of the two."""
        now = time.monotonic()
        return max(0.0, (self._begin if now < self._begin else self._end) - now)

    def fileno(self) -> int:
        """For ``multiprocessing.connection.wait``."""
        return self._asked

    def ask(self, number: int = interruption.SIGNAL, frame: FrameType | None = None) -> None:
        """End soon: a signal's handler. A second request allows no more time than the first, a second Ctrl-C none."""
        now = time.monotonic()
        notice = 0.0 if self.signal and number == signal.SIGINT else _NOTICE[signal.Signals(number)]
        self.signal = self.signal or number
        self._begin = min(self._begin, now)
        self._end = min(self._end, now + notice)
        with suppress(BlockingIOError):
            os.write(self._ask, b".")


@contextmanager
def listening(stop: Stop) -> Iterator[None]:
    """Have the signals that end a process ask instead."""
    before = {number: signal.signal(number, stop.ask) for number in _NOTICE}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
