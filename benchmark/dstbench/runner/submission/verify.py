"""Submissions verified: the record against itself, its checkpoint, its metrics, its first steps trained anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstbench.api import DataUnavailable, StrategyError
from dstbench.errors import BadInput
from dstbench.registration.registry import Registry
from dstbench.registration.registry import registry as default_registry
from dstbench.results.curve_file import CURVE, curve_points
from dstbench.results.record import Record, Rejected, read_trial, search
from dstbench.results.table import roots
from dstbench.results.verdicts import EVALUATED, REFUSED, REPLAYED, REPORTED, REPRODUCED, Finding, Verdict
from dstbench.runner.matrix.outlook import Outlook
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.submission import evidence, weights
from dstbench.runner.submission.evidence import Evidence, Place
from dstbench.runner.submission.judging import is_same_kind, judge
from dstbench.runner.submission.plausibility import REPORTED_FIELDS
from dstbench.runner.submission.record_checks import contradictions, curve_findings
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.provenance import machine


@dataclass(frozen=True)
class Verified:
    """A submission, and what became of it: a record that can't be read has no verdict."""

    folder: Path
    verdict: Verdict | Rejected

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against it."""
        return isinstance(self.verdict, Verdict) and self.verdict.ok


def verify(
    folder: str | Path,
    *,
    data_root: str | Path | None = None,
    replay: int = 0,
    whole: bool = False,
    device: str = "auto",
    registry: Registry | None = None,
) -> Iterator[Verified]:
    """Verify every submission under a folder, one after another.

    replay: how many steps to retrain; whole: all of them. Without its data set a submission is recounted, and stays
    *reported*. Nothing is written: see ``verdicts.write_verdict``. Raises BadInput where the folder doesn't exist.
    """
    source = registry or default_registry()
    place = Place(Path(data_root) if data_root else None, device)
    for root in roots(folder):
        for file in search(root):
            if isinstance(file, Rejected):
                yield Verified(file.path, file)
                continue
            record = read_trial(file)
            if isinstance(record, Rejected):
                yield Verified(file.parent, record)
            else:
                yield Verified(
                    file.parent, _Verifying(record, file.parent, source, place).verdict(replay, whole)
                )


class _Verifying:
    """One submission on its way to a verdict: what was found, and how far it got."""

    def __init__(self, record: Record, folder: Path, registry: Registry, place: Place) -> None:
        self._record, self._folder, self._registry, self._place = record, folder, registry, place
        self._findings: list[Finding] = []
        self._checked: dict[str, str] = {}
        self._notes: list[str] = []
        self._tier, self._steps = REPORTED, 0
        self._exact: bool | None = None
        self._digest: str | None = None

    def verdict(self, replay: int, whole: bool) -> Verdict:
        """All checks, in turn; what a wrong submission says later on is of no interest."""
        try:
            self._check(replay, whole)
        except (BadInput, StrategyError) as error:
            self._findings.append(
                Finding("record", "submission", "one that can be rebuilt", str(error)[:2000])
            )
        return Verdict(
            self._record["key"],
            self._record["checksum"],
            self._digest,
            REFUSED if self._findings else self._tier,
            tuple(self._findings),
            tuple(self._checked),
            (*self._notes, f"reported alone, which nothing proves: {', '.join(REPORTED_FIELDS)}"),
            self._steps,
            self._exact,
            {name: value for name, value in machine().items() if name != "memory"},
            how=dict(self._checked),
        )

    def _check(self, replay: int, whole: bool) -> None:
        trial = TrialSpec.from_json(self._record["trial"])
        curve = self._curve()
        self._findings += contradictions(self._record, trial, curve, self._registry, self._per_input(trial))
        blueprint = Blueprint(trial, self._registry)
        same = is_same_kind(self._record, {**machine(), "threads": trial.training.threads})
        self._recount(blueprint)
        if self._findings:
            return
        try:
            evidence.load(blueprint, self._place)
        except DataUnavailable as error:
            self._notes.append(f"not evaluated: its data set isn't here: {error}")
            return
        # the checkpoint is evaluated masked dense: other kernels add up in another order
        alike = same and trial.training.storage == "masked"
        self._hold(evidence.evaluated(blueprint, self._folder, self._place), alike, "re-evaluated")
        self._tier, self._exact = EVALUATED, alike
        if self._findings or not (replay or whole):
            return
        if self._record["measures"].get("course") is None and not whole:
            self._notes.append("not replayed: its record says nothing of its first steps")
            return
        if (processes := trial.training.processes) > 1:
            self._notes.append(f"not replayed: it was trained by {processes} processes, and this is one")
            return
        if missing := evidence.missing_start(blueprint, self._place):
            self._notes.append(f"not replayed: {missing}")
            return
        self._retrain(blueprint, curve, replay, whole, same)

    def _retrain(
        self, blueprint: Blueprint, curve: list[dict[str, Any]], replay: int, whole: bool, same: bool
    ) -> None:
        all_of_it = whole or replay >= int(self._record["measures"].get("steps") or 0) > 0
        ours = (
            evidence.reproduced(blueprint, self._place)
            if all_of_it
            else evidence.replayed(blueprint, self._place, replay)
        )
        self._hold(ours, same, "reproduced" if all_of_it else "replayed")
        if same:
            self._findings += curve_findings(curve, ours.curve)
        self._steps, self._tier = ours.steps, REPRODUCED if all_of_it else REPLAYED

    def _per_input(self, trial: TrialSpec) -> int | None:
        """The samples of one input, as its task counts them; None where the data set doesn't declare its shape."""
        try:
            outlook, blueprint = Outlook(self._registry), Blueprint(trial, self._registry)
            shape, classes = (outlook.declared(trial, name) for name in ("input_shape", "num_classes"))
            if shape is None or classes is None:
                return None
            return blueprint.task.count(blueprint.task.made_up(1, tuple(shape), classes)[1])
        except BadInput:
            return None  # nor can it be rebuilt, which is said of all of it

    def _recount(self, blueprint: Blueprint) -> None:
        """The checkpoint, at the shape that the data set declares."""
        outlook = Outlook(self._registry)
        shape, classes = (outlook.declared(blueprint.trial, name) for name in ("input_shape", "num_classes"))
        if shape is None or classes is None:
            data = evidence.load(blueprint, self._place)
            shape, classes = data.input_shape, data.num_classes
        self._hold(evidence.recounted(blueprint, self._folder, tuple(shape), classes), True, "recounted")
        self._digest = weights.digest(self._folder / weights.FILE)

    def _hold(self, ours: Evidence, same: bool, how: str) -> None:
        findings, compared = judge(self._record, ours, same)
        self._findings += findings
        self._checked |= dict.fromkeys(compared, how)

    def _curve(self) -> list[dict[str, Any]]:
        file = self._folder / CURVE
        return curve_points(file)[0] if file.is_file() and not file.is_symlink() else []
