"""One run of a matrix: what is missing is run, what is there is kept. This is what ``dstbench.run`` is."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from dstbench.errors import BadInput, nearest
from dstbench.registration.registry import Registry
from dstbench.registration.registry import registry as default_registry
from dstbench.results.record import Rejected, folder_of
from dstbench.results.storage import check_room
from dstbench.runner.execution.ahead import ahead, every_trial, settled, share_of
from dstbench.runner.execution.event_log import EventLog
from dstbench.runner.execution.halt import UNAVAILABLE_STATUS, UNWRITTEN_STATUS
from dstbench.runner.execution.jobs import Tasks, likely_modules, modules_of, order_of, write_skips
from dstbench.runner.execution.launched import Launch, launched
from dstbench.runner.execution.local import cores
from dstbench.runner.execution.losses import forget
from dstbench.runner.execution.missing import (
    CONTENDED,
    INVALID,
    State,
    state_of,
    states_of,
    statuses_of,
)  # fmt: skip
from dstbench.runner.execution.order import LOST, Executor
from dstbench.runner.execution.plan_file import write_plan
from dstbench.runner.execution.rank_processes import follow
from dstbench.runner.execution.server import run_under_way, warm_up
from dstbench.runner.execution.worker import Event
from dstbench.runner.matrix.config import Matrix, OnError, executor_of, load_matrix
from dstbench.runner.matrix.known_plan import known_plan
from dstbench.runner.matrix.plan import without_validation
from dstbench.runner.matrix.planned import Plan, PlannedTrial
from dstbench.runner.trial.tracking import check_trackers


@dataclass(frozen=True)
class Run:
    """What a run came to."""

    out: Path
    plan: Plan
    statuses: Mapping[
        str, str
    ]  # of every trial of this shard: a record's status, "elsewhere", "invalid", "lost"
    ran: int  # trials that this run trained
    timed: int  # trials whose throughput this run measured
    untimed: int  # trials whose measurement failed
    rejected: tuple[Rejected, ...]  # result files that can't be trusted: their trials did not run
    seconds: float
    left: str | None = None  # what goes on after this run, on other machines, and how to end it
    tuning: Mapping[str, str] = field(default_factory=dict)  # of every trial that chose settings for others

    @property
    def counts(self) -> dict[str, int]:
        """Status -> number of trials."""
        return dict(sorted(Counter(self.statuses.values()).items()))

    @property
    def ok(self) -> bool:
        """Whether every trial is done, and well; a setting that fails in tuning is an answer."""
        good = set(self.statuses.values()) <= {"ok", "skipped"} and INVALID not in self.tuning.values()
        return not self.untimed and good


@run_under_way()
def run(
    suite: str | Path | Mapping[str, Any] | Matrix,
    out: str | Path = "results",
    *,
    settings: Sequence[str] = (),
    workers: int | None = None,
    executor: str | Mapping[str, Any] | None = None,
    retry: Iterable[str] = (),
    shard: str | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
    checkpoint_minutes: float = 10.0,
    progress: Callable[[Event], None] | None = None,
    planned: Callable[[Plan, int, int], None] | None = None,
    registry: Registry | None = None,
    tasks: Tasks | None = None,
    yes: bool = False,
    on_error: OnError | None = None,
    trackers: Sequence[str] = (),
) -> Run:
    """Run what is missing of a suite or matrix file; results go to ``out``, one folder a trial.

    settings: ``axis=value``, as ``-S`` on the command line. retry: statuses of earlier trials to run again.
    executor: its name, or a mapping of its name and parameters, or of parameters of the matrix's; else the matrix's.
    device: "auto" (a GPU where there is one) or "cpu".
    checkpoint_minutes: how far apart a trial's checkpoints are; 0 for none, but where it is asked to stop.
    data_root: where data sets are; else what ``$DSTBENCH_DATA`` says.
    shard: "i/n", this one's share of the trials. progress: called with every trial's start and end.
    planned: called once, with the plan, of which ``due`` is to train and ``timed`` to time (if none fails), and how
    many these are.
    yes: also where the matrix has more than 10,000 cells.
    on_error: "stop" to start no more trials, on whatever machine, after the first that fails; those that run go on to
    their end. "continue" not to. None: as the matrix says.
    trackers: names of Accelerate's trackers, such as "tensorboard", that are told of every trial. One that isn't
    installed is refused; one that fails later costs no trial.
    Where torchrun or ``accelerate launch`` started several of this process, they train each trial together, one after
    another: that of rank 0 does all else, the others return when it is done.
    Raises BadInput before anything starts. KeyboardInterrupt gets through once the children are ended;
    everything finished by then is kept, and the same call continues. So does OSError where the disk is full while
    trials run: no more are started, those that run go on, and records are tried to be written for a minute.
    """
    start = time.monotonic()
    data_root = data_root or os.environ.get("DSTBENCH_DATA") or None
    _check_options(out, settings, retry, workers, device, checkpoint_minutes, on_error)
    check_trackers(trackers)
    source, chosen, retried = registry or default_registry(), tasks or Tasks(), statuses_of(retry)
    matrix, root, launch = load_matrix(suite, settings), Path(out), launched()
    engine = executor_of(matrix, executor)
    execute: Executor = source.choose("executor", engine).make()
    if engine["name"] == "local" and launch is None and _lacks_trials(root, matrix):
        warm_up(likely_modules(matrix, source, chosen))  # meanwhile the plan is made
    whole = known_plan(matrix, source, yes=yes)
    share = share_of(whole, shard)
    budget, again, ending = matrix.budget, CONTENDED in retried, _Endings(progress)
    if launch is not None and launch.rank > 0:
        follow(launch, cores())
        return _summary(root, share, ending, time.monotonic() - start)
    before = states_of(root, every_trial(share), retried)
    write_skips(root, share.trials, before)
    todo = ahead(root, share, before, retried, again)
    due, timed = todo.due, todo.timed
    preload = modules_of(due, source, chosen)
    with contextlib.nullcontext() if launch is None else launch.leading():
        if launch is not None:
            _check_launched(launch, engine["name"], workers, due)
            workers = 1
        if due and engine["name"] == "local":
            warm_up(preload)  # meanwhile the plan is shown and data sets are loaded
        if planned is not None:
            planned(replace(share, due=due, timed=timed), len(due), len(timed))
        if due:
            _check_data(due, source, data_root, download)
        options: dict[str, Any] = {
            "data_root": data_root and Path(data_root),
            "device": device,
            "checkpoint_seconds": 60.0 * checkpoint_minutes,
        }
        if trackers:
            options["trackers"] = list(trackers)
        order = order_of(
            root, todo.train, todo.throughput, before, budget, options,
            source=source, tasks=chosen, retried=retried, on_error=on_error or whole.matrix.on_error,
            tuning=whole.matrix.tuning,
        )  # fmt: skip
        left = None
        if order.train or order.throughput:
            check_room(root)
            for trial in todo.throughput:
                forget(folder_of(root, trial.key))  # this is another attempt
            write_plan(order, whole.matrix.name)
            log = EventLog(root, ending)
            log.say({"kind": "run", "suite": whole.matrix.name, "train": len(due), "timed": len(timed)})
            left = execute(order, workers=workers, on_event=log)
            log.say({"kind": "end", "statuses": dict(Counter(ending.last.values()))})
    return replace(_summary(root, share, ending, time.monotonic() - start), left=left)


def _lacks_trials(root: Path, matrix: Matrix) -> bool:
    """Whether a results folder has fewer trials than a matrix has cells: some will be run, then."""
    return sum(1 for _ in root.glob("??/*")) < matrix.axes.cells


def _check_launched(launch: Launch, executor: str, workers: int | None, due: Sequence[PlannedTrial]) -> None:
    """Refuse what can't be where several processes were launched to train each trial together."""
    if executor != "local" or (workers or 1) > 1:
        raise BadInput(
            f"{launch.world} processes were launched, which train one trial after another together: leave out "
            "--executor and --workers"
        )
    for trial in due:
        if (wanted := trial.trial.training.processes) != launch.world:
            raise BadInput(
                f"training.processes: {wanted}, and {launch.world} were launched: say -S training.processes="
                f"{launch.world}, or use no launcher, for `dstbench run` starts as many as a trial wants"
            )


