"""Structures as the engine uses them: any mask, any fixed partition into units, and one typed view of every other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
from dstbench.api.abilities import declared, method
from dstbench.api.select import count, take_top

Misfit = Callable[[LayerInfo], str | None]
Merge = Callable[[Tensor, Tensor | None, Tensor, int], Tensor]  # kept, keep_scores, grow_scores, n
Allowed = Callable[[LayerView, Tensor], int]
Accelerate = Callable[[LayerCall, Tensor], Sequence[Execution]]


@dataclass(frozen=True)
class Unstructured:
    """Every mask is legal: plain exact top-k, and no unit tensors."""

    def unit(self, layer: LayerInfo) -> int:
        """A unit is one weight."""
        return 1

    def capacity(self, layer: LayerInfo) -> int:
        """All weights can be active."""
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
        """Every mask is."""
        return True


def _no_quota(layer: LayerInfo) -> Quota | None:
    return None


@dataclass(frozen=True)
class Partition:
    """A fixed partition into units, with an optional quota per group of units.

    A unit is active as a whole; its score is the mean over its weights. Taking units away keeps a mask
    legal, so greedy selection by score is optimal among legal masks of that size. ``as_structure`` makes it, with
    the layout's quota.
    """

    layout: Layout
    quota: Callable[[LayerInfo], Quota | None] = field(default=_no_quota, repr=False, compare=False)

    def unit(self, layer: LayerInfo) -> int:
        """The size of the largest unit."""
        return int(self._sizes(layer).max())

    def capacity(self, layer: LayerInfo) -> int:
        """All weights, or what the quotas admit."""
        sizes = self._sizes(layer)
        quota = self.quota(layer)
        if quota is None:
            return int(sizes.sum())
        if quota.quota is None:
            members = quota.group.bincount()
            return int(members.clamp(max=int(members.min()) + 1).sum() * sizes.min())
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
        means, quota = _unit_means(scores, units, sizes), self.quota(layer.info)
        order = _ranked(means, active)
        if quota is not None and quota.quota is None:
            order = _in_turn(order, _places(means.masked_fill(~active, -torch.inf), quota))
        return _members(_nearest(order, sizes, n, at_least=1), units, sizes)

    def fill(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """The kept units and the best others that the quotas admit, with a total size nearest to n."""
        units, sizes = self._units(layer)
        kept = _active(layer.mask, units, sizes)
        means = _unit_means(scores, units, sizes)
        free = ~kept & (means > -torch.inf)
        quota, places = self.quota(layer.info), None
        if quota is not None:
            first = torch.where(kept, torch.inf, means)  # kept units use their group's quota first
            if quota.quota is None:
                places = _places(first, quota)
                free &= places < _level(kept | free, quota)
            else:
                free &= _within_quota(-first, quota)
        order = _ranked(means, free)
        order = order if places is None else _in_turn(order, places)
        room = n - int(sizes[kept].sum())
        empty = not bool(kept.any())
        taken = _nearest(order, sizes, room, at_least=int(empty))
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
        quota = self.quota(layer)
        if quota is None or not whole:
            return whole
        held = quota.group.to(mask.device)[filled > 0].bincount(minlength=int(quota.group.max()) + 1)
        return bool((held <= (int(held.min()) + 1 if quota.quota is None else quota.quota)).all())

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


@dataclass(frozen=True)
class EngineStructure:
    """A Layout, Structure or Support as the engine uses it: what is optional there always exists here.

    Its repr is that of ``structure``: messages and checkpoints name the plugin's own.
    """

    component: Layout | Structure | Support  # what was asked for
    structure: Structure  # itself, or what the engine makes of a mere layout or support
    retiles: bool = field(compare=False)  # ``fill`` may drop kept positions
    whole_rows: bool = field(compare=False)  # rows die as a whole, so compaction pays
    misfit: Misfit = field(compare=False)  # why it can't carry a layer
    accelerate: Accelerate = field(compare=False)  # ways to compute with the active weights alone
    merge: Merge = field(compare=False)  # the scores that ``fill`` sees
    allowed: Allowed = field(compare=False)  # how many weights ``fill`` could add where some scores are -inf

    def __repr__(self) -> str:
        """That of ``structure``."""
        return repr(self.structure)

    def unit(self, layer: LayerInfo) -> int:
        """The size of the largest unit, in weights."""
        return self.structure.unit(layer)

    def capacity(self, layer: LayerInfo) -> int:
        """The most weights that can be active."""
        return self.structure.capacity(layer)

    def shrink(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """About n of the active weights: bool [*w]."""
        return self.structure.shrink(layer, scores, n)

    def fill(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """The mask grown to about n active weights: bool [*w]."""
        return self.structure.fill(layer, scores, n)

    def is_legal(self, layer: LayerInfo, mask: Tensor) -> bool:
        """Whether a mask, bool [*w], obeys the structure."""
        return self.structure.is_legal(layer, mask)

    @property
    def silences(self) -> bool:
        """Whether what follows a dead row is to be held at zero: not by a mere support, whose consumers lose the
        row's columns instead."""
        return self.whole_rows and isinstance(self.component, Layout | Structure)

    @property
    def reads_keep_scores(self) -> bool:
        """Whether ``merge`` looks at the scores of what was kept."""
        return self.retiles or self.merge is merge_ranks


