"""Constant fan-in: every output row that is alive has equally many weights (SRigL)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from dstbench.api import LayerInfo, LayerView, take_top
from dstbench_plugins.checks import check_fraction
from dstbench_plugins.structure.misfits import transposed


@dataclass(frozen=True)
class FanIn:
    """Every neuron has exactly F weights or, ablated, none (SRigL, "Dynamic Sparse Training with Structured
    Sparsity", arXiv 2305.02299).

    A neuron is an output row. At an update its salient weights are those that pruning kept, the layer's top
    (n - k) by |w|, and the layer's top k by |g|. Rows with fewer than max(1, ⌊γF⌋) of them are ablated, with
    F that of all rows; the others share the budget: F = n / rows. A row keeps its best F weights by |w| and
    grows the rest by |g|.

    Departures, each on purpose: F is the *nearest* integer, since budgets are met to half a unit, where the
    paper rounds down. Trimming keeps the best weights by their score, where the published code sorts the mask
    and keeps those of lowest index. The classifier's rows are classes, so none is ablated, also where it is
    the last layer, which the published code means to do and doesn't. A position that the score forbids (-inf)
    is taken only in a row that can't reach F without it.
    """

    gamma: float = 0.3  # the fraction of F that must be salient for a neuron to live; 0: never ablate
    retiles: ClassVar[bool] = True  # what a row kept beyond F, or an ablated row kept, goes
    whole_rows: ClassVar[bool] = True  # ablated rows can be removed exactly

    def __post_init__(self) -> None:
        """Refuse what isn't a fraction."""
        check_fraction("gamma", self.gamma)

    def misfit(self, layer: LayerInfo) -> str | None:
        """Only a transposed convolution doesn't fit."""
        return transposed(layer)

    def unit(self, layer: LayerInfo) -> int:
        """One weight in every row: the step of F."""
        return layer.shape[0]

    def capacity(self, layer: LayerInfo) -> int:
        """All weights: F is then the whole fan-in."""
        return layer.numel

    def is_legal(self, layer: LayerInfo, mask: Tensor) -> bool:
        """Whether all rows that have weights have equally many."""
        fan_in = mask.flatten(1).sum(1)
        return bool((fan_in[fan_in > 0] == fan_in.max()).all())

    def shrink(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """The layer's n best active weights, whatever rows they are in: bool [*w], not yet of constant fan-in."""
        return take_top(scores, n, layer.mask, at_most=True)

    def merge(self, kept: Tensor, keep_scores: Tensor | None, grow_scores: Tensor, n: int) -> Tensor:
        """Ranks in three tiers, float64 [*w]: kept weights in [2, 3), the other salient ones in [1, 2), the
        rest in [0, 1)."""
        salient = kept | take_top(grow_scores, n - int(kept.count_nonzero()), at_most=True)
        merged = _ranks(grow_scores) + salient
        return merged if keep_scores is None else torch.where(kept, _ranks(keep_scores) + 2, merged)

    def fill(self, layer: LayerView, scores: Tensor, n: int) -> Tensor:
        """The best F weights of every row that isn't ablated, about n in all: bool [*w]."""
        matrix = scores.flatten(1)
        rows = self._alive(layer, (matrix >= 1).sum(1), n)
        fan_in = min(max(round(n / len(rows)), 1), matrix.shape[1])
        best = matrix[rows].sort(dim=1, descending=True, stable=True).indices[:, :fan_in]
        mask = torch.zeros_like(matrix, dtype=torch.bool)
        mask[rows[:, None], best] = True
        return mask.view(layer.shape)

    def _alive(self, layer: LayerView, salient: Tensor, n: int) -> Tensor:
        """The rows that aren't ablated, those with the most salient weights first: int64 [alive].

        ``salient``: int64 [out]. At the start, and without γ, all of them; else at least as many as can hold n.
        """
        rows, fan_in = layer.shape[0], layer.info.numel // layer.shape[0]
        order = salient.sort(descending=True, stable=True).indices
        if not self.gamma or layer.info.classifier or not bool(layer.before.any()):
            return order
        least = max(1, int(self.gamma * (n // rows)))
        return order[: max(int((salient >= least).sum()), ceil(n / fan_in), 1)]


def _ranks(scores: Tensor) -> Tensor:
    """Ranks scaled into [0, 1), the highest for the best score, or on a tie the lowest index: float64 [*w]."""
    order = scores.flatten().sort(descending=True, stable=True).indices
    ranks = torch.empty(len(order), dtype=torch.float64, device=scores.device)
    ranks[order] = torch.arange(len(order) - 1, -1, -1, dtype=torch.float64, device=scores.device) / len(
        order
    )
    return ranks.view(scores.shape)
