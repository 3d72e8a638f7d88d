"""Triton kernels of row groups. Importing this imports Triton; ``triton_blocks`` does, once it is needed.

An activation is a *canvas*, contiguous [images, channels, pixels, lanes]. A *point* p counts (image, pixel,
lane), lane fastest, on the side that a kernel writes (weight gradient: the output's). What it reads for
channel c and tap t lies in the same image and lane, at pixel ``base[pixel] + shift[t]``, and is zero unless
bit t of ``inside[pixel]`` is set: padding, stride and dilation are in these tables alone. Lanes are contiguous
and in step for every entry, so a gathered row is loaded in whole vectors where their number is a multiple of 16.

Products accumulate in float32, in an order that no tuned setting changes: results don't depend on which
configuration wins. Offsets are int32, in elements; the scratch of the input gradient is addressed in int64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

__all__ = ["collect", "flip", "multiply", "spread", "weigh"]

_KEY = ["B", "bucket"]  # tuning: the block size, and density, points and alignment in ``bucket``
_ACCUMULATORS = 256  # of one thread, by the bytes of an element: more would spill
_SHARED = 220 << 10  # bytes of shared memory that one program may use


def _fitting(configs: list[Any], arguments: dict[str, Any], **more: Any) -> list[Any]:
    """Drop configurations whose accumulators or buffers can't fit; in the interpreter nothing is tuned."""
    if triton.knobs.runtime.interpret:
        return configs[:1]
    given = {**arguments, **more}
    size: int = given["w" if "w" in given else "dy"].element_size()
    rows: int = given.get("M", given["B"])

    def fits(config: Any) -> bool:
        width: int = config.kwargs.get("N", given["B"])
        buffers: int = (rows + width) * config.kwargs["K"] * size * (config.num_stages + 1) // 2
        threads: int = 32 * config.num_warps
        return rows * width <= _ACCUMULATORS // size * threads and buffers <= _SHARED

    return [config for config in configs if fits(config)]


def _tuned(*configs: dict[str, int]) -> Callable[[Any], Any]:
    """Tune a kernel over tiles (N points, steps of K) and how they run: ``warps``, ``stages``."""
    space = [
        triton.Config(
            {name: size for name, size in config.items() if name in "NK"},
            num_warps=config["warps"],
            num_stages=config["stages"],
        )
        for config in configs
    ]
    return triton.autotune(space, key=_KEY, prune_configs_by={"early_config_prune": _fitting})  # type: ignore[no-any-return]


# Gathered loads wait for loads of their offsets, and the compiler spends every other stage on those: 3, 5 and 7
# stages make 2, 3 and 4 buffers; 4 and 6 make no more than 3 and 5.
_PRODUCTS = [
    {"N": n, "K": k, "warps": warps, "stages": stages}
    for n, k, warps, stages in [
        (128, 32, 4, 5),
        (128, 64, 4, 3),
        (128, 64, 4, 5),
        (128, 64, 8, 5),
        (64, 32, 4, 7),
        (64, 64, 4, 5),
        (256, 32, 4, 3),
        (256, 32, 4, 5),
        (256, 32, 8, 5),
        (256, 64, 8, 3),
        (512, 32, 8, 3),
    ]
]
_SUMS = [
    {"K": k, "warps": warps, "stages": stages}
    for k, warps, stages in [(64, 4, 3), (64, 4, 5), (32, 4, 7), (64, 8, 5), (128, 4, 3), (128, 8, 3)]
]


_INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def _add_product(total, a, b, PRECISION: tl.constexpr):
    """total + a · b, accumulated in float32."""
    if _INTERPRETED:  # the interpreter would multiply the bits of bfloat16 as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _locate(p, pixels, lanes):
    """Image, pixel and lane of points."""
    line = p // lanes
    return line // pixels, line % pixels, p % lanes


