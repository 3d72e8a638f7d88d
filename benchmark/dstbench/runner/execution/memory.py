"""The memory limit of a trial: what all of its processes hold, looked at several times a second, and a net below.

The net is the system's own limit on what one process may allocate: it refuses a single enormous allocation where it
is made, so the trial ends itself with a traceback. What grows piece by piece is found by looking.
"""

from __future__ import annotations

import contextlib
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from dstbench.runner.execution.descendants import kill_descendants, signal_descendants

GRACE = 2.0
"""Seconds between asking the processes of a trial over its limit to end and ending them."""
_FAR = 1.25  # times the limit: nobody is waited for
_FASTEST = 2 * 2**30  # bytes a second that a trial is taken to need at most: when to look next
_OFTEN, _RARELY = 0.05, 1.0  # seconds between two looks
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def held_by(processes: list[psutil.Process], enough: float = 0.0) -> int:
    """Bytes of memory that processes hold, what they share counted once (Linux) or in each.

    Where the sum of their resident sets is at most ``enough``, it is that sum: never less, and quicker to find.
    """
    resident = sum(map(_resident, processes))
    return resident if resident <= enough else sum(map(_proportional, processes))


def watch(process: psutil.Process, limit: int, over: Callable[[int], None]) -> None:
    """Hold all that a process started under a limit, for as long as it runs: a thread's work.

    Once they hold more, ``over`` is told how many bytes, and they are asked to end (SIGTERM). Those that don't, or go
    on growing, are ended (SIGKILL): the machine's memory may be gone before an answer.
    """
    asked: float | None = None
    while True:
        try:
            held = held_by(process.children(recursive=True), limit)
        except psutil.Error:
            return
        if held > limit and asked is None:
            asked = time.monotonic()
            over(held)
            signal_descendants(process, signal.SIGTERM)
        if asked is not None and (held > _FAR * limit or time.monotonic() - asked > GRACE):
            kill_descendants(process)
        time.sleep(min(_RARELY, max(_OFTEN, (limit - held) / _FASTEST)))


def spread_net(limit: int) -> None:
    """Have the system refuse this process, and each that it starts, to take much more than ``limit`` from here on.

    It counts what is allocated, used or not, which is why there is room between it and the limit.
    """
    if sys.platform != "linux":
        return  # elsewhere it isn't enforced, or counts what is shared
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        allowed = round(_FAR * limit) + psutil.Process().memory_info().data
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or allowed < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _proportional(process: psutil.Process) -> int:
    """The share of what it holds that is this process's: a page that four processes hold is a quarter of one."""
    try:
        matched = _PSS.search(Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii"))
    except OSError:
        matched = None
    return 1024 * int(matched[1]) if matched else _resident(process)
