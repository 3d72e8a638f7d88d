"""A backward superset: the positions that train beside the active ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from dstbench.api import LayerView, Policy
from dstbench.core.engine.allocation import supported_bounds
from dstbench.core.engine.books import Budget
from dstbench.core.engine.budget import apportion
from dstbench.core.engine.structures import EngineStructure
from dstbench.core.engine.update import Draw, Masks, score_layer
from dstbench.core.network.defaults import usual_defaults


@usual_defaults()
def superset_masks(
    views: Mapping[str, LayerView],
    structures: Mapping[str, EngineStructure],
    grow: Policy,
    masks: Masks,
    budget: Budget,
    n: int,
    draw: Draw,
) -> Masks:
    """Each layer's ``masks``, bool [*w], and its best others by the grow score, n weights in all, in whole units.

    Layers have them in proportion to ``budget``, what they hold. Raises Infeasible where the structures have no room.
    """
    views = {
        name: replace(view, mask=masks[name], active=budget[name], allocation=budget[name])
        for name, view in views.items()
    }
    _, upper = supported_bounds(views, structures)
    weights = {name: float(held) for name, held in budget.items()}
    wanted = apportion(
        weights, max(n, sum(budget.values())), budget, {n: max(upper[n], budget[n]) for n in budget}
    )

    def fill(name: str, view: LayerView) -> torch.Tensor:
        if wanted[name] == budget[name]:
            return view.mask
        scores = score_layer(grow.score_for(view.info), view, draw(name, "grow"))
        structure = structures[name]
        merged = structure.merge(view.mask, None, scores, wanted[name])
        return view.mask | structure.fill(view, merged, wanted[name])

    return {name: fill(name, view) for name, view in views.items()}
