"""The kit finds each planted mistake of a structure, layout or schedule, and nothing in sound ones."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from dstbench.api import Quota, Target
from dstbench.core.engine.structures import Partition, Unstructured
from dstbench.testing import check_schedule, check_structure
from dstbench.testing.moves import movement


@dataclass(frozen=True)
class Rows:
    """A layout of output rows."""

    def units(self, layer):
        rows = torch.arange(layer.shape[0])
        return rows.view(-1, *[1] * (len(layer.shape) - 1)).expand(layer.shape)


@dataclass(frozen=True)
class Pairs:
    """Single weights, one of two neighbours at most."""

    def units(self, layer):
        return torch.arange(layer.numel).view(layer.shape)

    def quota(self, layer):
        return Quota(torch.arange(layer.numel) // 2, 1)


@pytest.mark.parametrize("structure", [Unstructured(), Rows(), Partition(Rows()), Pairs()])
def test_sound_structures(structure):
    assert check_structure(structure) == []


class Gaps(Rows):
    def units(self, layer):
        return super().units(layer) * 2


class Floats(Rows):
    def units(self, layer):
        return super().units(layer).float()


class Flat(Rows):
    def units(self, layer):
        return super().units(layer).flatten()


class ShortQuota(Pairs):
    def quota(self, layer):
        return Quota(torch.zeros(2, 2, dtype=torch.int64), 1)


class FitsNothing(Rows):
    def misfit(self, layer):
        return "never"


class BadMisfit(Rows):
    def misfit(self, layer):
        return False


@dataclass(frozen=True)
class Wrapped(Partition):
    """Rows, to break one method at a time."""

    layout: Rows = Rows()


class Activates(Wrapped):
    def shrink(self, layer, scores, n):
        return torch.ones_like(layer.mask)


class ShrinksWeights(Wrapped):
    def shrink(self, layer, scores, n):
        return Unstructured().shrink(layer, scores, n)


class ShrinksTooFar(Wrapped):
    def shrink(self, layer, scores, n):
        return super().shrink(layer, scores, n // 4)


class FillsWeights(Wrapped):
    def fill(self, layer, scores, n):
        return Unstructured().fill(layer, scores, n)


class ForgetsKept(Wrapped):
    def fill(self, layer, scores, n):
        blank = torch.zeros_like(layer.mask)
        return super().fill(type(layer)(layer.info, layer.weight, blank, blank, 0, n), -scores, n)


class OverBudget(Wrapped):
    def fill(self, layer, scores, n):
        return torch.ones_like(layer.mask)


class WrongDtype(Wrapped):
    def fill(self, layer, scores, n):
        return super().fill(layer, scores, n).float()


class AcceptsAll(Wrapped):
    def is_legal(self, layer, mask):
        return True


class NoCapacity(Wrapped):
    def capacity(self, layer):
        return 0


class WritesScores(Wrapped):
    def fill(self, layer, scores, n):
        mask = super().fill(layer, scores, n)
        scores.mul_(2).add_(1)
        return mask


class DrawsGlobally(Wrapped):
    def fill(self, layer, scores, n):
        return super().fill(layer, torch.rand(layer.shape), n)


class TakesForbidden(Unstructured):
    def fill(self, layer, scores, n):
        return super().fill(layer, scores.abs(), n)


@pytest.mark.parametrize(
    ("structure", "check", "message"),
    [
        (Gaps(), "layout", "numbered from 0 without gaps"),
        (Floats(), "layout", "units must be int64"),
        (Flat(), "layout", "units must be int64"),
        (ShortQuota(), "layout", "a quota needs the group of each unit"),
        (FitsNothing(), "misfit", "fits none of the 14 layers"),
        (BadMisfit(), "misfit", "expected None or a reason, got False"),
        (Activates(), "shrink", "it may only remove"),
        (ShrinksWeights(), "shrink", "isn't legal"),
        (ShrinksTooFar(), "shrink", "more than half a unit of"),
        (FillsWeights(), "legal", "the result isn't legal"),
        (ForgetsKept(), "kept", "without declaring retiles = True"),
        (OverBudget(), "budget", "more than half a unit of"),
        (WrongDtype(), "fill", "expected torch.bool"),
        (AcceptsAll(), "legal", "is_legal accepts every random mask"),
        (NoCapacity(), "sizes", "expected 1 <= unit <= capacity"),
        (WritesScores(), "purity", "changed its input scores"),
        (DrawsGlobally(), "global RNG", "global random generator"),
        (TakesForbidden(), "forbidden", "activated weights whose score is -inf"),
    ],
)
def test_broken_structures(structure, check, message):
    found = {problem.check: problem.message for problem in check_structure(structure)}
    assert message in found.get(check, f"nothing under {check}: {found}")


# Schedules


@dataclass(frozen=True)
class Every:
    """A constant drop fraction."""

    zeta: float = 0.3

    def __call__(self, clock, density):
        return Target(density * (1 - self.zeta), density) if clock.step and clock.step % 10 == 0 else None


def never(clock, density):
    return None


def epochs(clock, density):
    return Target(density / 2, density) if clock.epoch >= 1 and clock.epoch % 1 == 0 else None


@pytest.mark.parametrize("schedule", [Every(), never, epochs])
def test_sound_schedules(schedule):
    assert check_schedule(schedule) == []


def ends_above(clock, density):
    final = min(1.0, density + 0.1)
    return Target(density / 2, final) if clock.step and clock.step % 10 == 0 else None


def almost(clock, density):
    return Target(0.0, density * 3 / 3.0000001) if clock.step and clock.step % 10 == 0 else None


def wrong_type(clock, density):
    return (density, density) if clock.step == 10 else None


def impossible(clock, density):
    return Target(2 * density, density) if clock.step == 10 else None


class Remembers:
    def __init__(self):
        self.calls = 0

    def __call__(self, clock, density):
        self.calls += 1
        return Target(density / 2, density) if self.calls % 3 == 0 else None


@pytest.mark.parametrize(
    ("schedule", "check", "message"),
    [
        (ends_above, "end", "not exactly the density"),
        (almost, "end", "not exactly the density"),
        (wrong_type, "target", "expected a Target or None"),
        (impossible, "runs", "0 <= keep <= final <= 1"),
        (Remembers(), "purity", "another target when asked again"),
        (Every(zeta=0.0), "moves", "none of its updates can change a mask"),
    ],
)
def test_broken_schedules(schedule, check, message):
    found = {problem.check: problem.message for problem in check_schedule(schedule)}
    assert message in found.get(check, f"nothing under {check}: {found}")


# Movement through the engine


def test_plain_strategies_move_the_masks():
    assert list(movement()) == []
    assert list(movement(structure=Rows())) == []


def test_a_static_combination_is_found():
    from dstbench.api import Policy

    def regrows_what_was_dropped(layer, rng):
        return (layer.before & ~layer.mask).float()

    [(check, message)] = movement(grow=Policy(regrows_what_was_dropped))
    assert check == "moves"
    assert message == "3 topology updates at density 0.5 changed no mask at all"


def test_what_the_engine_refuses_is_found():
    [(check, message)] = movement(structure=WrongDtype())
    assert check == "engine"
    assert "expected bool" in message
