"""Growth by the local communities of a bipartite network (CHT, CHTs)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from dstbench.api import LayerInfo, LayerView
from dstbench_plugins.checks import check_choice
from dstbench_plugins.draws import gumbel, uniform
from dstbench_plugins.structure.misfits import not_bipartite

Variant = Literal["ch2", "ch3"]


@dataclass(frozen=True)
class CannistraciHebb:
    """CH2-L3n or CH3-L3n of the kept mask: S(i, a) = Σ φ(c_ij, d_j) over rows j linked to column a with c_ij > 0,
    plus the same over columns linked to row i; φ = (c + 1)/(d - c) is CH2, 1/(d - c) CH3 (CHTs, arXiv 2501.19107).

    d_j is the number of links of row j, c_ij the columns that rows i and j share. It is the reduced form of
    Σ (1 + iLCL)/(1 + eLCL), with iLCL = c and eLCL = d - c - 1: both forms agree on every inactive position. Read in
    the paper and in the authors' code. With ``soft`` positions are sampled without replacement with p ∝ S, else the
    highest S are taken, at random among equals; positions of score 0 come last, in random order.

    Departures: the authors' code for language models parses "soft" and then takes the highest scores all the same,
    and where fewer than k positions have a score it counts active ones as grown; here k positions grow. Their code
    gives back the value a weight had before it was removed, as the paper's appendix says; here values ``last`` do,
    and it starts at zero without them. The papers use linear layers alone: convolutions grow at random, and are
    listed. A row or column without any link scores 0, and comes back by chance alone.
    """

    variant: Variant = "ch3"
    soft: bool = True  # sample by the scores; else the best

    def __post_init__(self) -> None:
        """Refuse an unknown variant."""
        check_choice("variant", self.variant, get_args(Variant))

    def misfit(self, layer: LayerInfo) -> str | None:
        """What isn't a linear layer."""
        return not_bipartite(layer, convolutions=False)

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """log S + Gumbel noise, or the rank of S with random ties: float64 [*w]."""
        scores = self.link_scores(layer.mask)
        if not self.soft:
            lower = torch.searchsorted(scores.flatten().sort().values, scores)  # how many score less
            return lower + uniform(scores, rng)
        order = 1 - uniform(scores, rng) / 2
        return torch.where(scores > 0, scores.log() + gumbel(scores, rng), -1e30 * order)

    def link_scores(self, mask: Tensor) -> Tensor:
        """S of every position of a mask, bool [out, in]: float64 [out, in], zero where there is a link."""
        links = mask.double()
        scores = self._by_rows(links) + self._by_rows(links.T).T
        return scores.round(decimals=9).masked_fill(mask, 0)  # equal scores differ in the order of their sums

    def _by_rows(self, links: Tensor) -> Tensor:
        """Σ_j φ(c_ij, d_j) A_ja, float64 [rows, columns]. links: A, float64 [rows, columns]."""
        common = links @ links.T
        beyond = (links.sum(1) - common).clamp(min=1)  # 1 + eLCL; below 1 only where A_ia = 1
        local = common + 1 if self.variant == "ch2" else torch.ones_like(common)
        return (local / beyond).masked_fill(common == 0, 0) @ links
