"""What the C library does with memory that a trial frees."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST_FREE = 2**31 - 1  # bytes that may lie unused; mallopt takes an int
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables by which a user says it otherwise."""


def keep_freed() -> bool:
    """Have this process, and those that it forks, keep what they free: the next training step takes as much again.

    glibc gives large blocks back to the system, which hands them out again zeroed, a page at a time: a network whose
    activations are 16 MiB each spent 12 to 23 % of its training's CPU time on that. No value depends on it. Returns
    whether that is done: not where the C library is another, nor where the environment has a say.
    """
    if any(os.environ.get(name) for name in _SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # blocks that aren't mapped one by one; older versions take no more than 32 MiB
    in_heap = mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_THRESHOLD, 2**25)
    return bool(in_heap and mallopt(_M_TRIM_THRESHOLD, _MOST_FREE))
