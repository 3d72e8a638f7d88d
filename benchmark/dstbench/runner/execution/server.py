"""The server that trials are forked from: it has torch loaded, and ends with the run that it was started for.

A fresh interpreter with torch takes about ten seconds, a fork 0.2. Neither the server nor the scheduler ever
initialises CUDA: a child sees the GPU of its slot only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

from dstbench.runner.execution import child
from dstbench.runner.execution.descendants import ignore_requests
from dstbench.runner.execution.tasks import without_main as without_main
from dstbench.runner.execution.worker import Job

_SERVER: Any = forkserver._forkserver  # private: there is no other way to end it


LAZY = ("torch._dynamo", "dstbench.runner.trial.beforehand")
"""Loaded in the server too: torch's optimizers import the first when they are made, which takes over a second; the
second does what every trial begins with alike."""


@dataclass
class _Runs:
    """The runs of this process that are under way, in whatever threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    count: int = 0
    foreign: bool = False  # whether the first of them found a server, which is then someone else's


_runs = _Runs()


def warm_up(preload: Sequence[str]) -> None:
    """Start the server, which loads ``preload`` while this process goes on."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([child.__name__, *preload])
    with _requests_ignored():
        forkserver.ensure_running()


@contextlib.contextmanager
def _requests_ignored() -> Iterator[None]:
    """What is started meanwhile ignores what a cluster sends to all processes of a job: the server outlives that."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can say what is done with signals
        return
    before = ignore_requests()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def run_under_way() -> Iterator[None]:
    """The server that is started meanwhile ends with the last run that needs it; one that was there before stays."""
    with _runs.lock:
        if not _runs.count:
            _runs.foreign = _SERVER._forkserver_pid is not None
        _runs.count += 1
    try:
        yield
    finally:
        with _runs.lock:
            _runs.count -= 1
            if not _runs.count and not _runs.foreign:
                _end()


def _end() -> None:
    """End the server, also one that still imports, or that what it forked keeps alive."""
    if _SERVER._forkserver_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(_SERVER._forkserver_pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            _SERVER._stop()


def start(
    job: Job, threads: int, environment: Mapping[str, str], token: str
) -> tuple[ForkServerProcess, Connection]:
    """Fork a trial's processes, which take its lease as ``token``; what they say can be heard on the connection."""
    try:
        return _start(job, threads, environment, token)
    except (EOFError, OSError):
        # the server is gone: a module that it was to load ended it. It will end its own trial alone
        warm_up([job.task.partition(":")[0]])
        return _start(job, threads, environment, token)


def _start(
    job: Job, threads: int, environment: Mapping[str, str], token: str
) -> tuple[ForkServerProcess, Connection]:
    context = multiprocessing.get_context("forkserver")
    heard, said = context.Pipe(duplex=False)
    arguments = (job, threads, environment, said, token)
    process = context.Process(target=child.supervise, args=arguments, name=job.key[:8])
    try:
        with said, without_main():
            process.start()
    except BaseException:
        heard.close()
        raise
    return process, heard
