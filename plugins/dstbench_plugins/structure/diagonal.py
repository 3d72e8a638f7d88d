"""Diagonals that wrap around: every unit has one weight in each row or in each column."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from dstbench.api import LayerInfo
from dstbench_plugins.structure.misfits import not_bipartite


@dataclass(frozen=True)
class Diagonal:
    """A unit is a wrapped diagonal: (i - j) mod out where out >= in, else (j - i) mod in; max(out, in) units of
    min(out, in) weights (the masks of DynaDiag; with RigL's choice of them its own baseline "DiagHeur").

    Read in the authors' code, github.com/horizon-research/DynaDiag. The method itself selects diagonals softly, by a
    temperature that falls, which no exact mask has. It has linear layers alone; a convolution is the matrix
    [out, in · taps] here. Trained masked dense: there is no kernel.
    """

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers without links between inputs and outputs."""
        return not_bipartite(layer)

    def units(self, layer: LayerInfo) -> Tensor:
        """The diagonal of every weight."""
        rows, columns = layer.shape[0], prod(layer.shape[1:])
        apart = torch.arange(rows)[:, None] - torch.arange(columns)
        return (apart % rows if rows >= columns else -apart % columns).view(layer.shape)
