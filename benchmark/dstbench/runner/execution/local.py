"""The local executor: every trial in processes of its own, on the processors and GPUs of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from dstbench.errors import BadInput
from dstbench.results.record import FILE, read_record
from dstbench.results.steady import steadily
from dstbench.results.storage import is_full
from dstbench.runner.execution.child import BEGUN, ENDED, OVER, RETURNED, hear
from dstbench.runner.execution.descendants import kill_descendants, signal_descendants
from dstbench.runner.execution.halt import UNAVAILABLE_STATUS, UNWRITTEN_STATUS, Halt
from dstbench.runner.execution.launched import launched
from dstbench.runner.execution.lease import Lease
from dstbench.runner.execution.log import last_line
from dstbench.runner.execution.queue import Queue
from dstbench.runner.execution.server import run_under_way, start, warm_up
from dstbench.runner.execution.stop import Stop
from dstbench.runner.execution.worker import (
    DONE,
    ELSEWHERE,
    INTERRUPTED,
    LOG,
    NOTED,
    UNAVAILABLE,
    UNMEASURED,
    UNWRITTEN,
    Event,
    Job,
    record_death,
)
from dstbench.runner.failures import died
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.quantities import memory_text
from dstbench.runner.trial import interruption

GRACE = 5.0
"""Seconds between asking a process to end (SIGTERM) and ending it (SIGKILL)."""
_MEMORY = 2 * 2**30  # bytes that a trial is assumed to need when the number of workers is ours to choose
_IMPORTING = 600.0  # seconds after which a limit counts although the trial never said that it begins
_UNHEARD = 15.0  # seconds after which a supervisor is no longer believed to be ending what its trial left
_ASKED_TOO = 2.0  # seconds within which a signal to all processes of a job reaches all of them
_LONGEST = 60.0  # seconds between two looks: the system counts a pause in milliseconds, in 31 bits


@dataclass
class _Running:
    """A trial under way."""

    job: Job
    lease: Lease  # that its supervisor holds, and that is ended here
    process: ForkServerProcess  # its supervisor's
    report: Connection
    supervisor: psutil.Process | None  # None: it had ended at once
    slot: int
    before: tuple[int, int] | None  # the record's stamp at the start: a changed one is this attempt's
    started: float = field(default_factory=time.monotonic)  # the trial, once it says so
    trial: psutil.Process | None = None  # its own process, likewise
    interrupted: bool = False  # whether it was asked to stop where it can go on
    asked: float | None = None  # when it was asked to end
    heard: dict[str, int] = field(default_factory=dict)

    @property
    def listened_to(self) -> bool:
        """Whether there is something to hear of it while it runs: its beginning."""
        return BEGUN not in self.heard and not self.report.closed

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def run_local(
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    on_event: Callable[[Event], None],
    preload: Sequence[str] = (),
    grace: float = GRACE,
    patient: bool = False,
    stop: Stop | None = None,
) -> None:
    """Run jobs on this machine, at most ``workers`` at a time (by default: one per GPU, else as many as its cores
    and memory allow).

    A job past its limit, counted from where the trial begins, gets SIGTERM and, ``grace`` seconds later, SIGKILL,
    with all that it started; so does one whose processes hold more than its memory. A process that dies fails its
    own trial only. What a trial started ends with it.
    patient: wait for trials that other processes hold, and take over those of a lost one; else leave them.
    stop: when it is due, trials are interrupted where they can go on later, and what is left stays open. On an
    exception here, KeyboardInterrupt included, so are they, within ``grace``; no record is written for them.
    After a job that fails, here or elsewhere, none is started that ``stops_with`` it; what runs goes on. So it does
    where the disk is full: nothing more is started, and OSError is raised when all have ended.
    """
    gpus = gpu_sets([] if jobs and jobs[0].options.get("device") == "cpu" else visible_gpus(), jobs)
    computing = max((threads_of(job.trial.training) for job in jobs), default=1)
    workers = max(1, min(workers or default_workers(gpus, computing), len(jobs) or 1))
    threads = max(1, cores() // workers)
    queue, slots, running = Queue(jobs, on_event, patient=patient), deque(range(workers)), list[_Running]()
    halt = Halt(queue.close, on_event)
    with run_under_way():
        warm_up(preload)
        try:
            while queue or running:
                if stop is not None and stop.is_due:
                    queue.close()
                while slots and (job := queue.take([child.job for child in running])):
                    try:
                        running.append(_start(job, slots[0], threads, gpus))
                    except OSError as error:
                        if not is_full(error):
                            raise
                        halt.full(str(error))
                        break
                    slots.popleft()
                    halt(Event("started", job))
                if not (queue or running):
                    break
                _wait(running, grace, queue.pause if slots else _LONGEST, stop)
                for child in list(running):
                    _listen(child)
                    if child.process.is_alive():
                        _enforce(child, grace, stop)
                        continue
                    _finish(child, queue, halt, stop)
                    running.remove(child)  # not before: what interrupts leaves the lease to _stop
                    slots.append(child.slot)
        finally:
            _stop(running, grace)
    halt.check()


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(training: Training) -> int:
    """The cores that a trial computes on, with all of its processes."""
    return training.threads * training.processes


def gpu_sets(gpus: Sequence[str], jobs: Sequence[Job]) -> list[str]:
    """The GPUs in sets as large as the largest trial needs: one a process, or all that a launcher's ranks share.

    Raises BadInput where there are fewer.
    """
    processes = max((job.trial.training.processes for job in jobs if job.phase == "train"), default=1)
    size = len(gpus) if launched() is not None else processes
    if gpus and size > len(gpus):
        raise BadInput(
            f"training.processes: {size} want a GPU each, and {len(gpus)} can be seen here; with --device cpu they "
            "want none"
        )
    return [",".join(gpus[first : first + size]) for first in range(0, len(gpus) - size + 1, size or 1)]


def default_workers(gpus: Sequence[str], threads: int = 1) -> int:
    """One per GPU, or set of them; without any, one per ``threads`` cores as far as memory reaches."""
    return len(gpus) or max(1, min(cores() // threads, psutil.virtual_memory().available // _MEMORY))


def visible_gpus() -> list[str]:
    """The GPUs' ids for CUDA_VISIBLE_DEVICES, found without initialising CUDA."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listing = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(i) for i in range(len(lines))] if listing.returncode == 0 else []


