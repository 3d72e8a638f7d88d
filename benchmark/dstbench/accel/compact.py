"""Removing dead channels for good: a smaller dense network with the same outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dstbench.api import StrategyError
from dstbench.core.network.channels import Removal, removable
from dstbench.core.network.cut import cut
from dstbench.core.network.inputs import Inputs, call
from dstbench.core.network.layers import maskable_layers, unwrap
from dstbench.core.network.outputs import Comparison, comparison, tolerance
from dstbench.core.storage.condensed_layer import expanded
from dstbench.errors import BadInput, nearest

_TOLERANCE = 1e-5  # in float32


@dataclass(frozen=True)
class Compaction:
    """What was removed from a network, what could not be, and how near its outputs came to the masked model's."""

    removed: Mapping[str, tuple[int, ...]]  # layer -> its output rows that are gone
    folded: Mapping[str, tuple[int, ...]] = field(
        default_factory=dict
    )  # layer -> input channels, now in its bias
    kept: Mapping[str, str] = field(default_factory=dict)  # layer with dead rows that stay -> why
    check: Comparison | None = None  # of the outputs on ``example_input``


def masked_copy(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy with exact zeros where the masks are inactive. Raises BadInput for a mask that fits no layer."""
    clone = expanded(unwrap(model))
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


def compact(
    model: nn.Module, masks: Mapping[str, Tensor], example_input: Inputs, multiple: int = 1
) -> nn.Module:
    """A copy without the channels that are dead, in evaluation mode; what was done is its ``compaction``.

    masks: layer name -> bool [*w]. example_input: a tensor [batch, ...], a tuple of arguments or a dict of keyword
    arguments; every tensor of the outputs on it must agree with the masked model's to 1e-5 of its size in float32,
    1e-1 in bfloat16, 2e-2 in float16, else StrategyError. multiple: layers that lose rows keep as many dead ones as
    make up a multiple of this, which kernels like.

    A channel goes from everywhere at once: through norms, activations and pooling, residual additions,
    concatenations, products such as squeeze-and-excitation, depthwise and whole groups of grouped convolutions, and
    heads of attention. It goes only where nobody reads it or what it sends on is zero, or else a constant (a bias,
    a norm's shift) that every reader can take into its own bias, reading it without zeros around. The rest stays
    and is named; a channel structure brings those constants to zero with its last update.
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise BadInput(f"multiple: expected an integer >= 1, got {multiple!r}")
    masked = masked_copy(model, masks).eval()
    small = copy.deepcopy(masked)
    removal = removable(small, masks, multiple, example_input)
    with torch.no_grad():
        folded = _fold(small, removal)
        _cut(small, removal)
    check = _checked(small, masked, example_input, type(model).__name__)
    removed = {name: _indices(gone) for name, gone in removal.rows.items()}
    small.compaction = Compaction(removed, folded, removal.kept(), check)  # type: ignore[assignment]
    return small


def _checked(small: nn.Module, masked: nn.Module, example_input: Inputs, name: str) -> Comparison:
    """Refuse a network that can't run, or computes something else."""
    with torch.no_grad():
        expected = call(masked, example_input)
        try:
            outputs = call(small, example_input)
        except (
            RuntimeError,
            ValueError,
            TypeError,
            IndexError,
        ) as error:  # of a width that tracing doesn't see
            raise StrategyError(f"compact: {name} can't run with fewer channels: {error}") from error
    check = comparison(outputs, expected, tolerance(_TOLERANCE, masked, example_input, expected))
    if not check.ok:
        raise StrategyError(
            f"compact: outputs differ from the masked model's by {check.difference:.1e} of their size: {check}"
        )
    return check


def _indices(chosen: Tensor) -> tuple[int, ...]:
    return tuple(chosen.nonzero().flatten().tolist())


def _fold(model: nn.Module, removal: Removal) -> dict[str, tuple[int, ...]]:
    """Take the constants of removed channels into the biases of the layers that read them."""
    layers, folded = maskable_layers(model), {}
    for name, gone in removal.columns.items():
        constant = removal.channels.flow.reads[name].constant.masked_fill(~gone, 0).nan_to_num()
        module, weight = layers[name].module, layers[name].weight
        assert isinstance(module, nn.Linear | _ConvNd)
        taps = weight.double().reshape(len(weight), len(constant), -1).sum(2)  # [out, channels read]
        matters = (constant != 0) & taps.any(0).cpu()
        if bool(matters.any()):
            shift = (taps @ constant.to(taps)).to(weight.dtype)
            before = 0 if module.bias is None else module.bias
            module.bias = nn.Parameter(before + shift, requires_grad=weight.requires_grad)
            folded[name] = _indices(matters)
    return folded


def _cut(model: nn.Module, removal: Removal) -> None:
    """Slice every layer's rows and columns, every norm's entries, and the counts of attention's heads."""
    flow, modules = removal.channels.flow, dict(model.named_modules())
    layers, rows, columns = maskable_layers(model), removal.rows, removal.columns
    for name in rows.keys() | columns.keys():
        stay = [None if gone is None else ~gone for gone in (rows.get(name), columns.get(name))]
        cut(layers[name].module, *stay)
    for path, slots in flow.norms.items():
        cut(modules[path], ~removal.at(slots))
    for path, read in flow.responses.items():
        _cut_response(modules[path], ~removal.at(read.slots))
    for path, slots in flow.heads.items():
        attention, heads = modules[path], int((~removal.at(slots)).sum())
        attention.num_heads = heads
        attention.attn_dim = heads * attention.head_dim


def _cut_response(norm: Any, stay: Tensor) -> None:
    """Cut a response norm. Its mean is over fewer channels now, k of them as many as before, while those that went
    were zero: x / (k·mean + eps) = (x / k) / (mean + eps / k)."""
    share = float(stay.double().mean())
    cut(norm, stay)
    norm.weight.div_(share)
    norm.eps /= share
