"""Following an order that workers on other machines carry out, in its results folder.

What a queue says of a job is hearsay: trials are judged by their leases and records alone. A queue tells only how
many workers are left, so that those that died are replaced, and nobody waits for one that will never come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dstbench.errors import BadInput
from dstbench.results.record import read_record
from dstbench.runner.execution.halt import has_failed
from dstbench.runner.execution.lease import look
from dstbench.runner.execution.losses import given_up
from dstbench.runner.execution.order import LOST, Order
from dstbench.runner.execution.worker import Event, Job, is_open, is_passed_over, is_waiting, once_each

PAUSE = 1.0
"""Seconds between two looks at a results folder; a thousand open trials take a second more."""
PATIENCE = 3
"""How often dead workers are replaced while no trial ends."""


@dataclass(frozen=True)
class Census:
    """What a queue says of our workers."""

    alive: int  # that wait or run
    died: int = 0  # that ended since the last census, and neither because nothing was left nor on demand


class Workers(Protocol):
    """The workers of one order on a cluster."""

    def start(self, number: int) -> None:
        """Have so many more. Raises BadInput where the cluster takes none."""
        ...

    def census(self) -> Census | None:
        """How many are left; None while nobody can tell."""
        ...

    def last_words(self) -> str:
        """Why the last ones that died did, as far as that is known."""
        ...


def follow(order: Order, workers: Workers, on_event: Callable[[Event], None]) -> None:
    """Report the start and end of each job of an order until none is open, or, after one fails where that is to stop
    others, until none of those runs.

    Workers that die are replaced. Where that happened ``PATIENCE`` times while no trial ended, or where all were
    cancelled, what is still open is reported as ``LOST``, with the reason.
    """
    watch = _Watch(order, on_event)
    owed = fruitless = 0
    before = len(watch.open)
    while watch.look():
        if len(watch.open) < before:
            fruitless, before = 0, len(watch.open)
        if (census := workers.census()) is not None and not watch.stopped:
            owed += census.died
            fruitless += bool(owed)
            if owed and fruitless <= PATIENCE:
                owed = _replaced(workers, min(owed, len(watch.open)))
            elif not census.alive:
                _pause(PAUSE)  # what the last one wrote may come in later than the news of its end
                if watch.look():
                    watch.give_up(f"no worker is left; {workers.last_words()}")
        _pause(PAUSE + len(watch.open) / 1000)


def _replaced(workers: Workers, number: int) -> int:
    """Start so many; returns how many are still owed: a cluster that takes none now may do so later."""
    try:
        workers.start(number)
    except BadInput:
        return number
    return 0


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def open_jobs(order: Order) -> list[Job]:
    """What of an order is left to do. Timing stands behind its trial's training, and isn't counted beside it."""
    training = once_each(job for job in order.train if is_open(job))
    places = {job.place for job in training}
    timing = once_each(job for job in order.throughput if is_open(job))
    return training + [job for job in timing if job.place not in places]


class _Watch:
    """Reports what happens to the jobs of an order, by looking at their folders."""

    def __init__(self, order: Order, on_event: Callable[[Event], None]) -> None:
        jobs: Sequence[Job] = (*order.train, *order.throughput)
        self.open: dict[tuple[str, str], Job] = {(job.phase, job.key): job for job in jobs}
        self._on_event = on_event
        self._started: dict[tuple[str, str], float] = {}
        self._looked = False
        self.stopped: set[str] = set()  # words whose jobs no worker starts any more
        self._idle: set[tuple[str, str]] = set()  # of these, what nobody held at the last look

    def look(self) -> bool:
        """Report what is new; returns whether anything is open."""
        for name, job in list(self.open.items()):
            if (job.phase == "throughput" and ("train", job.key) in self.open) or is_waiting(job):
                continue
            if not is_open(job):
                del self.open[name]
                if is_passed_over(job):
                    continue
                self._report_end(job, self._started.pop(name, None))
            elif name not in self._started and look(job.folder) is not None:
                self._started[name] = time.monotonic()
                self._on_event(Event("started", job))
        self._drop_stopped()
        self._looked = True
        return bool(self.open)

    def _drop_stopped(self) -> None:
        """Wait no longer for what no worker starts any more: for what nobody held at two looks, that is, for one may
        have been started just before."""
        over = {name for name, job in self.open.items() if job.stops_with in self.stopped}
        idle = {name for name in over if (holder := look(self.open[name].folder)) is None or holder.is_lost}
        for name in idle & self._idle:
            del self.open[name]
        self._idle = idle

    def give_up(self, reason: str) -> None:
        """Report what is open as lost."""
        for job in once_each(self.open.values()):
            if job.phase == "train" or ("train", job.key) not in self.open:
                self._on_event(Event("finished", job, LOST, reason))
        self.open.clear()

    def _report_end(self, job: Job, started: float | None) -> None:
        record = read_record(job.folder)
        if job.stops_with and has_failed(job):
            self.stopped.add(job.stops_with)
        if not isinstance(record, dict):
            self._on_event(Event("finished", job, "failed", str(record)))
            return
        if job.phase == "throughput" and record["status"] != "ok":
            return  # there was nothing to time
        if job.phase == "throughput" and (why := given_up(job.folder)):
            self._on_event(Event("finished", job, "killed", why))
            return
        seconds = 0.0 if started is None else time.monotonic() - started
        if job.phase == "train":
            seconds = float(record["measures"].get("seconds") or seconds)
        status = record["status"] if self._looked else "cached"
        self._on_event(Event("finished", job, status, record["reason"], seconds))
