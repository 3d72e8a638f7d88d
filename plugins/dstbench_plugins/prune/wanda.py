"""Wanda: magnitude times the size of what a weight is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from dstbench.api import LayerInfo, LayerView
from dstbench_plugins.checks import check_integer


@dataclass(frozen=True)
class Wanda:
    """Keep the largest |w_ij| · ‖X_j‖₂ of each output row, the same share of every row (Wanda, arXiv 2306.11695).

    ‖X_j‖ is the norm of input column j over the last ``window`` steps (accumulator ``input_norm``). The score is a
    weight's rank within its row, from 1/n to 1; among equal ones the first ranks lowest, as a stable sort has it.
    Rows keep equally many, but for what a layer's count leaves over, which the first rows keep. A convolution is the
    matrix [out, in · taps]. Transposed ones are ranked at random, and are listed. Read in the authors' code, which
    prunes a trained language model once, by 128 sequences of C4.
    """

    window: int = 1

    def __post_init__(self) -> None:
        """Refuse what sees nothing."""
        check_integer("window", self.window)

    @property
    def accumulators(self) -> dict[str, Any]:
        """The norms of the inputs."""
        return {"input_norm": {"name": "input_norm", "window": self.window}}

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers whose columns aren't inputs."""
        return "columns of a transposed convolution aren't inputs" if layer.kind == "conv_transpose" else None

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """Rank in the row among the active weights, or all where none is, over their number: float64 [*w]."""
        return _ranked(importance(layer), layer)


def importance(layer: LayerView) -> Tensor:
    """|w| · ‖X‖: float [*w]."""
    return layer.weight.abs() * layer.extra["input_norm"]


def _ranked(scores: Tensor, layer: LayerView) -> Tensor:
    rows = scores.double().flatten(1)
    mask = layer.mask.flatten(1)
    mask = mask if bool(mask.any()) else torch.ones_like(mask)
    order = rows.masked_fill(~mask, -1).argsort(dim=1, stable=True)
    ranks = torch.empty_like(rows)
    places = torch.arange(1, rows.shape[1] + 1, dtype=rows.dtype, device=rows.device)
    ranks.scatter_(1, order, places.expand_as(rows))
    inactive = (~mask).sum(1, keepdim=True)
    return ((ranks - inactive).clamp(min=0) / mask.sum(1, keepdim=True).clamp(min=1)).view(layer.shape)
