"""What ends a run early: a trial that fails, where that is wanted, and a disk that takes nothing more.

Which jobs stop with which is written in the plan, and that one failed in its record, so every worker on every machine
comes to the same end by itself.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from dstbench.errors import BadInput
from dstbench.results.record import read_record
from dstbench.runner.execution.worker import Event, Job, is_open, is_passed_over

UNWRITTEN_STATUS = "unwritten"
"""Of a trial whose record could not be written: it stays open."""
UNAVAILABLE_STATUS = "unavailable"
"""Of a trial whose data aren't on this machine: it stays open for others."""
_FINE = frozenset({"ok", "skipped", "cached", "elsewhere", "interrupted"})


def stopped(jobs: Iterable[Job]) -> frozenset[str]:
    """The words (``Job.stops_with``) of jobs that have failed: nothing more is started of theirs."""
    return frozenset(job.stops_with for job in jobs if job.stops_with and has_failed(job))


def has_failed(job: Job) -> bool:
    """Whether a trial was trained, and not well; one that is to be tried again wasn't yet. A tuning trial that fails
    is an answer."""
    if job.phase != "train" or job.trial.tunes or is_open(job) or is_passed_over(job):
        return False
    record = read_record(job.folder)
    return not isinstance(record, dict) or record["status"] not in _FINE


def has_failed_now(event: Event) -> bool:
    """The same, by its event."""
    job = event.job
    return job.phase == "train" and not job.trial.tunes and event.status not in _FINE


class Halt:
    """Passes events on, and has no more trials started after one that stops others.

    close: called with the word of those that aren't to be started any more, or None for all.
    """

    def __init__(self, close: Callable[[str | None], None], on_event: Callable[[Event], None]) -> None:
        self._close, self._on_event = close, on_event
        self._full: str | None = None
        self._lacking: str | None = None

    def __call__(self, event: Event) -> None:
        """An event of a trial."""
        self._on_event(event)
        job = event.job
        if event.kind != "finished":
            return
        if event.status == UNWRITTEN_STATUS:
            self.full(event.reason or "")
        elif event.status == UNAVAILABLE_STATUS:
            self._lacking = event.reason
            self._close(None)
        elif job.stops_with and has_failed_now(event):
            self._close(job.stops_with)

    def full(self, reason: str) -> None:
        """Nothing more can be written."""
        self._full = reason
        self._close(None)

    def check(self) -> None:
        """Once all has ended, raise OSError where the disk was full, BadInput where data aren't here: trials are left
        open."""
        if self._lacking is not None:
            raise BadInput(f"{self._lacking}; what is finished is kept, and the rest stays open")
        if self._full is not None:
            raise OSError(errno.ENOSPC, f"{self._full}; what is finished is kept, and the rest stays open")
