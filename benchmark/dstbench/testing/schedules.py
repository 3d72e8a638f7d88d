"""Checks of schedules."""

from __future__ import annotations

from dstbench.api import Clock, Schedule, StrategyError, Target
from dstbench.testing.problem import Findings, Problem, describe, label, same, summarise

_LENGTHS = ((1000, 50), (1000, None), (137, 7), (1, 1))  # (total steps, steps an epoch)
_DENSITIES = (1.0, 0.5, 0.1, 1 / 3, 0.01)


def check_schedule(schedule: Schedule, name: str = "") -> list[Problem]:
    """Problems of a schedule over whole trainings: targets, purity, an exact end, updates that can move.

    One that counts epochs may raise StrategyError where nobody says how long an epoch is.
    """
    return summarise(label(schedule, name), _findings(schedule))


def _findings(schedule: Schedule) -> Findings:
    for total, per_epoch in _LENGTHS:
        for density in _DENSITIES:
            where = f"{total} steps, density {density:.3g}"
            try:
                targets = _targets(schedule, total, per_epoch, density)
            except StrategyError as error:
                if per_epoch is not None:
                    yield "runs", f"{where}: {describe(error)}"
                continue
            except Exception as error:
                yield "runs", f"{where}: {describe(error)}"
                continue
            yield from _trajectory(targets, density, where)


def _targets(
    schedule: Schedule, total: int, per_epoch: int | None, density: float
) -> list[tuple[int, object, bool]]:
    """(step, target, the same when asked again) of a whole training, asked again in reverse order."""
    clocks = [Clock(step, total, per_epoch) for step in range(total + 1)]
    first = [schedule(clock, density) for clock in clocks]
    again = [schedule(clock, density) for clock in reversed(clocks)][::-1]
    return [(step, a, same(a, b)) for step, (a, b) in enumerate(zip(first, again, strict=True))]


def _trajectory(targets: list[tuple[int, object, bool]], density: float, where: str) -> Findings:
    for step, target, repeatable in targets:
        if not repeatable:
            yield "purity", f"{where}: step {step} has another target when asked again"
        if target is not None and not isinstance(target, Target):
            yield "target", f"{where}: step {step}: expected a Target or None, got {target!r}"
            return
    made = [(step, target) for step, target, _ in targets if isinstance(target, Target)]
    if made and made[-1][1].final != density:
        step, last = made[-1]
        yield "end", f"{where}: the last target, at step {step}, is {last.final!r}, not exactly the density"
    current, moving = density, 0
    for step, target in made:
        if step:
            moving += target.keep < min(current, target.final) or target.final != current
        current = target.final
    if density < 1 and any(step for step, _ in made) and not moving:
        yield "moves", f"{where}: none of its updates can change a mask"
