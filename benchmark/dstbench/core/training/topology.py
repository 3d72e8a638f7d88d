"""Which weights are active, which ever and always were, and what is derived from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from dstbench.api.select import count


@dataclass(frozen=True)
class Change:
    """From one set of masks to the next."""

    survivors: Mapping[str, Tensor]  # layer -> active before, after and meanwhile: bool [*w]
    grown: int  # entries that became active
    dropped: int  # entries that became inactive


class Topology:
    """The masks of a training, bool [*w] by layer, with their counts, and where they have been."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.adopt(masks)
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
    ) -> Topology:
        """As a checkpoint left it."""
        restored = cls(masks)
        restored.support = support
        restored.explored, restored.kept, restored.initial = explored, kept, dict(initial)
        restored.explored_counts = {name: count(mask) for name, mask in explored.items()}
        return restored

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What ``of`` takes, the counts in ``initial`` aside: kind -> layer name -> bool [*w]; not copies."""
        return {"masks": self.masks, "explored": self.explored, "kept": self.kept, "support": self.support}

    def adopt(self, masks: Mapping[str, Tensor]) -> None:
        """Hold these masks from now on."""
        self.masks = dict(masks)
        self.active = {name: count(mask) for name, mask in self.masks.items()}

    def change(
        self, masks: Mapping[str, Tensor], forbidden: Mapping[str, Tensor] = MappingProxyType({})
    ) -> Change:
        """Adopt the masks that a topology update decided, and say what it changed. forbidden: bool [*w] of layers
        with weights that don't survive it though they are active behind it."""
        survivors, grown, dropped = {}, 0, 0
        for name, mask in masks.items():
            survivors[name] = mask & self.masks[name]
            stayed = count(survivors[name])
            dropped += self.active[name] - stayed
            grown += count(mask) - stayed
            self.explored[name] |= mask
            self.kept[name] &= mask
            self.explored_counts[name] = count(self.explored[name])
        survivors |= {name: survivors[name] & ~removed for name, removed in forbidden.items()}
        self.adopt(masks)
        return Change(survivors, grown, dropped)

    @property
    def supported(self) -> int:
        """The positions, of all layers, that may still be active."""
        return sum(count(self.support[n]) if n in self.support else m.numel() for n, m in self.masks.items())

    def restrict(self, support: Mapping[str, Tensor]) -> Change:
        """Adopt a smaller support of some layers: their masks lose what lies outside."""
        self.support |= support
        return self.change({n: m & support[n] if n in support else m for n, m in self.masks.items()})

    def follow(self, devices: Mapping[str, torch.device]) -> None:
        """Go where the weights went, as when Accelerate's ``prepare`` moves them."""
        for masks in (self.masks, self.explored, self.kept, self.support):
            masks.update({name: mask.to(devices[name]) for name, mask in masks.items()})


@dataclass(frozen=True)
class UpdateReport:
    """What one topology update did."""

    step: int
    density: float  # after it, measured
    active: int  # weights, after it
    grown: int  # entries that became active
    dropped: int  # entries that became inactive
    r_s: float  # ever active / all, after it
