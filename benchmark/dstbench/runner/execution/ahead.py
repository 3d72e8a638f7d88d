"""What of a plan is ahead: what is trained and timed once each, and every job that this may come to.

Where tuning hasn't decided yet, each candidate of a trial has a job, of which one is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dstbench.results.tuning import Tuning
from dstbench.runner.execution.decision import decided, says
from dstbench.runner.execution.missing import State, is_due, is_timed, needs_timing, trials_of_shard
from dstbench.runner.matrix.planned import Plan, PlannedTrial


@dataclass(frozen=True)
class Ahead:
    """Trials in order; those that are tuned stand once in ``due`` and ``timed``."""

    due: tuple[PlannedTrial, ...]  # tuning trials first
    timed: tuple[PlannedTrial, ...]
    train: tuple[PlannedTrial, ...]  # that get a job
    throughput: tuple[PlannedTrial, ...]


def share_of(plan: Plan, shard: str | None) -> Plan:
    """The part of a plan that is shard "i/n" (see ``trials_of_shard``)."""
    trials, tuning = (tuple(trials_of_shard(them, shard)) for them in (plan.trials, plan.tuning))
    return replace(plan, trials=trials, tuning=tuning)


def every_trial(plan: Plan) -> tuple[PlannedTrial, ...]:
    """All that a plan may come to: tuning trials, and all candidates of the others."""
    return (*plan.tuning, *(one for trial in plan.trials for one in trial.candidates))


def settled(results: Path, trial: PlannedTrial) -> PlannedTrial:
    """The candidate that was chosen; while that isn't known, the first one."""
    tuning = trial.tuned and decided(results, trial.tuned)
    return trial.candidates[tuning.chosen or 0] if tuning else trial


def ahead(
    results: Path,
    plan: Plan,
    before: Mapping[str, State],
    retried: frozenset[str] = frozenset(),
    again: bool = False,
) -> Ahead:
    """What is missing of a plan. before: what there is of ``every_trial``; retried: the statuses of trials that are
    run again; again: whether disturbed timings are, too."""
    tuning = [trial for trial in plan.tuning if is_due(before[trial.key], retried)]
    repeated = {trial.key for trial in tuning}
    due, train = [*tuning], [*tuning]
    timed: list[PlannedTrial] = []
    throughput: list[PlannedTrial] = []
    for trial in plan.trials:
        if trial.skip:
            continue
        replaced = _replaced(trial, before, repeated)
        known = replaced.tuned and decided(results, replaced.tuned)
        undecided = replaced.tuned is not None and known is None
        one = replaced.candidates[(known.chosen or 0) if known else 0]
        wanted = replaced.candidates if undecided else (one,)
        is_missing = any(is_due(before[candidate.key], retried) for candidate in wanted)
        due += [one] if is_missing else []
        train += wanted if undecided or is_missing else ()
        if known:
            train += [
                c
                for c in replaced.candidates
                if not (is_missing and c.key == one.key) and _is_noted(c, known, before)
            ]
        if is_timed(one) and (is_missing or needs_timing(one, before[one.key], again) or undecided):
            timed.append(one)
            throughput += wanted
    return Ahead(tuple(due), tuple(timed), tuple(train), tuple(throughput))


def _replaced(trial: PlannedTrial, before: Mapping[str, State], repeated: set[str]) -> PlannedTrial:
    """A trial for which the records of tuning trials that are run again count as missing."""
    if trial.tuned is None:
        return trial
    states = (before[key] for keys in trial.tuned.trials for key in keys if key in repeated)
    checksums = frozenset(state["checksum"] for state in states if isinstance(state, dict))
    return replace(trial, tuned=replace(trial.tuned, replaced=checksums))


def _is_noted(candidate: PlannedTrial, tuning: Tuning, before: Mapping[str, State]) -> bool:
    """Whether a candidate's record says something else of how its settings were chosen."""
    record, mine = before[candidate.key], candidate.tuned.mine if candidate.tuned else 0
    return isinstance(record, dict) and not says(record, replace(tuning, mine=mine))
