"""Rows that read the same channels, computed together from those alone, in operators that every exporter knows.

The kernels that training and inference here run on chunk their work and reuse memory, which can't be traced.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor, nn

from dstbench.core.network.layers import maskable_layers

_FEWEST_ROWS = 4  # in a group: products of fewer are slower than dense ones
_MOST_READ = 0.5  # of the channels by any group: else the gather costs what it saves


@dataclass(frozen=True)
class Shared:
    """Groups of equally many rows; group g owns rows ``order[g * B : (g + 1) * B]`` and reads ``channels[g]``."""

    order: Tensor  # int64 [out]
    channels: Tensor  # int64 [groups, K]
    padding: Tensor  # bool [groups, K]: where a group reads fewer than K, and takes 0 times some channel


def shared(mask: Tensor) -> Shared | None:
    """The groups of a mask, bool [out, in, *kernel]; None where they are too small, or read too much, to pay."""
    reads = mask.flatten(2).any(2) if mask.dim() > 2 else mask
    patterns, which, counts = torch.unique(reads, dim=0, return_inverse=True, return_counts=True)
    block, most = gcd(*counts.tolist()), int(patterns.sum(1).max())
    if block < _FEWEST_ROWS or not 0 < most <= _MOST_READ * reads.shape[1]:
        return None
    order = which.argsort(stable=True)
    groups = reads[order[::block]]
    channels = groups.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return Shared(order, channels, ~groups.gather(1, channels))


class GroupedConv2d(nn.Module):
    """A gather of channels, a grouped convolution, and its rows in their order."""

    def __init__(self, layer: nn.Conv2d, found: Shared) -> None:
        super().__init__()
        weight = _condensed(layer.weight.detach(), found)  # [groups, rows, K, *kernel]
        self.conv = nn.Conv2d(
            found.channels.numel(),
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            groups=len(weight),
            bias=False,
        )
        self.conv.weight = nn.Parameter(weight.flatten(0, 1))
        if layer.bias is not None:
            self.conv.bias = nn.Parameter(layer.bias.detach()[found.order])
        self.register_buffer("channels", found.channels.flatten())
        self.register_buffer("rows", found.order.argsort())

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        out: Tensor = self.conv(x.index_select(1, self.get_buffer("channels")))
        return out.index_select(1, self.get_buffer("rows"))


class GroupedLinear(nn.Module):
    """A gather of features, one product for all groups, and its rows in their order."""

    def __init__(self, layer: nn.Linear, found: Shared) -> None:
        super().__init__()
        self.weight = nn.Parameter(_condensed(layer.weight.detach(), found).mT)  # [groups, K, rows]
        self.bias = layer.bias
        self.register_buffer("channels", found.channels.flatten())
        self.register_buffer("rows", found.order.argsort())

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        read = x.index_select(-1, self.get_buffer("channels"))
        by_group = read.reshape(*x.shape[:-1], len(self.weight), 1, -1)
        out: Tensor = (by_group @ self.weight).flatten(-3).index_select(-1, self.get_buffer("rows"))
        return out if self.bias is None else out + self.bias


def _condensed(weight: Tensor, found: Shared) -> Tensor:
    """The weights, [out, in, *kernel], that groups read: [groups, rows, K, *kernel], zeros for padding."""
    by_group = weight[found.order].view(len(found.channels), -1, *weight.shape[1:])
    taken = torch.stack([rows[:, read] for rows, read in zip(by_group, found.channels, strict=True)])
    return taken.masked_fill(found.padding.view(len(taken), 1, -1, *(1 for _ in weight.shape[2:])), 0)


def portable(masked: nn.Module, masks: Mapping[str, Tensor]) -> tuple[nn.Module, int]:
    """A copy of a masked model that computes groups of rows from what they read, and in how many layers.

    masks: layer name -> bool [*w]. A layer stays dense where that wouldn't pay.
    """
    small, swapped = copy.deepcopy(masked), 0
    for name, layer in maskable_layers(small).items():
        module = layer.module
        plain = type(module) is nn.Linear or (
            type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"
        )
        found = shared(masks[name]) if plain and name in masks and module is not small else None
        if found is not None:
            made = GroupedLinear if isinstance(module, nn.Linear) else GroupedConv2d
            small.set_submodule(name, made(module, found))  # type: ignore[arg-type]
            swapped += 1
    return small, swapped
