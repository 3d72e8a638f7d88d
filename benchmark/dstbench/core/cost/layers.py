"""What each layer of a network costs at one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dstbench.core.cost.conventions import Convention
from dstbench.core.network.layers import maskable_layers
from dstbench.core.network.outputs import evaluating
from dstbench.errors import BadInput


@dataclass(frozen=True)
class LayerCost:
    """One layer at one input."""

    macs: int  # dense multiply-accumulates for one sample
    outputs: int  # output elements for one sample
    weights: int
    rows: int  # output channels: each is charged one 32-bit bias
    # Of a stem, which is a first convolution with a stride and padding: its output elements if it were a "same"
    # convolution over the padded input, so ceil((size + 2 padding) / stride) a side: 115² for ResNet's 112².
    padded_outputs: int | None = None

    def counts(self, rule: Convention) -> tuple[int, int]:
        """Dense multiply-accumulates and output elements, as a convention sees them."""
        if not rule.padded_stem or self.padded_outputs is None:
            return self.macs, self.outputs
        return self.macs * self.padded_outputs // self.outputs, self.padded_outputs


def layer_costs(model: nn.Module, input_shape: Sequence[int]) -> dict[str, LayerCost]:
    """Trace one zero image [1, *input_shape] through the model. A layer that runs twice is charged twice.

    Raises BadInput if the model can't take that shape.
    """
    layers = maskable_layers(model)
    outputs, macs = dict.fromkeys(layers, 0), dict.fromkeys(layers, 0)
    padded: dict[str, int | None] = {}  # of the first convolution to run
    names = {id(layer.module): name for name, layer in layers.items()}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[id(module)]
        info = layers[name].info
        outputs[name] += output.numel()
        # Every output row meets its part of the weight; in a transposed convolution every *input* row does.
        moving = inputs[0] if info.kind == "conv_transpose" else output
        macs[name] += moving.numel() * (info.numel // info.shape[0])
        if not padded and isinstance(module, _ConvNd):
            padded[name] = _padded_outputs(module, inputs[0], output)
        elif name in padded:
            padded[name] = None  # it runs again: no stem

    handles = [layer.module.register_forward_hook(count) for layer in layers.values()]
    first = next(model.parameters())
    dtype = first.dtype if first.is_floating_point() else torch.float32  # whatever torch's default is
    try:
        with torch.no_grad(), evaluating(model):
            model(torch.zeros(1, *input_shape, device=first.device, dtype=dtype))
    except (
        RuntimeError,
        ValueError,
        TypeError,
        IndexError,
        AssertionError,
    ) as error:  # models check as they like
        raise BadInput(
            f"input_shape: {type(model).__name__} can't take {tuple(input_shape)}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    costs = {}
    for name, layer in layers.items():
        rows = int(getattr(layer.module, "out_channels", layer.info.shape[0]))
        costs[name] = LayerCost(macs[name], outputs[name], layer.info.numel, rows, padded.get(name))
    return costs


def _padded_outputs(conv: _ConvNd, image: Tensor, output: Tensor) -> int | None:
    """Output elements of a stem as a "same" convolution over its padded input; None for any other layer."""
    if conv.transposed or isinstance(conv.padding, str) or max(conv.stride) == 1 or max(conv.padding) == 0:
        return None
    sides = zip(image.shape[-len(conv.stride) :], conv.padding, conv.stride, strict=True)
    positions = prod(ceil((size + 2 * padding) / stride) for size, padding, stride in sides)
    return output.numel() // prod(output.shape[-len(conv.stride) :]) * positions
