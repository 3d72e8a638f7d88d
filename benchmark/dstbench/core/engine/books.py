"""The engine's books: how many weights each layer holds and should hold, from one decision to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dstbench.api import Infeasible, LayerView, Share, Structure, Target
from dstbench.core.engine.allocation import by_shape, supported_bounds
from dstbench.core.engine.budget import apportion

Budget = dict[str, int]  # layer name -> weights


@dataclass(frozen=True)
class Goal:
    """What one topology update is to reach, in weights."""

    keep: int  # over all layers, after pruning
    final: int  # over all layers, after growing
    keep_allocation: Budget
    final_allocation: Budget

    def among(
        self, views: Mapping[str, LayerView], budget: Budget, structures: Mapping[str, Structure]
    ) -> Goal:
        """The same totals where only the layers of ``views`` take part, and all others keep what they hold by
        ``budget``. As near to them as the bounds of these layers allow."""
        lower, upper = supported_bounds(views, structures)
        held = {name: budget[name] for name in views}
        floor = {name: min(lower[name], held[name]) for name in views}
        resting = sum(budget.values()) - sum(held.values())
        final = min(max(self.final - resting, sum(lower.values())), sum(upper.values()))
        keep = max(min(sum(self.keep_allocation[name] for name in views), final), sum(floor.values()))
        wanted_keep = {name: float(self.keep_allocation[name]) for name in views}
        wanted_final = {name: float(self.final_allocation[name]) for name in views}
        return Goal(
            keep,
            final,
            apportion(wanted_keep, keep, floor, held),
            apportion(wanted_final, final, lower, upper),
        )


@dataclass(frozen=True)
class Books:
    """What the last decision left: exact integers, which masks realise to the nearest unit of their structure."""

    density: float  # it was for, of all weights that may be masked
    budget: Budget  # the weights that each layer holds
    allocation: Budget  # the weights that each layer should hold
    proportions: Budget  # of the initial masks: what a share that can't be solved anew divides by for good

    @classmethod
    def opened(cls, density: float, budget: Mapping[str, int]) -> Books:
        """At the start of a training, whose initial masks hold ``budget``."""
        return cls(density, dict(budget), dict(budget), dict(budget))

    def goal(
        self,
        target: Target,
        views: Mapping[str, LayerView],
        structures: Mapping[str, Structure],
        share: Share,
        density: float,
    ) -> Goal:
        """Totals and allocations, in weights, of a target in densities. share: the init's.

        Where positions were removed for good, a schedule's excursion above ``density``, the training's own, goes
        no further than what is left of them. Raises Infeasible if there is less room than that, or than the target.

        A share that depends on shapes alone is solved again at a new density, or where a layer can no longer hold
        its allocation; another keeps the ``proportions`` of the start, since scaling the last allocation would add
        up rounding. Pruning in place takes every layer to the same fraction of what it holds, corrected by how its
        allocation moves, so that redistributed layers aren't pulled back. It leaves every layer one unit.
        """
        size = sum(view.info.numel for view in views.values())
        lower, upper = supported_bounds(views, structures)
        room = sum(upper.values())
        _check_room(target, density, views, size, room)
        final = min(round(target.final * size), room)
        allocation = self.allocation
        moved = target.final != self.density or final != sum(allocation.values())
        if moved or any(allocation[name] > upper[name] for name in views):
            start = {name: float(self.proportions[name]) for name in views}
            allocation = apportion(share(views, {}, final) if by_shape(share) else start, final, lower, upper)
        floor = {name: min(lower[name], self.budget[name]) for name in views}
        keep = max(round(target.keep * size), sum(floor.values()))
        return Goal(keep, final, self._kept(keep, floor, allocation), allocation)

    def after(self, target: Target, goal: Goal, budget: Budget) -> Books:
        """Behind a topology update that reached ``goal`` by leaving ``budget``, of the layers that took part."""
        allocation = {**self.allocation, **goal.final_allocation}
        return replace(self, density=target.final, budget={**self.budget, **budget}, allocation=allocation)

    def without(self, lost: Mapping[str, int]) -> Books:
        """Behind a removal that took active weights away: the next update grows as many elsewhere."""
        return replace(self, budget={name: max(0, held - lost[name]) for name, held in self.budget.items()})

    def _kept(self, keep: int, floor: Budget, allocation: Budget) -> Budget:
        """What each layer should hold after pruning to ``keep`` weights in all."""
        if keep >= sum(self.budget.values()):
            return self.budget
        drift = {n: self.budget[n] * allocation[n] / self.allocation[n] for n in floor}
        return apportion(drift, keep, floor, self.budget)


def _check_room(target: Target, density: float, views: Mapping[str, LayerView], size: int, room: int) -> None:
    """Refuse a target that what is left of the network can't hold."""
    removed = any(view.support is not None for view in views.values())
    least = min(target.final, density) if removed else target.final
    needed = round(least * size)
    if needed > room:
        raise Infeasible(
            f"density {least:g}: {needed} weights are asked for, and {room} of {size} may be active"
        )
