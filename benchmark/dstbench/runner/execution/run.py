"""One run of a matrix: what is missing is run, what is there is kept. This is what ``dstbench.run`` is."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from dstbench.errors import BadInput, nearest
from dstbench.registration.registry import Registry
from dstbench.registration.registry import registry as default_registry
from dstbench.results.record import FILE, STATUSES, Record, Rejected, folder_of, read_trial
from dstbench.results.storage import check_room
from dstbench.runner.execution.event_log import EventLog
from dstbench.runner.execution.halt import UNWRITTEN_STATUS, OnError
from dstbench.runner.execution.launched import Launch, launched
from dstbench.runner.execution.local import cores
from dstbench.runner.execution.order import LOST, Executor, Order
from dstbench.runner.execution.plan_file import write_plan
from dstbench.runner.execution.rank_processes import follow
from dstbench.runner.execution.server import LAZY, run_under_way, warm_up
from dstbench.runner.execution.worker import Event, Job, record_skip
from dstbench.runner.matrix.config import Budget, Matrix, executor_of, load_matrix
from dstbench.runner.matrix.known_plan import known_plan
from dstbench.runner.matrix.planned import Plan, PlannedTrial
from dstbench.runner.trial.tracking import check_trackers

INVALID = "invalid"
"""Beside the statuses in ``retry``: puts result files that can't be trusted aside and runs their trials."""
CONTENDED = "contended"
"""Beside the statuses in ``retry``: measures throughput again where something else was running."""


@dataclass(frozen=True)
class Tasks:
    """The functions that run and time a trial, as "module:function"."""

    train: str = "dstbench.runner.trial.trial:run_trial"
    measure: str = "dstbench.runner.trial.throughput:measure_throughput"


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

    @property
    def counts(self) -> dict[str, int]:
        """Status -> number of trials."""
        return dict(sorted(Counter(self.statuses.values()).items()))

    @property
    def ok(self) -> bool:
        """Whether every trial is done, and well."""
        return not self.untimed and set(self.statuses.values()) <= {"ok", "skipped"}


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
    on_error: OnError = "continue",
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
    on_error: "stop" to start no more trials after the first that fails; those that run go on to their end.
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
    source, chosen, retried = registry or default_registry(), tasks or Tasks(), _statuses(retry)
    whole = known_plan(load_matrix(suite, settings), source, yes=yes)
    engine = executor_of(whole.matrix, executor)
    execute: Executor = source.choose("executor", engine).make()
    share = replace(whole, trials=tuple(trials_of_shard(whole.trials, shard)))
    root, budget, again = Path(out), whole.matrix.budget, CONTENDED in retried
    ending, launch = _Endings(progress), launched()
    if launch is not None and launch.rank > 0:
        follow(launch, cores())
        return _summary(root, share, ending, time.monotonic() - start)
    before = _states(root, share.trials, retried)
    due = [t for t in share.trials if not t.skip and _is_due(before[t.key], retried)]
    preload = _modules(due, source, chosen)
    with run_under_way(), contextlib.nullcontext() if launch is None else launch.leading():
        if launch is not None:
            _check_launched(launch, engine["name"], workers, due)
            workers = 1
        if due and engine["name"] == "local":
            warm_up(preload)  # meanwhile the plan is shown and data sets are loaded
        keys = {trial.key for trial in due}
        known = [t for t in share.trials if t.key in keys or needs_timing(t, before[t.key], again)]
        timed = tuple(t for t in known if is_timed(t))
        if planned is not None:
            planned(replace(share, due=tuple(due), timed=timed), len(due), len(timed))
        if due:
            _check_data(due, source, data_root, download)
        options: dict[str, Any] = {
            "data_root": data_root and Path(data_root),
            "device": device,
            "checkpoint_seconds": 60.0 * checkpoint_minutes,
        }
        if trackers:
            options["trackers"] = list(trackers)
        said = {"tuning": budget.tuning}
        order = Order(
            root,
            tuple(
                _job(
                    root,
                    t,
                    chosen.train,
                    budget,
                    _named(options, t),
                    before[t.key],
                    retry=retried,
                    provenance=said,
                )
                for t in due
            ),
            tuple(
                _job(root, t, chosen.measure, budget, {"device": device}, before[t.key], phase="throughput")
                for t in timed
            ),
            tuple(_modules([*due, *timed], source, chosen)),
            on_error,
        )
        left = None
        if due or timed:
            check_room(root)
            write_plan(order, whole.matrix.name)
            log = EventLog(root, ending)
            log.say({"kind": "run", "suite": whole.matrix.name, "train": len(due), "timed": len(timed)})
            left = execute(order, workers=workers, on_event=log)
            log.say({"kind": "end", "statuses": dict(Counter(ending.last.values()))})
    return replace(_summary(root, share, ending, time.monotonic() - start), left=left)


