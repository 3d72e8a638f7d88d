"""What ends a run early: the first trial that fails, where that is wanted, and a disk that takes nothing more."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Literal

from dstbench.runner.execution.worker import Event

OnError = Literal["continue", "stop"]
UNWRITTEN_STATUS = "unwritten"
"""Of a trial whose record could not be written: it stays open."""
_FINE = frozenset({"ok", "skipped", "cached", "elsewhere", "interrupted"})


class Halt:
    """Passes events on, and has no more trials started after one that stops a run."""

    def __init__(
        self, close: Callable[[], None], on_event: Callable[[Event], None], on_error: OnError = "continue"
    ) -> None:
        self._close, self._on_event, self._on_error = close, on_event, on_error
        self.halted = False
        self._full: str | None = None

    def __call__(self, event: Event) -> None:
        """An event of a trial."""
        self._on_event(event)
        if event.kind != "finished":
            return
        if event.status == UNWRITTEN_STATUS:
            self.full(event.reason or "")
        elif self._on_error == "stop" and event.status not in _FINE:
            self.halted = True
            self._close()

    def full(self, reason: str) -> None:
        """Nothing more can be written."""
        self._full, self.halted = reason, True
        self._close()

    def check(self) -> None:
        """Raise OSError once all has ended, where the disk was full: trials are left open."""
        if self._full is not None:
            raise OSError(errno.ENOSPC, f"{self._full}; what is finished is kept, and the rest stays open")
