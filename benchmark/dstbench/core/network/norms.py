"""What norms make of channels: those by each channel alone, by groups of channels, and over all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dstbench.core.network.narrow import NarrowNorm
from dstbench.core.network.values import Shared, Value

_SECOND = (
    "LayerNorm2d",
    "LayerNormAct2d",
)  # timm's and torchvision's, of images: channels are the second axis


@dataclass(frozen=True)
class OverChannels:
    """A norm that takes its statistics over all channels."""

    axis: Literal[1, -1]
    over: Literal["channels", "sample"]
    centred: bool
    width: int


def over_channels(module: nn.Module) -> OverChannels | None:
    """A layer norm, a group norm of one group or a norm by the root mean square; None of any other module."""
    if isinstance(module, nn.GroupNorm) and module.num_groups == 1:
        return OverChannels(1, "sample", True, module.num_channels)
    shape: Any = getattr(module, "normalized_shape", ())
    if not (isinstance(module, nn.LayerNorm | nn.RMSNorm) or is_rms(module)) or len(shape) != 1:
        return None
    axis: Literal[1, -1] = 1 if type(module).__name__ in _SECOND else -1
    return OverChannels(axis, "channels", isinstance(module, nn.LayerNorm), int(shape[0]))


def is_rms(module: nn.Module) -> bool:
    """timm's own norm by the root mean square."""
    return type(module).__name__ == "RmsNorm" and type(module).__module__.startswith("timm.")


def across(path: str, module: Any, kind: OverChannels, value: Value) -> Value:
    """What such a norm makes of a channel that is zero: see ``Shared``; a root mean square leaves it zero."""
    zero = value.constant == 0
    nothing = torch.full_like(value.constant, torch.nan)
    if not kind.centred:
        return replace(value, constant=nothing.masked_fill(zero, 0.0), owner=None, shared=None)
    gain, shift = _numbers(module.weight, zero, 1.0), _numbers(getattr(module, "bias", None), zero, 0.0)
    shared = Shared(path, gain.masked_fill(~zero, torch.nan), shift)
    constant = torch.where(zero & (gain == 0), shift, nothing)
    return replace(value, constant=constant, owner=None, shared=shared)


def grouped(module: nn.GroupNorm, value: Value) -> Tensor:
    """What a group norm makes of groups that are constant all over: float64 [C], NaN elsewhere."""
    groups = value.constant.view(module.num_groups, -1)
    mean, variance = groups.mean(1, keepdim=True), groups.var(1, correction=0, keepdim=True)
    constant = ((groups - mean) / (variance + module.eps).sqrt()).flatten()
    known = ~constant.isnan()
    return constant * _numbers(module.weight, known, 1.0) + _numbers(module.bias, known, 0.0)


def by_batch(norm: _BatchNorm, constant: Tensor) -> Tensor:
    """A batch norm in evaluation: a shift and a scale of each channel; float64 [C], NaN where it isn't constant."""
    if bool(constant.isnan().all()):
        return constant
    if norm.running_mean is None or norm.running_var is None:  # normalised by each batch: no constant
        return torch.full_like(constant, torch.nan)
    constant = (constant - norm.running_mean.cpu()) / (norm.running_var.cpu().double() + norm.eps).sqrt()
    return constant * norm.weight.detach().cpu() + norm.bias.detach().cpu() if norm.affine else constant


def narrowed(module: Any, stay: Tensor, merged: Tensor) -> nn.Module:
    """A norm over channels, without those that were zero; bool [C] both. ``merged``: channels that hold z, of
    ``Shared``, from now on, which their readers know."""
    kind = over_channels(module)
    assert kind is not None
    given = module.weight
    weight = torch.ones(kind.width) if given is None else given.detach().clone()
    bias = getattr(module, "bias", None)
    bias = None if bias is None else bias.detach().clone()
    weight[merged.to(weight.device)] = 1
    if bias is not None:
        bias[merged.to(bias.device)] = 0
    kept = stay.to(weight.device)
    eps = torch.finfo(weight.dtype).eps if module.eps is None else module.eps
    share = float(stay.double().mean())
    narrow: nn.Module = NarrowNorm(
        weight[kept], None if bias is None else bias[kept], share, eps, kind.axis, kind.over, kind.centred
    )
    for name in narrow._parameters:
        own, before = getattr(narrow, name), getattr(module, name, None)
        if own is not None:
            own.requires_grad_(before is not None and before.requires_grad)
    rest = [getattr(module, name) for name in ("drop", "act") if hasattr(module, name)]
    return (nn.Sequential(narrow, *rest) if rest else narrow).train(module.training)


def _numbers(parameter: Tensor | None, where: Tensor, otherwise: float) -> Tensor:
    """A parameter's values, float64 [C] on the CPU; without one, or where nobody asks, ``otherwise``."""
    if parameter is None or parameter.is_meta or not bool(where.any()):
        return torch.full(where.shape, otherwise, dtype=torch.float64)
    return parameter.detach().cpu().double()
