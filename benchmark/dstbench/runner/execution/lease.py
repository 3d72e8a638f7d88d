"""Leases: two schedulers on one results folder never run the same trial twice."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

FILE = "lease.json"
_UNLIMITED = 7 * 24 * 3600.0  # how long another machine's lease on a trial without a time limit is believed
_WRITING = 10.0  # an unreadable lease younger than this is one that is being written


@contextmanager
def lease(folder: Path, seconds: float | None = None) -> Iterator[bool]:
    """Hold a trial's folder for this process: yields False where a living process holds it.

    ``seconds`` is the longest that the holder expects to need: other machines, which can't see whether it
    is alive, believe the lease for that long. One whose process is gone is taken over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    held = _create(path, seconds)
    if not held and _is_stale(path):
        _remove_stale(path)
        held = _create(path, seconds)
    try:
        yield held
    finally:
        if held:
            path.unlink(missing_ok=True)


def release_dead(folder: Path) -> None:
    """Remove what a killed process left."""
    if (folder / FILE).exists() and _is_stale(folder / FILE):
        _remove_stale(folder / FILE)


def _create(path: Path, seconds: float | None) -> bool:
    pid = os.getpid()
    content = {
        "pid": pid,
        "started": psutil.Process(pid).create_time(),  # pids are used again
        "host": socket.gethostname(),
        "expires": time.time() + (_UNLIMITED if seconds is None else seconds),
    }
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(content, file)
    except FileExistsError:
        return False
    return True


def _is_stale(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pid, started = int(content["pid"]), float(content["started"])
        host, expires = content["host"], float(content["expires"])
    except FileNotFoundError:
        return True
    except (ValueError, KeyError, TypeError, OSError):
        return time.time() - path.stat().st_mtime > _WRITING
    return time.time() > expires if host != socket.gethostname() else not _is_alive(pid, started)


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == started) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _remove_stale(path: Path) -> None:
    """Of two that see the same stale lease, one gets it: renaming is atomic."""
    aside = path.with_name(f".{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if not _is_stale(aside):  # the other was faster and the lease is new: put it back
        os.link(aside, path)
    aside.unlink()
