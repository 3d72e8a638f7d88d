"""Shuffled blocks: dense blocks over scattered rows and columns (DSB when dynamic, SSB when static).

Follows the code published with "Dynamic Sparse Training via Shuffled Blocks" (HPC-Research-Lab,
shuffled-block-sparse-training). Departures, each on purpose:

- A mask is groups of ``block_size`` rows with *any* number of shared columns: inside a group the boundaries
  between column blocks carry no meaning, so a budget is met to half a column of a group, to the nearest. The
  published code rounds up to whole blocks of B × B.
- Shapes that B doesn't divide get one smaller group; the published code leaves such layers static or crashes.
- Linear layers are blocked as well; the published code keeps them unstructured.
- The block filter sees a group's columns in their natural order, since a mask doesn't tell the order in which
  extraction ranked them, and asks for half of a narrower block's row or column.
- As published (``drop="weight"``, which the recipes ``dsb`` and ``ssb`` use), an update changes few entries and
  often none: the filter spares most of what was to go, and extraction prefers the columns there are. The default
  ``drop="column"`` is ours: whole columns of groups go, so an update drops what the schedule says and extraction
  chooses which columns the grown weights fill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from dstbench.accel.kernels.groups import (
    Columns,
    group_rows,
    is_blocked,
    reduce_groups,
    taps,
)
from dstbench.accel.kernels.row_groups import row_group_executions
from dstbench.api import Execution, LayerCall, LayerInfo, LayerView, take_top
from dstbench_plugins.checks import check_choice, check_integer
from dstbench_plugins.structure.misfits import transposed
from dstbench_plugins.structure.shuffled_extract import (
    best_columns,
    cluster_rows,
    column_scores,
    equal_columns,
)

__all__ = ["ShuffledBlock"]

Drop = Literal["weight", "column"]


@dataclass(frozen=True)
class ShuffledBlock:
    """Groups of rows that share their columns, found anew at every update by clustering similar rows."""

    block_size: int = 16  # B, rows of a group
    columns: Columns = "entry"  # what is shared: single (in-channel, tap) entries or whole in-channels
    balanced: bool = False  # equally many columns in every group (what a batched product needs), or ragged
    drop: Drop = "column"  # what pruning takes: whole columns of groups, or single weights as published
    block_filter: bool = (
        True  # drop="weight", as published: a weight goes only with half of its block's row or column
    )
    retiles: ClassVar[bool] = True  # a kept weight whose column isn't worth it is dropped by ``fill``

    def __post_init__(self) -> None:
        """Refuse what isn't a block."""
        check_integer("block_size", self.block_size)
        check_choice("columns", self.columns, get_args(Columns))
        check_choice("drop", self.drop, get_args(Drop))

    def misfit(self, layer: LayerInfo) -> str | None:
        """Only a transposed convolution doesn't fit: its weight's rows are inputs."""
        return transposed(layer)

    def unit(self, layer: LayerInfo) -> int:
        """Weights of one column: of a whole group, or of all groups where they must be equal."""
        rows = layer.shape[0] if self.balanced else min(layer.shape[0], self.block_size)
        return rows * taps(layer.shape, self.columns)

    def capacity(self, layer: LayerInfo) -> int:
        """All weights: every group can hold every column."""
        return layer.numel

    def is_legal(self, layer: LayerInfo, mask: Tensor) -> bool:
        """Whether rows fall into groups with equal, whole columns (equally many when balanced)."""
        return tuple(mask.shape) == layer.shape and is_blocked(
            mask, self.block_size, self.columns, self.balanced
        )

    def shrink(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """Drop the lowest-scoring active weights, or columns by their mean score, down to n.

        Single weights leave a mask that isn't legal until ``fill``, and more than n where the block filter
        spares some.
        """
        mask = layer.mask
        if self.drop == "column":
            perm, _ = group_rows(mask.flatten(1), self.block_size)
            worth = self._by_column(layer.shape, scores.flatten(1).float(), perm, torch.mean)
            active = self._by_column(layer.shape, mask.flatten(1), perm, torch.any)
            worth = worth.clamp(min=torch.finfo(worth.dtype).min).masked_fill(~active, -torch.inf)
            return mask & self._best(layer.shape, worth, perm, n)
        marks = mask & ~take_top(scores, n, mask, at_most=True)
        if self.block_filter:
            marks = _filtered(mask.flatten(1), marks.flatten(1), self.block_size).view_as(mask)
        return mask & ~marks

    def merge(self, kept: Tensor, keep_scores: Tensor | None, grow_scores: Tensor, n: int) -> Tensor:
        """What extraction reads, >= 0: kept weights' scores, grown ones at their mean, 0 elsewhere, [*w].

        Grown are the best n - kept by ``grow_scores``. With nothing kept (init) the best n carry their own
        scores. All are shifted above zero if need be: a weight of zero in the mask still counts as active.
        """
        grown = take_top(grow_scores, n - int(kept.count_nonzero()), ~kept, at_most=True)
        if keep_scores is None or not bool(kept.any()):
            return _positive(grow_scores, grown)
        values = _positive(keep_scores, kept)
        return torch.where(grown, values.sum() / kept.count_nonzero(), values)

    def fill(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """Extract the best blocks of about n weights, at least one column, from what ``merge`` makes.

        Positions with scores <= 0 aren't in the support, and are taken, lowest index first, only when
        nothing else is left.
        """
        matrix = scores.clamp(min=0).flatten(1)
        perm = cluster_rows(matrix > 0, self.block_size)
        worth = column_scores(matrix, perm, self.block_size, taps(layer.shape, self.columns))
        return self._best(layer.shape, worth, perm, n)

    def accelerate(self, call: LayerCall, mask: Tensor) -> Sequence[Execution]:
        """What computes from the stored blocks alone; nothing where no kernel fits."""
        return row_group_executions(call, mask, self.block_size, self.columns)

    def _by_column(
        self, shape: tuple[int, ...], matrix: Tensor, perm: Tensor, reduce: Callable[[Tensor, int], Tensor]
    ) -> Tensor:
        """Reduce [out, k] over the rows of each group, then the taps of each column: [groups, columns]."""
        rows = reduce_groups(matrix, perm, self.block_size, reduce)
        return reduce(rows.view(len(rows), -1, taps(shape, self.columns)), 2)

    def _best(self, shape: tuple[int, ...], worth: Tensor, perm: Tensor, n: int) -> Tensor:
        """The mask of the best columns of all groups, about n weights in all; ``worth``: [groups, columns]."""
        width = taps(shape, self.columns)
        if self.balanced:
            count = min(max(round(n / (shape[0] * width)), 1), worth.shape[1])
            chosen = equal_columns(worth, count)
        else:
            chosen = best_columns(worth, _rows_per_group(shape[0], self.block_size, perm) * width, n)
        mask = torch.empty(shape[0], worth.shape[1], dtype=torch.bool, device=perm.device)
        mask[perm] = chosen.repeat_interleave(self.block_size, 0)[: shape[0]]
        return mask.repeat_interleave(width, 1).view(shape)


def _rows_per_group(rows: int, block_size: int, like: Tensor) -> Tensor:
    """int64 [groups], all ``block_size`` but perhaps the last."""
    starts = torch.arange(0, rows, block_size, device=like.device)
    return (rows - starts).clamp(max=block_size)


def _positive(scores: Tensor, where: Tensor) -> Tensor:
    """Scores at ``where``, shifted above 0 only if some aren't, and 0 elsewhere: float32 [*w].

    Infinite ones become the extremes of the finite ones.
    """
    finite = scores[where & scores.isfinite()].float()
    if not finite.numel():
        return where.float()
    low, high = (float(value) for value in finite.aminmax())
    shift = 0.0 if low > 0 else (1e-6 * (high - low) or 1.0) - low
    return torch.where(where, scores.float().clamp(low, high) + shift, 0)


def _filtered(mask: Tensor, marks: Tensor, block_size: int) -> Tensor:
    """Cancel marks of single weights: keep those whose row or column in their block is at least half marked.

    ``mask``, ``marks``: bool [out, k]. Blocks are a group's active columns, cut every ``block_size``.
    """
    perm, _ = group_rows(mask, block_size)
    support = reduce_groups(mask, perm, block_size, torch.any)
    heights = _rows_per_group(len(perm), block_size, perm)
    rows = torch.zeros(len(heights) * block_size, dtype=perm.dtype, device=perm.device)
    rows[: len(perm)] = perm
    rows = rows.view(-1, block_size)
    group, column = support.nonzero(as_tuple=True)  # [c], c = columns of all groups
    count = support.sum(1)
    blocks = (count + block_size - 1) // block_size
    rank = torch.arange(len(group), device=group.device) - (count.cumsum(0) - count)[group]
    block = (blocks.cumsum(0) - blocks)[group] + rank // block_size  # [c]

    exists = torch.arange(block_size, device=perm.device) < heights[:, None]  # [groups, B]
    marked = marks[rows[group], column[:, None]] & exists[group]  # [c, B]
    in_row = torch.zeros(int(blocks.sum()), block_size, dtype=torch.int64, device=perm.device)
    in_row.index_add_(0, block, marked.long())
    half_row = 2 * in_row >= torch.bincount(block, minlength=len(in_row))[:, None]  # [blocks, B]
    half_column = 2 * marked.sum(1) >= heights[group]  # [c]
    held = (marked & (half_row[block] | half_column[:, None])).nonzero()
    result = torch.zeros_like(marks)
    result[rows[group[held[:, 0]], held[:, 1]], column[held[:, 0]]] = True
    return result
