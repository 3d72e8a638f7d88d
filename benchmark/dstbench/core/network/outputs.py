"""A network's outputs: computed in evaluation mode, and compared with another's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; every module of it has its own mode back at the end, whatever happened."""
    training = [module for module in model.modules() if module.training]
    try:
        yield model.eval()
    finally:
        for module in training:
            module.training = True


def difference(outputs: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value; infinite where shapes or NaNs differ."""
    if outputs.shape != expected.shape or not bool(outputs.isfinite().all()):
        return float("inf")
    return float((outputs - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
