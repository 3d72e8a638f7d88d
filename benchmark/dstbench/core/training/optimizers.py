"""What the engine needs of any optimizer: whether it will skip a step."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


def overflowed(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer is about to skip this step inside its kernel."""
    overflows = getattr(optimizer, "found_inf", None)
    return overflows is not None and float(overflows) > 0


def trains(optimizer: Any, renewed: bool) -> bool:
    """Whether a step is one of training. It isn't without gradients, nor with zeros that no backward pass made: so
    libraries build an optimizer's state before they load a checkpoint. renewed: whether one is known to have run."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    gradients = (parameter.grad for parameter in parameters if parameter.grad is not None)
    return any(renewed or gradient.is_sparse or bool(gradient.any()) for gradient in gradients)
