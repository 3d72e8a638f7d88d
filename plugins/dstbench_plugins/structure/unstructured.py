"""Any mask, or any in which attention's heads keep the same share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dstbench.accel.kernels.compiled.csr import Unstructured, csr_executions
from dstbench.api import Execution, LayerCall, LayerInfo, Layout, Quota, Structure


def unstructured(heads: Literal["free", "quota"] = "free") -> Structure | Layout:
    """Any mask. ``heads: quota`` has every attention head of a projection keep as many weights as the others, one
    more or less: in all of its rows together, those of query, key and value where they are packed."""
    return PerHead() if heads == "quota" else Unstructured()


@dataclass(frozen=True)
class PerHead:
    """Single weights, equally many in each of a layer's heads. Layers that make no heads are unstructured."""

    def misfit(self, layer: LayerInfo) -> str | None:
        """Layers whose output rows aren't those of heads, as far as is known."""
        return "its rows are no attention heads" if layer.heads is None else None

    def units(self, layer: LayerInfo) -> Tensor:
        """Every weight is a unit."""
        return torch.arange(layer.numel).view(layer.shape)

    def quota(self, layer: LayerInfo) -> Quota | None:
        """An equal share for each head."""
        if layer.heads is None:
            return None
        head = layer.heads.of_rows(layer.shape[0])
        return Quota(head.repeat_interleave(layer.numel // layer.shape[0]), None)

    def accelerate(self, call: LayerCall, mask: Tensor) -> Sequence[Execution]:
        """What computes any mask."""
        return csr_executions(call, mask)
