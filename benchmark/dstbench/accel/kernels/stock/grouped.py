"""Convolutions of row groups: gathered channels, a grouped convolution, output rows put back in their place.

Images go through in blocks whose intermediate results stay in cache. Either memory format works; which one is
faster depends on the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dstbench.accel.kernels.stock import gather, workspace
from dstbench.accel.kernels.stock.group_table import GroupTable

_BLOCK = 1 << 22  # elements of intermediate results at a time


@dataclass(frozen=True, eq=False)
class GroupedConvolution:
    """A two-dimensional convolution of any kernel, stride, zero padding and dilation, in ``memory_format``."""

    path: str
    positions: Tensor
    table: GroupTable
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    memory_format: torch.memory_format

    def pack(self, values: Tensor) -> Tensor:
        """[S, B] -> [G * B, K, *kernel], in the memory format."""
        return self.table.filters(values, self.kernel).contiguous(memory_format=self.memory_format)

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """[batch, in, h, w] -> [batch, out, h', w'], in the memory format."""
        x = x.contiguous(memory_format=self.memory_format)
        out: Tensor = _Grouped.apply(x, packed, bias, self)
        return out


class _Grouped(torch.autograd.Function):
    """Keeps the gathered input for the backward pass where it is no larger than the input, else gathers again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, call: GroupedConvolution) -> Tensor:
        ctx.call, table = call, call.table
        added = table.bias_of(bias)
        space = _space(x, call)
        out = workspace.empty((len(x), len(table.perm), *space), x.dtype, call.memory_format)
        kept = []
        keep = any(ctx.needs_input_grad) and len(table.channels) <= x.shape[1]
        for images in _blocks(x, space, table):
            gathered = gather.take(x[images], table.channels)
            if keep:
                kept.append(gathered)
            lanes = functional.conv2d(
                gathered, weight, added if added is None else added.flatten(), *_geometry(call), table.groups
            )
            table.from_lanes(lanes, out[images])
        ctx.save_for_backward(x, weight, *kept)
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, *kept = ctx.saved_tensors
        call: GroupedConvolution = ctx.call
        table = call.table
        gradient = gradient.contiguous(memory_format=call.memory_format)
        want_x, want_weight, want_bias, _ = ctx.needs_input_grad
        grad_x = workspace.empty(x.shape, x.dtype, call.memory_format).zero_() if want_x else None
        grad_weight: Tensor | None = None
        for index, images in enumerate(_blocks(x, gradient.shape[2:], table)):
            gathered = kept[index] if kept else gather.take(x[images], table.channels)
            back, taps, _ = torch.ops.aten.convolution_backward(
                table.to_lanes(gradient[images]), gathered, weight, None,
                *_geometry(call), False, [0, 0], table.groups, [want_x, want_weight, False],
            )  # fmt: skip
            if grad_x is not None:
                gather.add(grad_x[images], table.channels, back)
            if want_weight:
                grad_weight = taps if grad_weight is None else grad_weight.add_(taps)
        return grad_x, grad_weight, gradient.sum((0, 2, 3)) if want_bias else None, None


def _geometry(call: GroupedConvolution) -> tuple[list[int], list[int], list[int]]:
    return list(call.stride), list(call.padding), list(call.dilation)


def _space(x: Tensor, call: GroupedConvolution) -> tuple[int, ...]:
    """The size of output images."""
    return tuple(
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip(
            x.shape[2:], call.kernel, call.stride, call.padding, call.dilation, strict=True
        )
    )


def _blocks(x: Tensor, space: tuple[int, ...], table: GroupTable) -> Iterator[slice]:
    """Runs of images."""
    per_image = table.groups * (table.slots * prod(x.shape[2:]) + table.lanes * prod(space))
    images = max(1, _BLOCK // max(per_image, 1))
    for start in range(0, len(x), images):
        yield slice(start, start + images)
