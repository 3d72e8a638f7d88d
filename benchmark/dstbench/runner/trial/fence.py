"""What a trial writes into its folder counts only as long as the trial is its own: after that it can't be written.

The process of a trial is told where its lease lets it make files ready. Whoever takes the lease removes that folder
with all that is in it, so what was made ready there can't be renamed into place any more. Torch-free.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dstbench.results.steady import steadily

_VARIABLE = "DSTBENCH_LEASE"
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class LeaseLost(BaseException):
    """The trial is another process's by now: this one stops, and writes nothing."""


def guard(scratch: Path | None) -> None:
    """What this process, and those that it starts, write into a trial's folder needs ``FOLDER/lease/TOKEN`` to be
    there from now on; None: no folder is guarded."""
    os.environ.pop(_VARIABLE, None)
    if scratch is not None:
        os.environ[_VARIABLE] = str(scratch.absolute())


def scratch_of(folder: Path) -> Path:
    """Where a file for ``folder`` is made ready: in its lease, or where there is none in the folder itself."""
    scratch = Path(os.environ.get(_VARIABLE, ""))
    return scratch if scratch.parents[1:2] == (folder.absolute(),) else folder


def check(folder: Path) -> None:
    """Raise LeaseLost where a guarded folder isn't this process's any more."""
    if (scratch := scratch_of(folder)) == folder:
        return
    try:
        steadily(scratch.stat)
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
