"""What of a plan is there, and what is missing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dstbench.errors import BadInput, nearest
from dstbench.results.record import FILE, STATUSES, Record, Rejected, folder_of, read_trial
from dstbench.runner.matrix.planned import PlannedTrial

INVALID = "invalid"
"""Beside the statuses in ``retry``: puts result files that can't be trusted aside and runs their trials."""
CONTENDED = "contended"
"""Beside the statuses in ``retry``: measures throughput again where something else was running."""

State = Record | Rejected | None
"""A trial's record, why its file can't be trusted, or None where there is none."""


def trials_of_shard(trials: Sequence[PlannedTrial], shard: str | None) -> list[PlannedTrial]:
    """The trials of shard "i/n", chosen by key, or by that of the group that is tuned together: every machine finds
    the same split without talking."""
    if shard is None:
        return list(trials)
    first, slash, second = shard.partition("/")
    if not (slash and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
        raise BadInput(f"shard: expected i/n with 1 <= i <= n, such as 1/4, got {shard!r}")
    return [
        trial for trial in trials if int((trial.group or trial.key)[:8], 16) % int(second) == int(first) - 1
    ]


def state_of(root: Path, key: str) -> State:
    """A trial's record, why its file can't be trusted, or None where there is none."""
    folder = folder_of(root, key)
    return read_trial(folder) if (folder / FILE).exists() else None


def is_timed(trial: PlannedTrial) -> bool:
    """Whether a trial's throughput is wanted."""
    return trial.trial.measure.throughput


def needs_timing(trial: PlannedTrial, state: State, again: bool = False) -> bool:
    """Whether a trial is done but for its throughput; with ``again``, a contended one doesn't count."""
    if not isinstance(state, dict) or state["status"] != "ok":
        return False
    measured = state["measures"].get("throughput")
    return is_timed(trial) and (not measured or (again and bool(measured.get("contended"))))


def statuses_of(retry: Iterable[str]) -> frozenset[str]:
    """The statuses whose trials are run again. Raises BadInput for an unknown one."""
    known = [*STATUSES, INVALID, CONTENDED]
    for status in (retried := frozenset(retry)):
        if status not in known:
            raise BadInput(f"retry: unknown status {status!r}{nearest(status, known)}")
    return retried


def is_due(state: State, retried: frozenset[str]) -> bool:
    """Whether a trial is to be run."""
    return state is None or (isinstance(state, dict) and state["status"] in retried)


def states_of(root: Path, trials: Sequence[PlannedTrial], retried: frozenset[str]) -> dict[str, State]:
    """What is there of each trial; files that can't be trusted are put aside where that was asked for."""
    states = {trial.key: state_of(root, trial.key) for trial in trials}
    if INVALID in retried:
        states |= _set_aside(states)
    return states


def _set_aside(before: Mapping[str, State]) -> dict[str, None]:
    """Rename result files that can't be trusted; they stay beside the new ones."""
    moved: dict[str, None] = {}
    for key, state in before.items():
        if isinstance(state, Rejected):
            state.path.rename(state.path.with_name(f"{FILE}.{time.time_ns()}.{INVALID}"))
            moved[key] = None
    return moved
