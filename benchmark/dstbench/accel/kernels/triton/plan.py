"""What the kernels of row groups must know: about a mask (a plan), and about the shape of an input (a geometry)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dstbench.accel.kernels.groups import Columns, by_entry, layout, storage_order
from dstbench.api import LayerCall

__all__ = ["MAX_TAPS", "Geometry", "Plan", "Reach", "Tiles", "geometry", "is_pointwise", "out_size", "plan"]

MAX_TAPS = 63  # a kernel tells taps apart by the bits of an integer


@dataclass(frozen=True)
class Tiles:
    """Runs of at most ``size`` entries or units of one group: what one program takes on."""

    group: Tensor  # int32 [tiles]
    first: Tensor  # int32 [tiles]
    size: int  # a power of two >= 16


@dataclass(frozen=True, eq=False)
class Plan:
    """A mask's groups, made at every topology update. Tensors are on the mask's device; sizes are plain ints.

    An *entry* is an (in-channel, tap) pair that one group reads, a *unit* what the input gradient handles as
    one: an entry, or the whole ``fold`` taps of an in-channel where a mask keeps channels whole.
    """

    call: LayerCall
    block_size: int
    fold: int
    positions: Tensor  # int64 [entries, block_size]
    rows: Tensor  # int32 [groups · block_size]: out-channel of each lane, -1: padding
    order: Tensor  # int32 [groups]: longest first, so that no long group is the last to start
    ptr: Tensor  # int32 [groups + 1]: where a group's entries start
    unit_ptr: Tensor  # int32 [groups + 1]
    channel: Tensor  # int64 [entries]
    tap: Tensor  # int64 [entries]
    twin: (
        Tensor  # int32 [units]: units by in-channel, in each by group: the transpose (CSC) of the entry list
    )
    twin_ptr: Tensor  # int32 [in-channels + 1]
    entry_tiles: Tiles
    unit_tiles: Tiles
    geometries: dict[tuple[int, ...], Geometry] = field(default_factory=dict, repr=False)

    @property
    def density(self) -> float:
        """Stored weights as a share of all."""
        return self.positions.numel() / self.call.info.numel


@dataclass(frozen=True)
class Reach:
    """Where the pixels of one side of a layer look on the other: at ``base[pixel] + shift[tap]``."""

    base: Tensor  # int32 [pixels]
    inside: Tensor  # int32 or int64 [pixels]: bit t set: tap t hits a pixel, not padding
    shift: Tensor  # int32 [taps]


@dataclass(frozen=True)
class Geometry:
    """A plan's tables for one size of images."""

    pixels: int  # of an input image, as the kernels count: a pointwise layer counts them as lanes, and 1 here
    out_pixels: int
    forward: Reach  # from output to input
    backward: Reach  # from input to output
    off: Tensor  # int32 [entries]: where an entry's row starts in an image, in lines of lanes
    bit: Tensor  # as ``inside`` [entries]: 1 << tap
    twin_tap: Tensor  # int32 [units]: tap of the unit that stands there in the twin; 0 where taps are folded
    folded: bool  # whether units have no tap of their own: those of a pointwise layer haven't either
    here: Reach  # from a pixel to itself, on the side that ``spread`` writes


