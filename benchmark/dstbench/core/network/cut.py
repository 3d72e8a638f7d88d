"""Cutting channels out of modules: which entries of a tensor stay, and how wide its module is then."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

_BY_CHANNEL = (
    "weight",
    "bias",
    "running_mean",
    "running_var",
)  # rows first, where there is more than one axis


def kept_positions(shape: Sequence[int], rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
    """Where in the flattened tensor stands what stays of it: int64 [kept rows, kept columns, *kernel].

    shape: [out, in, *kernel], or [out]. rows: bool [out]; columns: the channels that feed them, bool [C], behind a
    flatten each several in a row. None: all. On the CPU.
    """
    positions = torch.arange(torch.Size(shape).numel()).view(*shape)
    if columns is not None:
        positions = positions[:, columns.cpu().repeat_interleave(shape[1] // len(columns))]
    return positions if rows is None else positions[rows.cpu()]


def fit_widths(module: nn.Module) -> None:
    """Have a layer or norm say as many channels as its tensors have. Of groups, whole ones went."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _ConvNd):
        rows = len(module.weight)
        if module.groups > 1:
            module.groups = module.groups * rows // module.out_channels
        module.out_channels, module.in_channels = rows, module.weight.shape[1] * module.groups
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.num_groups * len(module.weight) // module.num_channels
        module.num_channels = len(module.weight)
    elif isinstance(module, _BatchNorm):
        for entries in (module.running_mean, module.weight):
            module.num_features = module.num_features if entries is None else len(entries)


def cut(module: nn.Module, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    """Keep these rows and columns of a layer, or entries of a norm, as ``kept_positions`` takes them.

    Parameters become new ones.
    """
    for name in _BY_CHANNEL:
        value = getattr(module, name, None)
        if not isinstance(value, Tensor):
            continue
        positions = kept_positions(value.shape, rows, columns if value.dim() > 1 else None)
        kept = value.detach().flatten()[positions.to(value.device)]
        trained = isinstance(value, nn.Parameter)
        setattr(module, name, nn.Parameter(kept, requires_grad=value.requires_grad) if trained else kept)
    fit_widths(module)
