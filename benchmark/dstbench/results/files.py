"""Files as results need them: read only where they are plain and small, written whole or not at all. Torch-free."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dstbench.errors import BadInput
from dstbench.results.steady import steadily

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_plain(path: Path, most: int) -> bytes:
    """The bytes of a plain file of at most ``most`` bytes. A link is followed.

    Raises OSError where it can't be read, and ValueError, saying what it is, where it isn't a plain file or is
    larger: reading a pipe would wait, and reading a device or a file of terabytes never end.
    """
    return steadily(lambda: _read_plain(path, most))


def _read_plain(path: Path, most: int) -> bytes:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
            raise ValueError(f"expected a plain file, got {kind}")
        if status.st_size > most:
            raise ValueError(f"expected at most {most:,} bytes, got {status.st_size:,}")
        content = os.read(handle, min(status.st_size, most) + 1)
        if len(content) != status.st_size:  # it is being written, or is one of /proc, which have no size
            with open(handle, "rb", closefd=False) as file:
                content += file.read(most + 1 - len(content))
    finally:
        os.close(handle)
    if len(content) > most:
        raise ValueError(f"expected at most {most:,} bytes, got more")
    return content


def write_whole(path: Path, text: str, scratch: Path | None = None) -> None:
    """Write a file so that a reader, or a full disk, finds the old one or the new one, never half of one."""
    write_all(path.parent, {path.name: text}, scratch)


def write_all(folder: Path, contents: Mapping[str, str], scratch: Path | None = None) -> None:
    """Write files of a folder, made where it isn't there: none is replaced before all are written.

    Text is UTF-8 with ``\\n``; what UTF-8 can't say is escaped. scratch: a folder on the same file system in which
    they are made ready, if not in their own. Raises BadInput where ``folder`` is a file, and OSError where the disk
    is full or read-only, or ``scratch`` is gone; what was there stays.
    """
    steadily(lambda: _write_all(folder, contents, scratch))


def _write_all(folder: Path, contents: Mapping[str, str], scratch: Path | None) -> None:
    make_folder(folder)
    ready: dict[str, str] = {}
    try:
        for name, text in contents.items():
            handle, ready[name] = tempfile.mkstemp(dir=scratch or folder, prefix=f".{name}-")
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode("utf-8", "backslashreplace"))
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name with nothing in it
            Path(ready[name]).chmod(0o644)  # mkstemp's 0600 would lock others out of shared results
        for name in contents:
            os.replace(ready[name], folder / name)  # noqa: PTH105  (a str here)
            del ready[name]
    finally:
        for left in ready.values():
            Path(left).unlink(missing_ok=True)


def make_folder(folder: Path, name: str = "out") -> None:
    """Make a folder for what is written. Raises BadInput, naming the option, where a file is in its place."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        raise BadInput(f"{name}: expected a folder, got the file {str(there)!r}")
    folder.mkdir(parents=True, exist_ok=True)
