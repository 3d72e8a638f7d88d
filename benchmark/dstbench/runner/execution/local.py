"""The local executor: every trial in a process of its own, forked from a server that has torch loaded.

A fresh interpreter with torch takes about ten seconds, a fork 0.2. Neither the server nor the scheduler ever
initialises CUDA: a child sees the GPU of its slot only.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType

import psutil

from dstbench.results.record import FILE, read_record
from dstbench.runner.execution.lease import release_dead
from dstbench.runner.execution.worker import ELSEWHERE, LOG, Event, Job, record_death, work

GRACE = 5.0
"""Seconds between asking a process to end (SIGTERM) and ending it (SIGKILL)."""
LAZY = ("torch._dynamo",)
"""Loaded in the server too: torch's optimizers import it when they are made, which takes over a second."""
_MEMORY = 2 * 2**30  # bytes that a trial is assumed to need when the number of workers is ours to choose


@dataclass
class _Running:
    """A trial under way."""

    job: Job
    process: ForkServerProcess
    slot: int
    started: float
    before: int | None  # the record's stamp at the start: a changed one is this attempt's
    asked: float | None = None  # when it was asked to end

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
    """Run jobs on this machine, at most ``workers`` at a time (by default: one per GPU, else per core).

    A job past its limit gets SIGTERM and, ``grace`` seconds later, SIGKILL, with all that it started. A
    process that dies fails its own trial only. On an exception here, KeyboardInterrupt included, the
    children are ended and no record is written for them.
    """
    gpus = [] if jobs and jobs[0].options.get("device") == "cpu" else visible_gpus()
    workers = max(1, min(workers or default_workers(gpus), len(jobs) or 1))
    threads = max(1, cores() // workers)
    waiting, slots, running = deque(jobs), deque(range(workers)), list[_Running]()
    warm_up(preload)
    try:
        while waiting or running:
            while waiting and slots:
                running.append(_start(waiting.popleft(), slots.popleft(), threads, gpus))
                on_event(Event("started", running[-1].job))
            wait([child.process.sentinel for child in running], timeout=_pause(running, grace))
            for child in list(running):
                if child.process.is_alive():
                    _enforce(child, grace)
                    continue
                running.remove(child)
                slots.append(child.slot)
                on_event(_finish(child))
    finally:
        _stop(running, grace)


def warm_up(preload: Sequence[str]) -> None:
    """Start the server that trials are forked from, which loads ``preload`` while this process goes on."""
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])  # this module: a child starts in it
    forkserver.ensure_running()


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(gpus: Sequence[str]) -> int:
    """One per GPU; without any, one per core as far as memory reaches."""
    return len(gpus) or max(1, min(cores(), psutil.virtual_memory().available // _MEMORY))


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
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_main, args=(job, threads, environment), name=job.key[:8])
    running = _Running(job, process, slot, time.monotonic(), _stamp(job.folder))
    with without_main():
        process.start()
    return running


def _main(job: Job, threads: int, environment: Mapping[str, str]) -> None:
    """What the child runs."""
    os.setsid()  # one group with all that the trial starts, out of reach of the terminal's Ctrl-C
    os.environ.update(environment)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with (job.folder / LOG).open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    faulthandler.enable(file=2)
    try:
        code = work(job, threads)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the record is written: nothing that fails while an interpreter shuts down may matter


def _die_with_parent() -> None:
    """A trial whose scheduler was killed must not go on beside the next one's."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Children import no ``__main__``: they don't need it, and a script without a guard would run again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _pause(running: Sequence[_Running], grace: float) -> float | None:
    """Seconds until the next limit; None: no trial has one."""
    limits = [
        child.job.limit - child.seconds if child.asked is None else child.asked + grace - time.monotonic()
        for child in running
        if child.job.limit is not None
    ]
    return max(0.01, min(limits)) if limits else None


def _enforce(running: _Running, grace: float) -> None:
    """Ask, then force, a process past its limit to end."""
    if running.job.limit is None or running.seconds < running.job.limit:
        return
    if running.asked is None:
        running.asked = time.monotonic()
        _signal(running.process, signal.SIGTERM)
    elif time.monotonic() - running.asked >= grace:
        _signal(running.process, signal.SIGKILL)


def _finish(running: _Running) -> Event:
    """What became of a process that has ended."""
    job, code, seconds = running.job, running.process.exitcode or 0, running.seconds
    if code != ELSEWHERE:
        release_dead(job.folder)
    if code not in (0, ELSEWHERE):
        _signal(running.process, signal.SIGKILL)  # what the trial started and left behind
    if _stamp(job.folder) != running.before:
        record = read_record(job.folder)
        if isinstance(record, dict):
            return Event("finished", job, record["status"], record["reason"], seconds)
        return Event("finished", job, "failed", str(record), seconds)
    if code in (0, ELSEWHERE):
        return Event("finished", job, "cached" if code == 0 else "elsewhere", None, seconds)
    status, reason = _death(running, code)
    if job.phase == "train":
        record_death(job, status, reason, seconds)
    return Event("finished", job, status, reason, seconds)


def _death(running: _Running, code: int) -> tuple[str, str]:
    if running.asked is not None:
        return "timeout", f"stopped at its limit of {running.job.limit:g} s"
    if code == -signal.SIGKILL:
        return (
            "killed",
            "killed by SIGKILL, which is also how a system out of memory ends a process",
        )
    if code < 0:
        return "killed", f"killed by {signal.Signals(-code).name}; see {LOG}"
    return "killed", f"its process ended with exit code {code}; see {LOG}"


def _stop(running: Sequence[_Running], grace: float) -> None:
    """End what still runs."""
    for child in running:
        _signal(child.process, signal.SIGTERM)
    until = time.monotonic() + grace
    for child in running:
        child.process.join(max(0.0, until - time.monotonic()))
        _signal(child.process, signal.SIGKILL)
        child.process.join()
        release_dead(child.job.folder)


def _signal(process: ForkServerProcess, number: signal.Signals) -> None:
    """Send a signal to a child's group, or to the child alone where it has none yet."""
    if process.pid is None:
        return
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _stamp(folder: Path) -> int | None:
    """Changes whenever a record is written."""
    try:
        return (folder / FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None
