"""Products of row groups on feature-major input: linear layers, and 1x1 convolutions in NCHW.

A gathered channel is a copied row, and so is an output row put back in its place. The gathered input would be
density · out / B times the input: it is made in chunks that stay in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dstbench.accel.kernels.stock import channels, workspace
from dstbench.accel.kernels.stock.table import GroupTable

_CHUNK = 1 << 19  # elements gathered at a time


@dataclass(frozen=True, eq=False)
class LinearRows:
    """A linear layer. Its output is feature-major in memory, as the next such layer wants its input."""

    path: str
    positions: Tensor
    table: GroupTable

    def pack(self, values: Tensor) -> Tensor:
        """[S, B] -> [G, K, B]."""
        return self.table.fill(values)

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """[batch, ..., in] -> [batch, ..., out]."""
        flat = x.flatten(0, -2).t()[None]
        out: Tensor = _RowProduct.apply(flat.contiguous(), packed, bias, self.table)[0].t()
        return out if x.dim() == 2 else out.contiguous().view(*x.shape[:-1], -1)


@dataclass(frozen=True, eq=False)
class PointwiseRows:
    """A 1x1 convolution without padding, in NCHW."""

    path: str
    positions: Tensor
    table: GroupTable
    stride: tuple[int, ...]

    def pack(self, values: Tensor) -> Tensor:
        """[S, B] -> [G, K, B]."""
        return self.table.fill(values)

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """[batch, in, h, w] -> [batch, out, h', w']."""
        x = x[:, :, :: self.stride[0], :: self.stride[1]].contiguous()
        out: Tensor = _RowProduct.apply(x.flatten(2), packed, bias, self.table)
        return out.view(len(x), -1, *x.shape[2:])


class _RowProduct(torch.autograd.Function):
    """[n, in, p] -> [n, out, p], with weights [G, K, B] and a bias, [out] or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, table: GroupTable) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.table = table
        added = table.bias_of(bias)
        out = workspace.empty((len(x), len(table.perm), x.shape[2]), x.dtype)
        stacked = _stacked(weight, x, table)
        for images, whole in _chunks(x, table):
            n = len(x[images])
            lanes = x.new_empty(n, table.groups, table.lanes, x.shape[2])
            for groups in whole:
                product = stacked[:n, groups].flatten(0, 1).transpose(1, 2)
                # a view: there is one image, or all groups are in the run
                into = lanes[:, groups].view(-1, table.lanes, x.shape[2])
                gathered = _gather(x[images], table, groups)
                if added is None:
                    torch.bmm(product, gathered, out=into)
                else:
                    start = added[groups].expand(n, -1, -1).reshape(-1, table.lanes, 1)
                    torch.baddbmm(start, product, gathered, out=into)
            table.from_lanes(lanes.flatten(1, 2), out[images])
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        table: GroupTable = ctx.table
        gradient = gradient.contiguous()
        want_x, want_weight, want_bias, _ = ctx.needs_input_grad
        grad_x = workspace.empty(x.shape, x.dtype).zero_() if want_x else None
        grad_weight = torch.zeros_like(weight) if want_weight else None
        stacked = _stacked(weight, x, table)
        for images, whole in _chunks(x, table):
            n = len(x[images])
            lanes = table.to_lanes(gradient[images]).view(n, table.groups, table.lanes, -1)
            for groups in whole:
                mine = lanes[:, groups].flatten(0, 1)  # [n * g, B, p]
                if grad_weight is not None:
                    found = torch.bmm(_gather(x[images], table, groups), mine.transpose(1, 2))
                    grad_weight[groups] += found.view(n, -1, table.slots, table.lanes).sum(0)
                if grad_x is not None:
                    back = torch.bmm(stacked[:n, groups].flatten(0, 1), mine).view(n, -1, x.shape[2])
                    channels.add(grad_x[images], table.channels_of(groups), back)
        return grad_x, grad_weight, gradient.sum((0, 2)) if want_bias else None, None


def _gather(x: Tensor, table: GroupTable, groups: slice) -> Tensor:
    """The input of each group's slots: [n * g, K, p]."""
    return channels.take(x, table.channels_of(groups)).view(-1, table.slots, x.shape[2])


def _stacked(weight: Tensor, x: Tensor, table: GroupTable) -> Tensor:
    """The weight for each image of a chunk: [images, G, K, B]."""
    return weight.expand(_images(x, table), -1, -1, -1).contiguous()


def _images(x: Tensor, table: GroupTable) -> int:
    """How many images make a chunk."""
    return max(1, min(len(x), _CHUNK // (table.slots * x.shape[2] * table.groups)))


def _chunks(x: Tensor, table: GroupTable) -> Iterator[tuple[slice, list[slice]]]:
    """Runs of images with, for each, the runs of groups whose gathered input is about a chunk."""
    images = _images(x, table)
    groups = max(1, _CHUNK // (table.slots * x.shape[2]))
    whole = [slice(start, min(start + groups, table.groups)) for start in range(0, table.groups, groups)]
    for start in range(0, len(x), images):
        yield slice(start, start + images), whole
