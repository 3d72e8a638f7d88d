"""LeNet-300-100 and LeNet-5, the networks of MNIST. The initial weights are torch's default."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from dstbench_plugins.models import at_least, widen


def lenet300_100(
    num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0, batch_norm: bool = False
) -> nn.Module:
    """LeNet-300-100: 784-300-100-10, ReLU; 266,610 parameters at 28x28 and 10 classes.

    LeCun et al., "Gradient-based learning applied to document recognition", 1998. ``width`` multiplies 300
    and 100; any input shape is flattened. ``batch_norm`` puts one behind every layer, the last included, in
    place of the biases: the network of DSR's code (arXiv 1902.05967).
    """
    first, second = widen(300, width), widen(100, width)

    def layer(place: int, inputs: int, outputs: int) -> dict[str, nn.Module]:
        linear = {f"fc{place}": nn.Linear(inputs, outputs, bias=not batch_norm)}
        return {**linear, **({f"bn{place}": nn.BatchNorm1d(outputs)} if batch_norm else {})}

    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            **layer(1, math.prod(input_shape), first),
            relu1=nn.ReLU(),
            **layer(2, first, second),
            relu2=nn.ReLU(),
            **layer(3, second, num_classes),
        )
    )


def lenet5(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """LeNet-5 in Caffe's form: 5x5 to 20, pool 2, 5x5 to 50, pool 2, 800-500-10; 431,080 parameters at 28x28.

    ReLU behind both convolutions and the first linear layer, no padding. ``width`` multiplies 20, 50 and
    500. Raises BadInput where the input is smaller than 16x16.
    """
    at_least("lenet5", 16, input_shape)
    channels, height, across = input_shape
    first, second, hidden = widen(20, width), widen(50, width), widen(500, width)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, first, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(first, second, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(second * _behind_both(height) * _behind_both(across), hidden),
            relu3=nn.ReLU(),
            fc2=nn.Linear(hidden, num_classes),
        )
    )


def _behind_both(pixels: int) -> int:
    """What two unpadded 5x5 convolutions, each with a pool of 2, leave of ``pixels``."""
    return ((pixels - 4) // 2 - 4) // 2
