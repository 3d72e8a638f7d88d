"""The two processes of a trial: the one that it runs in, and a supervisor, which outlives it.

The supervisor writes the log, says how the trial ended, and ends what it left behind. Nothing that a trial does to
its own process, its files or its group of processes reaches it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import NoReturn

import psutil

from dstbench.results.storage import is_full, patiently
from dstbench.runner.execution.allocator import keep_freed
from dstbench.runner.execution.descendants import (
    adopt_orphans,
    die_with,
    ignore_requests,
    kill_descendants,
)
from dstbench.runner.execution.lease import Lease, acquire, renewed
from dstbench.runner.execution.log import keep_log
from dstbench.runner.execution.losses import given_up
from dstbench.runner.execution.memory import spread_net, watch
from dstbench.runner.execution.worker import (
    DONE,
    ELSEWHERE,
    LOG,
    UNWRITTEN,
    Job,
    is_open,
    load_task,
    record_loss,
    work,
)
from dstbench.runner.trial import interruption

BEGUN, RETURNED, ENDED, OVER = "begun", "returned", "ended", "over"
"""What a scheduler is told: the process of the trial, which begins; what ``work`` returned; that process's exit code,
or -signal; the bytes that its processes held when that was over their limit."""


def supervise(job: Job, threads: int, environment: Mapping[str, str], report: Connection, token: str) -> None:
    """Run a job in a process of its own under a lease, which its scheduler ends, and report on it."""
    os.setsid()  # out of reach of the terminal's Ctrl-C
    ignore_requests()
    os.environ.update(environment)
    try:
        lease = _acquired(job, token)
        if (why := ELSEWHERE if lease is None else _given_up(job, lease)) is not None:
            _end_at_once(report, why)
    except OSError:
        _end_at_once(report, UNWRITTEN)
    assert lease is not None
    adopt_orphans()
    output, printed = os.pipe()
    supervisor, trial = os.getpid(), os.fork()
    if trial == 0:
        os.close(output)
        _run(job, threads, report, printed, supervisor, lease)
    os.close(printed)
    threading.Thread(target=_die_with_scheduler, args=(lease,), daemon=True).start()
    log = threading.Thread(target=keep_log, args=(output, job.folder / LOG), daemon=True)
    log.start()
    if job.memory is not None:
        over = partial(tell, report, OVER)
        threading.Thread(target=watch, args=(psutil.Process(), job.memory, over), daemon=True).start()
    with renewed(lease, on_loss=lambda: _give_up(report)):
        _, status = os.waitpid(trial, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(trial, signal.SIGKILL)  # all that there is to do where the system lets nobody adopt orphans
    kill_descendants(psutil.Process())
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # what was adopted, so that no system has to
            pass
    log.join(5.0)  # by now nobody else writes
    code = os.waitstatus_to_exitcode(status)
    tell(report, ENDED, code)
    _end_if_orphaned(lease, lost=code < 0)
    os._exit(0)


def _acquired(job: Job, token: str) -> Lease | None:
    """The lease of a job; None, too, where the file server doesn't let it be taken: it may later.

    Raises OSError where the disk is full.
    """
    try:
        return patiently(lambda: acquire(job.folder, token))
    except OSError as error:
        if is_full(error):
            raise
        sys.stderr.write(f"{job.folder}: {error}\n")
        return None


def _given_up(job: Job, lease: Lease) -> int | None:
    """What became of a trial that took its workers with it, one after another: it isn't run. None for any other."""
    if not is_open(job) or (reason := given_up(job.folder)) is None:
        return None
    record_loss(job, reason, lease)
    return DONE


def _end_at_once(report: Connection, why: int) -> NoReturn:
    """There is no trial to run."""
    tell(report, RETURNED, why)
    tell(report, ENDED, 0)
    os._exit(0)


def _give_up(report: Connection) -> None:
    """Another process runs the trial by now."""
    tell(report, RETURNED, ELSEWHERE)
    kill_descendants(psutil.Process())


def _run(job: Job, threads: int, report: Connection, printed: int, supervisor: int, lease: Lease) -> NoReturn:
    """The trial's own process."""
    code = 1
    try:
        os.setsid()
        die_with(supervisor)
        interruption.listen()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        os.close(printed)
        _print_by_lines()
        faulthandler.enable(file=2)
        keep_freed()
        with contextlib.suppress(Exception):  # it is the trial's, and will be raised there again
            load_task(job.task)  # what it imports is no part of the trial's time
        if job.memory is not None:
            spread_net(job.memory)
        tell(report, BEGUN, os.getpid())
        code = work(job, threads, lease)
        tell(report, RETURNED, code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a trial may have closed it
            stream.flush()
    os._exit(code)  # the record is written: nothing that fails while an interpreter shuts down may matter


def _print_by_lines() -> None:
    """What a trial printed last is in its log however it ends: SIGKILL leaves no time to write what is kept back."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def tell(report: Connection, what: str, value: int) -> None:
    """Say something to the scheduler, if it still listens. Plain text: a trial must not make it unpickle."""
    with contextlib.suppress(OSError):
        report.send_bytes(f"{what} {value}".encode())


def hear(report: Connection) -> tuple[dict[str, int], bool]:
    """What was said since, and whether more may come. What can't be understood counts as nothing."""
    heard: dict[str, int] = {}
    try:
        while report.poll():
            what, _, value = report.recv_bytes(100).partition(b" ")
            with contextlib.suppress(ValueError):
                heard[what.decode()] = int(value)
    except (EOFError, OSError):
        return heard, False
    return heard, True


def _die_with_scheduler(lease: Lease) -> None:
    """A trial whose scheduler was killed must not go on beside the next one's, which needn't wait for its lease."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        kill_descendants(psutil.Process())
        _end_if_orphaned(lease, lost=True)
        os.killpg(0, signal.SIGKILL)


def _end_if_orphaned(lease: Lease, lost: bool) -> None:
    """End a lease whose trial is over, where its scheduler isn't there to do so. lost: whether it ended with that."""
    scheduler = multiprocessing.parent_process()
    if scheduler is not None and not scheduler.is_alive():
        with contextlib.suppress(OSError):
            lease.lose() if lost else lease.release()
