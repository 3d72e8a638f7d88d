"""Disks that are full or read-only: said before anything starts, waited for while it runs. Torch-free."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dstbench.errors import BadInput
from dstbench.results.files import make_folder
from dstbench.results.steady import is_passing

PATIENCE = 60.0
"""Seconds for which a write is tried again, if $DSTBENCH_PATIENCE says nothing else: space is made meanwhile."""
LEAST = 2**24
"""Bytes that have to be free before trials start: their leases, logs and records."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_T = TypeVar("_T")


def is_full(error: BaseException) -> bool:
    """Whether an exception means that nothing more can be written: a full disk, a quota, a read-only file system."""
    return isinstance(error, OSError) and error.errno in _FULL


def patiently(write: Callable[[], _T], seconds: float | None = None) -> _T:
    """What ``write`` returns, tried again for ``seconds`` (PATIENCE) while the disk is full or the file server fails;
    then raises."""
    if seconds is None:
        seconds = _patience()
    until, pause = time.monotonic() + seconds, 0.1
    while True:
        try:
            return write()
        except OSError as error:
            if not (is_full(error) or is_passing(error)) or time.monotonic() >= until:
                raise
        time.sleep(min(pause, max(0.0, until - time.monotonic())))
        pause = min(2 * pause, 5.0)


def _patience() -> float:
    try:
        return float(os.environ.get("DSTBENCH_PATIENCE", PATIENCE))
    except ValueError:
        return PATIENCE


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, patiently, and whole or not at all: half of one is taken back."""
    before = path.stat().st_size if path.exists() else 0

    def append() -> None:
        with path.open("ab", buffering=0) as file:
            try:
                content = f"{line}\n".encode()
                written = file.write(content)
                if written < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            except OSError:
                file.truncate(before)
                raise

    patiently(append)


def check_room(folder: Path, name: str = "out") -> None:
    """Raise BadInput, naming the option, where a folder can't be written to, or has next to no space left."""
    try:
        make_folder(folder, name)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".room-") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(
            f"{name}: expected a folder that can be written to, got '{folder}': {error.strerror}"
        ) from error
    if free < LEAST:
        raise BadInput(
            f"{name}: expected {LEAST // 2**20} MiB of free space in '{folder}' at least, got {free / 2**20:.1f} MiB"
        )
