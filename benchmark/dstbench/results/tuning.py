"""Settings that were tried on validation data before a method's seeds ran, and which of them was chosen. Torch-free.

The choice is a function of the records of the tuning trials alone, so every machine comes to the same: the candidate
of which the fewest trainings failed, of these the one with the best mean; among equals the one that is nearer to the
middle of the grid, then the smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import fsum, isfinite
from typing import Any, Literal

from typing_extensions import TypeIs

from dstbench.results.labels import value_text
from dstbench.results.measure_table import LARGEST, MEASURES
from dstbench.results.printable import printable, shortened
from dstbench.results.ranking import TOP1, Ranking, ranking_of
from dstbench.results.record import Record, Rejected

TUNED = "tuned"
"""The field of a record's provenance, which is no part of its key, that says how its settings were chosen."""
TRIES = "tries"
"""The same of a tuning trial: the settings that it tries."""
EDGE = "at the edge of the grid"
_LONGEST = 300  # characters of how a training ended
_MOST = 1_000  # candidates of a record that is believed

Scalar = str | int | float | None
Settings = Mapping[str, Scalar]
"""Setting of the training -> number, text or truth value."""


def is_tuning(trial: Mapping[str, Any]) -> bool:
    """Whether a record's trial was evaluated on validation data alone, to choose settings by."""
    return trial.get("evaluated") == "validation"


def tries_of(record: Record) -> Settings:
    """The settings that a record's tuning trial tries, as far as it says so; none of any other trial."""
    said = record["provenance"].get(TRIES)
    return said if is_tuning(record["trial"]) and isinstance(said, dict) else {}


@dataclass(frozen=True)
class Candidate:
    """A point of a grid and what its trainings gave on the validation split."""

    settings: Settings
    score: float | None  # the metric that ranks: the mean of the trainings that finished
    trainings: int
    failed: tuple[str, ...] = ()  # how the others ended: "diverged: the training loss is nan"

    @property
    def text(self) -> str:
        """``lr=0.1``."""
        return settings_said(self.settings)

    @property
    def said(self) -> str:
        """Its score, and how trainings without one ended."""
        ends = ", ".join(dict.fromkeys(end.partition(":")[0] for end in self.failed))
        score = [] if self.score is None else [f"{self.score:.4g}"]
        return ", ".join([*score, *([f"{len(self.failed)} of {self.trainings} {ends}"] if ends else [])])


@dataclass(frozen=True)
class Tuning:
    """The candidates, in the order in which ties are decided, and which way their metric is better."""

    candidates: tuple[Candidate, ...]
    better: Literal["higher", "lower"]
    mine: int = 0  # of whose settings we ask this
    metric: Ranking = TOP1  # that the candidates' trainings are judged by, as far as one says it

    @property
    def chosen(self) -> int | None:
        """The place of the candidate that was chosen; None where none has finished a training."""
        if all(candidate.score is None for candidate in self.candidates):
            return None
        return min(
            range(len(self.candidates)), key=lambda place: (*self._order(self.candidates[place]), place)
        )

    @property
    def is_mine(self) -> bool:
        """Whether what was chosen is ours, or nothing could be and ours stands for it."""
        return self.mine == (self.chosen or 0)

    @property
    def spread(self) -> float | None:
        """How far the metric of the candidates is apart; None where less than two have one."""
        scores = [candidate.score for candidate in self.candidates if candidate.score is not None]
        return max(scores) - min(scores) if len(scores) > 1 else None

    @property
    def at_edge(self) -> tuple[str, ...]:
        """The settings whose chosen value is the least or the most of the grid: a better one may be beyond. Below 0
        there is nothing."""
        if self.chosen is None:
            return ()
        settings = self.candidates[self.chosen].settings
        return tuple(name for name, value in settings.items() if self._is_end(name, value))

    @property
    def said(self) -> str:
        """What was chosen, for people: ``lr=0.1 (at the edge of the grid)``."""
        if self.chosen is None:
            return "none: every candidate failed"
        settings = self.candidates[self.chosen].settings
        parts = [
            settings_said({name: value}) + (f" ({EDGE})" if name in self.at_edge else "")
            for name, value in settings.items()
        ]
        return ", ".join(parts) + ("" if self.is_mine else ", in place of this")

    @property
    def tried(self) -> str:
        """What each candidate gave, for people, in the order of the settings."""
        return "; ".join(f"{one.text}: {one.said}" for one in self.ordered)

    @property
    def ordered(self) -> list[Candidate]:
        """The candidates in the order of their settings, as far as these are numbers."""
        return sorted(
            self.candidates, key=lambda one: [v if is_number(v) else 0 for v in one.settings.values()]
        )

    def _is_end(self, name: str, value: Any) -> bool:
        tried = [candidate.settings.get(name) for candidate in self.candidates]
        values = {float(value) for value in tried if value is not None and is_number(value)}
        if len(values) < 2 or not all(map(is_number, tried)):
            return False
        return float(value) == max(values) or (float(value) == min(values) and value != 0)

    def _order(self, candidate: Candidate) -> tuple[bool, int, float]:
        """What makes a candidate come first; sums' last bits make no difference."""
        if candidate.score is None:
            return True, len(candidate.failed), 0.0
        sign = -1.0 if self.better == "higher" else 1.0
        return False, len(candidate.failed), sign * float(f"{candidate.score:.9g}")

    def to_json(self) -> dict[str, Any]:
        """As the provenance of a record holds it."""
        chosen = self.chosen
        return {
            "settings": dict(self.candidates[self.mine].settings),
            "chosen": None if chosen is None else dict(self.candidates[chosen].settings),
            "better": self.better,
            "candidates": [
                {
                    "settings": dict(one.settings), "score": one.score, "trainings": one.trainings,
                    "failed": list(one.failed),
                }
                for one in self.candidates
            ],
        }  # fmt: skip


