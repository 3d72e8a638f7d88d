"""All that a process started, wherever it went: what leaves its group or loses its parent is still found (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any

import psutil

from dstbench.runner.trial import interruption

REQUESTS = (signal.SIGTERM, signal.SIGHUP, interruption.SIGNAL)
"""Signals that ask a process to end, or to stop where it can go on later."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own, in place of the system's first process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Have this process killed when its parent ends, which may have happened already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def ignore_requests() -> dict[signal.Signals, Any]:
    """Ignore what a cluster sends to all processes of a job, of which the scheduler and the trial know what to do;
    returns what was done with it before."""
    return {number: signal.signal(number, signal.SIG_IGN) for number in REQUESTS}


def signal_descendants(process: psutil.Process, number: signal.Signals) -> bool:
    """Send a signal to all that a process started; returns whether there was anything living."""
    try:
        below = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return False
    return sum(_signal(one, number) for one in below) > 0


def kill_descendants(process: psutil.Process, seconds: float = 5.0) -> None:
    """Kill all that a process started, and what that starts meanwhile, for so many seconds at most."""
    until = time.monotonic() + seconds
    while signal_descendants(process, signal.SIGKILL) and time.monotonic() < until:
        time.sleep(0.01)


def _signal(process: psutil.Process, number: signal.Signals) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.send_signal(number)
    except psutil.Error:
        return False
    return True


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
