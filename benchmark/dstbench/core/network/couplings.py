"""Channels that a training can remove. Of them streams: many layers write them, norms run over them, tokens add.

A dead row of one layer leaves the others writing: a channel of a stream is dead when all rows that write it are.
It is nothing once what else adds to it is zero, too: biases, norms, position embeddings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dstbench.api import Coupling, Infeasible
from dstbench.core.network.channels import Channels, channels, coupled, units
from dstbench.core.network.defaults import usual_defaults
from dstbench.core.network.inputs import Inputs


@dataclass(frozen=True)
class Addition:
    """A parameter or buffer that adds to channels of streams, or scales what does: one entry each, along an axis."""

    owner: nn.Module
    field: str
    axis: int
    channels: Tensor  # int64 [C]

    @property
    def values(self) -> Tensor:
        """Whichever the module holds now."""
        values: Tensor = getattr(self.owner, self.field)
        return values

    @property
    def yields(self) -> bool:
        """Whether it may be held at zero: trained, or a buffer that state dicts keep."""
        if isinstance(self.values, nn.Parameter):
            return self.values.requires_grad
        return self.field not in self.owner._non_persistent_buffers_set


@usual_defaults()
def couplings(
    model: nn.Module, names: Collection[str], example: Inputs | None = None
) -> tuple[Coupling, ...]:
    """The channels of the named layers that can be removed exactly, with the named layers that consume them.

    Channels that lie side by side in a consumer, as behind a concatenation, and groups of several rows are left
    out. Of a stream, some consumers may have other names: they read zeros. Raises Infeasible where no layer can be
    followed, as in a model that can't be traced, with the reason. example: an input, for such models.
    """
    network = channels(model, None, example)
    reasons = {network.blocked(name) for name in names}
    if None not in reasons and len(reasons) == 1:
        raise Infeasible(f"channels can't be followed through {type(model).__name__}: {reasons.pop()}")
    named = set(names)
    plain = [unit for unit in units(network) if named.issuperset(unit.consumers)]
    wide = [_among(unit, named) for unit in streams(model, network)]
    return tuple(unit for unit in plain + wide if unit.consumers and named.issuperset(unit.producers))


def _among(unit: Coupling, named: Collection[str]) -> Coupling:
    return replace(unit, consumers=tuple(name for name in unit.consumers if name in named))


def streams(model: nn.Module, network: Channels) -> list[Coupling]:
    """The couplings that are streams, where all that adds to them can be held at zero."""
    within = stream_channels(network)
    firm = {
        c for addition in additions(model, network) if not addition.yields for c in addition.channels.tolist()
    }
    return [
        replace(unit, stream=True)
        for held, unit in coupled(network)
        if within.issuperset(held) and firm.isdisjoint(held)
    ]


def stream_channels(network: Channels) -> set[int]:
    """The channels that norms run over, or that parameters have entries for, and that nothing keeps."""
    reads = [*network.flow.across.values(), *(read for _, read in network.flow.entries.values())]
    return {channel for read in reads for channel in network.of[read.slots].tolist()} - network.reasons.keys()


@usual_defaults()
def additions(model: nn.Module, network: Channels) -> list[Addition]:
    """All that adds to streams, or scales what does."""
    within = torch.tensor(sorted(stream_channels(network)), dtype=torch.long)
    return [
        addition
        for addition in _additions(model, network)
        if bool(torch.isin(addition.channels, within).any())
    ]


def _additions(model: nn.Module, network: Channels) -> Iterator[Addition]:
    flow, of, modules = network.flow, network.of, dict(model.named_modules())
    places: list[tuple[nn.Module, tuple[str, ...], Tensor]] = [
        (layer.module, ("bias",), flow.rows[name]) for name, layer in flow.layers.items() if name in flow.rows
    ]
    places += [(modules[path], ("bias", "running_mean"), slots) for path, slots in flow.norms.items()]
    places += [(modules[path], ("weight", "bias"), read.slots) for path, read in flow.across.items()]
    for owner, fields, slots in places:
        for field in fields:
            if isinstance(getattr(owner, field, None), Tensor):
                yield Addition(owner, field, 0, of[slots])
    for path, (axis, read) in flow.entries.items():
        parent, _, field = path.rpartition(".")
        yield Addition(modules[parent], field, axis, of[read.slots])
