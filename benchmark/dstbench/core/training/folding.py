"""The accumulators of a training: what steps were folded into them, and what a coming step would make of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from dstbench.api import Clock, LayerView
from dstbench.api.accumulators import Folding
from dstbench.core import ranks

Totals = dict[str, dict[str, Tensor]]  # accumulator's name -> layer name -> what expands to [*w]


class Foldings:
    """Totals by accumulator and layer. A step enters in two moves: ``prepare`` reads the weights that it starts
    from, ``commit`` comes when it was applied; one that is skipped leaves nothing."""

    def __init__(self, foldings: Mapping[str, Folding]) -> None:
        self.foldings = dict(foldings)
        self.totals: Totals = {name: {} for name in foldings}
        self._coming: Totals = {}

    def prepare(
        self, names: Collection[str], views: Mapping[str, Mapping[str, LayerView]], clock: Clock
    ) -> None:
        """What a step makes of the totals. views: each accumulator's layers, with the signals that it needs."""
        self._coming = {
            name: {layer: self._folded(name, view, clock) for layer, view in views[name].items()}
            for name in names
        }

    def commit(self) -> None:
        """The step was applied."""
        for name, made in self._coming.items():
            self.totals[name] |= made
        self._coming = {}

    def forget(self) -> None:
        """The step is over, or another one is being prepared."""
        self._coming = {}

    def ready(self, layers: Collection[str], device: torch.device) -> list[str]:
        """The layers, the same on every rank, of which every accumulator has a total."""
        if not self.totals:
            return list(layers)
        held = [all(name in totals for totals in self.totals.values()) for name in layers]
        return [name for name, has in zip(layers, ranks.everywhere(held, device), strict=True) if has]

    def read(self, layers: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """The totals as scores see them, [*w] by accumulator and layer. layers: masks, bool [*w]."""
        return {
            name: {
                layer: totals[layer].expand(mask.shape) for layer, mask in layers.items() if layer in totals
            }
            for name, totals in self.totals.items()
        }

    def reset(self, grown: Mapping[str, Tensor], update: bool) -> None:
        """After the masks changed. grown: bool [*w] by layer. update: whether by a topology update."""
        for name, folding in self.foldings.items():
            if folding.reset == "update" and update:
                self.totals[name] = {}
            elif folding.reset == "grown":
                for layer, where in grown.items():
                    if layer in self.totals[name] and bool(where.any()):
                        total = self.totals[name][layer].expand(where.shape)
                        self.totals[name][layer] = total.masked_fill(where, folding.initial)

    def move(self, weights: Mapping[str, Tensor]) -> None:
        """Follow weights to another device, or dtype where none was declared."""
        for name, folding in self.foldings.items():
            self.totals[name] = {
                layer: total.to(weights[layer].device, folding.dtype or weights[layer].dtype)
                for layer, total in self.totals[name].items()
            }

    def _folded(self, name: str, view: LayerView, clock: Clock) -> Tensor:
        folding = self.foldings[name]
        total = self.totals[name].get(view.name)
        return folding.fold(folding.start(view) if total is None else total, view, clock, name)
