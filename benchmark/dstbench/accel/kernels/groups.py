"""Row groups: where a shuffled-block mask keeps its weights: groups of rows that share one set of columns.

A weight ``[out, in, *kernel]`` is the matrix ``[out, in · taps]``; a group is ``block_size`` of its rows (one
group may be smaller), and inside a group every column is active in all rows or in none. A *column* is one
(in-channel, tap) pair with ``columns="entry"``, an in-channel with all its taps with ``columns="channel"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dstbench.api import StrategyError

__all__ = [
    "Columns", "Groups", "by_entry", "group_rows", "is_blocked", "layout", "reduce_groups", "storage_order", "taps",
    "to_mask",
]  # fmt: skip

Columns = Literal["entry", "channel"]


@dataclass(frozen=True)
class Groups:
    """The canonical layout of one layer, on the mask's device; kernels build on it.

    Group g owns rows ``perm[g * B : (g + 1) * B]`` and columns ``cols[ptr[g] : ptr[g + 1]]``. Groups stand in
    the order of their lowest row, the one that is smaller than B last; rows and columns ascend in each.
    """

    perm: Tensor  # int64 [out]
    ptr: Tensor  # int64 [groups + 1]
    cols: Tensor  # int32 [sum of K_g], numbered in columns: entries or in-channels


def taps(shape: tuple[int, ...], columns: Columns) -> int:
    """Weights of one row in one column: 1, or all taps of an in-channel."""
    return math.prod(shape[2:]) if columns == "channel" else 1


def layout(mask: Tensor, block_size: int, columns: Columns = "entry") -> Groups:
    """Groups, rows and columns of a legal mask, bool [*w].

    Raises StrategyError where the mask isn't made of groups that share their columns.
    """
    if not is_blocked(mask, block_size, columns):
        raise StrategyError(
            f"layout: expected groups of {block_size} rows that share whole columns ({columns}), "
            f"got another mask of shape {tuple(mask.shape)}"
        )
    active = _by_column(mask, columns)[:, :, 0]
    perm = group_rows(active, block_size)[0]
    support = active[perm[::block_size]]
    ptr = torch.cat([perm.new_zeros(1), support.sum(1).cumsum(0)])
    return Groups(perm, ptr, support.nonzero()[:, 1].to(torch.int32))


def to_mask(groups: Groups, shape: tuple[int, ...], block_size: int, columns: Columns = "entry") -> Tensor:
    """The mask of a layout, bool [*w]: the inverse of ``layout``."""
    width, rows = taps(shape, columns), shape[0]
    counts = groups.ptr.diff()
    support = torch.zeros(
        len(counts), math.prod(shape[1:]) // width, dtype=torch.bool, device=groups.perm.device
    )
    group = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    support[group, groups.cols.long()] = True
    mask = torch.empty(rows, support.shape[1], dtype=torch.bool, device=support.device)
    mask[groups.perm] = support.repeat_interleave(block_size, 0)[:rows]
    return mask.repeat_interleave(width, 1).view(shape)


def by_entry(groups: Groups, shape: tuple[int, ...], columns: Columns) -> Groups:
    """The same groups with entries for columns: whole in-channels become all their taps."""
    width = taps(shape, columns)
    cols = groups.cols[:, None] * width + torch.arange(width, dtype=torch.int32, device=groups.cols.device)
    return Groups(groups.perm, groups.ptr * width, cols.flatten())


def storage_order(groups: Groups, shape: tuple[int, ...], block_size: int) -> Tensor:
    """Where each stored value stands in the flattened weight, -1 for padding: int64 [S, B], for columns by entry.

    Group by group, entry by entry, one value for each row of the group; a smaller group's missing rows are padding.
    """
    rows = groups.perm.new_full((len(groups.ptr) - 1, block_size), -1)
    rows.view(-1)[: shape[0]] = groups.perm
    rows = rows.repeat_interleave(groups.ptr.diff(), 0)
    return torch.where(rows < 0, -1, rows * math.prod(shape[1:]) + groups.cols.long()[:, None])


def is_blocked(mask: Tensor, block_size: int, columns: Columns = "entry", balanced: bool = False) -> bool:
    """Whether rows fall into groups of ``block_size`` (the last one ``out % block_size``) with equal columns.

    Rows of equal pattern are interchangeable, so it's enough to count them: every pattern's count is a
    multiple of ``block_size``, but for one that also holds the smaller group. ``balanced`` asks for equally
    many columns in every group. Rows without any column are groups too.
    """
    active = _by_column(mask, columns)
    if not bool((active == active[:, :, :1]).all()):
        return False
    active = active[:, :, 0]
    per_row = active.sum(1)
    if balanced and bool((per_row != per_row[0]).any()):
        return False
    rest = mask.shape[0] % block_size
    return bool(group_rows(active, block_size)[1] == ([rest] if rest else []))


def group_rows(active: Tensor, block_size: int) -> tuple[Tensor, list[int]]:
    """Order rows so that equal ones fill groups: perm, int64 [out], and each pattern's left-over rows.

    ``active``: bool [out, columns]. Patterns follow their lowest row; rows left over after whole groups come
    last. Any mask can be ordered like this; a legal one leaves over nothing but its smaller group.
    """
    packed = np.packbits(active.cpu().numpy(), axis=1)  # exact, and 8 times less to sort than bools
    keys = packed.view(f"V{packed.shape[1]}").ravel()
    _, lowest, pattern = np.unique(keys, return_index=True, return_inverse=True)
    count = np.bincount(pattern)
    rows = np.arange(len(keys))
    position = np.empty_like(rows)
    position[np.lexsort((rows, lowest[pattern]))] = rows
    rank = position - position[lowest][pattern]  # of a row among its equals
    left_over = rank >= (count - count % block_size)[pattern]
    perm = np.lexsort((rows, lowest[pattern], left_over))
    rests = [int(rest) for rest in count % block_size if rest]
    return torch.from_numpy(perm).to(active.device), rests


def reduce_groups(
    matrix: Tensor, perm: Tensor, block_size: int, reduce: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Reduce the rows of every group: [out, k] -> [groups, k], the smaller group last."""
    whole = len(perm) // block_size * block_size
    groups = reduce(matrix[perm[:whole]].view(whole // block_size, block_size, matrix.shape[1]), 1)
    if whole == len(perm):
        return groups
    return torch.cat([groups, reduce(matrix[perm[whole:]].unsqueeze(0), 1)])


def _by_column(mask: Tensor, columns: Columns) -> Tensor:
    """View a mask, bool [*w], as [out, columns, taps of a column]."""
    return mask.reshape(mask.shape[0], -1, taps(tuple(mask.shape), columns))
