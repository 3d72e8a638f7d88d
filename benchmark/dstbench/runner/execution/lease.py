"""Leases: of all processes on all machines that share a results folder, one runs a trial.

A lease is the folder ``lease/<token>`` of a trial's folder. Its holder says there who it is, to people, renews it
every 30 s, and makes ready in it what it publishes. Every step is one rename, which file servers do for one process
or for none:

- it is taken by renaming a folder with this one entry to ``lease``, which has to be absent or empty;
- it ends, by its holder or by another after 90 s without a beat, by renaming ``lease/<token>`` away and removing it.
  Nobody can mean another's: tokens are random, and a name that is gone has been ended already;
- a record or a checkpoint is published by renaming it out of the lease. A holder that was paused and lost its lease
  finds neither, so it can't write however late it goes on.

How long ago a beat was is the file server's word: its modification time against that of a file touched at the time
of the look, on the same mount. No two machines' clocks are compared. Only where the holder's processes ran in this
boot of this machine and in this namespace of pids, and are gone, is there nothing to wait for.

filelock's SoftReadWriteLock (4.3) has the same beat and is not used: a contender there has to watch an unchanged lock
for 90 s itself, so every worker that starts waits that long for every trial a dead machine left; nobody else can tell
a living lock from a dead one by looking (``dstbench status`` does); a fork may not go on with its parent's, and here
the supervisor renews what its fork writes under; and it hands out a number to fence writes with, which a folder of
files has no server to check, where a rename out of the lease is the check itself.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from dstbench.results.files import read_plain
from dstbench.results.steady import entries, is_passing, steadily
from dstbench.runner.execution import losses
from dstbench.runner.execution.losses import HOLDER

LEASE = "lease"
"""In a trial's folder, while it runs."""
BEAT, EXPIRY = 30.0, 90.0
"""Seconds between two beats, and after the last of them."""
_ASIDE = ".lease-"  # what is made ready or taken away has a name that begins so
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_LARGEST = 2**16  # bytes of what a holder says


@dataclass(frozen=True)
class Lease:
    """A lease that this process, or the one that it was forked from, took."""

    folder: Path  # the trial's
    token: str

    @property
    def scratch(self) -> Path:
        """Where what is published in ``folder`` is made ready. It is gone when the lease is."""
        return self.folder / LEASE / self.token

    def is_held(self) -> bool:
        """Whether nobody took it. Raises OSError where the file server can't say."""
        return self._reached(lambda: (self.scratch / HOLDER).stat())

    def beat(self) -> bool:
        """Renew it; returns whether it was still held. A file server that can't be reached may come back."""
        with suppress(OSError):
            return self._reached(lambda: os.utime(self.scratch / HOLDER))
        return True

    def release(self) -> None:
        """End it, if nobody else did."""
        end(self.folder, self.token)

    def lose(self) -> None:
        """End it as another does that finds its holder lost."""
        end(self.folder, self.token, lost=True)

    @staticmethod
    def _reached(look: Callable[[], Any]) -> bool:
        try:
            steadily(look)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        return True


@dataclass(frozen=True)
class Holder:
    """Who holds a trial, or did."""

    path: Path  # of the lease
    age: float  # seconds since the last beat, by the file server's clock
    said: Mapping[str, Any] = field(default_factory=dict)  # empty where that can't be read

    @property
    def is_lost(self) -> bool:
        """Whether anyone may take it."""
        return self.age > EXPIRY or _has_ended(self.said)

    @property
    def name(self) -> str:
        """Its node, as people know it."""
        return losses.name_of(self.said)


def acquire(folder: Path, token: str | None = None) -> Lease | None:
    """Take a trial's lease if it is free, or if its holder is lost; None where someone holds it."""
    lease = Lease(folder, token or uuid.uuid4().hex)
    ready = folder / f"{_ASIDE}{uuid.uuid4().hex}"
    try:
        steadily(lambda: (ready / lease.token).mkdir(parents=True, exist_ok=True))
        holder = ready / lease.token / HOLDER
        said = json.dumps(_oneself(lease.token), indent=1) + "\n"
        steadily(lambda: holder.write_text(said, encoding="utf-8"))
        steadily(lambda: os.utime(holder))
        now = steadily(holder.stat).st_mtime
        if not _put(ready, folder / LEASE):
            for path in _places(folder):
                _pass_over(_holder(path, now), folder)
            if not (
                _put(ready, folder / LEASE) or lease.is_held()
            ):  # held: a server did it, and then said no
                return None
        _tidy(folder, now)
        return lease if lease.beat() else None  # from now on, however long all this took
    except FileNotFoundError:  # someone removed what was made ready, as left by the dead: it took long
        return None
    finally:
        shutil.rmtree(ready, ignore_errors=True)


def look(folder: Path, now: float | None = None) -> Holder | None:
    """The holder of a trial, lost or not; None where there is none. Changes nothing but to read the clock.

    now: by the file server's clock (``clock``); read anew where it isn't given, and only if there is a holder.
    """
    places = _places(folder)
    if not places:
        return None
    now = clock(folder) if now is None else now
    holders = [_holder(path, now) for path in places]
    return min(holders, key=lambda holder: (holder.is_lost, holder.age))


def end(folder: Path, token: str, lost: bool = False) -> None:
    """End a trial's lease, if it is still this one's: for the process that started its holder and saw it end. lost:
    whether that was lost."""
    _remove(folder / LEASE / token, folder, lost)
    with suppress(OSError):
        steadily((folder / LEASE).rmdir)  # not empty: it is another's by now


