"""A record held against what was made again, and against itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dstbench.results.printable import shown
from dstbench.results.record import Record
from dstbench.results.verdicts import Finding
from dstbench.runner.submission.evidence import Evidence

ROUNDING = 1e-9
"""Relative: what exact figures may differ by, for sums are made in another order."""
FIRST = 16
"""Steps whose losses are compared between machines of different kinds: from there rounding has its own way."""


@dataclass(frozen=True)
class Tolerance:
    """How far a figure may be from what was made again: the larger of both."""

    relative: float = ROUNDING
    absolute: float = 0.0

    def allows(self, expected: float, got: float) -> bool:
        """Whether two numbers are near enough."""
        return math.isclose(expected, got, rel_tol=self.relative, abs_tol=self.absolute)


EXACT = Tolerance()
ELSEWHERE: Mapping[str, Tolerance] = {
    "top1": Tolerance(0.0, 0.1),
    "top1_validation": Tolerance(0.0, 0.2),
    "loss": Tolerance(0.01, 1e-4),
    "score": Tolerance(0.01, 1e-4),
    "score_validation": Tolerance(0.01, 1e-4),
    "metrics": Tolerance(0.02, 1e-4),
}
"""Of an evaluation on a machine of another kind, in percent points, and of losses and other metrics."""
RETRAINED: Mapping[str, Tolerance] = {
    "top1": Tolerance(0.0, 2.0),
    "top1_validation": Tolerance(0.0, 3.0),
    "loss": Tolerance(0.3, 0.05),
    "score": Tolerance(0.3, 0.05),
    "score_validation": Tolerance(0.3, 0.05),
    "metrics": Tolerance(0.5, 0.05),
}
"""Of a whole training on a machine of another kind; whatever else its course gives may differ by a twentieth."""
COURSE = Tolerance(1e-3, 1e-5)
"""Of the losses of the first steps on a machine of another kind."""


def judge(record: Record, evidence: Evidence, same: bool) -> tuple[list[Finding], list[str]]:
    """What in a record contradicts the evidence, and the figures that were compared.

    same: whether the evidence was computed on the kind of machine, and by the versions, that the record names: then
    all has to be equal. What a record doesn't say isn't held against it, but for what it is ranked by.
    """
    measures = record["measures"]
    compared: list[str] = []
    findings: list[Finding] = []

    def compare(name: str, expected: Any, got: Any, tolerance: Tolerance) -> None:
        compared.append(name)
        findings.extend(
            Finding(evidence.check, path, shown(one), shown(other))
            for path, one, other in differences(name, expected, got, tolerance)
        )

    for name, value in evidence.measures.items():
        said = measures.get(name) is not None
        if said and measures[name] == evidence.earlier.get(name):
            compared.append(f"measures.{name}")
            continue
        if name != "course" and (said or (value is not None and name in _REQUIRED)):
            compare(f"measures.{name}", value, measures.get(name), _tolerance(evidence, name, same))
    for name, value in evidence.provenance.items():
        if record["provenance"].get(name) is not None:
            compare(f"provenance.{name}", value, record["provenance"][name], EXACT)
    if (course := evidence.measures.get("course")) and measures.get("course"):
        compared.append("measures.course")
        findings += _astray(course, measures["course"], same)
    return findings, compared


_REQUIRED = ("top1", "score", "metric", "density")


def _tolerance(evidence: Evidence, name: str, same: bool) -> Tolerance:
    if same or evidence.check == "checkpoint":
        return EXACT
    if evidence.check == "evaluation":
        return ELSEWHERE.get(name, EXACT)
    return RETRAINED.get(name, Tolerance(0.05, 0.02))


def differences(path: str, expected: Any, got: Any, tolerance: Tolerance) -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ. Of a mapping, and of the mappings in a list, only what is expected counts: a
    record may say more, and need not say everything that today's do."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        for name, value in expected.items():
            if got.get(name) is not None:
                yield from differences(f"{path}.{name}", value, got[name], tolerance)
    elif isinstance(expected, list | tuple) and isinstance(got, list | tuple):
        if len(expected) != len(got):
            yield f"{path}: length", len(expected), len(got)
            return
        for place, (one, other) in enumerate(zip(expected, got, strict=True)):
            yield from differences(f"{path}.{place}", one, other, tolerance)
    elif _is_number(expected) and _is_number(got):
        if not tolerance.allows(expected, got):
            yield path, expected, got
    elif expected != got:
        yield path, expected, got


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _astray(ours: Mapping[str, Sequence[Any]], theirs: Mapping[str, Any], same: bool) -> Iterator[Finding]:
    """Where the points of two trainings differ, at the steps that were retrained.

    Between kinds of machines the initial masks have to be the same, where they are drawn before the first step, and
    the losses of the first steps near.
    """
    said = {step: place for place, step in enumerate(theirs.get("step") or ())}
    for place, step in enumerate(ours["step"]):
        if step not in said:
            yield Finding("replay", "measures.course.step", f"a point at step {step}", "none")
            continue
        loss, masks = (_at(theirs, name, said[step]) for name in ("loss", "masks"))
        tolerance = EXACT if same else COURSE
        near = _near(ours["loss"][place], loss, tolerance) or not (same or step <= FIRST)
        if not near:
            yield Finding(
                "replay", f"measures.course.loss at step {step}", shown(ours["loss"][place]), shown(loss)
            )
        if (same or step == 0) and ours["masks"][place] != masks:
            yield Finding(
                "replay", f"measures.course.masks at step {step}", shown(ours["masks"][place]), shown(masks)
            )


def _near(expected: float | None, got: Any, tolerance: Tolerance) -> bool:
    if expected is None or not _is_number(got):
        return expected is None and got is None
    return tolerance.allows(expected, got)


def _at(course: Mapping[str, Any], name: str, place: int) -> Any:
    values = course.get(name) or ()
    return values[place] if place < len(values) else None


_MACHINE = ("torch", "platform", "cpu", "cores", "gpu", "threads")


def is_same_kind(record: Record, here: Mapping[str, Any]) -> bool:
    """Whether a record says that it was made on this kind of machine, by these versions."""
    there = record["provenance"]
    return all(there.get(name) == here.get(name) for name in _MACHINE)
