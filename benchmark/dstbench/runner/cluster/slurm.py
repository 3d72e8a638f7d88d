"""SLURM: arrays of workers, each of which takes one open trial after another.

Plain ``sbatch``, not submitit, whose executors run a pickled function under handlers of their own: a time-out is
answered within the signal handler, three times at most, and a job's state is what ``sacct`` says, which without an
accounting data base is UNKNOWN and counts as running. What is submitted here is one command, what it computes is in
the results folder, and its end is judged there; of submitit only the writing of ``#SBATCH`` lines would be left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dstbench.errors import BadInput
from dstbench.results.files import write_whole
from dstbench.runner.cluster.follow import Census, follow, open_jobs
from dstbench.runner.cluster.sbatch import (
    FORMAT,
    array_sizes,
    is_alive,
    minutes,
    option,
    script,
    states,
)
from dstbench.runner.cluster.submissions import Submission, submissions
from dstbench.runner.execution.log import last_words
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.status import ENGINES
from dstbench.runner.execution.worker import Event

LARGEST_ARRAY = 999
"""Tasks of one array: sites allow about a thousand."""
BETWEEN_LISTINGS = 10.0
"""Seconds between two questions to the queue, which all its users share."""
_PATIENCE = 60.0  # seconds that a command of SLURM may take


@dataclass(frozen=True)
class Slurm:
    """Arrays of SLURM jobs, each a worker. Parameters are sbatch's where they have its names.

    The workers of an earlier run that still wait or run are followed, too, and only what is missing is submitted.
    Raises BadInput where there is no SLURM, or where it refuses a job.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | int | None = (
        None  # of a job, such as 4h or 1-12:00:00; a worker stops before it and is requeued
    )
    gpus: int | str = 0  # of a job: 1, or with a type: "a100:2"
    cpus: int = 1  # of a job
    memory: str | None = None  # of a job, such as 16G
    trials: int | None = None  # that a job runs at a time; None: one a GPU, else one
    array_parallelism: int = 256  # jobs at a time, where --workers doesn't say how many trials
    signal_seconds: int = 120  # before its limit, that a job is told to stop
    requeue: bool = True  # a job that stopped early or lost its node is queued again
    setup: str | tuple[str, ...] = ()  # lines of bash that run before the worker: module load, source
    sbatch: str | tuple[str, ...] = ()  # further options: ["--exclude=node7", "--mail-type=FAIL"]
    python: str | None = None  # the interpreter on the nodes; None: this one
    detach: bool = False  # submit, and don't wait for the end

    def __post_init__(self) -> None:
        whole = (("cpus", 1), ("array_parallelism", 1), ("signal_seconds", 1), ("trials", 1))
        for name, least in whole:
            value = getattr(self, name)
            if value is not None and not least <= value <= 10**6:
                raise BadInput(f"{name}: expected {least} to 1,000,000, got {value}")
        if not re.fullmatch(r"([\w.-]+:)?\d+", str(self.gpus)):
            raise BadInput(
                f"gpus: expected a number, or a type and a number such as a100:2, got {self.gpus!r}"
            )
        if self.time is not None:
            minutes(self.time)
        for name in ("setup", "sbatch"):
            if any("\n" in line for line in _listed(getattr(self, name))):
                raise BadInput(f"{name}: expected a list of lines, got one with a line break in it")
        for line in _listed(self.sbatch):
            if not line.startswith("-"):
                raise BadInput(f"sbatch: expected options such as --exclude=node7, got {line!r}")

    def __call__(
        self, order: Order, *, workers: int | None = None, on_event: Callable[[Event], None]
    ) -> str | None:
        """Carry out an order with jobs of SLURM; returns what to know of those that go on without this process."""
        if shutil.which("sbatch") is None or shutil.which("squeue") is None:
            raise BadInput(
                "executor slurm: expected SLURM's commands sbatch and squeue in the PATH: is this a login node?"
            )
        results = order.results.resolve()
        queue = _Queue(self, results, submissions(results, "slurm"))
        queue.census()  # an earlier run's jobs may be there
        wanted = -(-workers // self.trials_a_job) if workers else self.array_parallelism
        missing = min(wanted, len(open_jobs(order))) - len(queue.left)
        if missing > 0:
            queue.start(missing)
        if not self.detach and (going := queue.farewell()):
            print(f"{going} Ctrl-C leaves them there.", file=sys.stderr)
        if self.detach:
            return queue.farewell()
        try:
            follow(order, queue, on_event)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(queue.farewell() or "") from None
        queue.dismiss()
        return None

    @property
    def trials_a_job(self) -> int:
        """Trials that a job runs at a time."""
        return self.trials or max(1, int(str(self.gpus).rpartition(":")[2]))

    @property
    def until(self) -> int | None:
        """Seconds after which a worker has stopped by itself; it begins to stop a little earlier."""
        return None if self.time is None else 60 * minutes(self.time) - self.notice // 2

    @property
    def notice(self) -> int:
        """Seconds before its limit that a job is told to stop: never more than half of it."""
        return self.signal_seconds if self.time is None else min(self.signal_seconds, 30 * minutes(self.time))

    def options(self, results: Path, logs: Path, size: int) -> list[str]:
        """The options of sbatch for an array of so many workers."""
        named = {
            "job-name": f"dstbench-{results.name}",
            "array": f"0-{size - 1}",
            "output": str(logs).replace("%", "%%") + "/%A_%a.log",
            "open-mode": "append",
            "signal": f"B:USR2@{self.notice}",
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "time": None if self.time is None else minutes(self.time),
            "gres": None if str(self.gpus) == "0" else f"gpu:{self.gpus}",
            "cpus-per-task": self.cpus,
            "mem": self.memory,
        }
        given = [option(name, value) for name, value in named.items() if value is not None]
        return [*given, "--requeue" if self.requeue else "--no-requeue", *_listed(self.sbatch)]

    def command(self, results: Path) -> list[str]:
        """The command of a worker."""
        words = [self.python or sys.executable, "-m", "dstbench", "worker", str(results), "--claim"]
        words += ["--workers", str(self.trials_a_job)]
        if self.until is not None:
            words += ["--until", f"{self.until}s"]
        return words


@dataclass
class _Queue:
    """Our jobs in SLURM's queue."""

    slurm: Slurm
    results: Path
    known: list[Submission]
    _asked: float = field(default=float("-inf"), init=False)
    _ended: dict[str, str] = field(default_factory=dict, init=False)  # of those that died: why

    @property
    def left(self) -> list[str]:
        """The ids of those that wait or run, as far as is known."""
        return [name for one in self.known for name in one.left]

    def start(self, number: int) -> None:
        """Submit so many workers more; where SLURM takes some of the arrays, these have to do."""
        for i, size in enumerate(array_sizes(number, _largest_array())):
            try:
                self._submit(size)
            except BadInput:
                if i == 0:
                    raise
                return

    def census(self) -> Census | None:
        """Ask the queue, unless it was asked a moment ago."""
        if time.monotonic() - self._asked < BETWEEN_LISTINGS:
            return None
        owner = str(self.known[0].path.stat().st_uid if self.known else os.getuid())
        listing = _run("squeue", "-h", "-r", "-t", "all", "-u", owner, "-o", FORMAT)
        if listing.returncode != 0:
            return None
        self._asked = time.monotonic()
        listed, died = states(listing.stdout), 0
        for one in self.known:
            news: dict[str, dict[str, Any]] = {}
            for name in one.left:
                last = one.jobs[name].get("state", "PENDING")
                job: dict[str, Any] = listed.get(name) or {"state": "GONE" if is_alive(last) else last}
                if not is_alive(job["state"]):
                    job = {**job, "ended": True}
                    if job["state"] not in ("COMPLETED", "CANCELLED"):
                        died += 1
                    self._ended[name] = job["state"]
                news[name] = job
            one.update(news)
        return Census(len(self.left), died)

    def last_words(self) -> str:
        """How the last of our jobs ended, and the end of its log."""
        if not self._ended:
            return "none was seen in the queue"
        name, state = list(self._ended.items())[-1]
        logs = [log for one in self.known if name in one.jobs for log in [_logs(one) / f"{name}.log"]]
        words = next((words for log in logs if (words := last_words(log, 500).strip())), "")
        return f"job {name} is {state}" + (f"; {logs[0]} ends with: {words}" if words else "")

    def dismiss(self) -> None:
        """End what still waits in the queue, for nothing is left to do; what runs ends by itself."""
        if left := self.left:
            _run("scancel", "--state=PENDING", *sorted({name.partition("_")[0] for name in left}))
            self._asked = float("-inf")
            self.census()

    def farewell(self) -> str | None:
        """What goes on without us, and how to end it; None if nothing does."""
        arrays = sorted({name.partition("_")[0] for name in self.left}, key=int)
        if not arrays:
            return None
        workers = "1 worker is" if len(self.left) == 1 else f"{len(self.left)} workers are"
        return (
            f"{workers} in SLURM's queue, as job {', '.join(arrays)}; `scancel {' '.join(arrays)}` ends them, the "
            "same command follows them."
        )

    def _submit(self, size: int) -> None:
        name = uuid.uuid4().hex[:8]
        path = self.results / ENGINES / f"slurm-{name}.json"
        logs = path.with_suffix("")
        logs.mkdir(parents=True)
        environment = {key: value for key, value in os.environ.items() if key.startswith("DSTBENCH_")}
        text = script(
            self.slurm.options(self.results, logs, size), _listed(self.slurm.setup), environment,
            self.slurm.command(self.results), self.slurm.requeue, self.slurm.until,
        )  # fmt: skip
        write_whole(logs / "worker.sh", text)
        done = _run("sbatch", "--parsable", str(logs / "worker.sh"))
        if done.returncode != 0:
            raise BadInput(f"executor slurm: sbatch refused {logs / 'worker.sh'}: {done.stderr.strip()}")
        array = done.stdout.strip().partition(";")[0]
        tasks = {f"{array}_{i}": {"state": "PENDING"} for i in range(size)}
        submission = Submission(path, "slurm", time.time(), _us(), f"scancel {array}", dict(tasks))
        submission.write()
        self.known.append(submission)


def refresh(results: Path) -> None:
    """Bring what a results folder says of its SLURM jobs up to date, where SLURM can be asked and the folder be
    written; whoever submitted them."""
    known = [one for one in submissions(results, "slurm") if one.left]
    if known and shutil.which("squeue") is not None:
        with contextlib.suppress(OSError):
            _Queue(Slurm(), results, known).census()


def _listed(lines: str | tuple[str, ...]) -> tuple[str, ...]:
    """A line alone stands for a list of it."""
    return (lines,) if isinstance(lines, str) else lines


def _us() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _logs(submission: Submission) -> Path:
    return submission.path.with_suffix("")


def _largest_array() -> int:
    """Tasks that one array may have here: a site may allow fewer than usual."""
    shown = _run("scontrol", "show", "config").stdout
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.MULTILINE)
    return max(1, min(LARGEST_ARRAY, int(limit[1]) if limit else LARGEST_ARRAY))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM's; one that hangs has failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} didn't answer in {_PATIENCE:g} s")
