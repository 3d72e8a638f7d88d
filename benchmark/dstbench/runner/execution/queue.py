"""What a scheduler may start next: jobs that are open and that nobody holds. The others are looked at again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from dstbench.runner.execution.lease import look
from dstbench.runner.execution.worker import Event, Job, is_open

LOOK = 5.0
"""Seconds between two looks at trials that others hold."""


class Queue:
    """Jobs in their order. A patient one waits for those that other processes hold: they may be lost."""

    def __init__(self, jobs: Iterable[Job], on_event: Callable[[Event], None], *, patient: bool) -> None:
        self._waiting, self._held = deque(jobs), deque[Job]()
        self._on_event, self._patient = on_event, patient
        self._told: set[str] = set()  # keys of the jobs whose holders were named
        self._next_look = 0.0

    def __bool__(self) -> bool:
        """Whether a job may still come of it."""
        return bool(self._waiting or self._held)

    @property
    def pause(self) -> float:
        """Seconds until it is worth asking again, where there was nothing to take."""
        return max(0.0, self._next_look - time.monotonic()) if self._held else float("inf")

    def take(self) -> Job | None:
        """The next job that can be started now. Says which ones others have done, or do."""
        if self._held and not self.pause:
            self._waiting.extend(self._held)
            self._held.clear()
        while self._waiting:
            job = self._waiting.popleft()
            if not is_open(job):
                status = "elsewhere" if job.key in self._told else "cached"
                self._on_event(Event("finished", job, status))
            elif (reason := _why_not(job)) is not None:
                self.hold(job, reason)
            else:
                return job
        return None

    def hold(self, job: Job, reason: str | None = None) -> None:
        """Another process runs this one."""
        if not self._patient:
            self._on_event(Event("finished", job, "elsewhere", reason))
            return
        if job.key not in self._told:
            self._told.add(job.key)
            self._on_event(Event("held", job, reason=reason))
        if not self._held:
            self._next_look = time.monotonic() + LOOK
        self._held.append(job)

    def close(self) -> None:
        """Nothing more is to be started."""
        self._waiting.clear()
        self._held.clear()


def _why_not(job: Job) -> str | None:
    """Why a job can't be started now: someone holds it, or its folder can't be reached, which may pass."""
    try:
        holder = look(job.folder)
    except OSError as error:
        return f"its lease can't be read: {error.strerror}"
    return None if holder is None or holder.is_lost else f"runs on {holder.name}"
