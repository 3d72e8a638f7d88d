"""The log of a trial: what it prints. It never grows beyond a limit, and is never read whole."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import BinaryIO

from dstbench.results.steady import steadily

LIMIT = 10_000_000
"""Bytes of a log; of a longer one the beginning and the end are kept."""
_HEAD, _TAIL = 4_000_000, 3_000_000  # what is kept at the limit; it then has room to grow again
_GAP = b"\n[... what was here is left out: a log holds 10 MB ...]\n"

_LOOKED_AT = 2**18  # bytes at the end in which the last words are looked for
_MODULES = re.compile(r"^Extension modules: .*\n?", re.MULTILINE)
"""What faulthandler writes after the stack of a crash; it is longer than the part of a log that is kept."""


def keep_log(source: int, path: Path) -> None:
    """Append what comes from the file descriptor ``source`` to a file, until every writer has closed it.

    A full disk loses the log, never the trial: its writes go on.
    """
    try:
        with path.open("a+b", buffering=0) as log:
            while block := os.read(source, 2**16):
                steadily(partial(log.write, block))
                if log.tell() > LIMIT:
                    _shorten(log)
    except OSError:
        while os.read(source, 2**16):
            pass


def _shorten(log: BinaryIO) -> None:
    """Leave the middle out."""
    log.seek(-_TAIL, os.SEEK_END)
    tail = log.read(_TAIL)
    log.truncate(_HEAD)
    log.write(_GAP + tail)  # opened to append: at the end, wherever the position is


def last_line(path: Path) -> str | None:
    """The last line of a log that isn't empty; None where there is none."""
    return next((line for line in reversed(last_words(path).splitlines()) if line.strip()), None)


def last_words(path: Path, length: int = 4000) -> str:
    """The end of a log, without the list of modules that follows the stack of a crash; empty if there is no log."""
    if not path.is_file():
        return ""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - _LOOKED_AT))
        text = log.read(_LOOKED_AT).decode(errors="replace")
    return _MODULES.sub("", text)[-length:]
