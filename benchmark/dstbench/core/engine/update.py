"""The engine: one pure function for the initial masks and one for a topology update.

score -> apportion removals -> shrink -> apportion additions up to capacity -> fill
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from dstbench.api import LayerView, Policy, Score, Share, StrategyError
from dstbench.api.select import count
from dstbench.core.engine.allocation import blank_view, bounds, by_shape, supported_bounds, uniform_budget
from dstbench.core.engine.books import Budget, Goal
from dstbench.core.engine.budget import apportion
from dstbench.core.engine.finiteness import not_finite
from dstbench.core.engine.forced import forbidden, forced
from dstbench.core.engine.forced import kept as kept_of
from dstbench.core.engine.random import generator
from dstbench.core.engine.structures import EngineStructure
from dstbench.core.network.defaults import usual_defaults
from dstbench.core.network.layers import Layer

Masks = dict[str, Tensor]  # layer name -> bool [*w]
Scores = Mapping[str, Tensor]  # layer name -> float [*w]
_LAST = -1e30  # of a score: behind all others, yet finite, so that a structure can be filled up
Draw = Callable[[str, str], Generator]  # (layer name, role) -> a generator of its own
Percolated = Callable[[Mapping[str, Tensor]], Masks]


@usual_defaults()
def initial_masks(
    layers: Mapping[str, Layer],
    structures: Mapping[str, EngineStructure],
    init: Policy,
    n: int,
    seed: int,
    fields: Mapping[str, Mapping[str, Tensor]] | None = None,
    survivors: Mapping[str, Tensor] | None = None,
) -> tuple[Masks, Budget]:
    """Masks and exact budgets with n active weights in all, at least one unit in every layer.

    fields: the signals that the init reads, as LayerView's field or name in ``extra`` -> layer name -> [*w].
    survivors: bool [*w] by layer; every other weight comes behind them all.
    Raises Infeasible if n is less than one unit a layer or more than the structures' capacity, and
    StrategyError if a strategy breaks its contract.
    """
    views, lower, upper = _blank(layers, structures, n, fields or {})
    if by_shape(init.share):  # then a score can fix what depends on the number of weights, such as degrees
        planned = apportion(check_shares(init.share, init.share(views, {}, n), views), n, lower, upper)
        views = {name: replace(view, allocation=planned[name]) for name, view in views.items()}
    scores = {
        name: score_layer(init.score_for(view.info), view, generator(seed, name, 0, "init"))
        for name, view in views.items()
    }
    for name, left in (survivors or {}).items():
        wide = scores[name].to(torch.promote_types(scores[name].dtype, torch.float32))
        scores[name] = wide.where(left | (wide == -torch.inf), _LAST)
    upper = {name: _room(structures[name], view, scores[name], upper[name]) for name, view in views.items()}
    lower = {name: min(lower[name], upper[name]) for name in views}
    candidates = _candidates(init, scores, {name: ~view.mask for name, view in views.items()}, +1)
    budget = apportion(check_shares(init.share, init.share(views, candidates, n), views), n, lower, upper)
    masks = {
        name: structures[name].fill(
            view, structures[name].merge(view.mask, None, scores[name], budget[name]), budget[name]
        )
        for name, view in views.items()
    }
    check_masks(views, structures, masks, budget)
    return masks, budget


@usual_defaults()
def initial_budget(
    layers: Mapping[str, Layer], structures: Mapping[str, EngineStructure], init: Policy, n: int
) -> Budget:
    """How ``initial_masks`` divides n weights; it draws masks only where the share reads more than shapes.

    Raises Infeasible and StrategyError as ``initial_masks`` does.
    """
    if not by_shape(init.share):
        return initial_masks(layers, structures, init, n, seed=0)[1]
    views, lower, upper = _blank(layers, structures, n, {})
    return apportion(check_shares(init.share, init.share(views, {}, n), views), n, lower, upper)


def _blank(
    layers: Mapping[str, Layer],
    structures: Mapping[str, EngineStructure],
    n: int,
    fields: Mapping[str, Mapping[str, Tensor]],
) -> tuple[dict[str, LayerView], Budget, Budget]:
    """Layers before they have masks, allotted n weights at one density, and the least and most that each can hold."""
    infos = {name: layer.info for name, layer in layers.items()}
    lower, upper = bounds(infos, structures)
    uniform = uniform_budget(infos, n, lower, upper)
    views = {
        name: blank_view(
            layer, uniform[name], {kind: values[name] for kind, values in fields.items() if name in values}
        )
        for name, layer in layers.items()
    }
    return views, lower, upper


@usual_defaults()
def update_masks(
    views: Mapping[str, LayerView],
    structures: Mapping[str, EngineStructure],
    prune: Policy,
    grow: Policy,
    goal: Goal,
    draw: Draw,
    percolated: Percolated | None = None,
) -> tuple[Masks, Budget, Masks]:
    """One topology update: the masks and exact budgets after pruning to ``goal.keep`` and growing to ``goal.final``,
    and what the prune score insisted on removing, bool [*w] of the layers that have any: it may be active again.

    views: each layer with its mask, budget and the signals asked for. Nothing of them is written.
    percolated: kept masks -> those without links that lead nowhere, which are then grown elsewhere.
    Raises Infeasible, with the figures, if the goal exceeds the structures' capacity.
    """
    kept, budget, keep_scores = _prune(views, structures, prune, goal, draw)
    if percolated is not None:
        kept = percolated(kept)
        budget = {name: count(mask) for name, mask in kept.items()}
    masks, budget = _grow(views, structures, grow, goal, draw, kept, budget, keep_scores)
    check_masks(views, structures, masks, budget)
    return masks, budget, forbidden(views, keep_scores)


def _prune(
    views: Mapping[str, LayerView],
    structures: Mapping[str, EngineStructure],
    prune: Policy,
    goal: Goal,
    draw: Draw,
) -> tuple[Masks, Budget, Scores]:
    """What stays, its budget, and the scores by which it stayed: never what these forbid with -inf."""
    views = {name: replace(view, allocation=goal.keep_allocation[name]) for name, view in views.items()}
    scores = {
        name: score_layer(prune.score_for(view.info), view, draw(name, "prune"))
        for name, view in views.items()
    }
    active = {name: view.active for name, view in views.items()}
    must = {name: forced(structures[name], view, scores[name]) for name, view in views.items()}
    excess = max(sum(active.values()) - goal.keep, sum(must.values()))
    if excess <= 0:
        return {name: view.mask for name, view in views.items()}, active, scores
    candidates = _candidates(prune, scores, {name: view.mask for name, view in views.items()}, -1)
    lower, _ = supported_bounds(views, structures)
    removable = {name: max(must[name], active[name] - lower[name]) for name in views}
    shares = check_shares(prune.share, prune.share(views, candidates, excess), views)
    removals = apportion(shares, excess, must, removable)
    budget = {name: active[name] - removals[name] for name in views}
    kept = {
        name: kept_of(structures[name], view, scores[name], budget[name]) if removals[name] else view.mask
        for name, view in views.items()
    }
    return kept, budget, scores


def _grow(
    views: Mapping[str, LayerView],
    structures: Mapping[str, EngineStructure],
    grow: Policy,
    goal: Goal,
    draw: Draw,
    kept: Masks,
    budget: Budget,
    keep_scores: Scores,
) -> tuple[Masks, Budget]:
    """Add to what was kept, by exact budgets, until the goal's final count."""
    additions = goal.final - sum(budget.values())
    views = {
        name: replace(view, mask=kept[name], active=budget[name], allocation=goal.final_allocation[name])
        for name, view in views.items()
    }
    if additions <= 0 and not any(structures[name].retiles for name in views):
        return kept, budget
    scores = {
        name: _within(view, score_layer(grow.score_for(view.info), view, draw(name, "grow")))
        for name, view in views.items()
    }
    lower, upper = supported_bounds(views, structures)
    room = {name: _room(structures[name], view, scores[name], upper[name]) for name, view in views.items()}
    candidates = _candidates(grow, scores, {name: _free(view) for name, view in views.items()}, +1)
    shares = check_shares(grow.share, grow.share(views, candidates, additions), views)
    least = {name: 0 if budget[name] else min(lower[name], room[name]) for name in views}
    added = apportion(shares, additions, least, room)
    target = {name: budget[name] + added[name] for name in views}

    def fill(name: str) -> Tensor:
        structure, view = structures[name], views[name]
        old = keep_scores[name] if structure.reads_keep_scores else None
        return structure.fill(view, structure.merge(view.mask, old, scores[name], target[name]), target[name])

    return {name: fill(name) for name in views}, target


