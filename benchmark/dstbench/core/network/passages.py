"""Percolation: what leads nowhere goes, along the passages of channels from layers that write to those that read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dstbench.api import Infeasible
from dstbench.core.network.channels import Channels, channels
from dstbench.core.network.defaults import usual_defaults
from dstbench.core.network.heads import projections
from dstbench.core.network.inputs import Inputs
from dstbench.core.network.layers import Layer

Places = tuple[tuple[str, Tensor], ...]  # layers, and where in them


@dataclass(frozen=True)
class Passage:
    """Channels that some layers write and others read: entry c is the same channel of each.

    ``serial``: an empty row of one writer silences the channel (gates, queries and keys). Else writers are added,
    and it is silent once all of them are. Without readers, as queries and keys, nobody is asked.
    """

    writers: Places  # int64 [C]: the row of each channel
    readers: Places  # int64 [C, columns of each]
    serial: bool = False

    def dead(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Which channels have links on one side at most, bool [C]. A layer without a mask is dense."""
        fed = [masks[name].flatten(1).any(1).cpu()[rows] for name, rows in self.writers if name in masks]
        heard = [_columns(masks[name]).cpu()[at].any(1) for name, at in self.readers if name in masks]
        empty = torch.zeros(len(self.writers[0][1]), dtype=torch.bool)
        if self.serial and fed:
            empty = empty | ~torch.stack(fed).all(0)
        elif fed and len(fed) == len(self.writers):
            empty = empty | ~torch.stack(fed).any(0)
        if heard and len(heard) == len(self.readers):
            empty = empty | ~torch.stack(heard).any(0)
        return empty


@dataclass(frozen=True)
class Passages:
    """All passages of a network."""

    of: tuple[Passage, ...]

    def percolated(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks, bool [*w], without links from or to channels that are dead, until none is left. A layer of
        which nothing would remain keeps what it has."""
        left = {name: mask.clone() for name, mask in masks.items()}
        while True:
            before = {name: mask.clone() for name, mask in left.items()}
            for passage in self.of:
                dead = passage.dead(left)
                for name, rows in passage.writers:
                    if name in left:
                        left[name][rows[dead]] = False
                for name, at in passage.readers:
                    if name in left:
                        left[name][:, at[dead].flatten()] = False
            for name, mask in left.items():
                if not bool(mask.any()):
                    left[name] = before[name]
            if all(torch.equal(left[name], before[name]) for name in left):
                return left


def _columns(mask: Tensor) -> Tensor:
    """bool [in]: the columns of a mask [out, in, *taps] with a link."""
    return mask.any(0) if mask.dim() == 2 else mask.flatten(2).any(2).any(0)


@usual_defaults()
def passages(model: nn.Module, layers: Mapping[str, Layer], example: Inputs | None = None) -> Passages:
    """The passages of a network through the given layers; others are taken to be dense, so that they keep channels.

    Followed are channels whose writers and readers hold all of them, and projections of attention by their usual
    names: queries and keys of one index, values and the output projection. Streams stay. Raises Infeasible where
    nothing can be followed. example: an input, for models that can't be traced without one.
    """
    empty = {name: torch.zeros(layer.info.shape[:2], dtype=torch.bool) for name, layer in layers.items()}
    network = channels(model, empty, example)
    every = [*_traced(network), *_attentive(network.flow.layers)]
    kept = tuple(c for c in every if any(name in layers for name, _ in (*c.writers, *c.readers)))
    if not kept:
        raise Infeasible(f"percolation: no channels between layers of {type(model).__name__} can be followed")
    return Passages(kept)


def _traced(network: Channels) -> Iterator[Passage]:
    """Passages of what the trace could follow: channels that are rows of the same layers and read by the same."""
    flow, of = network.flow, network.of
    late = {channel for slots in flow.late for channel in of[slots].tolist()}
    kept = late | network.reasons.keys()
    products = {channel for pair in flow.products for slots in pair for channel in of[slots].tolist()}
    multiplied = {(id(a), id(b)) for a, b in flow.products}
    sums = {
        channel
        for a, b in flow.joined
        if (id(a), id(b)) not in multiplied
        for channel in of[a].flatten().tolist()
    }
    rows = {name: tuple(of[slots].tolist()) for name, slots in flow.rows.items()}
    reads = {name: tuple(of[read.slots].tolist()) for name, read in flow.reads.items()}
    for held in dict.fromkeys(rows.values()):
        among = set(held)
        whole = [name for name, others in rows.items() if others == held]
        readers = {name: at for name, at in reads.items() if not among.isdisjoint(at)}
        strange = any(others != held and not among.isdisjoint(others) for others in rows.values())
        if strange or len(among) < len(held) or not among.isdisjoint(kept) or not readers:
            continue
        if any(sorted(at) != sorted(held) for at in readers.values()):
            continue
        yield Passage(
            tuple((name, torch.arange(len(held))) for name in whole),
            tuple((name, _places(held, at, flow.layers[name].info.shape[1])) for name, at in readers.items()),
            serial=among <= products and among.isdisjoint(sums),
        )


def _places(held: tuple[int, ...], read: tuple[int, ...], columns: int) -> Tensor:
    """int64 [C, columns of each]: where a reader has each channel; behind a flattening, several in a row."""
    width = columns // len(read)
    order = torch.tensor([read.index(channel) for channel in held])
    return order[:, None] * width + torch.arange(width)


def _attentive(layers: Mapping[str, Layer]) -> Iterator[Passage]:
    """Passages of attention, by the usual names of its projections."""
    for attention in projections({name: layer.info.shape for name, layer in layers.items()}):
        at = torch.arange(layers[attention.out].info.shape[1])
        (query, first), (key, second), (value, third) = attention.queries, attention.keys, attention.values
        yield Passage(((query, at + first), (key, at + second)), (), serial=True)
        yield Passage(((value, at + third),), ((attention.out, at[:, None]),))
