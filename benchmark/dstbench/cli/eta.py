"""How long a run will still take: what was expected of each trial, corrected by what has run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from dstbench.errors import BadInput

Trial = tuple[str, str]  # phase, key


@dataclass
class Remaining:
    """Trials that are left. Told of every start and end; says the seconds of wall clock that are left."""

    expected: Mapping[Trial, float | None] = field(default_factory=dict)  # seconds of each by itself
    workers: Mapping[str, int] = field(default_factory=dict)  # phase -> trials at a time
    _started: dict[Trial, float] = field(default_factory=dict)
    _done: dict[Trial, float] = field(default_factory=dict)  # seconds that they took

    def start(self, trial: Trial, now: float) -> None:
        """A trial started at ``now``, seconds of a clock."""
        self._started[trial] = now

    def end(self, trial: Trial, seconds: float) -> None:
        """A trial ended after ``seconds``."""
        self._started.pop(trial, None)
        self._done[trial] = seconds

    def seconds(self, now: float) -> float | None:
        """What is left of all phases; None where a phase is unknown: nothing expected of it, and nothing run."""
        left = 0.0
        for phase in {phase for phase, _ in self.expected}:
            seconds = self._of(phase, now)
            if seconds is None:
                return None
            left += seconds
        return left if self.expected else None

    def _of(self, phase: str, now: float) -> float | None:
        todo = [t for t in self.expected if t[0] == phase and t not in self._done]
        ran = [t for t in self.expected if t[0] == phase and t in self._done]
        known = all(self.expected[t] is not None for t in (*todo, *ran))
        if not todo or not (known or ran):
            return None if todo else 0.0
        # where nothing was expected, all trials of a phase count the same
        weight = {t: (self.expected[t] or 0.0) if known else 1.0 for t in (*todo, *ran)}
        weighed = sum(weight[t] for t in ran)
        scale = sum(self._done[t] for t in ran) / weighed if weighed > 0 else 1.0
        left = [
            max(0.0, weight[t] * scale - (now - self._started[t] if t in self._started else 0.0))
            for t in todo
        ]
        return max(sum(left) / max(1, self.workers.get(phase, 1)), max(left))


def duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_LENGTH = re.compile(r"\s*".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?)\s*{unit})?" for unit in _UNITS))


def seconds_of(name: str, text: str) -> float:
    """The seconds of ``3h50m``, ``90m`` or ``3600s``, or of a number of them. Raises BadInput, naming the option."""
    plain = text.strip().lower()
    matched = _LENGTH.fullmatch(plain + "s" if plain.replace(".", "", 1).isdigit() else plain)
    seconds = (
        sum(_UNITS[unit] * float(number or 0) for unit, number in matched.groupdict().items())
        if matched
        else 0
    )
    if not 0 < seconds < float("inf"):
        raise BadInput(f"{name}: expected a time such as 3h50m, 90m or 3600s, got {text!r}")
    return seconds
