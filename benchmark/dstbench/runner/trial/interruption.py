"""A trial asked to stop where it can go on later: the signal sets a flag, which the trial reads after each step.

Nothing is written in the handler, which may run between any two instructions. A trial that is asked writes its
checkpoint and raises ``Interrupted``, which is no failure: no record is written, and the trial is open again.
Torch-free.
"""

from __future__ import annotations

import signal
from types import FrameType

SIGNAL = signal.SIGUSR2
"""Not SIGUSR1, which NCCL takes; schedulers of clusters send either before they end a job."""


class Interrupted(BaseException):
    """The trial stopped because it was asked to; its checkpoint holds all that was done."""


class _Request:
    """Whether this process was asked to stop."""

    made = False


def listen() -> None:
    """Take ``SIGNAL`` from now on, and forget what was asked before. Only the main thread can (ValueError).

    Processes that are forked afterwards listen, too: to them the signal does nothing, and they are not ended by it.
    """
    _Request.made = False
    signal.signal(SIGNAL, _ask)


def asked() -> bool:
    """Whether the signal came since ``listen``."""
    return _Request.made


def _ask(number: int, frame: FrameType | None) -> None:
    _Request.made = True