def trials_of_shard(trials: Sequence[PlannedTrial], shard: str | None) -> list[PlannedTrial]:
    """The trials of shard "i/n", chosen by key: every machine finds the same split without talking."""
    if shard is None:
        return list(trials)
    first, slash, second = shard.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
        raise BadInput(f"shard: expected i/n with 1 <= i <= n, such as 1/4, got {shard!r}")
    return [trial for trial in trials if int(trial.key[:8], 16) % int(second) == int(first) - 1]


def state_of(root: Path, key: str) -> Record | Rejected | None:
    """A trial's record, why its file can't be trusted, or None where there is none."""
    folder = folder_of(root, key)
    return read_trial(folder) if (folder / FILE).exists() else None


def is_timed(trial: PlannedTrial) -> bool:
    """Whether a trial's throughput is wanted."""
    return trial.trial.measure.throughput


def needs_timing(trial: PlannedTrial, state: Record | Rejected | None, again: bool = False) -> bool:
    """Whether a trial is done but for its throughput; with ``again``, a contended one doesn't count."""
    if not isinstance(state, dict) or state["status"] != "ok":
        return False
    measured = state["measures"].get("throughput")
    return is_timed(trial) and (not measured or (again and bool(measured.get("contended"))))


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
    on_error: str,
) -> None:
    """Refuse what a caller got wrong beside the matrix."""
    for name, value in (("settings", settings), ("retry", retry)):
        if isinstance(value, str):
            raise BadInput(f"{name}: expected a list of strings, got {value!r}")
    if workers is not None and workers < 1:
        raise BadInput(f"workers: expected at least 1, got {workers}")
    if not 0 <= checkpoint_minutes < math.inf:
        raise BadInput(f"checkpoint_minutes: expected 0 or more, got {checkpoint_minutes}")
    if on_error not in get_args(OnError):
        raise BadInput(f"on_error: unknown {on_error!r}{nearest(on_error, get_args(OnError))}")
    if device not in DEVICES:
        raise BadInput(f"device: unknown {device!r}{nearest(device, DEVICES)}")
    if Path(out).exists() and not Path(out).is_dir():
        raise BadInput(f"out: expected a folder, got the file '{out}'")


_LEFT = ("cached", "elsewhere", "interrupted", LOST, UNWRITTEN_STATUS)
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
            self.last[event.job.key] = event.status
            self.counts[event.job.phase] += event.status not in _LEFT
            self.untimed += event.job.phase == "throughput" and event.status not in (
                "ok",
                "cached",
                "elsewhere",
            )
        if self._progress is not None:
            self._progress(event)


def _statuses(retry: Iterable[str]) -> frozenset[str]:
    known = [*STATUSES, INVALID, CONTENDED]
    for status in (retried := frozenset(retry)):
        if status not in known:
            raise BadInput(f"retry: unknown status {status!r}{nearest(status, known)}")
    return retried


def _is_due(state: Record | Rejected | None, retried: frozenset[str]) -> bool:
    return state is None or (isinstance(state, dict) and state["status"] in retried)


