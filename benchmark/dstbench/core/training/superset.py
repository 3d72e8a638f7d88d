"""A backward superset on live weights: what trains besides the active ones, and what every inactive weight holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from dstbench.api.select import count
from dstbench.core.storage.bits import bits_of
from dstbench.core.storage.stored import Weights

Masks = Mapping[str, Tensor]


class Superset:
    """Between steps the parameters hold active weights alone, so that whoever computes with them computes with these;
    while an optimizer steps, they hold all that trains."""

    def __init__(self, masks: Masks, values: Mapping[str, Tensor]) -> None:
        """masks: bool [*w], active or not. values: float [*w], of all that is inactive; zero elsewhere."""
        self.masks, self.values = dict(masks), dict(values)
        self._bits: dict[str, Tensor] = {}
        self._inside: set[str] = set()  # layers whose parameters hold all that trains

    @property
    def counts(self) -> dict[str, int]:
        """The weights that train, of each layer."""
        return {name: count(mask) for name, mask in self.masks.items()}

    def bits(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks as 0/1 for each of the values."""
        if not self._bits:
            self._bits = {name: bits_of(mask, weights[name]) for name, mask in self.masks.items()}
        return self._bits

    def whole(self, weights: Weights, active: Masks) -> dict[str, Tensor]:
        """What every position of each layer holds, float [*w], none of them the parameters themselves."""
        return {
            name: torch.where(active[name], values.detach(), self.values[name])
            for name, values in weights.values.items()
        }

    def adopt(self, masks: Masks, whole: Mapping[str, Tensor], active: Masks) -> None:
        """Have these train, bool [*w], beside ``active``; whatever isn't active holds its part of ``whole``."""
        self.masks, self._bits = {name: mask | active[name] for name, mask in masks.items()}, {}
        self.values = {name: values.masked_fill(active[name], 0) for name, values in whole.items()}

    def enter(self, weights: Weights, active: Masks, layers: Collection[str]) -> None:
        """Have the parameters of these layers hold all that trains."""
        for name in layers:
            values, beside = weights.values[name], self.masks[name] & ~active[name]
            values.copy_(torch.where(beside, self.values[name], values))
            self._inside.add(name)

    def leave(self, weights: Weights, active: Masks) -> None:
        """Have the parameters hold active weights alone, and keep what the step made of the others."""
        for name in self._inside:
            values, beside = weights.values[name], self.masks[name] & ~active[name]
            self.values[name] = torch.where(beside, values.detach(), self.values[name])
            values.masked_fill_(~active[name], 0)
        self._inside = set()

    def move(self, weights: Mapping[str, Tensor]) -> None:
        """Follow weights to another device or dtype."""
        self.masks = {name: mask.to(weights[name].device) for name, mask in self.masks.items()}
        self.values = {name: value.to(weights[name]) for name, value in self.values.items()}
        self._bits = {}
