"""The perceptron of equally wide hidden layers, on which ultra-sparse training is shown."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise

from torch import nn

from dstbench_plugins.checks import check_integer
from dstbench_plugins.models import widen


def mlp(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    hidden: int = 1568,
    layers: int = 3,
    width: float = 1.0,
    dropout: float = 0.0,
) -> nn.Module:
    """``layers`` hidden layers of ``hidden`` units, ReLU: 784-1568-1568-1568-10 of CHTs (arXiv 2501.19107), whose
    perceptron for CIFAR-10 has 3072 in each.

    6,166,954 parameters at 28x28 and 10 classes. ``width`` multiplies ``hidden``; any input shape is flattened.
    The initial weights are torch's default.
    """
    check_integer("hidden", hidden)
    check_integer("layers", layers)
    sizes = [math.prod(input_shape), *[widen(hidden, width)] * layers]
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for place, (inputs, outputs) in enumerate(pairwise(sizes), 1):
        modules[f"fc{place}"] = nn.Linear(inputs, outputs)
        modules[f"relu{place}"] = nn.ReLU()
        if dropout:
            modules[f"dropout{place}"] = nn.Dropout(dropout)
    modules[f"fc{layers + 1}"] = nn.Linear(sizes[-1], num_classes)
    return nn.Sequential(modules)
