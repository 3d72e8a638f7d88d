"""Transposable N:M: few of every small group along the inputs and along the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dstbench.accel.kernels.semi_structured import semi_structured_executions
from dstbench.api import Execution, LayerCall, LayerInfo, LayerView, take_top
from dstbench_plugins.checks import check_integer
from dstbench_plugins.structure.misfits import transposed


@dataclass(frozen=True)
class TransposableNOfM:
    """At most n in every row and in every column of every m × m tile, so that the transposed matrix of the backward
    pass is N:M, too (Hubara et al., "Accelerated Sparse Neural Training", arXiv 2102.08124).

    A tile is m rows by m in-channels, at one tap. The authors' code, as read, tiles m² consecutive inputs of one row,
    which the transposed product doesn't need; these tiles are those that it does. Weights are taken greedily by score
    under both limits, which holds at least half of the best legal score; where that strands a tile below n a row,
    swaps complete it (remove one, add two), so that budgets are exact up to n/m. A kept weight may go in such a swap.
    Where a score forbids positions (-inf), a few less than would fit are found room for, and the budget knows it.
    2:4 runs on GPUs' sparse tensor cores in inference, as ``n_of_m``'s does; the rest is masked dense.
    """

    n: int = 2
    m: int = 4
    retiles: ClassVar[bool] = True  # a swap may drop a kept weight

    def __post_init__(self) -> None:
        """Refuse what isn't n of m."""
        check_integer("m", self.m)
        check_integer("n", self.n, most=self.m)

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers that tiles don't fill."""
        if reason := transposed(layer):
            return reason
        rows, inputs = layer.shape[:2]
        if rows % self.m or inputs % self.m:
            return f"its {rows} x {inputs} rows and inputs don't divide into tiles of {self.m} x {self.m}"
        return None

    def unit(self, layer: LayerInfo) -> int:
        """A unit is one weight."""
        return 1

    def capacity(self, layer: LayerInfo) -> int:
        """n of m everywhere."""
        return layer.numel // self.m * self.n

    def is_legal(self, layer: LayerInfo, mask: Tensor) -> bool:
        """Whether no row and no column of a tile has more than n."""
        tiles = self._tiles(mask)
        return bool((tiles.sum(1) <= self.n).all()) and bool((tiles.sum(2) <= self.n).all())

    def shrink(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """The n best active weights: what is left of a legal mask is legal."""
        return take_top(scores, n, layer.mask, at_most=True)

    def fill(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """The best n legal weights by greed, completed by swaps where it can't hold n: bool [*w]."""
        tiles = self._tiles(scores.double())
        chosen = self._greedy(tiles)
        missing = n - int(chosen.sum())
        while missing > 0 and (added := self._swap(tiles, chosen, missing)):
            missing -= added
        mask = self._untile(chosen, layer.shape)
        return mask if missing >= 0 else take_top(scores, n, mask)

    def allowed(self, layer: LayerView, scores: Tensor) -> int:
        """How many weights could be added where some scores are -inf."""
        return max(0, int(self.fill(layer, scores, layer.info.numel).sum()) - int(layer.mask.count_nonzero()))

    def accelerate(self, call: LayerCall, mask: Tensor) -> Sequence[Execution]:
        """2:4 on sparse tensor cores."""
        return semi_structured_executions(call, mask) if (self.n, self.m) == (2, 4) else ()

    def _greedy(self, tiles: Tensor) -> Tensor:
        """Take each tile's entries by score while both limits allow it: bool [tiles, m, m].

        Tiles don't limit each other, so the n best of what they take are what greed over all of them takes.
        """
        chosen = torch.zeros_like(tiles, dtype=torch.bool)
        every = torch.arange(len(tiles), device=tiles.device)
        order = tiles.flatten(1).sort(dim=1, descending=True, stable=True).indices
        for place in order.T:
            row, column = place // self.m, place % self.m
            free = (chosen.sum(2)[every, row] < self.n) & (chosen.sum(1)[every, column] < self.n)
            chosen[every, row, column] = free & (tiles[every, row, column] > -torch.inf)
        return chosen

    def _swap(self, tiles: Tensor, chosen: Tensor, most: int) -> int:
        """Give up to ``most`` tiles one weight more, where it costs least; returns how many got one.

        A tile's first row r and column c below n: all (r, c) are taken, so (r', c') goes for (r, c') and (r', c),
        which lie where they are free. One such pair always exists unless scores forbid it.
        """
        rows, columns = chosen.sum(2) < self.n, chosen.sum(1) < self.n
        short = (rows.any(1) & columns.any(1)).nonzero().flatten()
        if not len(short):
            return 0
        values, taken = tiles[short], chosen[short]
        every = torch.arange(len(short), device=tiles.device)
        row, column = rows[short].int().argmax(1), columns[short].int().argmax(1)
        in_row = values[every, row].masked_fill(taken[every, row], -torch.inf)  # (r, c') [short, m]
        in_column = values[every, :, column].masked_fill(taken[every, :, column], -torch.inf)  # (r', c)
        lost = torch.where(taken, values, torch.inf)
        gains = in_column[:, :, None] + in_row[:, None, :] - lost
        gain, place = gains.flatten(1).max(1)
        best = gain.argsort(descending=True, stable=True)[:most]
        best = best[gain[best] > -torch.inf]
        tile, out, across = short[best], place[best] // self.m, place[best] % self.m
        chosen[tile, out, across] = False
        chosen[tile, row[best], across] = True
        chosen[tile, out, column[best]] = True
        return len(best)

    def _tiles(self, values: Tensor) -> Tensor:
        """[*w] -> [tiles, m, m], tile by tile of rows and in-channels at every tap."""
        rows, inputs = values.shape[:2]
        cut = values.reshape(rows // self.m, self.m, inputs // self.m, self.m, -1)
        return cut.permute(0, 2, 4, 1, 3).reshape(-1, self.m, self.m)

    def _untile(self, tiles: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The inverse of ``_tiles``."""
        cut = tiles.view(shape[0] // self.m, shape[1] // self.m, -1, self.m, self.m)
        return cut.permute(0, 3, 1, 4, 2).reshape(shape)