def _start(job: Job, slot: int, threads: int, gpus: Sequence[str]) -> _Running:
    steadily(lambda: job.folder.mkdir(parents=True, exist_ok=True))
    environment = {name: value for name, value in os.environ.items() if name.startswith("DSTBENCH_")}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    before, lease = _stamp(job.folder), Lease(job.folder, uuid.uuid4().hex)
    process, report = start(job, threads, environment, lease.token)
    return _Running(job, lease, process, report, _process(process.pid), slot, before)


def _wait(running: Sequence[_Running], grace: float, pause: float, stop: Stop | None) -> None:
    """Until a trial begins or ends, a limit is reached, ``pause`` is over, or it is time to stop."""
    told: list[Any] = [child.report for child in running if child.listened_to]
    told += [child.process.sentinel for child in running]
    if stop is not None:
        pause = min(pause, max(0.05, stop.seconds))
        told += [stop.fileno()] if stop.signal is None else []
    wait(told, timeout=min(pause, _pause(running, grace)))


def _listen(running: _Running) -> None:
    """Take in what a trial's processes said."""
    if running.report.closed:
        return
    new, more = hear(running.report)
    if not more:
        running.report.close()
    if BEGUN in new and BEGUN not in running.heard:
        running.started, running.trial = time.monotonic(), _process(new[BEGUN])
    running.heard |= new


def _pause(running: Sequence[_Running], grace: float) -> float:
    """Seconds until the next limit, at most a minute."""
    limits = [
        child.job.limit - child.seconds if child.asked is None else child.asked + grace - time.monotonic()
        for child in running
        if child.job.limit is not None and BEGUN in child.heard
    ]
    return min(_LONGEST, max(0.05, min(limits, default=_LONGEST)))


def _enforce(running: _Running, grace: float, stop: Stop | None) -> None:
    """Ask, then force, a trial to end that is past its limit, or that didn't stop when it was time; its supervisor,
    too, where that doesn't say that it did."""
    if stop is not None and stop.is_due:
        _interrupt(running)
    if not (_is_past_limit(running) or (stop is not None and stop.is_over)):
        return
    if running.asked is None:
        running.asked = time.monotonic()
        _signal(running, signal.SIGTERM)
    elif (waited := time.monotonic() - running.asked) >= grace + _UNHEARD:
        _kill(running)
    elif waited >= grace:
        _signal(running, signal.SIGKILL)


def _is_past_limit(running: _Running) -> bool:
    allowed = 0.0 if BEGUN in running.heard else _IMPORTING
    return running.job.limit is not None and running.seconds >= max(running.job.limit, allowed)


def _interrupt(running: _Running) -> None:
    """Ask a trial, once, to stop where it can go on later."""
    if running.trial is not None and not running.interrupted:
        running.interrupted = True
        with contextlib.suppress(psutil.Error):
            running.trial.send_signal(interruption.SIGNAL)


