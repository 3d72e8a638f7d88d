"""Calls that a file server may fail once: they are made again before that counts. Torch-free."""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PAUSES = (0.05, 0.2, 1.0, 2.0)
"""Seconds before each further try. NFS clients hold what they know of a file for three seconds at least."""
_PASSING = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.EAGAIN,
        errno.EINTR,
        errno.ETIMEDOUT,
        getattr(errno, "EREMOTEIO", errno.EIO),
    }
)
_T = TypeVar("_T")


def is_passing(error: BaseException) -> bool:
    """Whether an exception is of the kind that a file server gets over: an error of its disk or on the way there, or
    a handle of a file that another machine has replaced."""
    return isinstance(error, OSError) and error.errno in _PASSING


def steadily(call: Callable[[], _T]) -> _T:
    """What ``call`` returns, made again after a pause where the file server fails it. Raises what it raises the last
    time, and anything else at once."""
    for pause in PAUSES:
        try:
            return call()
        except OSError as error:
            if not is_passing(error):
                raise
        time.sleep(pause)
    return call()


def is_there(path: Path) -> bool:
    """Whether something is at a path; a link to nothing is nothing. Raises OSError where the server can't say."""
    try:
        steadily(path.stat)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def modified(path: Path) -> float | None:
    """When a path was modified: seconds since the epoch by the file server's clock; None where nothing is there."""
    try:
        return steadily(path.stat).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None


def entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing where there is none. Raises OSError where the file server can't say."""
    try:
        return (
            steadily(lambda: list(folder.iterdir())) if stat.S_ISDIR(steadily(folder.lstat).st_mode) else []
        )
    except (FileNotFoundError, NotADirectoryError):
        return []