def _within(view: LayerView, scores: Tensor) -> Tensor:
    """Scores that forbid what lies outside the support."""
    return scores if view.support is None else scores.masked_fill(~view.support, -torch.inf)


def _free(view: LayerView) -> Tensor:
    """The positions that may become active, bool [*w]."""
    return ~view.mask if view.support is None else view.support & ~view.mask


def _room(structure: EngineStructure, view: LayerView, scores: Tensor, capacity: int) -> int:
    """How many weights may still be added: up to capacity, and never where the score forbids it."""
    room = max(0, capacity - view.active)
    if float(scores.min()) == -torch.inf:
        room = min(room, structure.allowed(view, scores))
    return room


def _candidates(
    policy: Policy, scores: Mapping[str, Tensor], where: Mapping[str, Tensor], sign: int
) -> Masks:
    """The scores of eligible positions, oriented so that higher = take first; empty if the share never looks."""
    if not policy.uses_candidates:
        return {}
    return {name: sign * values[where[name]] for name, values in scores.items()}


def score_layer(score: Score, layer: LayerView, rng: Generator) -> Tensor:
    """Scores of one layer, checked. Raises StrategyError that names the strategy, the layer and the defect."""
    where = f"{score!r}, layer {layer.name!r}"
    try:
        with torch.no_grad():
            values = score(layer, rng)
    except (MemoryError, torch.OutOfMemoryError, StrategyError):
        raise
    except Exception as error:
        if "memory" in str(error):  # the host allocator says so with a RuntimeError
            raise
        raise StrategyError(f"{where}: raised {type(error).__name__}: {error}") from error
    if not isinstance(values, Tensor):
        raise StrategyError(f"{where}: a score must be a tensor, got {type(values).__name__}")
    if values.shape != layer.weight.shape:
        raise StrategyError(f"{where}: expected shape {tuple(layer.weight.shape)}, got {tuple(values.shape)}")
    if not values.is_floating_point():
        raise StrategyError(f"{where}: expected a floating dtype, got {values.dtype}")
    if values.device != layer.weight.device:
        raise StrategyError(f"{where}: expected device {layer.weight.device}, got {values.device}")
    if bool(values.aminmax().max.isnan()):
        why = f": {odd}" if (odd := not_finite(layer)) else ""
        raise StrategyError(f"{where}: {int(values.isnan().sum())} of {values.numel()} scores are NaN{why}")
    return values


