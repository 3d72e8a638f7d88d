"""SET's pruning: the weights nearest to zero on either side."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dstbench.api import LayerView


@dataclass(frozen=True)
class WithinSign:
    """The same fraction of the positive and of the negative weights goes, those nearest to zero (SET,
    arXiv 1707.04780). The score is a weight's rank within its sign, scaled into (0, 1].

    Active weights that are exactly zero, as those just grown may be, count as positive.
    """

    def __call__(self, layer: LayerView, rng: Generator) -> Tensor:
        """Rank of |w| among the active weights of the same sign / their number."""
        scores = torch.zeros_like(layer.weight, dtype=torch.float32)  # ranks exceed half precision
        for side in (layer.mask & (layer.weight >= 0), layer.mask & (layer.weight < 0)):
            values = layer.weight[side].abs()
            ranks = torch.empty_like(values, dtype=scores.dtype)
            places = torch.arange(1, len(values) + 1, device=values.device, dtype=scores.dtype)
            ranks[values.sort(stable=True).indices] = places / max(1, len(values))
            scores[side] = ranks
        return scores
