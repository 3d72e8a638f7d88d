"""Shuffled blocks on CUDA: executions whose products, and both gradients, run in Triton kernels.

Kernels read activations *feature-major*: [channel, pixel, image] for a convolution, [feature, row] for a linear
layer. Only so is what a gathered column needs contiguous, for every tap, stride and alignment: in channels_last a
column of 10 % of the channels would waste 9 of 10 loaded bytes, and in NCHW a 3 x 3 tap's neighbours are never
aligned to vectors. Turning a tensor round costs one read and one write of it. An input that already is
feature-major in memory isn't copied, and the output has the memory format of the input, as with PyTorch's own
convolutions: elementwise layers keep it, so a stack turns its first input and its last output only. Convolutions
are offered a second path, which computes in NCHW: no turning, but narrow loads (a pointwise layer's are as wide
as feature-major). Which one is faster depends on the layer: a dispatcher measures.

float32 products take TF32 where PyTorch's setting allows it for this kind of layer, else three TF32 products
(an error of about 1e-6). The input gradient is summed from parts rounded to the input's dtype, one per group and
entry, or per group and channel where a mask keeps channels whole. All sums have a fixed order.

Triton is imported on first use. With its interpreter on (``TRITON_INTERPRET=1`` before Triton is imported) CPU
tensors are accepted.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dstbench.accel.kernels.groups import Columns
from dstbench.accel.kernels.triton.canvas import View, kernels, view
from dstbench.accel.kernels.triton.plan import MAX_TAPS, Plan, plan
from dstbench.api import Execution, LayerCall

__all__ = ["BLOCK_SIZES", "TritonBlocks", "triton_executions"]

BLOCK_SIZES = (16, 32, 64, 128)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_SCRATCH = 1 << 28  # bytes for an input gradient's parts: where they'd take more, some images go at a time
_PROGRAMS = 1024  # that a weight gradient is cut into: enough for any GPU, and a constant: it orders sums
_SHORTEST_SPLIT = 1024  # points
_COLLECTED = (32, 128)  # channels and points of one program that sums parts


def triton_executions(call: LayerCall, mask: Tensor, block_size: int, columns: Columns) -> list[Execution]:
    """Executions of one mask, bool [*w], in the storage order of shuffled blocks; none where kernels can't run.

    They can on CUDA, with Triton, in float32, bfloat16 and float16, for ungrouped layers, a block size of 16, 32,
    64 or 128, and at most 63 taps. Raises StrategyError where the mask isn't made of groups that share columns.
    """
    if not _available(call, mask, block_size):
        return []
    made = plan(call, mask, block_size, columns)
    offered: list[Execution] = [TritonBlocks("shuffled-block Triton", made)]
    if call.stride:
        offered.append(TritonBlocks("shuffled-block Triton NCHW", made, feature_major=False))
    return offered


def _available(call: LayerCall, mask: Tensor, block_size: int) -> bool:
    if call.info.kind == "conv_transpose" or call.groups != 1 or call.dtype not in _DTYPES:
        return False
    if block_size not in BLOCK_SIZES or math.prod(call.info.shape[2:]) > MAX_TAPS or mask.numel() >= 2**31:
        return False
    reachable = call.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    return reachable and importlib.util.find_spec("triton") is not None


@dataclass(frozen=True, eq=False)
class TritonBlocks:
    """One mask's product. ``pack`` leaves values as they are: kernels take the storage order."""

    path: str
    plan: Plan
    feature_major: bool = True  # what kernels compute in; else NCHW

    @property
    def positions(self) -> Tensor:
        """int64 [entries, block_size]: where each stored value stands in the flattened weight; -1: padding."""
        return self.plan.positions

    def pack(self, values: Tensor) -> Tensor:
        """The stored values, [S, B]: the kernels read them in the order of storage."""
        return values

    def __call__(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output. Raises StrategyError where it or x has 2^31 elements or more."""
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            out: Tensor = _Product.apply(x, packed, bias, self)
        return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, bias: Tensor | None, execution: TritonBlocks) -> Tensor:
        seen = view(execution.plan, x, execution.feature_major)
        canvas, packed = seen.input(x), packed.contiguous()
        ctx.seen = seen
        ctx.save_for_backward(canvas, packed)
        return seen.output(_multiply(seen, canvas, packed, bias))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        seen: View = ctx.seen
        canvas, packed = ctx.saved_tensors
        dy = seen.gradient(gradient)
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        return (
            _input_gradient(seen, dy, packed) if for_x else None,
            _weight_gradient(seen, canvas, dy).to(packed.dtype) if for_weight else None,
            dy.sum((0, 2, 3)) if for_bias else None,
            None,
        )


def _multiply(seen: View, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """The output's canvas."""
    plan, tables = seen.plan, seen.tables
    pixels, groups = tables.out_pixels, len(plan.order)
    y = x.new_empty(seen.images, plan.call.info.shape[0], pixels, seen.lanes)
    points = seen.points(pixels)
    if not y.numel():
        return y
    kernels().multiply[lambda meta: (groups * -(-points // meta["N"]),)](
        x=x,
        w=packed,
        bias=x if bias is None else bias,
        y=y,
        order=plan.order,
        rows=plan.rows,
        ptr=plan.ptr,
        off=tables.off,
        bit=tables.bit,
        base=tables.forward.base,
        inside=tables.forward.inside,
        groups=groups,
        points=points,
        pixels=pixels,
        lanes=seen.lanes,
        x_image=x.shape[1] * tables.pixels,
        y_image=y.shape[1] * pixels,
        bucket=_bucket(seen, points),
        B=plan.block_size,
        BIAS=bias is not None,
        PRECISION=_precision(seen, x.dtype),
    )
    return y


def _input_gradient(seen: View, dy: Tensor, packed: Tensor) -> Tensor:
    """In the input's memory format: parts of every group, then their sums, some images at a time."""
    plan, tables = seen.plan, seen.tables
    dx = seen.empty_input(dy)
    units = len(plan.twin)
    if not units:
        return dx.zero_()
    bytes_per_lane = units * len(tables.here.base) * dy.element_size()
    for images, first, lanes in _pieces(seen, max(1, _SCRATCH // bytes_per_lane)):
        points = (images.stop - images.start) * len(tables.here.base) * lanes
        parts = dy.new_empty(units, points)
        _spread(seen, dy[images], packed, parts, first, lanes)
        _collect(seen, parts, dx if seen.feature_major else dx[images], first, lanes)
    return dx


def _pieces(seen: View, most: int) -> Iterator[tuple[slice, int, int]]:
    """(images, first lane, lanes) of pieces of about ``most`` lanes in all.

    A feature-major canvas is cut between whole pixels where lanes hold some, else at multiples of 128 lanes, which
    keeps loads wide; one in NCHW between images.
    """
    if seen.feature_major:
        unit = seen.batch if seen.lanes > seen.batch else 128
        step = max(unit, most // unit * unit)
        for first in range(0, seen.lanes, step):
            yield slice(0, 1), first, min(step, seen.lanes - first)
    else:
        step = max(1, most // seen.lanes)
        for first in range(0, seen.images, step):
            yield slice(first, min(first + step, seen.images)), 0, seen.lanes


def _spread(seen: View, dy: Tensor, packed: Tensor, parts: Tensor, first: int, lanes: int) -> None:
    plan, tables = seen.plan, seen.tables
    folded = tables.folded
    reach = tables.backward if folded else tables.here
    tiles, points = len(plan.unit_tiles.group), parts.shape[1]
    kernels().spread[lambda meta: (tiles * -(-points // meta["N"]),)](
        dy=dy,
        w=packed,
        parts=parts,
        rows=plan.rows,
        tile_group=plan.unit_tiles.group,
        tile_first=plan.unit_tiles.first,
        ptr=plan.unit_ptr,
        shift=reach.shift,
        base=reach.base,
        inside=reach.inside,
        tiles=tiles,
        points=points,
        pixels=len(reach.base),
        lanes=lanes,
        y_pixels=tables.out_pixels,
        y_image=dy.shape[1] * tables.out_pixels,
        first_lane=first,
        y_lanes=seen.lanes,
        bucket=_bucket(seen, points),
        B=plan.block_size,
        M=plan.unit_tiles.size,
        FOLD=plan.fold,
        PRECISION=_precision(seen, dy.dtype),
    )


def _collect(seen: View, parts: Tensor, dx: Tensor, first: int, lanes: int) -> None:
    plan, tables = seen.plan, seen.tables
    reach = tables.here if tables.folded else tables.backward
    part_pixels, channels = len(tables.here.base), plan.call.info.shape[1]
    points = parts.shape[1] // part_pixels * tables.pixels
    to_image, to_channel, to_pixel, to_lane = seen.strides(dx)
    pixel, lane = divmod(first, seen.batch)
    run = min(lanes, seen.batch) if seen.feature_major else 1
    side, width = _COLLECTED
    kernels().collect[(-(-channels // side) * -(-points // width),)](
        parts,
        dx,
        plan.twin_ptr,
        plan.twin,
        tables.twin_tap,
        reach.shift,
        reach.base,
        reach.inside,
        channels,
        points,
        parts.shape[1],
        tables.pixels,
        part_pixels,
        lanes,
        tables.pixels * lanes // run,
        run,
        pixel * to_pixel + lane * to_lane,
        to_image,
        to_channel,
        to_pixel,
        to_lane,
        C=side,
        N=width,
    )


def _weight_gradient(seen: View, x: Tensor, dy: Tensor) -> Tensor:
    """float32 [entries, block_size]: partial sums of a fixed number of splits, added in their order."""
    plan, tables = seen.plan, seen.tables
    entries, tiles = len(plan.positions), len(plan.entry_tiles.group)
    points = seen.points(tables.out_pixels)
    if not tiles or not points:
        return dy.new_zeros(plan.positions.shape, dtype=torch.float32)
    wanted = max(1, min(_PROGRAMS // tiles, points // _SHORTEST_SPLIT))
    span = -(-points // (128 * wanted)) * 128
    splits = -(-points // span)
    parts = dy.new_empty(splits, entries, plan.block_size, dtype=torch.float32)
    kernels().weigh[(tiles * splits,)](
        x=x,
        dy=dy,
        parts=parts,
        rows=plan.rows,
        tile_group=plan.entry_tiles.group,
        tile_first=plan.entry_tiles.first,
        ptr=plan.ptr,
        off=tables.off,
        bit=tables.bit,
        base=tables.forward.base,
        inside=tables.forward.inside,
        tiles=tiles,
        entries=entries,
        points=points,
        span=span,
        pixels=tables.out_pixels,
        lanes=seen.lanes,
        x_image=x.shape[1] * tables.pixels,
        y_image=dy.shape[1] * tables.out_pixels,
        bucket=_bucket(seen, points),
        B=plan.block_size,
        M=plan.entry_tiles.size,
        PRECISION=_precision(seen, x.dtype),
    )
    return parts[0] if splits == 1 else parts.sum(0)


def _bucket(seen: View, points: int) -> int:
    """What tuning distinguishes beside the block size: density and points, in powers of 2, and wide loads."""
    density = max(0, round(-math.log2(max(seen.plan.density, 1e-3))))
    return (density * 64 + points.bit_length()) * 2 + (seen.lanes % 16 == 0)


def _precision(seen: View, dtype: torch.dtype) -> str:
    """How Triton multiplies: float32 by PyTorch's setting for this kind of layer."""
    if dtype != torch.float32:
        return "ieee"
    setting = torch.backends.cudnn.conv if seen.spatial else torch.backends.cuda.matmul  # type: ignore[attr-defined]
    return "tf32" if setting.fp32_precision == "tf32" else "tf32x3"
