"""The structures that the engine itself knows: any mask, and any fixed partition into units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dstbench.api import (
    Execution,
    LayerCall,
    LayerInfo,
    LayerView,
    Layout,
    Quota,
    StrategyError,
    Structure,
    Support,
)
from dstbench.api.select import count, take_top


@dataclass(frozen=True)
class Unstructured:
    """Every mask is legal: plain exact top-k, and no unit tensors."""

    retiles: ClassVar[bool] = False

    def unit(self, layer: LayerInfo) -> int:
        """One weight."""
        return 1

    def capacity(self, layer: LayerInfo) -> int:
        """All of them."""
        return layer.numel

    def merge(self, kept: Tensor, keep_scores: Tensor | None, grow_scores: Tensor, n: int) -> Tensor:
        """Only the scores outside the kept positions matter."""
        return grow_scores

    def shrink(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """The n best active weights."""
        return take_top(scores, n, layer.mask)

    def fill(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """The kept weights and the best others, n in all."""
        return layer.mask | take_top(scores, n - count(layer.mask), ~layer.mask)

    def is_legal(self, layer: LayerInfo, mask: Tensor) -> bool:
        """Always."""
        return True


@dataclass(frozen=True)
class Partition:
    """A fixed partition into units, with an optional quota per group of units.

    A unit is active as a whole; its score is the mean over its weights. Taking units away keeps a mask
    legal, so greedy selection by score is optimal among legal masks of that size.
    """

    layout: Layout
    retiles: ClassVar[bool] = False

    def misfit(self, layer: LayerInfo) -> str | None:
        """Why the layout can't carry this layer, if it can't."""
        reason = getattr(self.layout, "misfit", None)
        return reason(layer) if reason else None

    def unit(self, layer: LayerInfo) -> int:
        """The size of the largest unit."""
        return int(self._sizes(layer).max())

    def capacity(self, layer: LayerInfo) -> int:
        """All weights, or what the quotas admit."""
        sizes = self._sizes(layer)
        quota = self._quota(layer)
        if quota is None:
            return int(sizes.sum())
        if bool((sizes == sizes[0]).all()):  # no need to look for the largest
            return int(quota.group.bincount().clamp(max=quota.quota).sum() * sizes[0])
        return int(sizes[_within_quota(-sizes.double(), quota)].sum())

    def merge(self, kept: Tensor, keep_scores: Tensor | None, grow_scores: Tensor, n: int) -> Tensor:
        """Kept units stay whole, so only the scores outside them matter."""
        return grow_scores

    def shrink(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """The best active units, at least one, with a total size nearest to n."""
        units, sizes = self._units(layer)
        active = _active(layer.mask, units, sizes)
        order = _ranked(_unit_means(scores, units, sizes), active)
        return _members(_nearest(order, sizes, n, at_least=1), units, sizes)

    def fill(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """The kept units and the best others that the quotas admit, with a total size nearest to n."""
        units, sizes = self._units(layer)
        kept = _active(layer.mask, units, sizes)
        means = _unit_means(scores, units, sizes)
        free = ~kept & (means > -torch.inf)
        quota = self._quota(layer.info)
        if quota is not None:
            first = torch.where(kept, torch.inf, means)  # kept units use their group's quota first
            free &= _within_quota(-first, quota)
        room = n - int(sizes[kept].sum())
        empty = not bool(kept.any())
        taken = _nearest(_ranked(means, free), sizes, room, at_least=int(empty))
        return layer.mask | _members(taken, units, sizes)

    def allowed(self, layer: LayerView, scores: Tensor) -> int:
        """How many weights could be added where some scores are -inf: quotas leave fewer than there are free."""
        return count(self.fill(layer, scores, layer.info.numel)) - count(layer.mask)

    def is_legal(self, layer: LayerInfo, mask: Tensor) -> bool:
        """Whether every unit is wholly active or wholly inactive, and no group exceeds its quota."""
        units = self.layout.units(layer).to(mask.device)
        sizes = units.flatten().bincount()
        filled = units[mask].bincount(minlength=len(sizes))
        whole = bool(((filled == 0) | (filled == sizes)).all())
        quota = self._quota(layer)
        if quota is None or not whole:
            return whole
        return bool((quota.group.to(mask.device)[filled > 0].bincount() <= quota.quota).all())

    def accelerate(self, call: LayerCall, mask: Tensor) -> Sequence[Execution]:
        """What the layout offers, if anything."""
        offer = getattr(self.layout, "accelerate", None)
        found: Sequence[Execution] = offer(call, mask) if offer else ()
        return found

    def _sizes(self, layer: LayerInfo) -> Tensor:
        return self.layout.units(layer).flatten().bincount()

    def _units(self, layer: LayerView) -> tuple[Tensor, Tensor]:
        """The unit of each weight, int64 [*w], and the size of each unit, int64 [units]."""
        units = self.layout.units(layer.info).to(layer.weight.device)
        if units.shape != layer.weight.shape:
            raise StrategyError(
                f"{self.layout}, layer {layer.name!r}: units must have the shape of the weight "
                f"{tuple(layer.weight.shape)}, got {tuple(units.shape)}"
            )
        return units, units.flatten().bincount()

    def _quota(self, layer: LayerInfo) -> Quota | None:
        quota = getattr(self.layout, "quota", None)
        return quota(layer) if callable(quota) else None


def as_structure(component: Layout | Structure | Support) -> Structure:
    """A structure as the engine uses it: a mere layout becomes a Partition, a mere support leaves any mask legal."""
    if isinstance(component, Structure):
        return component
    return Partition(component) if isinstance(component, Layout) else Unstructured()


def fitted(structure: Structure, layer: LayerInfo) -> tuple[Structure, str | None]:
    """The structure that a layer gets, and why it isn't the one asked for: what doesn't fit is unstructured."""
    reason = misfit(structure, layer)
    return (structure, None) if reason is None else (Unstructured(), reason)


def misfit(structure: Structure, layer: LayerInfo) -> str | None:
    """Why a structure can't carry a layer, or None."""
    reason = getattr(structure, "misfit", None)
    return reason(layer) if reason else None


