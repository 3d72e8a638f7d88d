"""Removing dead channels for good: a smaller dense network with the same outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dstbench.core.network.carve import indices
from dstbench.core.network.channels import Removal
from dstbench.core.network.inputs import Inputs
from dstbench.core.network.largest import largest
from dstbench.core.network.layers import impose, maskable_layers, unwrap
from dstbench.core.network.outputs import Comparison
from dstbench.core.storage.condensed_layer import expanded
from dstbench.errors import BadInput, nearest


@dataclass(frozen=True)
class Compaction:
    """What was removed from a network, what could not be, and how near its outputs came to the masked model's."""

    removed: Mapping[str, tuple[int, ...]]  # layer -> its output rows that are gone
    folded: Mapping[str, tuple[int, ...]] = field(
        default_factory=dict
    )  # layer -> input channels, now in its bias
    kept: Mapping[str, str] = field(default_factory=dict)  # layer with dead rows that stay -> why
    # Norm over the channels, or parameter with an entry for each (position embeddings, class tokens, scales) -> the
    # channels of its stream that are gone.
    narrowed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
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
    return impose(clone, masks)


def _narrowed(removal: Removal) -> dict[str, tuple[int, ...]]:
    flow = removal.channels.flow
    reads = {**flow.across, **{path: read for path, (_, read) in flow.entries.items()}}
    lost = {path: indices(removal.at(read.slots)) for path, read in reads.items()}
    return {path: channels for path, channels in lost.items() if channels}


def _kind(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def compact(
    model: nn.Module, masks: Mapping[str, Tensor], example_input: Inputs, multiple: int = 1
) -> nn.Module:
    """A copy without the channels that are dead, in evaluation mode; what was done is its ``compaction``.

    masks: layer name -> bool [*w]. example_input: a tensor [batch, ...], a tuple of arguments or a dict of keyword
    arguments; every tensor of the outputs on it agrees with the masked model's to 1e-5 of its size in float32,
    1e-1 in bfloat16, 2e-2 in float16: layers without whose channels the model can't run, or computes something else,
    keep them. multiple: layers that lose rows keep as many dead ones as make up a multiple of this, which kernels
    like. Raises StrategyError where the outputs of the masked model itself aren't the same twice.

    A channel goes from everywhere at once: through norms, activations and pooling, residual additions,
    concatenations, products such as squeeze-and-excitation, depthwise and whole groups of grouped convolutions, and
    heads of attention. It goes only where nobody reads it or what it sends on is zero, or else a constant (a bias,
    a norm's shift) that every reader can take into its own bias, reading it without zeros around. The rest stays
    and is named; a channel structure brings those constants to zero with its last update.
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise BadInput(f"multiple: expected an integer >= 1, got {multiple!r}")
    masked = masked_copy(model, masks).eval()
    cut = largest(masked, masks, example_input, multiple)
    removed = {name: indices(gone) for name, gone in cut.removal.rows.items()}
    cut.model.compaction = Compaction(  # type: ignore[assignment]
        removed, cut.folded, cut.removal.kept(), _narrowed(cut.removal), cut.check
    )
    return cut.model
