"""Batch norms over the whole batch, of which each process has a part.

Not ``torch.nn.SyncBatchNorm``: that one computes on GPUs only, and takes the place of modules, of which a norm with
an activation (timm's) would lose that. Here modules stay what they are; their one functional call is replaced while
a batch is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dstbench.core import ranks


class SynchronisedNorms(TorchFunctionMode):
    """Within it, batch norms that take their statistics from the batch take them from all ranks' parts of it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace ``F.batch_norm`` in training; all else is as it was."""
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """What ``F.batch_norm`` computes, in float32 or better; input: [b, c, ...], as many images on each rank."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    count = ranks.world() * input.numel() // input.shape[1]
    if count == 1:
        raise ValueError(f"a batch norm needs more than one value per channel, got {tuple(input.shape)}")
    values = input.to(torch.promote_types(input.dtype, torch.float32))
    normalised, mean, variance = _Normalise.apply(values, count, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
    scaled = normalised if weight is None else normalised * _along(weight, input)
    shifted: Tensor = scaled if bias is None else scaled + _along(bias, input)
    return shifted.to(input.dtype)


class _Normalise(torch.autograd.Function):
    """(x - mean) / deviation, each channel's over all ranks; mean and variance, [c], beside it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        mean = ranks.add_up(_sum(x)) / count
        centred = x - _along(mean, x)
        variance = ranks.add_up(_sum(centred.square())) / count  # in two passes: as exact as in one process
        scale = (variance + eps).rsqrt()
        normalised = centred * _along(scale, x)
        ctx.save_for_backward(normalised, scale)
        ctx.count = count
        ctx.mark_non_differentiable(mean, variance)
        return normalised, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient, *_), (normalised, scale) = gradients, ctx.saved_tensors
        sums = torch.stack([_sum(gradient), _sum(gradient * normalised)])
        mean, along = ranks.add_up(sums) / ctx.count
        rest = gradient - _along(mean, gradient) - normalised * _along(along, gradient)
        return rest * _along(scale, gradient), None, None


def _sum(x: Tensor) -> Tensor:
    """Over all but channels: [c]."""
    return x.sum([0, *range(2, x.dim())])


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Values of channels, [c], as they go with x."""
    return values.view(1, -1, *(1,) * (x.dim() - 2))
