"""What a scheduler may start next: jobs that are open and that nobody holds. The others are looked at again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable

from dstbench.results.record import folder_of
from dstbench.runner.execution.halt import has_failed, stopped
from dstbench.runner.execution.lease import look
from dstbench.runner.execution.losses import MOST, given_up, lost_on
from dstbench.runner.execution.worker import Event, Job, is_open, is_passed_over, is_waiting

LOOK = 5.0
"""Seconds between two looks at trials that others hold."""


class Queue:
    """Jobs in their order. A patient one waits for those that other processes hold: they may be lost."""

    def __init__(self, jobs: Iterable[Job], on_event: Callable[[Event], None], *, patient: bool) -> None:
        self._waiting, self._held, self._last = deque(jobs), deque[Job](), deque[Job]()
        self._undecided = deque[Job]()  # wanted or not, as tuning trials will tell
        self._on_event, self._patient = on_event, patient
        self._told: set[str] = set()  # keys of the jobs whose holders were named
        self._next_look = 0.0
        self._by_itself: str | None = None  # key of the last one that was to run so
        for word in stopped(self._waiting):
            self.close(word)

    def __bool__(self) -> bool:
        """Whether a job may still come of it."""
        return bool(self._waiting or self._held or self._last or self._undecided)

    @property
    def pause(self) -> float:
        """Seconds until it is worth asking again, where there was nothing to take."""
        waits = self._held or self._undecided
        return max(0.0, self._next_look - time.monotonic()) if waits else float("inf")

    def take(self, running: Collection[Job] = ()) -> Job | None:
        """The next job that can be started beside those that are running. Says which ones others have done, or do.

        One that would be given up if it lost its worker once more comes last, and runs by itself: another beside it
        may be what its workers died of.
        """
        if any(job.key == self._by_itself for job in running):
            return None
        for job in [job for job in self._held if job.stops_with and has_failed(job)]:
            self.close(job.stops_with)
        if self._held and not self.pause:
            self._waiting.extend(self._held)
            self._held.clear()
        self._sort_out()
        while self._waiting:
            job = self._waiting.popleft()
            if is_waiting(job):
                self._wait_for(self._undecided, job)
            elif self._can_start(job):
                if not _is_last_try(job):
                    return job
                self._last.append(job)
        while self._last and not running:
            if self._can_start(job := self._last.popleft()):
                self._by_itself = job.key
                return job
        if self._undecided and not (running or self._held or self._last):
            self._drop_undecided()
        return None

    def hold(self, job: Job, reason: str | None = None) -> None:
        """Another process runs this one."""
        if not self._patient:
            self._on_event(Event("finished", job, "elsewhere", reason))
            return
        if job.key not in self._told:
            self._told.add(job.key)
            self._on_event(Event("held", job, reason=reason))
        self._wait_for(self._held, job)

    def close(self, word: str | None = None) -> None:
        """Nothing more is to be started; of a word only what stops with it."""
        for jobs in (self._waiting, self._held, self._last, self._undecided):
            left = [job for job in jobs if word is not None and job.stops_with != word]
            jobs.clear()
            jobs.extend(left)

    def _wait_for(self, those: deque[Job], job: Job) -> None:
        if not (self._held or self._undecided):
            self._next_look = time.monotonic() + LOOK
        those.append(job)

    def _sort_out(self) -> None:
        """Let those wait no longer of which is known by now whether they are wanted."""
        known = {trials for trials, job in self._groups().items() if not is_waiting(job)}
        left = [*self._undecided]
        self._undecided.clear()
        for job in left:
            is_known = job.tuned is not None and job.tuned.trials in known
            (self._waiting if is_known else self._undecided).append(job)
        if self._undecided and not self.pause:
            self._next_look = time.monotonic() + LOOK

    def _drop_undecided(self) -> None:
        """Wait no longer where nobody is left to train what would tell."""
        if any(_may_be_decided(job) or not is_waiting(job) for job in self._groups().values()):
            return
        lost = [job for job in self._undecided if job.tuned is not None and job.tuned.is_first]
        self._undecided.clear()
        for job in lost:
            self._on_event(Event("finished", job, "elsewhere", "its tuning trials are nowhere to be run"))

    def _groups(self) -> dict[tuple[tuple[str, ...], ...], Job]:
        """One of the undecided for each group of tuning trials."""
        return {job.tuned.trials: job for job in self._undecided if job.tuned is not None}

    def _can_start(self, job: Job) -> bool:
        """Whether a job is open and free. Says what it is if not, and keeps it where that may change."""
        if is_passed_over(job) and not is_open(job):
            return False
        if is_open(job):
            if (reason := _why_not(job)) is None:
                return True
            self.hold(job, reason)
            return False
        if job.phase == "throughput" and (why := given_up(job.folder)):
            self._on_event(Event("finished", job, "killed", why))
        else:
            self._on_event(Event("finished", job, "elsewhere" if job.key in self._told else "cached"))
        if job.stops_with and has_failed(job):
            self.close(job.stops_with)
        return False


def _may_be_decided(job: Job) -> bool:
    """Whether somebody trains what a job waits for."""
    results, tuned = job.folder.parents[1], job.tuned
    keys = [key for keys in tuned.trials for key in keys] if tuned else []
    return any((holder := look(folder_of(results, key))) and not holder.is_lost for key in keys)


def _is_last_try(job: Job) -> bool:
    """Whether a trial, which nobody holds, is given up if it loses its worker once more."""
    lost = len(lost_on(job.folder))
    return lost < MOST and lost + (look(job.folder) is not None) == MOST - 1


def _why_not(job: Job) -> str | None:
    """Why a job can't be started now: someone holds it, or its folder can't be reached, which may pass."""
    try:
        holder = look(job.folder)
    except OSError as error:
        return f"its lease can't be read: {error.strerror}"
    return None if holder is None or holder.is_lost else f"runs on {holder.name}"