def check_shares(
    share: Share, weights: Mapping[str, float], views: Mapping[str, LayerView]
) -> Mapping[str, float]:
    """The relative weights of every layer, checked."""
    if not isinstance(weights, Mapping) or set(weights) != set(views):
        got = sorted(weights) if isinstance(weights, Mapping) else type(weights).__name__
        raise StrategyError(f"{share!r}: expected a weight for each of the layers {sorted(views)}, got {got}")
    return {name: _share_of(share, name, weights[name]) for name in views}


def _share_of(share: Share, name: str, weight: Any) -> float:
    try:
        value = float(weight)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise StrategyError(f"{share!r}, layer {name!r}: a share must be finite and >= 0, got {weight!r}")
    return value


def check_masks(
    views: Mapping[str, LayerView], structures: Mapping[str, EngineStructure], masks: Masks, budget: Budget
) -> None:
    """Refuse what a structure must never return: wrong shape, empty, or off its budget by over half a unit."""
    for name, view in views.items():
        mask, structure = masks[name], structures[name]
        if mask.dtype != torch.bool or mask.shape != view.weight.shape:
            raise StrategyError(
                f"{structure!r}, layer {name!r}: expected bool {tuple(view.weight.shape)}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        if view.support is not None and bool((mask & ~view.support).any()):
            raise StrategyError(
                f"{structure!r}, layer {name!r}: weights that were removed for good are active"
            )
        active, unit = count(mask), structure.unit(view.info)
        if active == 0:
            raise StrategyError(f"{structure!r}, layer {name!r}: no weight is active")
        if abs(active - budget[name]) > unit / 2:
            raise StrategyError(
                f"{structure!r}, layer {name!r}: {active} weights are active where {budget[name]} were asked for, "
                f"more than half a unit of {unit} away"
            )
