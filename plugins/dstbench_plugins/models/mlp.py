"""Multilayer perceptrons."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from dstbench_plugins.models import widen


def lenet300_100(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """LeNet-300-100: 784-300-100-10, ReLU; 266,610 parameters at 28x28 and 10 classes.

    LeCun et al., "Gradient-based learning applied to document recognition", 1998. The initial weights are
    torch's default. ``width`` multiplies 300 and 100; any input shape is flattened.
    """
    first, second = widen(300, width), widen(100, width)
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(math.prod(input_shape), first),
            relu1=nn.ReLU(),
            fc2=nn.Linear(first, second),
            relu2=nn.ReLU(),
            fc3=nn.Linear(second, num_classes),
        )
    )
