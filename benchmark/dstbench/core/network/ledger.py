"""What a walk of a network's graph finds: where its channels are, and what keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.fx
from torch import Tensor, nn

from dstbench.core.network.layers import Layer, clean_names, maskable_layers
from dstbench.core.network.values import Read, Value


@dataclass(frozen=True)
class Flow:
    """What one walk found. Slots are numbered 0 … size - 1."""

    layers: Mapping[str, Layer]
    size: int
    rows: Mapping[str, Tensor]  # layer -> int64 [out]
    reads: Mapping[
        str, Read
    ]  # layers that mix channels; not grouped convolutions, whose groups are one channel
    norms: Mapping[str, Tensor]  # module path -> int64 [C]
    responses: Mapping[
        str, Read
    ]  # module path of a response norm: a channel that isn't zero counts in its mean
    across: Mapping[
        str, Read
    ]  # module path of a norm over the channels: one that isn't zero counts in its mean
    entries: Mapping[
        str, tuple[int, Read]
    ]  # parameter that adds to channels or scales them -> its axis, what it adds
    behind: Mapping[str, tuple[str, ...]]  # layer -> norms that see its rows alone
    heads: Mapping[str, Tensor]  # attention's module path -> int64 [heads]: a slot of each
    late: tuple[Tensor, ...]  # slots that can go for good, but not while a network trains
    joined: tuple[tuple[Tensor, Tensor], ...]  # pairs of slots that are one channel
    products: tuple[tuple[Tensor, Tensor], ...]  # those of them that are multiplied, not added
    blocks: tuple[tuple[Tensor, str], ...]  # slots that must stay, and why
    unfollowed: Mapping[str, str]  # layers without slots, and why


@dataclass
class Ledger:
    """What a walk found so far: values by node, and where their channels are."""

    model: nn.Module
    links: Mapping[str, Tensor] | None
    values: dict[torch.fx.Node, Value | tuple[Value, ...] | None] = field(default_factory=dict)
    size: int = 0
    rows: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, Read] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    responses: dict[str, Read] = field(default_factory=dict)
    across: dict[str, Read] = field(default_factory=dict)
    entries: dict[str, tuple[int, Read]] = field(default_factory=dict)
    behind: dict[str, list[str]] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    late: list[Tensor] = field(default_factory=list)
    joined: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    products: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    blocks: list[tuple[Tensor, str]] = field(default_factory=list)
    unfollowed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layers = maskable_layers(self.model)
        self.modules, self.names = dict(self.model.named_modules()), clean_names(self.model)
        self.parameters = dict(self.model.named_parameters(remove_duplicate=False))
        self.tensors = self.parameters | dict(self.model.named_buffers(remove_duplicate=False))

    def result(self, default: str) -> Flow:
        """The result; layers that were never met get the default reason."""
        missing = {
            name: "torch's attention packs it" if layer.packed else default
            for name, layer in self.layers.items()
            if name not in self.rows
        }
        behind = {name: tuple(norms) for name, norms in self.behind.items()}
        return Flow(
            self.layers, self.size, self.rows, self.reads, self.norms, self.responses, self.across,
            self.entries, behind, self.heads,
            tuple(self.late), tuple(self.joined), tuple(self.products), tuple(self.blocks), missing | self.unfollowed,
        )  # fmt: skip

    def of(self, node: torch.fx.Node) -> tuple[Value, ...]:
        """The channels that a node holds: of one tensor, of several, or none."""
        value = self.values.get(node)
        return (value,) if isinstance(value, Value) else value or ()
