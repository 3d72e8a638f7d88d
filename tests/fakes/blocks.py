"""Shuffled blocks by hand: views of layers, masks from scores, masks as text."""

from __future__ import annotations

import torch
from torch import Tensor

from dstbench.api import LayerInfo, LayerView
from dstbench_plugins.structure.shuffled_block import ShuffledBlock

PAIRS = torch.tensor([[4.0, 1, 0, 0], [0, 0, 3, 2], [5, 1, 0, 0], [0, 0, 1, 2]])
"""Rows 0 and 2 are alike, and rows 1 and 3. Column norms: √41, √2 in one group; √10, √8 in the other."""


def view(weight: Tensor, mask: Tensor | None = None, kind: str = "conv") -> LayerView:
    info = LayerInfo("layer", tuple(weight.shape), kind if weight.ndim > 2 else "linear")
    mask = torch.zeros_like(weight, dtype=torch.bool) if mask is None else mask
    return LayerView(info, weight, mask, mask, int(mask.sum()), int(mask.sum()))


def extract(structure: ShuffledBlock, scores: Tensor, n: int) -> Tensor:
    return structure.fill(view(scores), scores, n)


def bits(*rows: str) -> Tensor:
    return torch.tensor([[mark == "1" for mark in row.replace(" ", "")] for row in rows])
