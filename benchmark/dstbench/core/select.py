"""Exact top-k over large tensors: which positions, with ties broken by the lowest index."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_SAMPLES = 20_000  # enough that a cut aimed at 1.25 k keeps at least k of millions almost always


def take_top(scores: Tensor, n: int, eligible: Tensor | None = None) -> Tensor:
    """Mark the ``n`` highest of ``scores``.

    scores: float, any shape; ``-inf`` is never taken. eligible: bool, same shape; None = everywhere.
    Returns bool of the same shape with exactly n true. Equal scores: the lowest flat index first.
    Raises ValueError if fewer than n positions can be taken.
    """
    flat = scores.flatten()
    if eligible is not None:
        flat = flat.masked_fill(~eligible.flatten(), -torch.inf)
    if n <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if n > flat.numel():
        raise ValueError(f"asked for the top {n} of {flat.numel()} positions")
    cut = kth_largest(flat, n)
    if cut == -torch.inf:
        raise ValueError(f"asked for the top {n} of {int((flat > -torch.inf).sum())} eligible positions")
    taken = flat >= cut
    surplus = int(taken.count_nonzero()) - n
    if surplus:
        ties = (flat == cut).nonzero().flatten()
        taken[ties[len(ties) - surplus :]] = False
    return taken.view(scores.shape)


def kth_largest(values: Tensor, k: int) -> float:
    """The k-th largest of ``values``, float [m], 1 <= k <= m, exactly.

    A cut estimated from a strided sample leaves about 1.25 k survivors to select among; where it left fewer
    than k, the selection runs over everything.
    """
    count = values.numel()
    if count > 10 * _SAMPLES and k < count // 2:
        sample = values[:: count // _SAMPLES]
        rank = min(len(sample), int(1.25 * k / count * len(sample)) + 50)
        survivors = values[values >= _select(sample, rank)]
        if len(survivors) >= k:
            values = survivors
    return _select(values, k)


def _select(values: Tensor, k: int) -> float:
    """The k-th largest by quickselect: numpy's is vectorised on a CPU, torch's runs where the tensor is."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        array = values.detach().numpy()
        return float(np.partition(array, len(array) - k)[len(array) - k])
    return float(values.kthvalue(values.numel() - k + 1).values)
