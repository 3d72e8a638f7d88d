"""What every executor runs in a process of its own: one trial, from its job to its record.

The record is written here, not by the scheduler, so a finished trial is kept whatever becomes of that.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from dstbench.errors import DataUnavailable, in_a_line
from dstbench.results.ranking import TOP1
from dstbench.results.record import FILE, Record, read_record, write_record
from dstbench.results.steady import is_there, steadily
from dstbench.results.storage import is_full, patiently
from dstbench.results.tuning import TRIES, TUNED, Settings, Tuning
from dstbench.runner.execution.decision import decided, nothing_trained, says
from dstbench.runner.execution.lease import Lease, acquire, renewed
from dstbench.runner.execution.log import last_words
from dstbench.runner.execution.losses import forget, given_up
from dstbench.runner.execution.rank_processes import RankedTrial, run_ranks
from dstbench.runner.execution.tasks import load_task as load_task
from dstbench.runner.failures import LOG as LOG
from dstbench.runner.failures import ending, failure, is_out_of_memory
from dstbench.runner.matrix.planned import Tuned
from dstbench.runner.matrix.quantities import memory_text
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial import fence
from dstbench.runner.trial.fence import LeaseLost
from dstbench.runner.trial.interruption import Interrupted

DONE, UNMEASURED, UNAVAILABLE, NOTED, UNWRITTEN, INTERRUPTED, ELSEWHERE = 0, 70, 71, 72, 73, 74, 75
"""What ``work`` returns: the record is there; its speed can't be measured, and the log's last line says why; its data
aren't here; the record was there, and says now how its settings were chosen; the disk is full, and the trial stays
open; it was asked to stop and can go on; another process holds it."""
_BRIEFLY = 5.0
"""Seconds for which a scheduler waits for room: meanwhile it looks after no other trial."""
CONTENDED = 0.2
"""A throughput measurement during which others used more than this share of the machine is contended."""


@dataclass(frozen=True)
class Job:
    """A trial to run or to time, as executors get it. Plain data, cheap to pickle."""

    key: str
    trial: TrialSpec
    label: str
    control: str | None
    folder: Path
    task: str  # "module:function", called with trial and folder
    phase: Literal["train", "throughput"] = "train"
    limit: float | None = None  # seconds of wall clock
    memory: int | None = None  # bytes that its processes may hold
    options: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the task
    retry: frozenset[str] = frozenset()  # statuses of an earlier attempt that this one may replace
    replaces: str | None = None  # the checksum of the only record that this one may replace; None: of any
    provenance: Mapping[str, Any] = field(default_factory=dict)  # what the record says of its matrix
    stops_with: str | None = None  # once a job with this word has failed, no other one with it is started
    settings: Settings = field(default_factory=dict)  # of a grid, that its trial trains with
    tuned: Tuned | None = None  # what decides whether it is wanted

    @property
    def place(self) -> str:
        """Its key; of a candidate the one that stands for all of them, of which one is run."""
        return self.key if self.tuned is None else self.tuned.place


@dataclass(frozen=True)
class Event:
    """What an executor reports of a job."""

    kind: Literal["started", "held", "finished"]  # held: by another process, whose end is waited for
    job: Job
    # finished: the record's status, "cached", "elsewhere", or open again: "interrupted", "unwritten", "unavailable"
    status: str = ""
    reason: str | None = None  # held: by whom
    seconds: float = 0.0


def work(job: Job, threads: int, lease: Lease | None = None) -> int:
    """Run one job unless it is done or held elsewhere; returns DONE, NOTED, UNMEASURED, ELSEWHERE or, if it was
    asked to stop and can go on later, INTERRUPTED. A process that ends before this returns has died, whatever its
    exit code.

    threads: those of the machine that are this job's. lease: of the trial, where another process renews it; else it
    is taken, renewed and given back here.
    """
    if lease is not None:
        return _guarded(job, threads, lease)
    if (lease := acquire(job.folder)) is None:
        return ELSEWHERE
    try:
        with renewed(lease, on_loss=lambda: None):
            return _guarded(job, threads, lease)
    finally:
        lease.release()


def _guarded(job: Job, threads: int, lease: Lease) -> int:
    """Do a job. Nothing is written once the lease is another's."""
    fence.guard(lease.scratch)
    try:
        if is_waiting(job):
            return ELSEWHERE
        if is_open(job):
            return _do(job, threads)
    except LeaseLost:
        return ELSEWHERE
    except Interrupted:
        return INTERRUPTED
    except DataUnavailable as error:
        sys.stderr.write(f"{error}\n")
        return UNAVAILABLE
    except OSError as error:
        if not is_full(error):
            raise
        sys.stderr.write(f"nothing can be written: {error}\n")
        return UNWRITTEN
    finally:
        fence.guard(None)
    return DONE


