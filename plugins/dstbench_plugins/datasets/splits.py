"""How a validation split is cut from a training set."""

from __future__ import annotations

import torch
from torch import Tensor

from dstbench.errors import BadInput


def hold_out(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cut ``count`` examples off the end, stratified: each class gives its own last ones.

    ``labels`` is int64 [n]. Returns the indices of the rest and of what is held out, both int64 and
    ascending, together exactly 0..n-1. A class gives in proportion to its size: whole examples first, the
    remainder to the largest fractions, so the sum is exact. Draws nothing, so the split is the same for
    every seed and every version of torch. Raises BadInput where nothing would be left.
    """
    if not 0 <= count < len(labels):
        raise BadInput(f"validation: expected a number between 0 and {len(labels) - 1}, got {count}")
    sizes = torch.bincount(labels)
    whole, remainder = sizes * count // len(labels), sizes * count % len(labels)
    extra = torch.argsort(remainder, descending=True, stable=True)[: count - int(whole.sum())]
    whole[extra] += 1
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, number in enumerate(whole.tolist()):
        members = (labels == label).nonzero().flatten()
        held[members[len(members) - number :]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()
