"""Trials in this process, one after another: what a queue gives, without the cost of processes."""

from __future__ import annotations

from dstbench.results.record import read_record
from dstbench.runner.execution import order, run
from dstbench.runner.execution.halt import Halt
from dstbench.runner.execution.queue import Queue
from dstbench.runner.execution.worker import ELSEWHERE, NOTED, Event, work


def run_inline(jobs, *, on_event, patient=False, **ignored):
    """Like ``run_local`` with one worker."""
    queue = Queue(jobs, on_event, patient=patient)
    halt = Halt(queue.close, on_event)
    while queue and (job := queue.take()) is not None:
        halt(Event("started", job))
        code = work(job, 1)
        if code == ELSEWHERE:
            queue.hold(job)
            continue
        record = read_record(job.folder)
        status = "cached" if code == NOTED else record["status"]
        halt(Event("finished", job, status, record["reason"]))


def use(monkeypatch):
    """Have runs and workers of this process do so."""
    monkeypatch.setattr(order, "run_local", run_inline)
    monkeypatch.setattr(run, "warm_up", lambda modules: None)
