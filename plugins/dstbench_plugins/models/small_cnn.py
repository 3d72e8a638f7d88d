"""A small convolutional network that trains in seconds on one core."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from dstbench_plugins.models import at_least, widen


def small_cnn(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """Three 3x3 convolutions (32, 64, 64; strides 1, 2, 2), global pooling, two linear layers (128, classes).

    65,514 parameters for one input channel and 10 classes. ``width`` multiplies 32, 64, 64 and 128. The
    initial weights are torch's default. Raises BadInput where the input is smaller than 8x8.
    """
    at_least(
        "small_cnn", 8, input_shape
    )  # two strides of 2 leave 2x2: global pooling still averages something
    first, second, third, hidden = (widen(size, width) for size in (32, 64, 64, 128))
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(input_shape[0], first, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(first),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
            bn2=nn.BatchNorm2d(second),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(second, third, 3, stride=2, padding=1, bias=False),
            bn3=nn.BatchNorm2d(third),
            relu3=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc1=nn.Linear(third, hidden),
            relu4=nn.ReLU(),
            fc2=nn.Linear(hidden, num_classes),
        )
    )
