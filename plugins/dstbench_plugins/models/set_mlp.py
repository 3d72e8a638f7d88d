"""The multilayer perceptron that SET trains on CIFAR-10."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from dstbench_plugins.models import widen


class SReLU(nn.Module):
    """S-shaped ReLU (arXiv 1512.07030): the identity between two learned thresholds, learned slopes outside.

    Each unit has its own. As in SET's code the upper threshold is the lower one plus |``span``|, and the
    start is a ReLU that leaks by a random slope: thresholds 0 and U(0, 5), slopes U(0, 1) and 1.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.lower = nn.Parameter(torch.zeros(features))
        self.span = nn.Parameter(5 * torch.rand(features))
        self.slope_below = nn.Parameter(torch.rand(features))
        self.slope_above = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """Map float [b, features] to the same shape."""
        upper = self.lower + self.span.abs()
        below, above = torch.relu(self.lower - x), torch.relu(x - upper)
        return x + (1 - self.slope_below) * below + (self.slope_above - 1) * above


def set_mlp(
    num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0, dropout: float = 0.3
) -> nn.Module:
    """SET's perceptron (Mocanu et al., Nature Communications 2018): 3072-4000-1000-4000-10, SReLU, dropout.

    20,373,010 parameters at 3x32x32 and 10 classes. SET keeps the last layer, ``fc4``, dense. ``width``
    multiplies 4000, 1000 and 4000; any input shape is flattened. Weights start Glorot-uniform, biases at zero.
    """
    sizes = [math.prod(input_shape), *(widen(size, width) for size in (4000, 1000, 4000))]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for index, size in enumerate(sizes[1:], 1):
        layers[f"fc{index}"] = _linear(sizes[index - 1], size)
        layers[f"srelu{index}"] = SReLU(size)
        layers[f"dropout{index}"] = nn.Dropout(dropout)
    layers["fc4"] = _linear(sizes[-1], num_classes)
    return nn.Sequential(layers)


def _linear(features: int, size: int) -> nn.Linear:
    layer = nn.Linear(features, size)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
