"""Channels that emerge: those which training leaves weak are removed for good, the rest stays unstructured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dstbench.api import Clock, Coupling, Infeasible, LayerView
from dstbench_plugins.checks import check_choice, check_fraction, check_integer
from dstbench_plugins.structure.channel_scores import SCORES, ChannelScore


@dataclass(frozen=True)
class EmergentChannel:
    """Chase's gradual channel removal (arXiv 2305.19454); masks are any within the surviving channels.

    A unit is a convolution whose rows feed exactly one other convolution: S_c counts channels of this pool, not
    of the network, so classifier inputs and residual streams are never touched. By step t of T the fraction
    s(t) = S_c (1 - (1 - t/T)³) of them is gone, weakest first over all units, but a unit of C channels keeps
    ⌊C (1 - S_c) β⌋ of them, and one. Norms behind a removed channel stay as they are: its consumer's columns
    are zero, so that compaction is lossless.

    Departures: the last event removes what is left of S_c, which the formula reaches only at T; the paper's
    code prunes one too many and then samples (here exactly k, the first on a tie); the layer-wise budgets are
    solved again by the layers' original shapes, within what survives.
    """

    whole_rows: ClassVar[bool] = True  # compaction pays

    channel_sparsity: float = 0.4  # S_c
    floor: float = 0.2  # β
    delta_t: int = 100  # steps between events
    offset: int | None = None  # steps by which events precede multiples of ΔT; None = half of it
    stop: float = 0.8  # T as a fraction of the steps
    score: ChannelScore = "mean_magnitude"
    alive_inputs: bool = False  # UMM divides by the surviving inputs, not by the original ones

    def __post_init__(self) -> None:
        """Refuse what isn't a removal."""
        check_fraction("channel_sparsity", self.channel_sparsity, below=True)
        check_fraction("floor", self.floor)
        check_fraction("stop", self.stop)
        check_integer("delta_t", self.delta_t)
        if self.offset is not None:
            check_integer("offset", self.offset, least=0, most=self.delta_t - 1)
        check_choice("score", self.score, tuple(SCORES))

    def events(self, clock: Clock) -> bool:
        """Half a ΔT before its multiples, so midway between topology updates of the same period, until T."""
        offset = self.delta_t // 2 if self.offset is None else self.offset
        due = clock.step > 0 and (clock.step + offset) % self.delta_t == 0
        return self.channel_sparsity > 0 and due and clock.step < self.stop * clock.total_steps

    def target(self, clock: Clock) -> float:
        """s(t): the fraction of the units' channels that is gone after this step."""
        left = max(0.0, 1 - clock.step / (self.stop * clock.total_steps))
        last = clock.step + self.delta_t >= self.stop * clock.total_steps
        return self.channel_sparsity * (1 if clock.step and last else 1 - left**3)

    def support(
        self, layers: Mapping[str, LayerView], couplings: Sequence[Coupling], clock: Clock
    ) -> Mapping[str, Tensor]:
        """Remove the weakest channels: their producer's rows and their consumer's columns."""
        units = prunable(layers, couplings)
        if not units and self.channel_sparsity:
            raise Infeasible(
                f"{self!r}: no convolution of this network feeds exactly one other and nothing else, so there is no "
                "channel to remove; channel_sparsity=0 asks for none"
            )
        alive = {unit.producer: alive_rows(layers[unit.producer]) for unit in units}
        total = sum(len(rows) for rows in alive.values())
        remaining = (1 - self.target(clock)) * total
        k = ceil(round(sum(int(rows.sum()) for rows in alive.values()) - remaining, 6))
        weakest = self._weakest(layers, alive, k)
        support: dict[str, Tensor] = {}
        for unit in units:
            gone = weakest[unit.producer]
            if bool(gone.any()):
                producer, [consumer] = unit.producer, unit.consumers
                support[producer] = _support(layers[producer], support) & ~_across(gone, layers[producer], 0)
                support[consumer] = _support(layers[consumer], support) & ~_across(gone, layers[consumer], 1)
        return support

    def _weakest(
        self, layers: Mapping[str, LayerView], alive: Mapping[str, Tensor], k: int
    ) -> Mapping[str, Tensor]:
        """The k weakest channels over all units, none below its floor: bool [C] by producer."""
        values, owners, channels = [], [], []
        for unit, (name, rows) in enumerate(alive.items()):
            spare = int(rows.sum()) - max(1, int(len(rows) * (1 - self.channel_sparsity) * self.floor))
            scores = SCORES[self.score](layers[name], self.alive_inputs).masked_fill(~rows, torch.inf).cpu()
            order = scores.sort(stable=True).indices[: max(0, spare)]
            values.append(scores[order])
            channels.append(order)
            owners.append(torch.full_like(order, unit))
        weakest = {name: torch.zeros_like(rows) for name, rows in alive.items()}
        if values and k > 0:
            taken = torch.cat(values).sort(stable=True).indices[:k]
            channel, owner = torch.cat(channels)[taken], torch.cat(owners)[taken]
            for unit, gone in enumerate(weakest.values()):
                gone[channel[owner == unit].to(gone.device)] = True
        return weakest


def prunable(layers: Mapping[str, LayerView], couplings: Sequence[Coupling]) -> list[Coupling]:
    """The units: convolutions consumed by exactly one convolution."""
    return [
        c
        for c in couplings
        if len(c.consumers) == 1
        and all(layers[name].info.kind == "conv" for name in (c.producer, *c.consumers))
    ]


def alive_rows(layer: LayerView) -> Tensor:
    """The output rows that may still be active: bool [out]."""
    rows = layer.shape[0]
    return layer.mask.new_ones(rows) if layer.support is None else layer.support.flatten(1).any(1)


def _support(layer: LayerView, changed: Mapping[str, Tensor]) -> Tensor:
    """The support as it stands, bool [*w]: a layer may be one unit's consumer and the next one's producer."""
    held = changed.get(layer.name, layer.support)
    return torch.ones_like(layer.mask) if held is None else held


def _across(gone: Tensor, layer: LayerView, dim: Literal[0, 1]) -> Tensor:
    """Removed rows or columns, bool [C], against a weight: bool, broadcasts to [*w]."""
    return gone.view([-1 if each == dim else 1 for each in range(len(layer.shape))])
