"""The local executor: every trial in processes of its own, on the processors and GPUs of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from dstbench.errors import BadInput
from dstbench.results.record import FILE, read_record
from dstbench.runner.execution.child import BEGUN, ENDED, OVER, RETURNED, hear
from dstbench.runner.execution.descendants import kill_descendants, signal_descendants
from dstbench.runner.execution.launched import launched
from dstbench.runner.execution.lease import release_dead
from dstbench.runner.execution.server import run_under_way, start, warm_up
from dstbench.runner.execution.worker import DONE, ELSEWHERE, Event, Job, record_death
from dstbench.runner.failures import died
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.quantities import memory_text

GRACE = 5.0
"""Seconds between asking a process to end (SIGTERM) and ending it (SIGKILL)."""
_MEMORY = 2 * 2**30  # bytes that a trial is assumed to need when the number of workers is ours to choose
_IMPORTING = 600.0  # seconds after which a limit counts although the trial never said that it begins
_UNHEARD = 15.0  # seconds after which a supervisor is no longer believed to be ending what its trial left
_LONGEST = 60.0  # seconds between two looks: the system counts a pause in milliseconds, in 31 bits


@dataclass
class _Running:
    """A trial under way."""

    job: Job
    process: ForkServerProcess  # its supervisor's
    report: Connection
    supervisor: psutil.Process | None  # None: it had ended at once
    slot: int
    before: tuple[int, int] | None  # the record's stamp at the start: a changed one is this attempt's
    started: float = field(default_factory=time.monotonic)  # the trial, once it says so
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
) -> None:
    """Run jobs on this machine, at most ``workers`` at a time (by default: one per GPU, else as many as its cores
    and memory allow).

    A job past its limit, counted from where the trial begins, gets SIGTERM and, ``grace`` seconds later, SIGKILL,
    with all that it started; so does one whose processes hold more than its memory. A process that dies fails its
    own trial only. What a trial started ends with it. On an
    exception here, KeyboardInterrupt included, the children are ended and no record is written for them.
    """
    gpus = gpu_sets([] if jobs and jobs[0].options.get("device") == "cpu" else visible_gpus(), jobs)
    computing = max((threads_of(job.trial.training) for job in jobs), default=1)
    workers = max(1, min(workers or default_workers(gpus, computing), len(jobs) or 1))
    threads = max(1, cores() // workers)
    waiting, slots, running = deque(jobs), deque(range(workers)), list[_Running]()
    with run_under_way():
        warm_up(preload)
        try:
            while waiting or running:
                while waiting and slots:
                    running.append(_start(waiting.popleft(), slots.popleft(), threads, gpus))
                    on_event(Event("started", running[-1].job))
                _wait(running, grace)
                for child in list(running):
                    _listen(child)
                    if child.process.is_alive():
                        _enforce(child, grace)
                        continue
                    running.remove(child)
                    slots.append(child.slot)
                    on_event(_finish(child))
        finally:
            _stop(running, grace)


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
    job.folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name.startswith("DSTBENCH_")}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    before = _stamp(job.folder)
    process, report = start(job, threads, environment)
    return _Running(job, process, report, _process(process.pid), slot, before)


def _wait(running: Sequence[_Running], grace: float) -> None:
    """Until a trial begins or ends, or a limit is reached."""
    reports = [child.report for child in running if child.listened_to]
    wait([*reports, *(child.process.sentinel for child in running)], timeout=_pause(running, grace))


def _listen(running: _Running) -> None:
    """Take in what a trial's processes said."""
    if running.report.closed:
        return
    new, more = hear(running.report)
    if not more:
        running.report.close()
    if BEGUN in new and BEGUN not in running.heard:
        running.started = time.monotonic()
    running.heard |= new


def _pause(running: Sequence[_Running], grace: float) -> float:
    """Seconds until the next limit, at most a minute."""
    limits = [
        child.job.limit - child.seconds if child.asked is None else child.asked + grace - time.monotonic()
        for child in running
        if child.job.limit is not None and BEGUN in child.heard
    ]
    return min(_LONGEST, max(0.05, min(limits, default=_LONGEST)))


def _enforce(running: _Running, grace: float) -> None:
    """Ask, then force, a trial past its limit to end; its supervisor, too, where that doesn't say that it did."""
    allowed = 0.0 if BEGUN in running.heard else _IMPORTING
    if running.job.limit is None or running.seconds < max(running.job.limit, allowed):
        return
    if running.asked is None:
        running.asked = time.monotonic()
        _signal(running, signal.SIGTERM)
    elif (waited := time.monotonic() - running.asked) >= grace + _UNHEARD:
        _kill(running)
    elif waited >= grace:
        _signal(running, signal.SIGKILL)


def _finish(running: _Running) -> Event:
    """What became of a process that has ended."""
    job, seconds = running.job, running.seconds
    _listen(running)
    running.report.close()
    _kill(running)  # nothing, unless the supervisor was killed, or the server that tells of its end
    returned = running.heard.get(RETURNED)
    if returned != ELSEWHERE:
        release_dead(job.folder)
    stamp = _stamp(job.folder)
    if stamp is not None and stamp != running.before:
        record = read_record(job.folder)
        if isinstance(record, dict):
            return Event("finished", job, record["status"], record["reason"], seconds)
        return Event("finished", job, "failed", str(record), seconds)
    if returned in (DONE, ELSEWHERE):
        return Event("finished", job, "cached" if returned == DONE else "elsewhere", None, seconds)
    status, reason = _death(running, running.heard.get(ENDED, running.process.exitcode or 0))
    if job.phase == "train":
        over = running.heard.get(OVER)
        record_death(job, status, reason, seconds, {"peak_memory": over} if over else None)
    return Event("finished", job, status, reason, seconds)


def _death(running: _Running, code: int) -> tuple[str, str]:
    if running.asked is not None:
        return "timeout", f"stopped at its limit of {running.job.limit:g} s"
    if (held := running.heard.get(OVER)) is not None:
        limit = memory_text(running.job.memory or 0)
        return "oom", f"its processes held {memory_text(held)}, more than their limit of {limit}"
    return died(code)


def _stop(running: Sequence[_Running], grace: float) -> None:
    """End what still runs."""
    for child in running:
        _signal(child, signal.SIGTERM)
    until = time.monotonic() + grace
    for child in running:
        child.process.join(max(0.0, until - time.monotonic()))
        _kill(child)
        child.process.join()
        child.report.close()
        release_dead(child.job.folder)


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
    if ENDED not in running.heard and (trial := _process(running.heard.get(BEGUN))) is not None:
        with contextlib.suppress(OSError, psutil.Error):
            os.killpg(trial.pid, signal.SIGKILL)
            trial.wait(_UNHEARD)


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
        found = (folder / FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
