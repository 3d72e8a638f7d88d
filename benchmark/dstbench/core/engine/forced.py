"""Removals that a prune score insists on: -inf takes a weight away even where the target keeps it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dstbench.api import LayerView
from dstbench.api.select import count
from dstbench.core.engine.structures import EngineStructure


def forbidden(views: Mapping[str, LayerView], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The active weights at -inf, bool [*w] of the layers that have any."""
    lowest = {name: float(scores[name].min()) for name in views}
    where = {
        name: views[name].mask & (scores[name] == -torch.inf) for name in views if lowest[name] == -torch.inf
    }
    return {name: removed for name, removed in where.items() if bool(removed.any())}


def forced(structure: EngineStructure, layer: LayerView, scores: Tensor) -> int:
    """How many of a layer's weights have to go: those at -inf, in whole units of the structure."""
    if float(scores.min()) > -torch.inf:
        return 0
    forbidden = layer.mask & (scores == -torch.inf)
    left = min(layer.active, count(layer.mask)) - count(forbidden)
    while stray := count(kept(structure, layer, scores, left) & forbidden):
        left -= stray
    return min(layer.active, layer.active - left)


def kept(structure: EngineStructure, layer: LayerView, scores: Tensor, n: int) -> Tensor:
    """About n of the active weights, bool [*w]: none at all where n is 0, as a structure itself never has it."""
    return structure.shrink(layer, scores, n) if n > 0 else torch.zeros_like(layer.mask)