def _unit_means(scores: Tensor, units: Tensor, sizes: Tensor) -> Tensor:
    """The mean score of each unit, float64 [units]; -inf anywhere makes the whole unit -inf."""
    totals = torch.zeros(len(sizes), dtype=torch.float64, device=scores.device)
    return totals.index_add_(0, units.flatten(), scores.flatten().double()) / sizes


def _active(mask: Tensor, units: Tensor, sizes: Tensor) -> Tensor:
    """Which units are active, bool [units]."""
    return units[mask].bincount(minlength=len(sizes)) > 0


def _ranked(means: Tensor, among: Tensor) -> Tensor:
    """The units ``among`` all, best first, the lowest index on a tie: int64."""
    candidates = among.nonzero().flatten()
    return candidates[means[candidates].sort(descending=True, stable=True).indices]


def _nearest(order: Tensor, sizes: Tensor, n: int, at_least: int) -> Tensor:
    """The prefix of ``order`` whose total size is nearest to n; the shorter one on a tie."""
    totals = torch.cat((sizes.new_zeros(1), sizes[order].cumsum(0)))
    return order[: max(min(at_least, len(order)), int((totals - n).abs().argmin()))]


def _members(taken: Tensor, units: Tensor, sizes: Tensor) -> Tensor:
    """The mask that the taken units make, bool [*w]."""
    chosen = torch.zeros(len(sizes), dtype=torch.bool, device=units.device)
    chosen[taken] = True
    return chosen[units]


def _within_quota(cost: Tensor, quota: Quota) -> Tensor:
    """Which units are among the ``quota`` cheapest of their group, the lowest index on a tie: bool [units]."""
    group = quota.group.to(cost.device)
    order = group.sort(stable=True).indices  # by group, then by index
    of, sizes = group[order], group.bincount()
    place = torch.arange(len(order), device=group.device) - (sizes.cumsum(0) - sizes)[of]
    costs = cost.new_full((len(sizes), int(sizes.max())), torch.inf)
    costs[of, place] = cost[order]
    best = costs.sort(dim=1, stable=True).indices[:, : quota.quota]
    cheap = torch.zeros_like(costs, dtype=torch.bool).scatter_(1, best, True)
    within = torch.empty(len(order), dtype=torch.bool, device=cost.device)
    within[order] = cheap[of, place]
    return within