def _do(job: Job, threads: int) -> int:
    if job.phase == "throughput":
        return _measure(job, threads)
    steadily(lambda: fence.check(job.folder))
    tuning = tuning_of_job(job)
    if tuning is not None and (record := _kept(job)) is not None:
        _publish({**record, "provenance": {**record["provenance"], TUNED: tuning.to_json()}}, job.folder)
        return NOTED
    if is_there(job.folder / FILE):
        forget(job.folder)
        steadily(lambda: (job.folder / FILE).unlink(missing_ok=True))
    end = tuning and nothing_trained(tuning)
    if tuning is not None and end:
        measures = {} if tuning.metric is TOP1 else {"metric": asdict(tuning.metric)}
        _publish(_named(job, {**ending(*end, "tune"), "measures": measures}), job.folder)
    else:
        _publish(_attempt(job, threads), job.folder)
    forget(job.folder)
    return DONE


def _publish(record: Mapping[str, Any], folder: Path) -> None:
    def write() -> None:
        with fence.fenced(folder) as scratch:
            write_record(record, folder, scratch)

    patiently(write)


def is_open(job: Job) -> bool:
    """Whether a job is left to do: its trial has no result, or only one that is to be replaced, or that doesn't say
    how its settings were chosen; or a good one that lacks its throughput, which no worker was lost to again and
    again. A result that can't be trusted stands, and what tuning passed over needs none."""
    tuning = tuning_of_job(job)
    wanted = tuning is None or tuning.is_mine
    if not is_there(job.folder / FILE):
        return job.phase == "train" and wanted
    record = read_record(job.folder)
    if not isinstance(record, dict):
        return False
    if job.phase == "train" and tuning is not None and not says(record, tuning):
        return True
    if not wanted:
        return False
    if job.phase == "train":
        return _is_replaced(job, record)
    named = job.replaces == record["checksum"]
    wanted = record["status"] == "ok" and (named or not record["measures"].get("throughput"))
    return wanted and given_up(job.folder) is None


def tuning_of_job(job: Job) -> Tuning | None:
    """What the tuning trials of a job came to; None while that isn't known, or where there are none."""
    return None if job.tuned is None else decided(job.folder.parents[1], job.tuned)


def is_waiting(job: Job) -> bool:
    """Whether it isn't decided yet if a job is wanted."""
    return job.tuned is not None and tuning_of_job(job) is None


def is_passed_over(job: Job) -> bool:
    """Whether another candidate was chosen in a job's place."""
    return (tuning := tuning_of_job(job)) is not None and not tuning.is_mine


def once_each(jobs: Iterable[Job]) -> list[Job]:
    """Jobs without the candidates of which another one counts already: one of them is run."""
    return list({(job.phase, job.place): job for job in reversed(list(jobs))}.values())[::-1]


def _is_replaced(job: Job, record: Record) -> bool:
    """Whether a trained trial is to be trained again."""
    return record["status"] in job.retry and job.replaces in (None, record["checksum"])


def _kept(job: Job) -> Record | None:
    """The record of a trained trial that isn't trained again, wherever its settings were chosen."""
    record = read_record(job.folder) if is_there(job.folder / FILE) else None
    wanted = isinstance(record, dict) and (is_passed_over(job) or not _is_replaced(job, record))
    return record if isinstance(record, dict) and wanted else None


def record_death(
    job: Job,
    status: str,
    reason: str,
    seconds: float,
    measures: Mapping[str, Any] | None = None,
    lease: Lease | None = None,
) -> Record | None:
    """Write the record of a trial whose process died without one; the log's end stands for a traceback.

    measures: what else is known of it, beside its ``seconds``. lease: that the process held. None, and nothing is
    written, where another has taken it by now.
    """
    words = last_words(job.folder / LOG)
    died = {
        **ending(status, reason, trace=words or None),
        "measures": {"seconds": seconds, **(measures or {})},
    }
    try:
        return patiently(
            lambda: write_record(_named(job, died), job.folder, lease.scratch if lease else None), _BRIEFLY
        )
    except OSError:
        if lease is None or lease.is_held():
            raise
        return None


