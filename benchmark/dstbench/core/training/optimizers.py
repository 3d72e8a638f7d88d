"""What the engine needs of any optimizer: the one inside wrappers, its state, and whether it will skip a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from dstbench.errors import BadInput


def innermost(optimizer: Any) -> Optimizer:
    """The torch optimizer inside wrappers such as Accelerate's. Raises BadInput for anything else."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise BadInput(
            f"optimizer: expected a torch.optim.Optimizer or a wrapper of one, got {type(optimizer).__name__}"
        )
    return optimizer


def check_owner(optimizer: Optimizer, weights: Iterable[Tensor]) -> None:
    """Refuse an optimizer of another model, whose steps would never be this one's."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(weight) in held for weight in weights):
        raise BadInput(
            "optimizer: it holds none of the model's weights; make it from this model's parameters"
        )


def overflowed(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer is about to skip this step inside its kernel."""
    overflows = getattr(optimizer, "found_inf", None)
    return overflows is not None and float(overflows) > 0


def trains(optimizer: Any, renewed: bool) -> bool:
    """Whether a step is one of training. It isn't without gradients, nor with zeros that no backward pass made: so
    libraries build an optimizer's state before they load a checkpoint. renewed: whether one is known to have run."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return bool(gradients) and (renewed or any(each.is_sparse or bool(each.any()) for each in gradients))
