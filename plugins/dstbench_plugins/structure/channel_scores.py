"""How strong a channel is: what Chase (arXiv 2305.19454) and its authors' code rank output rows by."""

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from dstbench.api import LayerView

ChannelScore = Literal["mean_magnitude", "active_magnitude", "connections", "kernels"]


def mean_magnitude(layer: LayerView, alive_inputs: bool = False) -> Tensor:
    """UMM, Σ|w| / fan-in, zeros included: how many weights times how large. Float [out].

    The fan-in is the original one, so scores fall as a layer's inputs are removed; ``alive_inputs`` counts
    the positions of a row that may still be active.
    """
    total = layer.weight.abs().flatten(1).sum(1)
    if alive_inputs and layer.support is not None:
        return total / layer.support.flatten(1).sum(1).clamp_min(1)
    return total / (layer.info.numel / layer.shape[0])


def active_magnitude(layer: LayerView, alive_inputs: bool = False) -> Tensor:
    """Σ|w| / active weights: size only. A row without any is the weakest, not NaN. Float [out]."""
    return layer.weight.abs().flatten(1).sum(1) / layer.mask.flatten(1).sum(1).clamp_min(1)


def connections(layer: LayerView, alive_inputs: bool = False) -> Tensor:
    """The fraction of active weights: count only. Float [out]."""
    return layer.mask.flatten(1).to(layer.weight.dtype).mean(1)


def kernels(layer: LayerView, alive_inputs: bool = False) -> Tensor:
    """The fraction of input kernels with any active weight: count only. Float [out]."""
    return layer.mask.flatten(2).any(2).to(layer.weight.dtype).mean(1)


SCORES: Mapping[ChannelScore, Callable[[LayerView, bool], Tensor]] = {
    "mean_magnitude": mean_magnitude,
    "active_magnitude": active_magnitude,
    "connections": connections,
    "kernels": kernels,
}
