"""Tensors and plain values in one file: written whole or not at all, read without running anything that is in it.

The format is torch's own, a zip file, whose checksums ``zipfile`` checks: torch itself does not, and would train on
with a flipped bit.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dstbench.errors import BadInput
from dstbench.results.steady import steadily
from dstbench.runner.trial import fence


def write(content: Mapping[str, Any], path: Path, previous: Path | None = None) -> None:
    """Put ``content``, tensors and plain values, in place of what is at ``path``; a crash leaves one or the other.
    ``previous``: where what was there is kept. Raises LeaseLost where the folder is another process's by now."""
    steadily(lambda: _write(content, path, previous))


def _write(content: Mapping[str, Any], path: Path, previous: Path | None) -> None:
    with fence.fenced(path.parent):
        written = fresh(path)
        with written.open("wb") as file:
            _save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            _keep(path, previous)
        written.replace(path)
    _sync(path.parent)


class _Watched:
    """A file that remembers why it couldn't be written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, block: bytes) -> int:
        """Write, as the file does."""
        try:
            return self._file.write(block)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """What ``write`` kept back is written when the file is flushed by us."""


def _save(content: Mapping[str, Any], file: BinaryIO) -> None:
    """torch.save, which says of a full disk that it found itself at an unexpected position: here it is an OSError."""
    watched = _Watched(file)
    try:
        torch.save(content, watched)  # type: ignore[arg-type, unused-ignore]
    except RuntimeError:
        if watched.failure is not None:
            raise watched.failure from None
        raise


def fresh(path: Path) -> Path:
    """Where the file is that ``write`` hasn't finished."""
    return fence.scratch_of(path.parent) / f"{path.name}.new"


def _keep(path: Path, previous: Path) -> None:
    """Have a file by another name, too, in place of what that named: at no instant is there less than one of them."""
    link = fresh(previous)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # not every file system has links
        fence.check(path.parent)
        path.replace(previous)
        return
    link.replace(previous)


def read(path: Path) -> dict[str, Any]:
    """What ``write`` wrote, on the CPU. Raises BadInput, naming the file, for anything else and for damage."""
    if not path.is_file():
        raise BadInput(f"{path}: expected a file{', got none' if not path.exists() else ''}")
    try:
        steadily(lambda: _check(path))
        content = steadily(lambda: torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:  # zipfile and torch raise whatever they stumble over
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise BadInput(f"{path}: can't be read as tensors and plain values: {reason}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected a mapping, got {type(content).__name__}")
    return content


def _check(path: Path) -> None:
    """Raise where a byte isn't what was written. torch compresses nothing: what is compressed isn't its."""
    with zipfile.ZipFile(path) as parts:
        packed = [part.filename for part in parts.infolist() if part.compress_type != zipfile.ZIP_STORED]
        damaged = packed or [name for name in [parts.testzip()] if name]
    if damaged:
        raise ValueError(f"{damaged[0]} is damaged")


def _sync(folder: Path) -> None:
    """Have a rename in a folder survive a power cut, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems sync no folders
        pass
    finally:
        os.close(handle)