DEVICES = ("auto", "cpu")


def _check_options(
    out: str | Path,
    settings: Sequence[str],
    retry: Iterable[str],
    workers: int | None,
    device: str,
    checkpoint_minutes: float,
    on_error: str | None,
) -> None:
    """Refuse what a caller got wrong beside the matrix."""
    for name, value in (("settings", settings), ("retry", retry)):
        if isinstance(value, str):
            raise BadInput(f"{name}: expected a list of strings, got {value!r}")
    if workers is not None and workers < 1:
        raise BadInput(f"workers: expected at least 1, got {workers}")
    if not 0 <= checkpoint_minutes < math.inf:
        raise BadInput(f"checkpoint_minutes: expected 0 or more, got {checkpoint_minutes}")
    if on_error is not None and on_error not in get_args(OnError):
        raise BadInput(f"on_error: unknown {on_error!r}{nearest(on_error, get_args(OnError))}")
    if device not in DEVICES:
        raise BadInput(f"device: unknown {device!r}{nearest(device, DEVICES)}")
    if Path(out).exists() and not Path(out).is_dir():
        raise BadInput(f"out: expected a folder, got the file '{out}'")


_LEFT = ("cached", "elsewhere", "interrupted", LOST, UNAVAILABLE_STATUS, UNWRITTEN_STATUS)
"""What events say of trials that this run didn't end."""