def plan(call: LayerCall, mask: Tensor, block_size: int, columns: Columns) -> Plan:
    """Lay out a mask, bool [*w], in the storage order of shuffled blocks.

    Raises StrategyError where the mask isn't made of groups of ``block_size`` rows that share columns.
    """
    groups = layout(mask, block_size, columns)
    device = mask.device
    out, channels, taps = mask.shape[0], mask.shape[1], math.prod(mask.shape[2:])
    fold = taps if columns == "channel" else 1
    entries = by_entry(groups, tuple(mask.shape), columns)
    entry, ptr = entries.cols.long(), entries.ptr
    rows = torch.full((len(ptr) - 1, block_size), -1, device=device)
    rows.view(-1)[:out] = groups.perm
    positions = storage_order(entries, tuple(mask.shape), block_size)
    reads = (entry // taps)[::fold]
    hits = torch.bincount(reads, minlength=channels)
    return Plan(
        call,
        block_size,
        fold,
        positions,
        rows.flatten().int(),
        ptr.diff().argsort(descending=True, stable=True).int(),
        ptr.int(),
        groups.ptr.int(),
        entry // taps,
        entry % taps,
        reads.argsort(stable=True).int(),
        torch.cat([hits.new_zeros(1), hits.cumsum(0)]).int(),
        _tiles(ptr),
        _tiles(groups.ptr),
    )


def _tiles(ptr: Tensor) -> Tiles:
    """Cut each group's run into tiles, of a size that suits the mean run."""
    starts: list[int] = ptr.tolist()
    mean = starts[-1] / (len(starts) - 1)
    size = next((size for size in (128, 64, 32) if mean >= 0.65 * size), 16)
    cuts = [
        (group, first)
        for group, (start, end) in enumerate(itertools.pairwise(starts))
        for first in range(start, end, size)
    ]
    tiles = torch.tensor(cuts, dtype=torch.int32).reshape(-1, 2).to(ptr.device)
    return Tiles(tiles[:, 0].contiguous(), tiles[:, 1].contiguous(), size)


def geometry(plan: Plan, size: tuple[int, ...]) -> Geometry:
    """The tables for images of a size (() for a linear layer); kept, so that a step makes none."""
    if size not in plan.geometries:
        plan.geometries[size] = _geometry(plan, size)
    return plan.geometries[size]


def out_size(call: LayerCall, size: tuple[int, ...]) -> tuple[int, ...]:
    """Pixels of an output, per dimension."""
    kernel = call.info.shape[2:]
    dimensions = zip(size, kernel, call.stride, call.padding, call.dilation, strict=True)
    return tuple((i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d in dimensions)


def is_pointwise(call: LayerCall) -> bool:
    """Whether every pixel of the output sees one of the input, its own."""
    return math.prod(call.info.shape[2:]) == 1 and set(call.stride) <= {1} and set(call.padding) <= {0}


def _geometry(plan: Plan, size: tuple[int, ...]) -> Geometry:
    call, device = plan.call, plan.positions.device
    if is_pointwise(call):
        pixels = out_pixels = 1
        forward = backward = _itself(1, device)
    else:
        reached = out_size(call, size)
        pixels, out_pixels = math.prod(size), math.prod(reached)
        forward, backward = _forward(call, size, reached, device), _backward(call, size, reached, device)
    folded = plan.fold == math.prod(call.info.shape[2:])
    twin_tap = plan.tap[:: plan.fold][plan.twin.long()].int()
    return Geometry(
        pixels,
        out_pixels,
        forward,
        backward,
        (plan.channel * pixels + forward.shift[plan.tap]).int(),
        (1 << plan.tap).to(forward.inside.dtype),
        twin_tap.zero_() if folded else twin_tap,
        folded,
        _itself(pixels if folded else out_pixels, device),
    )


def _itself(pixels: int, device: torch.device) -> Reach:
    base = torch.arange(pixels, dtype=torch.int32, device=device)
    return Reach(base, torch.ones_like(base), torch.zeros(1, dtype=torch.int32, device=device))


def _forward(call: LayerCall, size: tuple[int, ...], reached: tuple[int, ...], device: torch.device) -> Reach:
    """From an output pixel o and a tap t to the input pixel o · stride - padding + t · dilation."""
    stride, padding, dilation = _columns(call, device)
    base = _grid(reached, device) * stride - padding
    shift = _grid(call.info.shape[2:], device) * dilation
    at = base[:, None] + shift
    hit = ((at >= 0) & (at < torch.tensor(size, device=device))).all(-1)
    return _reach(base, shift, hit, size)


def _backward(
    call: LayerCall, size: tuple[int, ...], reached: tuple[int, ...], device: torch.device
) -> Reach:
    """From an input pixel i and a tap t to the output pixel (i + padding - t · dilation) / stride, if whole."""
    stride, padding, dilation = _columns(call, device)
    base = _grid(size, device) + padding
    shift = -_grid(call.info.shape[2:], device) * dilation
    at = base[:, None] + shift
    whole = (at % stride == 0) & (at >= 0) & (at < stride * torch.tensor(reached, device=device))
    return _reach(base // stride, -(-shift // stride), whole.all(-1), reached)


def _reach(base: Tensor, shift: Tensor, hit: Tensor, size: tuple[int, ...]) -> Reach:
    """Flatten coordinates, [pixels, dimensions] and [taps, dimensions], in an image of a size."""
    pitch = torch.tensor([math.prod(size[d + 1 :]) for d in range(len(size))], device=base.device)
    taps = torch.arange(len(shift), device=base.device)
    inside = (hit.long() << taps).sum(1)
    return Reach(
        (base * pitch).sum(1).int(),
        inside.int() if len(shift) < 32 else inside,
        (shift * pitch).sum(1).int(),
    )


def _columns(call: LayerCall, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    stride, padding, dilation = torch.tensor([call.stride, call.padding, call.dilation], device=device)
    return stride, padding, dilation


def _grid(size: tuple[int, ...], device: torch.device) -> Tensor:
    """Coordinates of all pixels, [pixels, dimensions], row-major."""
    axes = [torch.arange(length, device=device) for length in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, len(size))
