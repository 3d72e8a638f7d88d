"""An order: what a plan asks of a results folder, and who carries it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dstbench.runner.execution.halt import stopped
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.stop import Stop
from dstbench.runner.execution.worker import Event, Job, is_open

LOST = "lost"
"""The status of the event of a trial that nobody is left to run."""


@dataclass(frozen=True)
class Order:
    """The jobs of a plan: all are trained, then those that are to be timed are, by themselves."""

    results: Path  # the folder
    train: tuple[Job, ...]
    throughput: tuple[Job, ...] = ()  # of a trial that doesn't end well nothing is timed
    preload: tuple[str, ...] = ()  # modules that the jobs need: loaded once a machine


class Executor(Protocol):
    """Carries out an order. Its options are keyword arguments with defaults: ``{name: slurm, partition: gpu}``.

    An order is in ``order.results`` as a file before an executor is called, so one that has other machines starts
    ``dstbench worker`` there on that folder, and follows what becomes of the jobs in it.
    """

    def __call__(
        self, order: Order, *, workers: int | None = None, on_event: Callable[[Event], None]
    ) -> str | None:
        """Run what is open of an order, at most ``workers`` trials at a time (a machine), and report each one's start
        and end. Returns None once nothing is open; else what goes on on other machines, and how to end it, for
        people. A trial that nobody is left to run ends as ``LOST``, with the reason, and stays open.
        """
        ...


def carry_out(order: Order, *, workers: int | None = None, on_event: Callable[[Event], None]) -> None:
    """The executor of this machine: a process a trial."""
    work_through(order, workers=workers, on_event=on_event)


def work_through(
    order: Order,
    *,
    workers: int | None = None,
    on_event: Callable[[Event], None],
    stop: Stop | None = None,
) -> None:
    """Run what is open of an order on this machine, until nothing is, wherever it runs, or it is time to stop: trials
    that others hold are waited for, and taken over if their holder is lost."""
    how: dict[str, Any] = {"on_event": on_event, "preload": order.preload, "patient": True, "stop": stop}
    run_local(order.train, workers=workers, **how)
    if stop is None or not stop.is_due:
        over = stopped(order.train)
        timed = [job for job in order.throughput if is_open(job) and job.stops_with not in over]
        run_local(timed, workers=1, **how)
