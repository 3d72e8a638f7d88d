"""Sharing by rank over the whole network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dstbench.api import LayerView, kth_largest


@dataclass(frozen=True)
class Global:
    """Each layer's count among the n best candidates of all layers. Ties go to the first layers."""

    uses_candidates: ClassVar[bool] = True

    def __call__(
        self, layers: Mapping[str, LayerView], candidates: Mapping[str, Tensor], n: int
    ) -> Mapping[str, float]:
        """#{candidates of l above the n-th best of all}."""
        pooled = torch.cat([values.flatten() for values in candidates.values()])
        n = min(n, len(pooled))
        if n == 0:
            return dict.fromkeys(candidates, 0.0)
        cut = kth_largest(pooled, n)
        counts = {name: int((values > cut).count_nonzero()) for name, values in candidates.items()}
        left = n - sum(counts.values())
        for name, values in candidates.items():
            ties = min(left, int((values == cut).count_nonzero()))
            counts[name] += ties
            left -= ties
        return {name: float(count) for name, count in counts.items()}
