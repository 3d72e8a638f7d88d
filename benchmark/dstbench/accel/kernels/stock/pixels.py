"""1x1 convolutions of row groups in channels-last images: a pixel is a row of the input matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dstbench.accel.kernels.stock import channels, workspace
from dstbench.accel.kernels.stock.table import GroupTable

_CHUNK = 1 << 19  # elements of intermediate results at a time


@dataclass(frozen=True, eq=False)
class PointwisePixels:
    """A 1x1 convolution without padding, in channels_last."""

    path: str
    positions: Tensor
    table: GroupTable
    stride: tuple[int, ...]

    def pack(self, values: Tensor) -> Tensor:
        """[S, B] -> [G, K, B]."""
        return self.table.fill(values)

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """[batch, in, h, w] -> [batch, out, h', w']."""
        x = x[:, :, :: self.stride[0], :: self.stride[1]].contiguous(memory_format=torch.channels_last)
        pixels = channels.as_pixels(x)
        out: Tensor = _PixelProduct.apply(pixels, packed, bias, self.table)
        return channels.from_pixels(out, x)


class _PixelProduct(torch.autograd.Function):
    """[p, in] -> [p, out], with weights [G, K, B] and a bias, [out] or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, table: GroupTable) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.table = table
        added = table.bias_of(bias)
        out = workspace.empty((len(x), len(table.perm)), x.dtype)
        for chunk in _chunks(x, table):
            gathered = _gather(x[chunk], table)
            product = torch.bmm(gathered, weight)  # [G, p, B]
            lanes = product if added is None else product.add_(added[:, None])
            table.from_lanes(lanes.transpose(0, 1).flatten(1), out[chunk])
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
        for chunk in _chunks(x, table):
            lanes = table.to_lanes(gradient[chunk]).view(-1, table.groups, table.lanes).transpose(0, 1)
            if grad_weight is not None:
                grad_weight.baddbmm_(_gather(x[chunk], table).transpose(1, 2), lanes)
            if grad_x is not None:
                back = torch.bmm(lanes, weight.transpose(1, 2)).transpose(0, 1).flatten(1)  # [p, G * K]
                grad_x[chunk].scatter_add_(1, table.channels.expand(len(back), -1), back)
        return grad_x, grad_weight, gradient.sum(0) if want_bias else None, None


def _gather(x: Tensor, table: GroupTable) -> Tensor:
    """The input of each group's slots: [G, p, K]."""
    gathered = x.gather(1, table.channels.expand(len(x), -1))
    return gathered.view(len(x), table.groups, table.slots).transpose(0, 1)


def _chunks(x: Tensor, table: GroupTable) -> Iterator[slice]:
    """Runs of pixels."""
    pixels = max(1, _CHUNK // (table.groups * (table.slots + table.lanes)))
    for start in range(0, len(x), pixels):
        yield slice(start, start + pixels)
