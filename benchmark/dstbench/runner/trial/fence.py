"""What a trial writes into its folder counts only as long as the trial is its own: after that it can't be written.

The process of a trial is told where its lease lets it make files ready. Whoever takes the lease removes that folder
with all that is in it, so what was made ready there can't be renamed into place any more. Torch-free.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class LeaseLost(BaseException):
    """The trial is another process's by now: this one stops, and writes nothing."""


class _Fence:
    """The folder that this process may write into by a lease, and where it makes ready what it writes."""

    folder: Path | None = None
    scratch: Path | None = None


def guard(folder: Path | None, scratch: Path | None) -> None:
    """What is written into ``folder`` from now on needs ``scratch`` to be there; None: no folder is guarded."""
    _Fence.folder, _Fence.scratch = folder, scratch


def scratch_of(folder: Path) -> Path:
    """Where a file for ``folder`` is made ready: in its lease, or where there is none in the folder itself."""
    return _Fence.scratch if _Fence.scratch is not None and folder == _Fence.folder else folder


def check(folder: Path) -> None:
    """Raise LeaseLost where a guarded folder isn't this process's any more."""
    if folder != _Fence.folder or _Fence.scratch is None:
        return
    try:
        _Fence.scratch.stat()
    except OSError as error:
        if error.errno not in _GONE:
            raise
        raise LeaseLost(f"{folder}: another process runs this trial by now") from error


@contextmanager
def fenced(folder: Path) -> Iterator[Path]:
    """Where to make a file of ``folder`` ready, and to rename it from; LeaseLost where that can't be any more."""
    try:
        yield scratch_of(folder)
    except OSError:
        check(folder)
        raise
