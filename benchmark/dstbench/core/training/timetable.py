"""When a training's topology changes, and what each step must collect for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from dstbench.api import Clock, Signal, Target
from dstbench.core.engine.allocation import check_count
from dstbench.core.training.method import Method


@dataclass(frozen=True)
class StepPlan:
    """What one step asks for, known before its forward pass."""

    target: Target | None  # what the topology update after it is to reach; None: there is none
    needs: Signal  # what it must collect, for that update and for later ones
    removes: bool  # whether the structure may remove something for good after it
    folds: frozenset[str] = frozenset()  # the accumulators that it enters


@dataclass(frozen=True)
class Timetable:
    """A method's schedule over the steps of one training."""

    method: Method
    density: float
    total_steps: int
    steps_per_epoch: int | None

    def __post_init__(self) -> None:
        """Refuse a training without a length."""
        check_count("total_steps", self.total_steps, "the number of optimizer steps of the training")
        if self.steps_per_epoch is not None:
            check_count("steps_per_epoch", self.steps_per_epoch, "the number of optimizer steps of an epoch")

    def clock(self, step: int) -> Clock:
        """Where training stands after so many steps."""
        return Clock(step, self.total_steps, self.steps_per_epoch)

    def target(self, step: int) -> Target | None:
        """What the update after this step is to reach; None: there is none."""
        if self.method.dense or step > self.total_steps:
            return None
        return self.method.schedule(self.clock(step), self.density)

    @cached_property
    def last_update(self) -> int:
        """The step of the last topology update; 0 if there is none."""
        return next((step for step in range(self.total_steps, 0, -1) if self.target(step)), 0)

    @property
    def initial_density(self) -> float:
        """What training starts at."""
        first = self.target(0)
        return first.final if first else self.density

    @property
    def initial_backward(self) -> float | None:
        """The density of all that trains at the start; None: what is active, and no more than that ever does."""
        first = self.target(0)
        return first.backward if first else None

    def plan(self, step: int, density: float) -> StepPlan:
        """What this step asks for, from a density before it."""
        target, support = self.target(step), self.method.support
        left = step <= self.last_update
        folds = self.method.folds(left, self._ahead(step))
        needs = self.method.signals(target, density, left, folds)
        return StepPlan(target, needs, support is not None and support.events(self.clock(step)), folds)

    def _ahead(self, step: int) -> int | None:
        """Steps until the next topology update, as far as an accumulator asks."""
        return next((k for k in range(self.method.reach) if self.target(step + k)), None)
