"""Which channels can be removed: as couplings for training, and exactly, given masks.

A channel is everything that must go at once: output rows of all layers that are added, multiplied or grouped
together, their norms' entries, and the columns that read them. It can go if nobody reads it, or if what it sends on
is zero, or a constant that its readers can take into their biases, which zeros around an image forbid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from dstbench.api import Coupling
from dstbench.core.network.defaults import usual_defaults
from dstbench.core.network.flow import Flow, follow
from dstbench.core.network.inputs import Inputs
from dstbench.core.network.layers import maskable_layers
from dstbench.core.network.values import Read


@dataclass(frozen=True)
class Channels:
    """A network's channels, numbered 0 … n - 1."""

    flow: Flow
    of: Tensor  # int64 [slots]: the channel of each slot
    count: int
    reasons: Mapping[int, str]  # channels that must stay, and why

    def blocked(self, layer: str) -> str | None:
        """What keeps all rows of a layer from being removed; None if nothing does."""
        if layer in self.flow.unfollowed:
            return self.flow.unfollowed[layer]
        whys = [self.reasons.get(channel) for channel in self.of[self.flow.rows[layer]].tolist()]
        return whys[0] if None not in whys else None


@usual_defaults()
def channels(
    model: nn.Module, links: Mapping[str, Tensor] | None = None, example: Inputs | None = None
) -> Channels:
    """Find a network's channels. A model that can't be traced has none. The rest is as ``follow`` takes it."""
    flow = follow(model, links, example)
    of = _connected(flow)
    reasons: dict[int, str] = {}
    for slots, reason in flow.blocks:
        for channel in set(of[slots].flatten().tolist()):
            reasons.setdefault(channel, reason)
    return Channels(flow, of, int(of.max()) + 1 if flow.size else 0, reasons)


def _connected(flow: Flow) -> Tensor:
    """The channel of each slot: int64 [slots]."""
    if not flow.joined:
        return torch.arange(flow.size)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    start, end = torch.cat([torch.stack([a.flatten(), b.flatten()]) for a, b in flow.joined], 1).numpy()
    edges = coo_array((np.ones(len(start), dtype=bool), (start, end)), shape=(flow.size, flow.size))
    return torch.as_tensor(connected_components(edges, directed=False)[1], dtype=torch.long)


def units(network: Channels) -> list[Coupling]:
    """Couplings of all layers: those whose parts all hold the same channels in the same order. Streams aside."""
    late = {channel for slots in network.flow.late for channel in network.of[slots].tolist()}
    return [unit for held, unit in coupled(network) if late.isdisjoint(held)]


def coupled(network: Channels) -> list[tuple[tuple[int, ...], Coupling]]:
    """Couplings by their channels, whose norms and readers hold all of them in the same order."""
    flow = network.flow
    parts = [
        {name: tuple(network.of[slots].tolist()) for name, slots in places.items()}
        for places in (
            flow.rows,
            {**flow.norms, **{path: read.slots for path, read in flow.across.items()}},
            {name: read.slots for name, read in flow.reads.items()},
        )
    ]
    scaled = {channel for read in flow.responses.values() for channel in network.of[read.slots].tolist()}
    every = {held for part in parts for held in part.values()}
    every |= {tuple(network.of[read.slots].tolist()) for _, read in flow.entries.values()}
    homes: dict[int, int] = {}  # how many different sets of channels each is in
    for held in every:
        for channel in set(held):
            homes[channel] = homes.get(channel, 0) + 1
    producers, norms, consumers = (_by_value(part) for part in parts)
    return [
        (held, Coupling(tuple(layers), tuple(norms.get(held, ())), tuple(consumers.get(held, ()))))
        for held, layers in producers.items()
        if len(set(held)) == len(held)
        and all(homes[channel] == 1 and channel not in network.reasons for channel in held)
        and scaled.isdisjoint(held)  # the width of a response norm is part of what it computes
    ]


def _by_value(part: Mapping[str, tuple[int, ...]]) -> dict[tuple[int, ...], list[str]]:
    grouped: dict[tuple[int, ...], list[str]] = {}
    for name, held in part.items():
        grouped.setdefault(held, []).append(name)
    return grouped


