"""Removing dead channels for good: a smaller dense network with the same outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from dstbench.api import StrategyError
from dstbench.core.graph import Edge, edges, removable_rows
from dstbench.core.layers import maskable_layers, unwrap
from dstbench.errors import BadInput, nearest

_TOLERANCE = 1e-5


def masked_copy(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy with exact zeros where the masks are inactive. Raises BadInput for a mask that fits no layer."""
    clone = copy.deepcopy(unwrap(model))
    layers = maskable_layers(clone)
    for name, mask in masks.items():
        if name not in layers:
            raise BadInput(f"masks: no layer {name!r}{nearest(name, layers)}")
        shape = tuple(layers[name].weight.shape)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != shape:
            raise BadInput(
                f"masks: layer {name!r}: expected a bool tensor of shape {shape}, got {_kind(mask)}"
            )
    with torch.no_grad():
        for name, mask in masks.items():
            layers[name].weight.mul_(mask.to(layers[name].weight))
    return clone


def _kind(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def compact(model: nn.Module, masks: Mapping[str, Tensor], example_input: Tensor) -> nn.Module:
    """A copy without the dead output rows that can be cut out exactly, and without the columns they fed.

    masks: layer name -> bool [*w]. example_input: float [batch, ...]; outputs on it must agree with the
    masked model's to 1e-5 of their size in eval mode, else StrategyError.

    A row stays where its output isn't exactly zero (a bias or a norm still adds a constant; the channel
    structure brings those to zero with its last update) or where it meets an addition, a concatenation or a
    grouped convolution. Chains through norms, activations, pooling and flattening are followed.
    """
    masked = masked_copy(model, masks).eval()
    small = copy.deepcopy(masked)
    found = edges(small)
    rows = removable_rows(small, masks)
    modules = dict(small.named_modules())
    with torch.no_grad():
        expected = masked(example_input)
        for name, dead in rows.items():
            _cut(modules, name, found[name], ~dead)
        actual = small(example_input)
    error = float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if error > _TOLERANCE:
        raise StrategyError(f"compact: outputs differ from the masked model's by {error:.1e} of their size")
    return small


def _cut(modules: Mapping[str, nn.Module], name: str, edge: Edge, keep: Tensor) -> None:
    """Slice a layer's rows, its norms, and its consumers' columns."""
    kept = keep.nonzero().flatten()
    producer = modules[name]
    assert isinstance(producer, nn.Linear | _ConvNd)
    _slice(producer, ("weight", "bias"), kept)
    if isinstance(producer, nn.Linear):
        producer.out_features = len(kept)
    else:
        producer.out_channels = len(kept)
    for path in edge.norms:
        norm = modules[path]
        assert isinstance(norm, _BatchNorm)
        _slice(norm, ("weight", "bias", "running_mean", "running_var"), kept)
        norm.num_features = len(kept)
    for path in edge.consumers:
        _cut_columns(modules[path], keep)


def _slice(module: nn.Module, fields: tuple[str, ...], kept: Tensor) -> None:
    for field in fields:
        value = getattr(module, field, None)
        if isinstance(value, nn.Parameter):
            setattr(module, field, nn.Parameter(value[kept].clone(), requires_grad=value.requires_grad))
        elif isinstance(value, Tensor):
            setattr(module, field, value[kept].clone())


def _cut_columns(consumer: nn.Module, keep: Tensor) -> None:
    """Drop the columns that removed channels fed; behind a flatten each channel feeds several in a row."""
    assert isinstance(consumer, nn.Linear | _ConvNd)
    weight = consumer.weight
    columns = keep.repeat_interleave(weight.shape[1] // len(keep)).nonzero().flatten()
    consumer.weight = nn.Parameter(weight[:, columns].clone(), requires_grad=weight.requires_grad)
    if isinstance(consumer, nn.Linear):
        consumer.in_features = len(columns)
    else:
        consumer.in_channels = len(columns)
