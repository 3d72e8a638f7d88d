"""What the engine needs of any optimizer: whether it will skip a step."""

from __future__ import annotations

from torch.optim import Optimizer


def overflowed(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer is about to skip this step inside its kernel."""
    overflows = getattr(optimizer, "found_inf", None)
    return overflows is not None and float(overflows) > 0
