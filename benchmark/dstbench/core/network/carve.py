"""Channels carved out of a model: what they sent on goes into the layers that read it, then every tensor is cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dstbench.core.network.channels import Removal
from dstbench.core.network.cut import cut
from dstbench.core.network.layers import maskable_layers
from dstbench.core.network.norms import narrowed
from dstbench.core.network.values import Read


@torch.no_grad()
def carve(model: nn.Module, removal: Removal) -> dict[str, tuple[int, ...]]:
    """Take the channels out of the model in place; returns by layer the input channels that are now in its bias."""
    folded = _fold(model, removal)
    _cut(model, removal)
    return folded


def indices(chosen: Tensor) -> tuple[int, ...]:
    """Where a bool [n] is true."""
    return tuple(chosen.nonzero().flatten().tolist())


def _fold(model: nn.Module, removal: Removal) -> dict[str, tuple[int, ...]]:
    """Take the constants of removed channels into the biases of the layers that read them."""
    layers, folded = maskable_layers(model), {}
    for name, gone in removal.columns.items():
        read = removal.channels.flow.reads[name]
        module, weight = layers[name].module, layers[name].weight
        assert isinstance(module, nn.Linear | _ConvNd)
        constant = read.constant.masked_fill(~gone, 0).nan_to_num()
        taps = weight.double().reshape(len(weight), len(constant), -1)  # [out, channels read, taps]
        if read.shared is not None and bool(removal.stands(read.slots).any()):
            constant = _merge(weight, taps, read, removal)
        taps = taps.sum(2)
        matters = (constant != 0) & taps.any(0).cpu()
        if bool(matters.any()):
            shift = (taps @ constant.to(taps)).to(weight.dtype)
            before = 0 if module.bias is None else module.bias
            module.bias = nn.Parameter(before + shift, requires_grad=weight.requires_grad)
            folded[name] = indices(matters)
    return folded


def _merge(weight: Tensor, taps: Tensor, read: Read, removal: Removal) -> Tensor:
    """Have one channel stand for all that a norm makes gain · z + shift of: it holds z now. Returns the shifts,
    for the bias, float64 [channels read]."""
    assert read.shared is not None
    gone, standing = removal.at(read.slots), removal.stands(read.slots)
    together = gone | standing
    gain = read.shared.gain.nan_to_num().masked_fill(~together, 0)
    columns = (taps * gain.to(taps)[None, :, None]).sum(1)  # [out, taps]
    changed = taps.clone()
    changed[:, standing.to(taps.device)] = 0
    changed[:, int(standing.nonzero()[0])] = columns
    weight.copy_(changed.view(weight.shape))
    return read.shared.shift.masked_fill(~together, 0).nan_to_num()


def _cut(model: nn.Module, removal: Removal) -> None:
    """Slice every layer's rows and columns, every norm's entries, and the counts of attention's heads."""
    flow, modules = removal.channels.flow, dict(model.named_modules())
    layers, rows, columns = maskable_layers(model), removal.rows, removal.columns
    for name in rows.keys() | columns.keys():
        stay = [None if gone is None else ~gone for gone in (rows.get(name), columns.get(name))]
        cut(layers[name].module, *stay)
    for path, slots in flow.norms.items():
        cut(modules[path], ~removal.at(slots))
    for path, read in flow.across.items():
        if bool(removal.at(read.slots).any()):
            model.set_submodule(
                path, narrowed(modules[path], ~removal.at(read.slots), removal.stands(read.slots))
            )
    for path, (axis, read) in flow.entries.items():
        _cut_entries(model, path, axis, ~removal.at(read.slots))
    for path, read in flow.responses.items():
        _cut_response(modules[path], ~removal.at(read.slots))
    for path, slots in flow.heads.items():
        attention, heads = modules[path], int((~removal.at(slots)).sum())
        attention.num_heads = heads
        attention.attn_dim = heads * attention.head_dim


def _cut_entries(model: nn.Module, path: str, axis: int, stay: Tensor) -> None:
    """Cut a parameter or buffer along one axis."""
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    value = getattr(owner, name)
    kept = value.detach().index_select(axis, stay.nonzero().flatten().to(value.device))
    trained = isinstance(value, nn.Parameter)
    setattr(owner, name, nn.Parameter(kept, requires_grad=value.requires_grad) if trained else kept)


def _cut_response(norm: Any, stay: Tensor) -> None:
    """Cut a response norm. Its mean is over fewer channels now, k of them as many as before, while those that went
    were zero: x / (k·mean + eps) = (x / k) / (mean + eps / k)."""
    share = float(stay.double().mean())
    cut(norm, stay)
    norm.weight.div_(share)
    norm.eps /= share