def _finish(running: _Running, queue: Queue, on_event: Callable[[Event], None], stop: Stop | None) -> None:
    """Say what became of a process that has ended, and end its lease."""
    _listen(running)
    running.report.close()
    _kill(running)  # nothing, unless the supervisor was killed, or the server that tells of its end
    try:
        ended = _ending(running, stop)
    finally:
        running.lease.release()
    if ended is None:
        queue.hold(running.job)
    else:
        on_event(ended)


def _ending(running: _Running, stop: Stop | None) -> Event | None:
    """What became of a trial, with its record; None where it is another process's."""
    job, seconds, returned = running.job, running.seconds, running.heard.get(RETURNED)
    stamp = _stamp(job.folder)
    if stamp is not None and stamp != running.before and returned not in (ELSEWHERE, NOTED):
        record = read_record(job.folder)
        if isinstance(record, dict):
            return Event("finished", job, record["status"], record["reason"], seconds)
        return Event("finished", job, "failed", str(record), seconds)
    if returned == ELSEWHERE:
        return None
    if returned == NOTED:
        return Event("finished", job, "cached", None, seconds)
    if returned == DONE and stamp is not None:
        return Event("finished", job, "cached", None, seconds)
    if returned == UNWRITTEN:
        return _unwritten(job, seconds)
    if returned == UNMEASURED:
        return Event("finished", job, "failed", last_line(job.folder / LOG), seconds)
    if returned == UNAVAILABLE:
        reason = f"its data are not on this machine: {job.folder / LOG} says what was looked for"
        return Event("finished", job, UNAVAILABLE_STATUS, reason, seconds)
    code = running.heard.get(ENDED, running.process.exitcode or 0)
    if returned == INTERRUPTED or running.interrupted or _is_ending(code, stop):
        kept = "its checkpoint is kept" if returned == INTERRUPTED else "it left no checkpoint in time"
        return Event("finished", job, "interrupted", kept, seconds)
    status, reason = _death(running, code)
    if job.phase == "train":
        known = {"peak_memory": over} if (over := running.heard.get(OVER)) else None
        try:
            if record_death(job, status, reason, seconds, known, running.lease) is None:
                return None
        except OSError as error:
            if not is_full(error):
                raise
            return _unwritten(job, seconds)
    return Event("finished", job, status, reason, seconds)


def _unwritten(job: Job, seconds: float) -> Event:
    reason = "its record can't be written: the disk is full or read-only"
    return Event("finished", job, UNWRITTEN_STATUS, reason, seconds)


def _is_ending(code: int, stop: Stop | None) -> bool:
    """Whether a trial was ended with all processes of this scheduler's job: the scheduler was asked, too, or is about
    to be."""
    if stop is None or code != -signal.SIGTERM:
        return False
    wait([stop.fileno()], timeout=_ASKED_TOO)
    return stop.signal is not None


def _death(running: _Running, code: int) -> tuple[str, str]:
    if running.asked is not None:
        return "timeout", f"stopped at its limit of {running.job.limit:g} s"
    if (held := running.heard.get(OVER)) is not None:
        limit = memory_text(running.job.memory or 0)
        return "oom", f"its processes held {memory_text(held)}, more than their limit of {limit}"
    return died(code)


def _stop(running: Sequence[_Running], grace: float) -> None:
    """End what still runs, where it can go on later if it gets there in time."""
    for child in running:
        _listen(child)
        _interrupt(child)
    _join(running, grace)
    for child in running:
        _signal(child, signal.SIGTERM)
    _join(running, min(grace, 1.0))
    for child in running:
        _kill(child)
        child.process.join()
        child.report.close()
        child.lease.release()


def _join(running: Sequence[_Running], seconds: float) -> None:
    """Wait until all have ended, for so many seconds at most."""
    until = time.monotonic() + seconds
    for child in running:
        child.process.join(max(0.0, until - time.monotonic()))


def _signal(running: _Running, number: signal.Signals) -> None:
    """Send a signal to a trial and all that it started, wherever that went."""
    if running.supervisor is not None:
        signal_descendants(running.supervisor, number)


def _kill(running: _Running) -> None:
    """End a trial, all that it started, and its supervisor: nothing is left to do where that said that it ended."""
    if running.supervisor is not None and running.supervisor.is_running():
        kill_descendants(running.supervisor)
        with contextlib.suppress(psutil.Error):
            running.supervisor.kill()
    if ENDED not in running.heard and running.trial is not None:
        with contextlib.suppress(OSError, psutil.Error):
            os.killpg(running.trial.pid, signal.SIGKILL)
            running.trial.wait(_UNHEARD)


def _process(pid: int | None) -> psutil.Process | None:
    """A process, told apart from a later one of the same number; None if it has ended already."""
    if pid is None:
        return None
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid)
    return None


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Changes whenever a record is written."""
    try:
        record = steadily((folder / FILE).stat)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return record.st_ino, record.st_mtime_ns
