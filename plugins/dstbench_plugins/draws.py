"""Random numbers of a tensor's shape, drawn on the CPU, so that every device gets the same."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def uniform(like: Tensor, rng: Generator) -> Tensor:
    """Uniform in [0, 1): float64, of the shape and on the device of ``like``."""
    return torch.rand(like.shape, generator=rng, dtype=torch.float64).to(like.device)


def normal(like: Tensor, rng: Generator) -> Tensor:
    """Standard normal: float64, of the shape and on the device of ``like``."""
    return torch.randn(like.shape, generator=rng, dtype=torch.float64).to(like.device)


def gumbel(like: Tensor, rng: Generator) -> Tensor:
    """Standard Gumbel noise: float64, of the shape and on the device of ``like``.

    The n largest of log p + noise are n draws without replacement with probabilities p (Gumbel-top-k).
    """
    exponential = torch.empty(like.shape, dtype=torch.float64).exponential_(generator=rng)
    return -exponential.log().to(like.device)
