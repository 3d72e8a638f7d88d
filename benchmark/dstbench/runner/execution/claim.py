"""Taking part in what was planned: a results folder's plans are an order, of which a process runs what is open."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dstbench.errors import BadInput
from dstbench.results.record import Rejected
from dstbench.results.storage import check_room
from dstbench.runner.execution.event_log import EventLog
from dstbench.runner.execution.halt import stopped
from dstbench.runner.execution.local import visible_gpus
from dstbench.runner.execution.order import Order, work_through
from dstbench.runner.execution.plan_file import read_plans
from dstbench.runner.execution.server import run_under_way, warm_up
from dstbench.runner.execution.stop import Stop
from dstbench.runner.execution.worker import Event, Job, is_open, once_each


@dataclass(frozen=True)
class Open:
    """What is left to do of the plans in a results folder."""

    order: Order  # its open jobs alone
    rejected: tuple[Rejected, ...]  # plan files that aren't used
    stopped: int = 0  # trials that aren't started any more, for another of their plan has failed

    def __bool__(self) -> bool:
        return bool(self.order.train or self.order.throughput)


def find_open(results: Path, plans: Sequence[str] = ()) -> Open:
    """What is open of all plans in a results folder, or of those named: to train, and to time now or then. Raises
    BadInput where there is no plan."""
    order, rejected = read_plans(results, plans)
    over = stopped(order.train)
    every = once_each(job for job in order.train if is_open(job))
    train = tuple(job for job in every if job.stops_with not in over)
    places = {job.place for job in train}
    timed = (job for job in order.throughput if job.place in places or is_open(job))
    throughput = tuple(job for job in once_each(timed) if job.stops_with not in over)
    return Open(replace(order, train=train, throughput=throughput), rejected, len(every) - len(train))


def claim(
    results: Path,
    *,
    plans: Sequence[str] = (),
    workers: int | None = None,
    gpus: int | None = None,
    data_root: Path | None = None,
    on_event: Callable[[Event], None],
    stop: Stop | None = None,
) -> Open:
    """Run what is open, with ``workers`` trials at a time on ``gpus`` of this machine; returns what is left.

    data_root: where data sets are on this machine, if not where the plan says. stop: when to end before that; running
    trials are then interrupted where they can go on, and stay open.
    """
    order, _ = read_plans(results, plans)
    order = on_this_machine(order, gpus, data_root)
    with run_under_way():
        if find_open(results, plans):
            warm_up(order.preload)
            check_room(results, "results")
            log = EventLog(results, on_event)
            work_through(order, workers=workers, on_event=log, stop=stop)
    return find_open(results, plans)


def on_this_machine(order: Order, gpus: int | None, data_root: Path | None) -> Order:
    """An order with what differs from machine to machine. Of the GPUs that this process sees, it keeps the first.

    Raises BadInput where there are fewer.
    """
    if gpus is not None:
        seen = visible_gpus()
        if not 0 <= gpus <= len(seen):
            raise BadInput(f"gpus: expected at most the {len(seen)} that are visible here, got {gpus}")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seen[:gpus])
    changed = {"device": "cpu"} if gpus == 0 else {}

    def here(job: Job) -> Job:
        root = {"data_root": data_root} if data_root is not None and "data_root" in job.options else {}
        return replace(job, options={**job.options, **changed, **root})

    return replace(order, train=tuple(map(here, order.train)), throughput=tuple(map(here, order.throughput)))
