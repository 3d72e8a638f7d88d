"""Inits by how the network's inputs go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from dstbench.api import LayerInfo, LayerView, Policy, Rounds
from dstbench_plugins.checks import check_integer
from dstbench_plugins.init.uniform import Uniform
from dstbench_plugins.structure.misfits import not_bipartite

_CONSTANT = 1e-10  # a variance below so much of Σ x² / n is rounding
_DIGITS = 10  # of a correlation: r(a, b) and r(b, a) tie whatever order they were summed in


@dataclass(frozen=True)
class Correlated:
    """|Pearson correlation| of two input features over ``batches`` batches, before training: see ``csti``."""

    accumulators: ClassVar[dict[str, Any]] = {
        of: {"name": "input_moment", "of": of} for of in ("count", "sum", "square", "product")
    }
    batches: int = 100

    def __post_init__(self) -> None:
        """Refuse what sees nothing."""
        check_integer("batches", self.batches)

    @property
    def rounds(self) -> Rounds:
        """One look."""
        return Rounds(1, batches=self.batches)

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers whose columns aren't the network's inputs."""
        reason = not_bipartite(layer, convolutions=False)
        return reason or (None if layer.sees_input else "its inputs aren't the network's own")

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """|r| of features i mod in and j; 0 for a feature with itself or a constant one: float64 [*w]."""
        n, total, square, product = (layer.extra[of] for of in self.accumulators)
        rows, columns = layer.shape
        partner = torch.arange(rows, device=layer.weight.device) % columns
        mean, power = total[0] / n[0], square[0] / n[0]
        variance = power - mean.square()
        varies = variance > _CONSTANT * power
        spread = variance.where(varies, 1).sqrt()
        covariance = product / n - mean[partner, None] * mean
        r = (covariance / (spread[partner, None] * spread)).abs().round(decimals=_DIGITS)
        itself = partner[:, None] == torch.arange(columns, device=layer.weight.device)
        return r.masked_fill(itself | ~varies | ~varies[partner, None], 0)


def correlated(batches: int = 100) -> Policy:
    """Correlated sparse topological initialisation (CSTI; appendix D of CHTs, arXiv 2501.19107), at one density in
    every layer: link (i, j) of the layer that sees the network's inputs is as good as |Pearson correlation| of
    features i mod in and j; n links of the largest are taken, ties by index. A feature with itself and constant ones
    have 0.

    The authors correlate over the training set: with ``batches`` as many as an epoch has these are it, as the
    training augments and batches it, one batch at a time. Departures: exactly n links, where their code's
    threshold, one rank off, keeps n + 1 or more; 784 → 1568 stacks the matrix of features twice, other widths as
    often as they go. Their code uses that matrix for later layers, too; here these get random positions and are
    listed, as is any first layer but a linear one. The first is the first of the model's modules, as it defines them,
    that has parameters.
    """
    return Policy(Correlated(batches), Uniform())