@dataclass(frozen=True)
class Removal:
    """The channels that go, and where they are."""

    channels: Channels
    gone: Tensor  # bool [channels]
    links: Mapping[str, Tensor]  # layer -> bool [out, in / groups]: where any tap is active
    multiple: int = 1  # of rows that a layer keeps
    refused: Mapping[str, str] = field(
        default_factory=dict
    )  # layers that keep their rows whatever they are -> why

    def refusing(self, layers: Mapping[str, str]) -> Removal:
        """The same where these layers keep all of their rows, and with them the channels."""
        return _removal(self.channels, self.links, self.multiple, layers)

    merged: tuple[
        int, ...
    ] = ()  # channels that stay in place of those that a norm over all of them takes for zero

    def at(self, slots: Tensor) -> Tensor:
        """Which of some slots go: bool, the shape of slots."""
        return self.gone[self.channels.of[slots]]

    def stands(self, slots: Tensor) -> Tensor:
        """Which of some slots stand for others that go: bool, the shape of slots."""
        return torch.isin(self.channels.of[slots], torch.tensor(self.merged, dtype=torch.long))

    @property
    def rows(self) -> dict[str, Tensor]:
        """bool [out], only layers that lose any."""
        return self._losing(self.channels.flow.rows)

    @property
    def columns(self) -> dict[str, Tensor]:
        """bool [channels read], only layers that lose any; behind a flattening one stands for several columns."""
        return self._losing({name: read.slots for name, read in self.channels.flow.reads.items()})

    @property
    def live(self) -> float | None:
        """The share of channels with a weight on both sides, of those that some layers write and others read; None
        where there are none. It is the ANP, of neurons, of CHTs (arXiv 2501.19107)."""
        flow, of = self.channels.flow, self.channels.of
        written, read, fed, heard = torch.zeros(4, self.channels.count, dtype=torch.bool)
        for name, slots in flow.rows.items():
            written[of[slots]] = True
            fed[of[slots][self.links[name].any(1)]] = True
        for name, reading in flow.reads.items():
            held = of[reading.slots]
            read[held] = True
            heard[held[self.links[name].any(0).view(len(held), -1).any(1)]] = True
        hidden = written & read
        return float((fed & heard)[hidden].double().mean()) if bool(hidden.any()) else None

    def _losing(self, places: Mapping[str, Tensor]) -> dict[str, Tensor]:
        lost = {name: self.at(slots) for name, slots in places.items()}
        return {name: gone for name, gone in lost.items() if bool(gone.any())}

    def kept(self) -> dict[str, str]:
        """Why dead rows stay: by layer that has any, one reason."""
        flow, whys = self.channels.flow, {}
        for name, links in self.links.items():
            dead = ~links.any(1)
            if name in self.refused and bool(dead.any()):
                whys[name] = self.refused[name]
            elif name in flow.unfollowed and bool(dead.any()):
                whys[name] = flow.unfollowed[name]
            elif name in flow.rows and (stay := (dead & ~self.at(flow.rows[name])).nonzero()).numel():
                whys[name] = self._why(name, int(stay[0]))
        return whys

    def _why(self, name: str, row: int) -> str:
        flow, of = self.channels.flow, self.channels.of
        channel = int(of[flow.rows[name][row]])
        if channel in self.channels.reasons:
            return self.channels.reasons[channel]
        for other, slots in flow.rows.items():
            if bool(self.links[other][of[slots] == channel].any()):
                return f"{other} sends into the same channels"
        if channel in self.merged:
            return "it stands for the channels that are gone, in norms over all of them"
        for path, (_, read) in flow.entries.items():
            if bool((of[read.slots] == channel)[read.constant != 0].any()):
                return f"{path} isn't zero there"
        for path, read in flow.across.items():
            if bool((of[read.slots] == channel)[read.constant != 0].any()):
                return f"{path} takes its statistics over what isn't zero there"
        for path, read in flow.responses.items():
            if bool((of[read.slots] == channel).any()) and bool(
                ~_harmless(read)[of[read.slots] == channel].any()
            ):
                return f"{path} takes its mean over what isn't zero there"
        for reader, read in flow.reads.items():
            here = of[read.slots] == channel
            if bool((here & ~_harmless(read)).any()):
                constant = not bool(read.constant[here].isnan().any())
                return (
                    f"{reader} pads the constant that they send"
                    if constant
                    else f"{reader} reads what varies"
                )
        return "some channel of the layer has to stay"


