"""What a matrix comes to: its trials, each with its key."""

from __future__ import annotations

from dataclasses import dataclass, field

from dstbench.runner.matrix.config import Matrix
from dstbench.runner.matrix.trial_spec import TrialSpec


@dataclass(frozen=True)
class PlannedTrial:
    """One trial: what runs, under which key, and what people call it."""

    key: str  # sha256, hex
    trial: TrialSpec
    label: str
    control: str | None = None  # "dense", "static", "small-dense"; None: a method under test
    skip: str | None = None  # why it won't run


@dataclass(frozen=True)
class Plan:
    """What a matrix comes to."""

    matrix: Matrix
    trials: tuple[PlannedTrial, ...]
    excluded: int = 0  # cells that include and exclude took away
    duplicates: int = 0  # cells that are the same trial as another
    notes: tuple[str, ...] = field(default=())  # what to know before starting
    due: tuple[PlannedTrial, ...] = ()  # of a run: what it trains
    timed: tuple[PlannedTrial, ...] = ()  # and what it times, if all that is due ends well