def as_structure(component: Layout | Structure | Support) -> EngineStructure:
    """The door of structures: a mere layout becomes a Partition, a mere support leaves any mask legal.

    Raises BadInput where an optional ability isn't of its type.
    """
    if isinstance(component, EngineStructure):
        return component
    structure: Structure = Unstructured()
    if isinstance(component, Structure):
        structure = component
    elif isinstance(component, Layout):
        structure = Partition(component, method(component, "quota") or _no_quota)
    return EngineStructure(
        component,
        structure,
        retiles=declared(structure, "retiles", False),
        whole_rows=declared(component, "whole_rows", False),
        misfit=method(component, "misfit") or _fits,
        accelerate=method(component, "accelerate") or _no_executions,
        merge=method(structure, "merge") or merge_ranks,
        allowed=method(structure, "allowed") or _free,
    )


def fitted(structure: EngineStructure, layer: LayerInfo) -> tuple[EngineStructure, str | None]:
    """The structure that a layer gets, and why it isn't the one asked for: what doesn't fit is unstructured."""
    reason = structure.misfit(layer)
    return (structure, None) if reason is None else (as_structure(Unstructured()), reason)


def merge_ranks(kept: Tensor, keep_scores: Tensor | None, grow_scores: Tensor, n: int) -> Tensor:
    """Kept positions by rank in [1, 2], the others by rank in [0, 1], -inf where nothing may grow: float64 [*w]."""
    merged = torch.full_like(grow_scores, -torch.inf, dtype=torch.float64)
    eligible = ~kept & (grow_scores > -torch.inf)
    merged[eligible] = _ranks(grow_scores[eligible])
    if keep_scores is not None:
        merged[kept] = 1 + _ranks(keep_scores[kept])
    return merged


def _ranks(values: Tensor) -> Tensor:
    """Ranks scaled into [0, 1], the highest for the best, or on a tie the lowest index: float64, shape of values."""
    ranks = torch.empty_like(values, dtype=torch.float64)
    order = values.sort(descending=True, stable=True).indices
    step = 1 / max(1, len(values) - 1)
    ranks[order] = torch.arange(len(values) - 1, -1, -1, device=values.device, dtype=torch.float64) * step
    return ranks


def _free(layer: LayerView, scores: Tensor) -> int:
    """The inactive positions that the scores don't forbid."""
    return count((scores > -torch.inf) & ~layer.mask)


def _fits(layer: LayerInfo) -> str | None:
    return None


def _no_executions(call: LayerCall, mask: Tensor) -> Sequence[Execution]:
    return ()


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


def _places(scores: Tensor, quota: Quota) -> Tensor:
    """Each unit's place in its group, the highest score first, the lowest index on a tie: int64 [units], from 0."""
    group = quota.group.to(scores.device)
    order = scores.sort(descending=True, stable=True).indices
    order = order[group[order].sort(stable=True).indices]  # by group, then by score
    sizes = group.bincount()
    places = torch.empty_like(group)
    places[order] = torch.arange(len(order), device=group.device) - (sizes.cumsum(0) - sizes)[group[order]]
    return places


def _in_turn(order: Tensor, places: Tensor) -> Tensor:
    """Ranked units, the first of each group before any second: int64."""
    return order[places[order].sort(stable=True).indices]


def _level(may: Tensor, quota: Quota) -> int:
    """How many units of a group may be active while groups have an equal share, of those that may be at all."""
    group = quota.group.to(may.device)
    return int(group[may].bincount(minlength=int(group.max()) + 1).min()) + 1