def _states(
    root: Path, trials: Sequence[PlannedTrial], retried: frozenset[str]
) -> dict[str, Record | Rejected | None]:
    """What is there of each trial; files that can't be trusted are put aside where that was asked for."""
    states = {trial.key: state_of(root, trial.key) for trial in trials}
    if INVALID in retried:
        states |= _set_aside(states)
    _write_skips(root, [trial for trial in trials if trial.skip and states[trial.key] is None])
    return states


def _summary(root: Path, share: Plan, ending: _Endings, seconds: float) -> Run:
    after = {trial.key: state_of(root, trial.key) for trial in share.trials}
    return Run(
        out=root,
        plan=share,
        statuses={key: _status(state, ending.last.get(key)) for key, state in after.items()},
        ran=ending.counts["train"],
        timed=ending.counts["throughput"],
        untimed=ending.untimed,
        rejected=tuple(state for state in after.values() if isinstance(state, Rejected)),
        seconds=seconds,
    )


def _set_aside(before: Mapping[str, Record | Rejected | None]) -> dict[str, None]:
    """Rename result files that can't be trusted; they stay beside the new ones."""
    moved: dict[str, None] = {}
    for key, state in before.items():
        if isinstance(state, Rejected):
            state.path.rename(state.path.with_name(f"{FILE}.{time.time_ns()}.{INVALID}"))
            moved[key] = None
    return moved


def _write_skips(root: Path, skipped: Sequence[PlannedTrial]) -> None:
    for trial in skipped:
        record_skip(_job(root, trial, "", Budget(), {}), str(trial.skip))


def _check_data(
    due: Sequence[PlannedTrial],
    registry: Registry,
    data_root: str | Path | None,
    download: bool,
) -> None:
    """Load every data set once: what is missing is said, or downloaded, before anything starts."""
    from dstbench.runner.trial.blueprint import load_data

    specs = {repr(trial.trial.dataset): trial.trial.dataset for trial in due}
    for spec in specs.values():
        load_data(registry, spec, data_root, download)


def _modules(trials: Sequence[PlannedTrial], registry: Registry, tasks: Tasks) -> list[str]:
    """Modules that trials need: loaded once in the server instead of once a trial."""
    modules = {task.partition(":")[0]: None for task in (tasks.train, tasks.measure)}
    modules |= dict.fromkeys(LAZY)
    for trial in trials:
        for kind, spec in trial.trial.components.items():
            target = registry.resolve(kind, spec["name"]).target
            modules[target.partition(":")[0] if isinstance(target, str) else target.__module__] = None
    return list(modules)


def _job(
    root: Path,
    trial: PlannedTrial,
    task: str,
    budget: Budget,
    options: Mapping[str, Any],
    state: Record | Rejected | None = None,
    **more: Any,
) -> Job:
    """A job on a trial, whose state it may change: another's, who comes in between, it leaves."""
    return Job(
        trial.key,
        trial.trial,
        trial.label,
        trial.control,
        folder_of(root, trial.key),
        task,
        limit=budget.trial_seconds,
        memory=budget.trial_memory,
        options=options,
        replaces=state["checksum"] if isinstance(state, dict) else None,
        **more,
    )


def _named(options: Mapping[str, Any], trial: PlannedTrial) -> Mapping[str, Any]:
    """Options of a trial, with what trackers, if there are any, call it."""
    if not options.get("trackers"):
        return options
    spec = trial.trial
    where = f"{spec.model['name']}, {spec.dataset['name']}, density {spec.density:g}, seed {spec.seed}"
    return {**options, "run_name": _ODD.sub("-", f"{trial.label}, {where}")[:200]}


_ODD = re.compile(r"[^\w=(). -]+")  # it becomes a folder name


def _status(state: Record | Rejected | None, event: str | None) -> str:
    if isinstance(state, dict):
        return str(state["status"])
    return INVALID if state is not None else event or "missing"
