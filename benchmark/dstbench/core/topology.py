"""Which weights are active, which ever and always were, and what is derived from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dstbench.api.select import count


@dataclass(frozen=True)
class Change:
    """From one set of masks to the next."""

    survivors: Mapping[str, Tensor]  # layer -> 1 where active before and after, else 0: float [*w]
    grown: int  # entries that became active
    dropped: int  # entries that became inactive


class Topology:
    """The masks of a training, bool [*w] by layer, with their 0/1 floats, counts, and where they have been."""

    def __init__(self, masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        self.adopt(masks, weights)
        self.explored = {name: mask.clone() for name, mask in masks.items()}  # ever active
        self.kept = {name: mask.clone() for name, mask in masks.items()}  # always active
        self.initial, self.explored_counts = dict(self.active), dict(self.active)
        self.support: dict[str, Tensor] = {}  # of the layers that lost positions for good

    @classmethod
    def of(
        cls,
        masks: Mapping[str, Tensor],
        explored: dict[str, Tensor],
        kept: dict[str, Tensor],
        initial: Mapping[str, int],
        support: dict[str, Tensor],
        weights: Mapping[str, Tensor],
    ) -> Topology:
        """As a checkpoint left it."""
        restored = cls(masks, weights)
        restored.support = support
        restored.explored, restored.kept, restored.initial = explored, kept, dict(initial)
        restored.explored_counts = {name: count(mask) for name, mask in explored.items()}
        return restored

    def adopt(self, masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Hold these masks from now on, as floats of the weights' dtype too."""
        self.masks = {name: masks[name] for name in weights}
        self.floats = {name: masks[name].to(weight.dtype) for name, weight in weights.items()}
        self.active = {name: count(mask) for name, mask in self.masks.items()}

    def change(self, masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Change:
        """Adopt the masks that a topology update decided, and say what it changed."""
        survivors, grown, dropped = {}, 0, 0
        for name, mask in masks.items():
            both = mask & self.masks[name]
            stayed = count(both)
            survivors[name] = both.to(weights[name].dtype)
            dropped += self.active[name] - stayed
            grown += count(mask) - stayed
            self.explored[name] |= mask
            self.kept[name] &= mask
            self.explored_counts[name] = count(self.explored[name])
        self.adopt(masks, weights)
        return Change(survivors, grown, dropped)

    @property
    def supported(self) -> int:
        """The positions, of all layers, that may still be active."""
        return sum(count(self.support[n]) if n in self.support else m.numel() for n, m in self.masks.items())

    def restrict(self, support: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Change:
        """Adopt a smaller support of some layers: their masks lose what lies outside."""
        self.support |= support
        return self.change({n: m & support[n] if n in support else m for n, m in self.masks.items()}, weights)

    def follow(self, weights: Mapping[str, Tensor]) -> None:
        """Go where the weights went, as when Accelerate's ``prepare`` moves or casts them."""
        if all((f.device, f.dtype) == (weights[n].device, weights[n].dtype) for n, f in self.floats.items()):
            return
        self.explored = {name: mask.to(weights[name].device) for name, mask in self.explored.items()}
        self.kept = {name: mask.to(weights[name].device) for name, mask in self.kept.items()}
        self.support = {name: mask.to(weights[name].device) for name, mask in self.support.items()}
        self.adopt({name: mask.to(weights[name].device) for name, mask in self.masks.items()}, weights)

    @torch.no_grad()
    def leaks(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether an inactive weight moved: then masking gradients isn't enough for the optimizer."""
        return any(
            int(weight.count_nonzero()) > self.active[name]
            and bool((weight.detach() * (1 - self.floats[name])).any())
            for name, weight in weights.items()
        )
