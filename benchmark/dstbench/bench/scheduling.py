"""What the executor of this machine costs a trial: the same trials, one after another in processes and in this one.

Passes over all trials take turns. Seconds on the processors are those of all processes that take part; on a machine
that others use they tell more than the wall clock.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from dstbench.bench.subject import Part, Subject
from dstbench.registration.registry import registry
from dstbench.results.record import Record, Rejected, folder_of, read_record
from dstbench.runner.execution.jobs import Tasks, order_of
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.server import run_under_way, warm_up
from dstbench.runner.execution.worker import Event, Job
from dstbench.runner.matrix.config import Budget, load_matrix
from dstbench.runner.matrix.plan import plan
from dstbench.runner.trial.trial import run_trial


@dataclass(frozen=True)
class Pass:
    """Seconds of a trial, on average over one pass."""

    wall: float
    cpu: float  # of this process, and of the server and all that it forked
    loop: float  # of the training loop itself, as the records say


def measure_scheduling(options: argparse.Namespace) -> dict[str, float]:
    """Seconds a trial with the executor, in this process, and how much more that is."""
    order, apart, within = _order(options), list[Pass](), list[Pass]()
    with run_under_way(), tempfile.TemporaryDirectory() as scratch:
        warm_up(order.preload)
        _timed(order.train[:1], _executed, Path(scratch, "warm-up"))
        _timed(order.train[:1], _called, Path(scratch, "warm-up here"))
        for turn in range(options.rounds):
            apart.append(_timed(order.train, _executed, Path(scratch, f"apart-{turn}")))
            within.append(_timed(order.train, _called, Path(scratch, f"within-{turn}")))
    pairs = list(zip(apart, within, strict=True))
    return {
        "executor_s": statistics.median(one.wall for one in apart),
        "process_s": statistics.median(one.wall for one in within),
        "loop_s": statistics.median(one.loop for one in within),
        "scheduler_s": statistics.median(a.wall - w.wall for a, w in pairs),
        "scheduler_cpu_s": statistics.median(a.cpu - w.cpu for a, w in pairs),
        "beyond_loop_s": statistics.median(a.wall - a.loop for a in apart),
    }


def _order(options: argparse.Namespace) -> Order:
    """RigL on scikit-learn's digits with several seeds, trained as the suite ``quick`` does."""
    axes = {
        "model": options.model, "dataset": "digits", "density": 0.1, "recipe": "rigl",
        "seed": list(range(options.trials)),
    }  # fmt: skip
    training = {"epochs": options.epochs, "batch_size": 32, "lr": 0.05, "schedule": "cosine", "eval_every": 4}
    trials = plan(
        load_matrix({"schema": 1, "name": "scheduling", "axes": axes, "controls": [], "training": training}),
        registry(),
    ).trials
    return order_of(
        Path(), trials, (), dict.fromkeys((trial.key for trial in trials), None), Budget(), {"device": "cpu"},
        source=registry(), tasks=Tasks(), retried=frozenset(), on_error="stop",
    )  # fmt: skip


Way = Callable[[Job], Record]


def _executed(job: Job) -> Record:
    """A trial as the executor runs it: in processes of its own."""
    run_local([job], workers=1, on_event=_quiet)
    record = read_record(job.folder)
    if isinstance(record, Rejected):
        raise RuntimeError(record.reason)
    return record


def _quiet(event: Event) -> None:
    """Say nothing."""


def _called(job: Job) -> Record:
    """A trial in this process, without anything around it."""
    return run_trial(job.trial, job.folder, **job.options, threads=1)


def _timed(jobs: Sequence[Job], run: Way, root: Path) -> Pass:
    """One pass over all jobs, each in a folder of its own. Raises RuntimeError where a trial fails."""
    placed = [replace(job, folder=folder_of(root, job.key)) for job in jobs]
    start, before = time.perf_counter(), _processor_seconds()
    records = [run(job) for job in placed]
    wall, cpu = time.perf_counter() - start, _processor_seconds() - before
    for record in records:
        if record["status"] != "ok":
            raise RuntimeError(f"a trial ended as {record['status']}: {record['reason']}")
    loops = sum(record["measures"]["seconds"] for record in records)
    return Pass(wall / len(jobs), cpu / len(jobs), loops / len(jobs))


def _processor_seconds() -> float:
    """Of this process, of those that it started, and of those that they have seen end."""
    total = time.process_time()
    for child in psutil.Process().children():
        times = child.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


SCHEDULER = Subject(
    "what the executor costs a trial, beside the same trials one after another in one process",
    lambda options: [Part("scheduler", lambda: [measure_scheduling(options)])],
    columns=("executor_s", "process_s", "loop_s", "scheduler_s", "scheduler_cpu_s", "beyond_loop_s"),
    rounds=3,
    warmup=1,
    quick={"rounds": 1, "trials": 2},
    options={
        "--model": {"default": "small_cnn"},
        "--epochs": {"type": int, "default": 12},
        "--trials": {"type": int, "help": "of one pass; by default 4"},
    },
    defaults={"trials": 4},
)