def record_loss(job: Job, reason: str, lease: Lease) -> None:
    """Write the record of a trial that no worker is to run any more, for they all were lost with it."""
    if (
        record_death(job, "killed", f"{reason}; `--retry killed` tries it again", 0.0, lease=lease)
        is not None
    ):
        forget(job.folder)


def record_skip(job: Job, reason: str) -> Record:
    """Write the record of a trial that the plan found impossible."""
    return patiently(lambda: write_record(_named(job, ending("skipped", reason, "plan")), job.folder))


def _attempt(job: Job, threads: int) -> Record:
    started, clock = datetime.now(UTC), time.perf_counter()
    try:
        record = _run(job, threads)
    except Exception as error:
        if is_full(error) or isinstance(error, DataUnavailable):
            raise  # no fault of the trial's, which stays open
        record = {**failure(error), "measures": {"seconds": time.perf_counter() - clock}}
    if record["status"] == "oom" and job.memory is not None:
        record = {**record, "reason": f"{record['reason']} (the trial's limit is {memory_text(job.memory)})"}
    times = {"started": started.isoformat(), "finished": datetime.now(UTC).isoformat()}
    return _named(job, {**record, "provenance": {**times, **record.get("provenance", {})}})


def _run(job: Job, threads: int) -> dict[str, Any]:
    """A trial's task in this process, or in as many as it wants."""
    if job.trial.training.processes > 1:
        return run_ranks(RankedTrial(job.task, job.trial, job.folder, job.options), threads)
    return load_task(job.task)(job.trial, job.folder, **job.options, threads=threads)


def _measure(job: Job, threads: int) -> int:
    """Add a throughput measurement to a finished trial's record. Where that fails the record stays as it is."""
    record = read_record(job.folder)
    if not isinstance(record, dict) or record["status"] != "ok":
        return DONE
    try:
        with _Neighbours() as neighbours:
            # as the job's trial asks for today: how speed is measured is no part of what the trial is
            measured = load_task(job.task)(
                job.trial, job.folder, **job.options, threads=threads, contended=False
            )
    except (LeaseLost, Interrupted, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        sys.stderr.write(f"{failure(error)['traceback']}\n{in_a_line(error)}\n")
        return UNMEASURED
    measured = {**measured, "contended": bool(measured.get("contended")) or neighbours.share > CONTENDED}
    _publish({**record, "measures": {**record["measures"], "throughput": measured}}, job.folder)
    return DONE


class _Neighbours:
    """Measures what share of the processors that this process may use others used meanwhile."""

    share = 0.0

    def __enter__(self) -> _Neighbours:
        self._cpus = allowed_cpus()
        self._start = self._used()
        return self

    def __exit__(self, *_: object) -> None:
        (everyone, ours, idle), (everyone0, ours0, idle0) = self._used(), self._start
        total = (everyone - everyone0) + (idle - idle0)
        self.share = max(0.0, (everyone - everyone0) - (ours - ours0)) / total if total > 0 else 0.0

    def _used(self) -> tuple[float, float, float]:
        """Seconds on those processors so far: of everyone, of this process, of nobody."""
        by_cpu = psutil.cpu_times(percpu=True)
        ours = [times for cpu, times in enumerate(by_cpu) if self._cpus is None or cpu in self._cpus]
        ours = ours or by_cpu
        idle = sum(times.idle + getattr(times, "iowait", 0.0) for times in ours)
        everyone = sum(sum(times[:7]) for times in ours) - idle  # what follows is in user time, or another's
        own = psutil.Process().cpu_times()
        return everyone, own.user + own.system, idle


def allowed_cpus() -> set[int] | None:
    """The processors that this process may use; None where the system can't say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _named(job: Job, record: Mapping[str, Any]) -> Record:
    return {
        **record,
        "key": job.key,
        "trial": job.trial.to_json(),
        "label": job.label,
        "control": job.control,
        "provenance": {
            **job.provenance,
            **({TUNED: tuning.to_json()} if (tuning := tuning_of_job(job)) else {}),
            **({TRIES: dict(job.settings)} if job.trial.tunes else {}),
            **record.get("provenance", {}),
        },
    }