def clock(folder: Path) -> float:
    """The time by the clock of the file system that holds a folder."""
    touched = folder / f"{_ASIDE}{uuid.uuid4().hex}"
    try:
        steadily(touched.touch)
        steadily(lambda: os.utime(touched))
        return steadily(touched.stat).st_mtime
    finally:
        steadily(lambda: touched.unlink(missing_ok=True))


@contextmanager
def renewed(lease: Lease, on_loss: Callable[[], None]) -> Iterator[None]:
    """Renew a lease in a thread. Calls ``on_loss`` there, once, when someone took it."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            if not lease.beat():
                on_loss()
                return

    threading.Thread(target=beat, daemon=True, name="heartbeat").start()
    try:
        yield
    finally:
        over.set()


def _put(ready: Path, place: Path) -> bool:
    """Rename a folder to ``place``, if nothing but an empty folder is there."""
    try:
        steadily(lambda: ready.rename(place))
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ENOENT):
            return False
        raise
    return True


def _places(folder: Path) -> list[Path]:
    """The lease in a trial's folder, or whatever else someone put there; none where it is free."""
    place = folder / LEASE
    try:
        folded = stat.S_ISDIR(steadily(place.lstat).st_mode)
        return steadily(lambda: list(place.iterdir())) if folded else [place]
    except OSError as error:
        if error.errno in _GONE:
            return []
        raise


def _holder(path: Path, now: float) -> Holder:
    said: Any = None
    with suppress(OSError, ValueError, RecursionError):
        said = json.loads(read_plain(path / HOLDER, _LARGEST))
    return Holder(path, now - _last_beat(path, now), said if isinstance(said, dict) else {})


def _last_beat(path: Path, now: float) -> float:
    """The modification time of a holder's file, or of what is there in its place; ``now`` if it is gone."""
    for file in (path / HOLDER, path):
        try:
            return steadily(partial(_modified, file))
        except OSError as error:
            if error.errno not in _GONE:
                raise
    return now


def _modified(file: Path) -> float:
    """Opening a file has an NFS client ask the server; looking at its status may be answered from memory."""
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
        try:
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)
    except OSError as error:
        if is_passing(error):
            raise
        return os.lstat(file).st_mtime


def _pass_over(holder: Holder, folder: Path) -> None:
    """Remove a lost holder's lease. One from the future, which no clock would ever end, is of now from now on."""
    if holder.is_lost:
        _remove(holder.path, folder, lost=True)
    elif holder.age < -BEAT:
        for path in (holder.path / HOLDER, holder.path):
            with suppress(OSError):
                os.utime(path, follow_symlinks=False)


def _remove(path: Path, folder: Path, lost: bool = False) -> None:
    """Take a lease away, with what is in it, if it is still there; of a lost one it is noted whose it was."""
    if lost and path.name != LEASE:
        losses.note(path, folder)
    aside = folder / f"{_ASIDE}{uuid.uuid4().hex}"
    try:
        if path.name == LEASE or not stat.S_ISDIR(steadily(path.lstat).st_mode):
            steadily(path.unlink)  # which removes no folder: whoever put one there meanwhile keeps it
        else:
            steadily(lambda: path.rename(aside))
    except OSError as error:
        if error.errno not in (*_GONE, errno.EISDIR, errno.EPERM):
            raise
    shutil.rmtree(aside, ignore_errors=True)


def _tidy(folder: Path, now: float) -> None:
    """Remove what processes left that were killed while they took or ended a lease."""
    for path in entries(folder):
        if path.name.startswith(_ASIDE) and now - _last_beat(path, now) > EXPIRY:
            with suppress(OSError):
                path.unlink() if not path.is_dir() else shutil.rmtree(path, ignore_errors=True)


def _oneself(token: str) -> dict[str, Any]:
    """Who this process is. The process that started it answers for it, too, once it has ended."""
    scheduler = parent_process()
    return {
        "token": token,
        "host": socket.gethostname(),
        "node": os.environ.get("SLURMD_NODENAME"),
        "job": os.environ.get("SLURM_JOB_ID"),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "boot": _boot(),
        "pid_namespace": _namespace(),
        "processes": [
            {"pid": pid, "started": _started(pid)}
            for pid in (os.getpid(), *([scheduler.pid] if scheduler and scheduler.pid else []))
        ],
    }


def _has_ended(said: Mapping[str, Any]) -> bool:
    """Whether a holder's processes are known to be gone: they were of this machine's present boot and of this
    namespace, where no other process has had their pids at their time."""
    boot, namespace, processes = _boot(), _namespace(), said.get("processes")
    if None in (boot, namespace) or (said.get("boot"), said.get("pid_namespace")) != (boot, namespace):
        return False
    return isinstance(processes, list) and bool(processes) and all(map(_is_gone, processes))


def _is_gone(process: Any) -> bool:
    pid, started = (process.get(name) if isinstance(process, dict) else None for name in ("pid", "started"))
    if type(pid) is not int or type(started) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    now = _started(pid)
    return now is not None and now != started


def _started(pid: int) -> int | None:
    """When a process started, in the system's ticks since its boot, which no clock's step changes; -1 for a dead one
    that is still listed; None where that can't be known."""
    with suppress(OSError, ValueError, IndexError):
        fields = (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        )  # the name may hold anything
        return -1 if fields[0] in "ZX" else int(fields[19])
    return None


def _boot() -> str | None:
    """What this boot of this machine is called; None where the system has no name for it."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _namespace() -> str | None:
    """The namespace of this process's pids; None where it isn't that of /proc, too."""
    with suppress(OSError):
        if os.readlink("/proc/self") == str(os.getpid()):  # noqa: PTH115 (a str)
            return os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    return None