@_tuned(*_PRODUCTS)
@triton.jit(do_not_specialize=["bucket"])
def multiply(
    x,  # canvas
    w,  # [entries, B]
    bias,  # [out], or anything
    y,  # canvas
    order,  # int32 [groups]: longest first
    rows,  # int32 [groups · B]: output channel of a lane of weights, -1: padding
    ptr,  # int32 [groups + 1]: where a group's entries start
    off,  # int32 [entries]: where an entry's row starts in an image, in lines of lanes
    bit,  # [entries]: 1 << tap
    base,  # int32 [pixels]
    inside,  # [pixels]
    groups,
    points,
    pixels,
    lanes,
    x_image,  # lines of an image
    y_image,
    bucket,
    B: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """The product: y[row, p] = bias[row] + sum over the group's entries of w · x. Program = (group, N points).

    Groups vary fastest, so that those which run together read the same part of x from L2.
    """
    group = tl.load(order + tl.program_id(0) % groups)
    p = tl.program_id(0) // groups * N + tl.arange(0, N)
    image, pixel, lane = _locate(p, pixels, lanes)
    reach = tl.where(p < points, tl.load(inside + pixel), 0)
    start = lane + lanes * (image * x_image + tl.load(base + pixel))
    b = tl.arange(0, B)
    last = tl.load(ptr + group + 1)
    total = tl.zeros((B, N), tl.float32)
    for first in range(tl.load(ptr + group), last, K):
        k = first + tl.arange(0, K)
        at = tl.load(off + k, mask=k < last, other=0)
        tap = tl.load(bit + k, mask=k < last, other=0)
        weights = tl.load(w + k[:, None] * B + b[None, :], mask=k[:, None] < last, other=0.0)
        seen = (reach[None, :] & tap[:, None]) != 0
        gathered = tl.load(x + (start[None, :] + lanes * at[:, None]), mask=seen, other=0.0)
        total = _add_product(total, tl.trans(weights), gathered, PRECISION)
    row = tl.load(rows + group * B + b)
    if BIAS:
        total += tl.load(bias + row, mask=row >= 0, other=0.0).to(tl.float32)[:, None]
    written = lane[None, :] + lanes * (image * y_image + pixel)[None, :] + lanes * pixels * row[:, None]
    tl.store(y + written, total.to(y.dtype.element_ty), mask=(row[:, None] >= 0) & (p[None, :] < points))


@_tuned(*_PRODUCTS)
@triton.jit(do_not_specialize=["bucket"])
def spread(
    dy,  # canvas
    w,  # [entries, B]
    parts,  # [units, points]
    rows,
    tile_group,  # int32 [tiles]
    tile_first,  # int32 [tiles]: first unit
    ptr,  # int32 [groups + 1]: where a group's units start
    shift,  # int32 [FOLD]
    base,
    inside,
    tiles,
    points,
    pixels,
    lanes,
    y_pixels,
    y_image,
    first_lane,
    y_lanes,
    bucket,
    B: tl.constexpr,
    M: tl.constexpr,
    FOLD: tl.constexpr,
    PRECISION: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """Input gradient, first half: what each unit (one entry, or a channel's FOLD taps) of a group passes back.

    parts[u, p] = sum over taps and rows of w[u, tap, row] · dy[row, p - tap]. Program = (M units, N points).
    Points cover ``lanes`` of the ``y_lanes``, from ``first_lane``.
    """
    tile = tl.program_id(0) % tiles
    group = tl.load(tile_group + tile)
    u = tl.load(tile_first + tile) + tl.arange(0, M)
    unit = u < tl.load(ptr + group + 1)
    p = tl.program_id(0) // tiles * N + tl.arange(0, N)
    image, pixel, lane = _locate(p, pixels, lanes)
    reach = tl.where(p < points, tl.load(inside + pixel), 0)
    start = first_lane + lane + y_lanes * (image * y_image + tl.load(base + pixel))
    STEP: tl.constexpr = K if K < B else B  # of a tap's rows
    total = tl.zeros((M, N), tl.float32)
    for k in range(0, FOLD * B, STEP):
        tap = k // B
        b = tl.multiple_of(k % B, STEP) + tl.arange(0, STEP)
        row = tl.load(rows + group * B + b)
        at = row * y_pixels + tl.load(shift + tap)
        seen = (row[:, None] >= 0) & (((reach >> tap) & 1) != 0)[None, :]
        gathered = tl.load(dy + (start[None, :] + y_lanes * at[:, None]), mask=seen, other=0.0)
        entry = u * FOLD + tap
        weights = tl.load(w + entry[:, None] * B + b[None, :], mask=unit[:, None], other=0.0)
        total = _add_product(total, weights, gathered, PRECISION)
    written = parts + u.to(tl.int64)[:, None] * points + p[None, :]
    tl.store(written, total.to(parts.dtype.element_ty), mask=unit[:, None] & (p[None, :] < points))


@triton.jit
def collect(
    parts,  # [units, part_points]
    dx,  # by its strides
    ptr,  # int32 [channels + 1]
    hits,  # int32 [units]: by channel
    tap,  # int32 [units]: of the unit that stands there in ``hits``
    shift,  # int32 [taps]
    base,
    inside,
    channels,
    points,
    part_points,
    pixels,
    part_pixels,
    lanes,
    x_pixels,  # pixels and lanes as dx has them: a pointwise layer's lanes are pixels, too
    x_lanes,
    first,  # where the first point stands in dx
    to_image,
    to_channel,
    to_pixel,
    to_lane,
    C: tl.constexpr,
    N: tl.constexpr,
):
    """Input gradient, second half: dx[channel, p] = sum of the parts of all units that read it, in fixed order.

    Program = (C channels, N points). Reads follow lanes; writes follow whatever is contiguous in dx.
    """
    tiles = tl.cdiv(channels, C)
    channel = tl.program_id(0) % tiles * C + tl.arange(0, C)
    p = tl.program_id(0) // tiles * N + tl.arange(0, N)
    image, pixel, lane = _locate(p, pixels, lanes)
    reach = tl.where(p < points, tl.load(inside + pixel), 0)
    start = lane + lanes * (image * part_pixels + tl.load(base + pixel))
    hit = tl.load(ptr + channel, mask=channel < channels, other=0)
    last = tl.load(ptr + channel + 1, mask=channel < channels, other=0)
    total = tl.zeros((C, N), tl.float32)
    for _ in range(tl.max(last - hit, 0)):
        u = tl.load(hits + hit, mask=hit < last, other=0).to(tl.int64)
        t = tl.load(tap + hit, mask=hit < last, other=0)
        at = u * part_points + lanes * tl.load(shift + t)
        seen = (hit < last)[:, None] & (((reach[None, :] >> t[:, None]) & 1) != 0)
        total += tl.load(parts + at[:, None] + start[None, :], mask=seen, other=0.0).to(tl.float32)
        hit += 1
    image, pixel, lane = _locate(p, x_pixels, x_lanes)
    written = first + image * to_image + pixel * to_pixel + lane * to_lane
    live = (channel < channels)[:, None] & (p < points)[None, :]
    tl.store(
        dx + (channel * to_channel)[:, None] + written[None, :], total.to(dx.dtype.element_ty), mask=live
    )


@_tuned(*_SUMS)
@triton.jit(do_not_specialize=["bucket"])
def weigh(
    x,
    dy,
    parts,  # float32 [splits, entries, B]
    rows,
    tile_group,
    tile_first,
    ptr,
    off,
    bit,
    base,
    inside,
    tiles,
    entries,
    points,
    span,  # points of a split, a multiple of 128
    pixels,
    lanes,
    x_image,
    y_image,
    bucket,
    B: tl.constexpr,
    M: tl.constexpr,
    PRECISION: tl.constexpr,
    K: tl.constexpr,
):
    """Weight gradient of one split of the points: parts[split, k, b] = sum of x[k, p] · dy[row, p].

    Program = (M entries, split).
    """
    tile, split = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    group = tl.load(tile_group + tile)
    k = tl.load(tile_first + tile) + tl.arange(0, M)
    entry = k < tl.load(ptr + group + 1)
    at = lanes * tl.load(off + k, mask=entry, other=0)
    tap = tl.load(bit + k, mask=entry, other=0)
    b = tl.arange(0, B)
    row = tl.load(rows + group * B + b)
    total = tl.zeros((M, B), tl.float32)
    end = tl.minimum(points, (split + 1) * span)
    for first in range(split * span, end, K):
        p = first + tl.arange(0, K)
        image, pixel, lane = _locate(p, pixels, lanes)
        reach = tl.where(p < end, tl.load(inside + pixel), 0)
        start = lane + lanes * (image * x_image + tl.load(base + pixel))
        seen = (reach[None, :] & tap[:, None]) != 0
        gathered = tl.load(x + (start[None, :] + at[:, None]), mask=seen, other=0.0)
        here = lane + lanes * (image * y_image + pixel)
        live = (row[:, None] >= 0) & (p < end)[None, :]
        gradient = tl.load(dy + (here[None, :] + lanes * pixels * row[:, None]), mask=live, other=0.0)
        total = _add_product(total, gathered, tl.trans(gradient), PRECISION)
    written = parts + (split.to(tl.int64) * entries + k)[:, None] * B + b[None, :]
    tl.store(written, total, mask=entry[:, None])


@triton.jit
def flip(source, target, first, middle, last, N: tl.constexpr):
    """[first, middle, last] -> [last, middle, first], both contiguous. Program = N x N of one middle index."""
    across = tl.cdiv(last, N)
    m = tl.program_id(0) % middle
    tile = tl.program_id(0) // middle
    i = tile // across * N + tl.arange(0, N)
    j = tile % across * N + tl.arange(0, N)
    read = (i[:, None] * middle + m) * last + j[None, :]
    block = tl.load(source + read, mask=(i[:, None] < first) & (j[None, :] < last))
    written = (j[:, None] * middle + m) * first + i[None, :]
    tl.store(target + written, tl.trans(block), mask=(j[:, None] < last) & (i[None, :] < first))
