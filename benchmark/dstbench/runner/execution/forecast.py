"""What trials will take, before they run: from measured steps, start-up and the timing phase included."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dstbench.results.record import Record, canonical, read_trial, record_files
from dstbench.runner.execution.paces import Machine, network, pace_of
from dstbench.runner.matrix.outlook import Outlook
from dstbench.runner.matrix.planned import PlannedTrial
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial.provenance import processor

if TYPE_CHECKING:
    from dstbench.runner.trial.pace import Pace

Phase = str  # "train" or "throughput"
PaceOf = Callable[..., "Pace | None"]

START = 0.5
"""Seconds beside its network that a trial takes to start and to end: a fork, its data, its files."""
TIMING_START = 0.4
"""The same of a timing, where fast paths are built and the best of them is chosen."""
_HEATS, _SHORTEST = 3, 2e-3
"""As races are run: sparse and dense in two layouts each; where there are more rounds than heats, these decide which
layouts run in all. Calls that are shorter are repeated where they are timed."""
_TIMELESS = ("lr", "min_lr", "weight_decay")
"""Settings on which no time depends."""
_SLOWER = 1.25
"""A step in a mixed precision that takes so much longer than in float32 is called slower."""


@dataclass(frozen=True)
class Forecast:
    """What running some trials will cost. None: not known."""

    seconds: Mapping[tuple[Phase, str], float | None]  # (phase, key) -> of each trial by itself
    workers: int
    macs: float | None  # that the hardware executes in training
    disk: float | None  # bytes
    basis: str  # what the seconds come from
    notes: tuple[str, ...] = ()  # what is slower than it looks

    def phase(self, phase: Phase) -> float | None:
        """Seconds of wall clock of a phase. Training runs several trials at a time, timing one."""
        parts = [seconds for (where, _), seconds in self.seconds.items() if where == phase]
        known = [seconds for seconds in parts if seconds is not None]
        if len(known) < len(parts):
            return None
        return max(sum(known) / (self.workers if phase == "train" else 1), max(known, default=0.0))

    @property
    def wall(self) -> float | None:
        """Seconds of wall clock in all."""
        train, timing = self.phase("train"), self.phase("throughput")
        return None if train is None or timing is None else train + timing


def forecast(
    due: Sequence[PlannedTrial],
    timed: Sequence[PlannedTrial],
    outlook: Outlook,
    out: Path,
    machine: Machine,
    pace: PaceOf | None = None,
) -> Forecast:
    """What training ``due`` and timing ``timed`` takes on this machine.

    Trials of a kind that finished here before (in ``out``) take what those took; of others a few steps are
    measured (``pace``: by ``pace_of``), which takes seconds a network.
    """
    looks = _Looks(due, timed, outlook, machine, pace or pace_of)
    past = _past(out) if due else {}
    seconds: dict[tuple[Phase, str], float | None] = {}
    for planned in due:
        known = past.get(_kind(planned.trial.to_json()))
        seconds["train", planned.place] = looks.training(planned.trial) if known is None else known
    for planned in timed:
        seconds["throughput", planned.place] = looks.timing(planned.trial)
    finished = sum(_kind(planned.trial.to_json()) in past for planned in due)
    return Forecast(
        seconds=seconds,
        workers=max(1, min(machine.workers, len(due) or 1)),
        macs=_total([outlook.macs(planned.trial) for planned in due]),
        disk=_total([outlook.disk(planned.trial) for planned in due]),
        basis="finished trials of the same kind"
        if due and finished == len(due)
        else "measured steps" + (f", and finished trials for {finished} of {len(due)}" if finished else ""),
        notes=looks.notes(),
    )


class _Looks:
    """Asks for each network's pace once, with the first sparse trial that trains it."""

    def __init__(
        self,
        due: Sequence[PlannedTrial],
        timed: Sequence[PlannedTrial],
        outlook: Outlook,
        machine: Machine,
        pace: PaceOf,
    ) -> None:
        self._outlook, self._machine, self._pace = outlook, machine, pace
        self._paces: dict[tuple[str, bool], Pace | None] = {}
        self._examples: dict[str, TrialSpec] = {}
        for planned in sorted((*due, *timed), key=lambda p: p.trial.recipe.dense + p.trial.recipe.narrow):
            self._examples.setdefault(self._name(planned.trial), planned.trial)

    def training(self, trial: TrialSpec) -> float | None:
        """Seconds of a trial from its start to its record."""
        images, pace = self._outlook.declared(trial, "train_images"), self._of(trial)
        if images is None or pace is None:
            return None
        training = trial.training
        passes = training.epochs // training.eval_every
        held = passes * (self._outlook.declared(trial, "validation_images") or 0)
        tested = 0 if trial.tunes else self._outlook.declared(trial, "test_images") or 0
        steps = training.epochs * max(1, images // training.batch_size)
        evaluated = (held + tested) / self._outlook.samples_per_entry(trial)
        return float(START + pace.start + steps * pace.step + evaluated * pace.image)

    def timing(self, trial: TrialSpec) -> float | None:
        """Seconds of measuring a trial's throughput: a step, inference of a batch and of an input."""
        pace = self._of(trial, alone=True) or self._of(trial)
        if pace is None:
            return None
        measure, batch = trial.measure, trial.training.batch_size
        step = pace.step * (measure.batch_size or batch) / batch
        passes = (step, pace.image * (measure.batch_size or batch), pace.image)
        warm = 4 * (max(1, measure.warmup) + 1)
        timed = 4 * _HEATS + 2 * measure.rounds if measure.rounds > _HEATS else 4 * measure.rounds
        calls = sum(warm * call + timed * max(_SHORTEST, call) for call in passes)
        return START + TIMING_START + 2 * pace.start + calls

    def notes(self) -> tuple[str, ...]:
        """Of which networks the pace isn't known, or disturbed, and which a mixed precision makes slower."""
        said = {}
        for (name, alone), pace in self._paces.items():
            training, model = self._examples[name].training, self._examples[name].model["name"]
            if None in self._shape(self._examples[name]):
                dataset = self._examples[name].dataset["name"]
                said[name] = (
                    f"the pace of {model} isn't known: of what shape the entries of {dataset} are, it says only once "
                    "it is read"
                )
            elif pace is None and not (alone and self._paces.get((name, False))):
                said[name] = f"the pace of {model} isn't known: a few steps of it failed or took a minute"
            elif pace is not None and pace.busy:
                said[name] = (
                    f"the machine is busy: several threads of {model} were in each other's way beside what else runs "
                    "here, so its time is that of one thread; ask again when nothing else runs"
                )
            elif pace is not None and pace.float32 is not None and pace.step > _SLOWER * pace.float32:
                said[name] = (
                    f"{training.mixed_precision} is slower than float32 here, for it is emulated: a step of {model} "
                    f"takes {pace.step:.2g} s, in float32 {pace.float32:.2g} s (`-S training.mixed_precision=no` "
                    "trains in float32)"
                )
        return tuple(dict.fromkeys(said.values()))

    def _name(self, trial: TrialSpec) -> str:
        return canonical([network(trial), *map(str, self._shape(trial))])

    def _shape(self, trial: TrialSpec) -> tuple[Any, Any]:
        return self._outlook.declared(trial, "input_shape"), self._outlook.declared(trial, "num_classes")

    def _of(self, trial: TrialSpec, alone: bool = False) -> Pace | None:
        """The pace of a trial's network; ``alone`` on the whole machine."""
        name = self._name(trial)
        if (name, alone) not in self._paces:
            shape, classes = self._shape(trial)
            known = shape is not None and classes is not None
            self._paces[name, alone] = (
                self._pace(self._examples[name], shape, classes, self._machine, alone=alone)
                if known
                else None
            )
        return self._paces[name, alone]


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _kind(trial: Mapping[str, Any]) -> str:
    """What trials that take about as long have in common; ``trial`` as in a record."""
    training = {name: value for name, value in trial["training"].items() if name not in _TIMELESS}
    return canonical([trial["model"], trial["dataset"], training])


def _past(out: Path) -> dict[str, float]:
    """Median seconds of the trials in a results folder that finished on this kind of machine, by kind."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for path in record_files(out) if out.is_dir() else ():
        record = read_trial(path)
        if isinstance(record, dict) and record["status"] == "ok" and _is_of_here(record):
            seconds[_kind(record["trial"])].append(_seconds(record))
    return {kind: statistics.median(values) for kind, values in seconds.items()}


def _is_of_here(record: Record) -> bool:
    return bool(record["provenance"].get("cpu") == processor() and record["measures"].get("seconds"))


def _seconds(record: Record) -> float:
    """From a trial's start to its end; of training alone where the record holds no more."""
    try:
        started, finished = (
            datetime.fromisoformat(record["provenance"][name]) for name in ("started", "finished")
        )
        spent = (finished - started).total_seconds()
    except (KeyError, TypeError, ValueError):
        spent = 0.0
    # a trial that was interrupted has trained longer than its last process lived
    return START + max(spent, float(record["measures"]["seconds"]))