@usual_defaults()
def removable(
    model: nn.Module, masks: Mapping[str, Tensor], multiple: int = 1, example: Inputs | None = None
) -> Removal:
    """The channels whose removal is exact. masks: layer name -> bool [*w]; a layer without one reads everything.

    Every layer keeps at least one row; with ``multiple``, as many dead ones as make up a multiple of it, which
    kernels like. example: an input, for models that can't be traced without one.
    """
    links = {
        name: _links(masks[name]) if name in masks else torch.ones(layer.info.shape[:2], dtype=torch.bool)
        for name, layer in maskable_layers(model).items()
    }
    return _removal(channels(model, links, example), links, multiple, {})


def _removal(
    network: Channels, links: Mapping[str, Tensor], multiple: int, refused: Mapping[str, str]
) -> Removal:
    flow, of = network.flow, network.of
    free = torch.zeros(network.count, dtype=torch.bool)  # read at all, and nowhere blocked
    for read in flow.reads.values():
        free[of[read.slots]] = True
    free[list(network.reasons)] = False
    for name in refused:
        free[of[flow.rows[name]]] = False
    for read in flow.responses.values():
        free[of[read.slots][~_harmless(read)]] = False
    for read in flow.across.values():
        free[of[read.slots][read.constant != 0]] = False
    gone, before = torch.zeros_like(free), -1
    while int(gone.sum()) > before:  # what only removed rows read can go, too
        before, needed = int(gone.sum()), torch.zeros_like(free)
        for name, read in flow.reads.items():
            reading = links[name].numpy()[~gone[of[flow.rows[name]]].numpy()]  # numpy: small, and many
            columns = torch.from_numpy(reading.any(0)).view(len(read.slots), -1).any(1)
            needed[of[read.slots][columns & ~_harmless(read)]] = True
        gone = free & ~needed
    merged = _stand_ins(network, gone)
    for slots in flow.rows.values():
        _keep_some(gone, of[slots], multiple)
    return Removal(network, gone, links, multiple, refused, merged)


def _stand_ins(network: Channels, gone: Tensor) -> tuple[int, ...]:
    """Take back one channel in each norm over channels that loses any: it stands for all that are zero there."""
    chosen: set[int] = set()
    for path, read in network.flow.across.items():
        held = network.of[read.slots]
        lost = held[gone[held]].tolist()
        shared = any(
            other.shared is not None
            and other.shared.norm == path
            and bool(other.shared.gain[gone[network.of[other.slots]]].any())  # else it makes zeros of zeros
            for other in network.flow.reads.values()
        )
        if lost and shared and chosen.isdisjoint(held.tolist()):
            chosen.add(lost[0])
            gone[lost[0]] = False
    return tuple(sorted(chosen))


def _links(mask: Tensor) -> Tensor:
    return mask.flatten(2).any(2).cpu() if mask.dim() > 2 else mask.cpu()


def _harmless(read: Read) -> Tensor:
    """Which channels a layer can do without, whatever its weights: bool [channels read]."""
    alone = read.constant == 0 if read.padded else ~read.constant.isnan()
    if read.shared is None:
        return alone
    return alone | (~read.shared.gain.isnan() & (read.shared.shift == 0 if read.padded else True))


def _keep_some(gone: Tensor, held: Tensor, multiple: int) -> None:
    """Take channels back until a layer has a multiple of rows, and at least one."""
    for channel in held[gone[held]].tolist():
        kept = int((~gone[held]).sum())
        if kept == len(held) or (kept and kept % multiple == 0):
            return
        gone[channel] = False
