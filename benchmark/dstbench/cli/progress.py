"""What a run shows while it goes on: live bars on a terminal, one plain line per finished trial elsewhere."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column

from dstbench.cli.eta import Remaining, duration
from dstbench.results.printable import counted
from dstbench.results.tuning import settings_said

if TYPE_CHECKING:
    from dstbench.runner.execution.forecast import Forecast
    from dstbench.runner.execution.worker import Event
    from dstbench.runner.matrix.planned import Plan

_COLOURS = {"ok": "green", "cached": "dim", "elsewhere": "dim", "skipped": "yellow"}
_PHASES = {"train": "training", "throughput": "timing"}


class Progress:
    """Takes a run's events. Writes to stderr: stdout is for results."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        live = self._console.is_terminal and not os.environ.get("CI")
        self._bars = _bars(self._console) if live else None
        self._overall: dict[str, TaskID] = {}
        self._running: dict[tuple[str, str], TaskID] = {}
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._left = Remaining()

    def __enter__(self) -> Progress:
        """Start the bars."""
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()

    def plan(self, plan: Plan, train: int, throughput: int, ahead: Forecast | None = None) -> None:
        """Say what is ahead: how many trials will be trained and timed, and how long that takes, if known."""
        skipped = sum(trial.skip is not None for trial in plan.trials)
        known = len(plan.trials) + len(plan.tuning) - train - skipped
        tuning = f" and {len(plan.tuning)} to tune them" if plan.tuning else ""
        skips = f", {skipped} to skip" if skipped else ""
        wall = ahead and ahead.wall
        takes = f"; about {duration(wall)}" if wall else ""
        ahead_of_us = f"{known} there already, {train} to train{skips}{takes}"
        trials = counted(len(plan.trials), "trial")
        self._print(f"{plan.matrix.name}: {trials}{tuning}, {ahead_of_us}")
        for note in (*plan.notes, *(ahead.notes if ahead else ())):
            self._print(f"note: {note}", "yellow")
        self.expect(train, throughput)
        if ahead is not None:
            self._left = Remaining(ahead.seconds, {"train": ahead.workers})

    def expect(self, train: int, throughput: int) -> None:
        """So many trials will be trained and timed."""
        self._totals = {"train": train, "throughput": throughput}

    def __call__(self, event: Event) -> None:
        """Show one trial's start or end."""
        phase, job = event.job.phase, event.job
        if event.kind == "started":
            self._left.start((phase, job.place), time.monotonic())
            if self._bars is not None:
                self._overall_bar(phase)
                self._running[phase, job.key] = self._bars.add_task(
                    f"  {escape(describe(event))}", total=None, count="", left=""
                )
            return
        if self._bars is not None and (bar := self._running.pop((phase, job.key), None)) is not None:
            self._bars.remove_task(bar)
        if event.kind == "held":
            self._print(f"waiting: {describe(event)}: {event.reason or 'another process took it'}", "dim")
            return
        self._done[phase] = self._done.get(phase, 0) + 1
        self._left.end((phase, job.place), event.seconds)
        seconds = self._left.seconds(time.monotonic())
        left = f"{duration(seconds)} left" if seconds else ""
        reason = f": {event.reason}" if event.reason else ""
        if self._bars is not None:
            total, done = self._totals.get(phase, 0), self._done[phase]
            self._bars.update(self._overall_bar(phase), completed=done, count=f"{done}/{total}", left=left)
        if self._bars is None or event.status not in _COLOURS:
            total = self._totals.get(phase, 0)
            counter = f"[{self._done[phase]}/{max(total, self._done[phase])}]"
            what = "tuning" if job.trial.tunes else _PHASES[phase]
            line = f"{counter} {event.status:8s} {event.seconds:6.1f} s  {what} {describe(event)}"
            self._print(f"{line}{reason}{left and f'; {left}'}", _COLOURS.get(event.status, "red"))

    def _overall_bar(self, phase: str) -> TaskID:
        assert self._bars is not None
        if phase not in self._overall:
            total = self._totals.get(phase, 0)
            self._overall[phase] = self._bars.add_task(
                f"[bold]{_PHASES[phase]}", total=total, count=f"0/{total}", left=""
            )
        return self._overall[phase]

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(line, style=style or None, markup=False, highlight=False, soft_wrap=True)


def describe(event: Event) -> str:
    """A trial in a few words: method, model, data set, density, seed, and what tuning set."""
    trial = event.job.trial
    where = f"{trial.model['name']}, {trial.dataset['name']}"
    settings = f", {settings_said(event.job.settings)}" if event.job.settings else ""
    return f"{event.job.label} ({where}, density {trial.density:g}, seed {trial.seed}{settings})"


def _bars(console: Console) -> Bars:
    words = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # what has to give way on a narrow terminal
    return Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=words),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[left]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        expand=True,
    )
