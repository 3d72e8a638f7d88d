"""Exact top-k over large tensors: which positions, with ties broken by the lowest index."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def take_top(scores: Tensor, n: int, eligible: Tensor | None = None, *, at_most: bool = False) -> Tensor:
    """Mark the ``n`` highest of ``scores``.

    scores: float, any shape; ``-inf`` is never taken. eligible: bool, same shape; None = everywhere.
    Returns bool of the same shape with exactly n true. Equal scores: the lowest flat index first.
    Where fewer than n positions can be taken it takes these if ``at_most`` is set, else raises ValueError.
    """
    if n <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    flat = scores.flatten()
    where = None if eligible is None else eligible.flatten()
    if where is None:
        values = flat
    elif 2 * count(where) < len(flat):
        values = flat[where]  # few: gather them, since selecting among mostly equal values is slow
    else:
        values = flat = flat.masked_fill(~where, -torch.inf)
    if at_most:
        n = min(n, count(values > -torch.inf))
        if n == 0:
            return torch.zeros_like(scores, dtype=torch.bool)
    if n > len(values):
        raise ValueError(f"asked for the top {n} of {len(values)} positions")
    cut = kth_largest(values, n)
    if cut == -torch.inf:
        raise ValueError(f"asked for the top {n} of {int((values > -torch.inf).sum())} eligible positions")
    taken = flat >= cut
    if where is not None:
        taken &= where
    surplus = count(taken) - n
    if surplus:
        ties = (taken & (flat == cut)).nonzero().flatten()
        taken[ties[len(ties) - surplus :]] = False
    return taken.view(scores.shape)


def count(mask: Tensor) -> int:
    """The number of true entries of a bool tensor: numpy's count is several times faster on a CPU."""
    if mask.device.type == "cpu" and mask.dtype == torch.bool:
        return int(np.count_nonzero(mask.numpy()))
    return int(mask.count_nonzero())


def kth_largest(values: Tensor, k: int) -> float:
    """The k-th largest of ``values``, float [m], 1 <= k <= m, exactly.

    numpy's quickselect is vectorised and twenty times faster than torch's on a CPU; on a GPU ``topk`` works on
    all of its parts, ``kthvalue`` on one.
    """
    if values.device.type == "cpu":
        wide = values if values.dtype == torch.float64 else values.float()  # exact: numpy has no bfloat16
        return float(np.partition(wide.detach().numpy(), len(wide) - k)[len(wide) - k])
    if values.is_cuda:
        return float(values.topk(k, sorted=False).values.min())
    return float(values.kthvalue(values.numel() - k + 1).values)
