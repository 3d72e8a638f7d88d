"""Optimizers and learning-rate schedules from configuration: torch's by name, else timm's."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dstbench.errors import BadInput, nearest
from dstbench.runner.matrix.config import LR_SCHEDULES, OPTIMIZERS, Training


def build_optimizer(model: nn.Module, training: Training) -> Optimizer:
    """The optimizer over all parameters. Raises BadInput for a name that neither torch's list nor timm knows."""
    settings: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay}
    parameters = _parameters(model, training)
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            momentum=training.momentum,
            nesterov=training.nesterov and training.momentum > 0,
            **settings,
        )
    if training.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, momentum=training.momentum, **settings)
    if training.optimizer in OPTIMIZERS:
        plain = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
        return plain(parameters, betas=training.betas or (0.9, 0.999), **settings)
    from timm.optim import create_optimizer_v2, list_optimizers

    known = [str(name) for name in list_optimizers()]
    if training.optimizer not in known:
        raise BadInput(
            f"training.optimizer: unknown {training.optimizer!r}{nearest(training.optimizer, [*OPTIMIZERS, *known])}"
        )
    optimizer: Optimizer = create_optimizer_v2(
        model if training.decay == "all" else parameters,
        opt=training.optimizer,
        momentum=training.momentum,
        filter_bias_and_bn=False,
        **settings,
    )
    return optimizer


def _parameters(model: nn.Module, training: Training) -> Any:
    """All of them; with ``decay: matrices`` those of fewer dimensions, biases and norms, in a group without decay."""
    if training.decay == "all":
        return model.parameters()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices, others = (
        [parameter for parameter in trained if (parameter.dim() >= 2) is large] for large in (True, False)
    )
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def memory_format(training: Training) -> torch.memory_format:
    """How images and convolutions lie in memory."""
    return torch.channels_last if training.channels_last else torch.contiguous_format


def build_schedule(optimizer: Optimizer, training: Training, steps_per_epoch: int) -> Callable[[int], None]:
    """A function that sets the learning rate for the step to come, counted in applied steps from 0."""
    if training.schedule not in LR_SCHEDULES:
        return _timm_schedule(optimizer, training, steps_per_epoch)
    base = [group["lr"] for group in optimizer.param_groups]

    def set_rate(step: int) -> None:
        factor = _factor(training, step, steps_per_epoch)
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * factor

    return set_rate


def _factor(training: Training, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, relative to ``lr``: a linear warm-up, then the schedule."""
    if step < training.warmup_steps:
        return (step + 1) / (training.warmup_steps + 1)
    epoch, warmup = step / steps_per_epoch, training.warmup_epochs + training.warmup_steps / steps_per_epoch
    if epoch < training.warmup_epochs:
        return (epoch + 1e-8) / training.warmup_epochs
    if training.schedule in ("cosine", "linear"):
        length = max(1e-8, training.epochs - warmup)
        done, least = (epoch - warmup) / length, training.min_lr / training.lr
        falling = (1 + cos(pi * done)) / 2 if training.schedule == "cosine" else max(0.0, 1 - done)
        return least + (1 - least) * falling if least else falling
    if training.schedule == "step":
        return float(training.gamma ** (int(epoch) // training.step_epochs))
    if training.schedule == "multistep":
        return float(training.gamma ** sum(epoch >= milestone for milestone in training.milestones))
    return 1.0


def _timm_schedule(optimizer: Optimizer, training: Training, steps_per_epoch: int) -> Callable[[int], None]:
    from timm.scheduler import create_scheduler_v2

    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=training.schedule,
            num_epochs=training.epochs,
            warmup_epochs=training.warmup_epochs,
            decay_rate=training.gamma,
            decay_epochs=training.step_epochs,
            decay_milestones=list(training.milestones) or [training.step_epochs],
            updates_per_epoch=steps_per_epoch,
            step_on_epochs=False,
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise BadInput(f"training.schedule: timm refuses {training.schedule!r}: {error}") from error
    if scheduler is None:
        raise BadInput(
            f"training.schedule: unknown {training.schedule!r}{nearest(training.schedule, LR_SCHEDULES)}"
        )

    def set_rate(step: int) -> None:
        scheduler.step_update(step)

    return set_rate