class _Endings:
    """Passes events on and counts what ended how."""

    def __init__(self, progress: Callable[[Event], None] | None) -> None:
        self._progress = progress
        self.last: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.untimed = 0

    def __call__(self, event: Event) -> None:
        if event.kind == "finished":
            self.last[event.job.place] = event.status
            self.counts[event.job.phase] += event.status not in _LEFT
            self.untimed += event.job.phase == "throughput" and event.status not in (
                "ok",
                "cached",
                "elsewhere",
            )
        if self._progress is not None:
            self._progress(event)


def _summary(root: Path, share: Plan, ending: _Endings, seconds: float) -> Run:
    trials = tuple(settled(root, trial) for trial in share.trials)
    after = {trial.key: state_of(root, trial.key) for trial in (*share.tuning, *trials)}

    def statuses(those: Sequence[PlannedTrial]) -> dict[str, str]:
        return {t.key: _status(after[t.key], ending.last.get(t.place)) for t in those}

    return Run(
        out=root,
        plan=replace(share, trials=trials),
        statuses=statuses(trials),
        ran=ending.counts["train"],
        timed=ending.counts["throughput"],
        untimed=ending.untimed,
        rejected=tuple(state for state in after.values() if isinstance(state, Rejected)),
        seconds=seconds,
        tuning=statuses(share.tuning),
    )


def _check_data(
    due: Sequence[PlannedTrial],
    registry: Registry,
    data_root: str | Path | None,
    download: bool,
) -> None:
    """Load every data set once, and find all weights: what is missing is said, or downloaded, before anything
    starts."""
    from dstbench.runner.trial.blueprint import find_start, load_data

    specs = {repr(trial.trial.dataset): trial.trial.dataset for trial in due}
    tunes = {repr(trial.trial.dataset) for trial in due if trial.trial.tunes}
    for name, spec in specs.items():
        splits = load_data(registry, spec, data_root, download)
        if name in tunes and not len(splits.validation):
            raise BadInput(without_validation(spec))
    for start in {trial.trial.start for trial in due}:
        if start is not None:
            find_start(start, data_root, download)


def _status(state: State, event: str | None) -> str:
    if isinstance(state, dict):
        return str(state["status"])
    return INVALID if state is not None else event or "missing"
