"""Picking and adding up channels, axis 1, in either memory format, by the operator that is fastest for it."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


def take(x: Tensor, channels: Tensor, out: Tensor | None = None) -> Tensor:
    """Channels of [n, c, *space] in any order and number, in x's memory format. ``channels``: int64 [k]."""
    if last(x if out is None else out):
        pixels = as_pixels(x)
        index = channels.expand(len(pixels), -1)
        if out is None:
            return from_pixels(pixels.gather(1, index), x)
        torch.gather(pixels, 1, index, out=as_pixels(out))
        return out
    if out is None:
        return as_rows(x).index_select(0, _rows(x, channels)).view(len(x), -1, *x.shape[2:])
    torch.index_select(as_rows(x), 0, _rows(x, channels), out=as_rows(out))
    return out


def add(into: Tensor, channels: Tensor, values: Tensor) -> None:
    """Add [n, k, *space] to ``channels`` of [n, c, *space], in place; always in the same order."""
    if last(into):
        pixels = as_pixels(values)
        as_pixels(into).scatter_add_(1, channels.expand(len(pixels), -1), pixels)
    else:
        as_rows(into).index_add_(0, _rows(into, channels), as_rows(values))


def last(x: Tensor) -> bool:
    """Whether channels stand last in memory, and not, as with one channel or pixel, also first."""
    return x.dim() == 2 or (not x.is_contiguous() and x.movedim(1, -1).is_contiguous())


def as_pixels(x: Tensor) -> Tensor:
    """[n, c, *space] as a matrix, [n * pixels, c]; a view of channels-last ones."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def from_pixels(pixels: Tensor, like: Tensor) -> Tensor:
    """[n * pixels, k] as [n, k, *space] of the size of ``like``."""
    return pixels.view(len(like), *like.shape[2:], -1).movedim(-1, 1)


def as_rows(x: Tensor) -> Tensor:
    """[n, c, *space] as a matrix, [n * c, pixels]; a view of channels-first ones."""
    return x.reshape(-1, prod(x.shape[2:]))


def _rows(x: Tensor, channels: Tensor) -> Tensor:
    """Where channels stand in ``as_rows(x)``."""
    if len(x) == 1:
        return channels
    first = torch.arange(0, x.shape[0] * x.shape[1], x.shape[1], device=channels.device)
    return (first[:, None] + channels).flatten()
