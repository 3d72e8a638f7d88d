"""Channels that emerge: those which training leaves weak are removed for good, the rest stays unstructured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from dstbench.api import Clock, Coupling, Infeasible, LayerView
from dstbench_plugins.checks import check_choice, check_fraction, check_integer
from dstbench_plugins.structure.channel_scores import SCORES, ChannelScore

Scope = Literal["block", "residual"]


@dataclass(frozen=True)
class EmergentChannel:
    """Chase's gradual channel removal (arXiv 2305.19454); masks are any within the surviving channels.

    A unit is a convolution whose rows feed exactly one other convolution: S_c counts channels of this pool, not
    of the network, so classifier inputs and residual streams are never touched. With scope "residual" (the paper's
    "prune skip") a unit is any set of convolutions whose rows are one channel, such as all that add to a residual
    stream, whatever consumes it: its channel goes from all of them at once, and its score is that of all their rows
    together, for UMM Σ|w| / Σ fan-in: a plain sum would let a stream, which many layers write, outrank every
    channel inside a block and stay whole. Where norms run over a stream's channels, as in vision transformers, the
    stream and the hidden units beside it are units, too, whatever kind of layer writes them. By step t of T the
    fraction s(t) = S_c (1 - (1 - t/T)³) of them is gone, weakest first over all units, but a unit of C channels keeps
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
    scope: Scope = "block"  # or "residual": through the residual streams

    def __post_init__(self) -> None:
        """Refuse what isn't a removal."""
        check_fraction("channel_sparsity", self.channel_sparsity, below=True)
        check_fraction("floor", self.floor)
        check_fraction("stop", self.stop)
        check_integer("delta_t", self.delta_t)
        if self.offset is not None:
            check_integer("offset", self.offset, least=0, most=self.delta_t - 1)
        check_choice("score", self.score, tuple(SCORES))
        check_choice("scope", self.scope, get_args(Scope))

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
        """Remove the weakest channels: their producers' rows and their consumers' columns."""
        units = prunable(layers, couplings, self.scope)
        if not units and self.channel_sparsity:
            raise Infeasible(
                f"{self!r}: no convolution of this network feeds exactly one other and nothing else, so there is no "
                "channel to remove; channel_sparsity=0 asks for none"
                if self.scope == "block"
                else f"{self!r}: no channels of this network can be removed; channel_sparsity=0 asks for none"
            )
        alive = [alive_rows(layers[unit.producers[0]]) for unit in units]
        total = sum(len(rows) for rows in alive)
        remaining = (1 - self.target(clock)) * total
        k = ceil(round(sum(int(rows.sum()) for rows in alive) - remaining, 6))
        scores = [self._scores(layers, unit) for unit in units]
        support: dict[str, Tensor] = {}
        for unit, gone in zip(units, self._weakest(scores, alive, k), strict=True):
            if bool(gone.any()):
                for dim, names in ((0, unit.producers), (1, unit.consumers)):
                    for name in names:
                        held = _support(layers[name], support)
                        support[name] = held & ~_across(gone, layers[name], dim)
        return support

    def _scores(self, layers: Mapping[str, LayerView], unit: Coupling) -> Tensor:
        """How strong the channels of a unit are, over all weights that make them: float [C], on the CPU."""
        producers = [layers[name] for name in unit.producers]
        scores = torch.stack([SCORES[self.score](layer, self.alive_inputs).cpu() for layer in producers])
        sizes = torch.tensor([[layer.info.numel / layer.shape[0]] for layer in producers])
        return (scores * (sizes / sizes.sum())).sum(0)

    def _weakest(self, scores: Sequence[Tensor], alive: Sequence[Tensor], k: int) -> list[Tensor]:
        """The k weakest channels over all units, none below its floor: bool [C] by unit."""
        values, owners, channels = [], [], []
        for unit, rows in enumerate(alive):
            spare = int(rows.sum()) - max(1, int(len(rows) * (1 - self.channel_sparsity) * self.floor))
            living = scores[unit].masked_fill(~rows.cpu(), torch.inf)
            order = living.sort(stable=True).indices[: max(0, spare)]
            values.append(living[order])
            channels.append(order)
            owners.append(torch.full_like(order, unit))
        weakest = [torch.zeros_like(rows) for rows in alive]
        if values and k > 0:
            taken = torch.cat(values).sort(stable=True).indices[:k]
            channel, owner = torch.cat(channels)[taken], torch.cat(owners)[taken]
            for unit, gone in enumerate(weakest):
                gone[channel[owner == unit].to(gone.device)] = True
        return weakest


def prunable(
    layers: Mapping[str, LayerView], couplings: Sequence[Coupling], scope: Scope = "block"
) -> list[Coupling]:
    """The units: convolutions consumed by exactly one convolution, or any whose channels can be removed; of a network
    with streams that norms run over, of any layers."""

    def conv(names: Sequence[str]) -> bool:
        return all(layers[name].info.kind == "conv" for name in names)

    if scope == "residual":
        streams = any(coupling.stream for coupling in couplings)
        return [coupling for coupling in couplings if streams or conv(coupling.producers)]
    pairs = [c for c in couplings if len(c.producers) == len(c.consumers) == 1 and not c.stream]
    return [pair for pair in pairs if conv(pair.producers + pair.consumers)]


def alive_rows(layer: LayerView) -> Tensor:
    """The output rows that may still be active: bool [out]."""
    rows = layer.shape[0]
    return layer.mask.new_ones(rows) if layer.support is None else layer.support.flatten(1).any(1)


def _support(layer: LayerView, changed: Mapping[str, Tensor]) -> Tensor:
    """The support as it stands, bool [*w]: a layer may be one unit's consumer and the next one's producer."""
    held = changed.get(layer.name, layer.support)
    return torch.ones_like(layer.mask) if held is None else held


def _across(gone: Tensor, layer: LayerView, dim: int) -> Tensor:
    """Removed rows or columns, bool [C], against a weight: bool, broadcasts to [*w]. Behind a flattening a channel
    is several columns in a row."""
    slices = gone.repeat_interleave(layer.shape[dim] // len(gone))
    return slices.view([-1 if axis == dim else 1 for axis in range(len(layer.shape))])