def tuning_of(record: Record) -> Tuning | None:
    """How a record's settings were chosen, as far as it says so in a way that can be understood."""
    said = record["provenance"].get(TUNED)
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        candidates = tuple(map(_candidate, said["candidates"][:_MOST]))
        if said["better"] in ("higher", "lower"):
            mine = [candidate.settings for candidate in candidates].index(said["settings"])
            return Tuning(candidates, said["better"], mine)
    return None


def _candidate(said: Mapping[str, Any]) -> Candidate:
    """Raises what such a mapping raises, or ValueError, where it isn't one."""
    settings, score, trainings = dict(said["settings"]), said["score"], said["trainings"]
    known = score is None or (is_number(score) and -LARGEST < score < LARGEST)
    if not known or not isinstance(trainings, int) or not settings:
        raise ValueError("no candidate")
    if not all(isinstance(value, str | int | float | None) for value in settings.values()):
        raise ValueError("settings are numbers, texts and truth values")
    return Candidate(settings, score, trainings, tuple(map(str, said["failed"])))


def tuning_from(
    settings: Sequence[Settings], records: Sequence[Sequence[Record | Rejected]], mine: int = 0
) -> Tuning:
    """What the records of the tuning trials come to: of each candidate its settings, and a record a training."""
    rankings = [
        ranking_of(record["measures"])
        for trained in records
        for record in trained
        if isinstance(record, dict) and record["measures"]
    ]
    ranking: Ranking = rankings[0] if rankings else TOP1
    candidates = tuple(_judged(*pair) for pair in zip(settings, records, strict=True))
    return Tuning(candidates, "lower" if ranking.sign < 0 else "higher", mine, ranking)


def _judged(settings: Settings, records: Sequence[Record | Rejected]) -> Candidate:
    scores, failed = [], []
    for record in records:
        score = (
            None if isinstance(record, Rejected) else MEASURES["score_validation"].value(record["measures"])
        )
        if isinstance(record, Rejected):
            failed.append(_said(f"its record can't be trusted: {record.reason}"))
        elif record["status"] != "ok":
            failed.append(_said(f"{record['status']}: {record['reason'] or 'no reason given'}"))
        elif score is None or not isfinite(score):
            failed.append("its metric on the validation split is no number")
        else:
            scores.append(score)
    mean = fsum(scores) / len(scores) if scores else None
    return Candidate(settings, mean, len(records), tuple(sorted(failed)))


def _said(text: str) -> str:
    """As a record holds it, whatever it was."""
    return shortened(" ".join(printable(text).split()), _LONGEST)


def is_number(value: object) -> TypeIs[int | float]:
    """Whether a setting is one, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def settings_said(settings: Settings) -> str:
    """``lr=0.1, weight_decay=0``."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in settings.items())
