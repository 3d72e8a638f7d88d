"""What a matrix comes to: its trials, each with its key."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dstbench.results.tuning import Settings
from dstbench.runner.matrix.config import Matrix
from dstbench.runner.matrix.trial_spec import TrialSpec


@dataclass(frozen=True)
class Tuned:
    """What decides whether a trial is run: which candidate the tuning trials of its group choose.

    The candidates are in the order in which ties are decided.
    """

    place: str  # the key of the trial's first candidate, whichever is chosen
    settings: tuple[Settings, ...]  # of each candidate
    trials: tuple[tuple[str, ...], ...]  # of each candidate the keys of its tuning trials
    mine: int = 0  # the candidate that this trial is
    replaced: frozenset[str] = frozenset()  # checksums of records that count as missing: they are tried again

    @property
    def is_first(self) -> bool:
        """Whether it stands for all candidates where they count once."""
        return self.mine == 0


@dataclass(frozen=True)
class PlannedTrial:
    """One trial: what runs, under which key, and what people call it."""

    key: str  # sha256, hex
    trial: TrialSpec
    label: str
    control: str | None = None  # "dense", "static", "small-dense"; None: a method under test
    skip: str | None = None  # why it won't run
    settings: Settings = field(default_factory=dict)  # of a grid, that it trains with
    group: str = ""  # hex, of the trials that share a choice; "": nothing is chosen for it
    tuned: Tuned | None = None  # of a trial whose settings are chosen: it is then its first candidate
    others: tuple[tuple[str, TrialSpec], ...] = ()  # key and trial of the other candidates

    @property
    def place(self) -> str:
        """Its key; of a candidate the one that stands for all of them."""
        return self.tuned.place if self.tuned else self.key

    @property
    def candidates(self) -> tuple[PlannedTrial, ...]:
        """All that it may come to; itself, where nothing is chosen."""
        if self.tuned is None:
            return (self,)
        return tuple(
            replace(
                self, key=key, trial=trial, settings=self.tuned.settings[i], others=(),
                tuned=replace(self.tuned, mine=i),
            )
            for i, (key, trial) in enumerate(((self.key, self.trial), *self.others))
        )  # fmt: skip


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
    tuning: tuple[PlannedTrial, ...] = ()  # trials that choose the settings of the others
