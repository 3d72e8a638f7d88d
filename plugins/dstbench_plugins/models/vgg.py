"""VGG networks for 32x32 images: SNIP's three with linear layers of 512, and Chase's VGG-19.

Convolutions have biases and are followed by batch norm and ReLU.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from dstbench_plugins.models import at_least, widen
from dstbench_plugins.models.initialisation import kaiming_fan_out

# Channels of 3x3 convolutions, 1x1 where marked @1; M is max pooling.
_C = "64 64 M 128 128 M 256 256 256@1 M 512 512 512@1 M 512 512 512@1 M"
_D = "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M"
_19 = "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512"


def vgg_c(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """VGG-C of SNIP (arXiv 1810.02340) and ITOP: 11,323,466 parameters with 10 classes.

    The third convolution of the last three stages is 1x1 and, as in their code, padded by 1 all the same, so
    that maps grow by 2 there and 2x2 pixels reach the linear layers (2048-512-512-10). Code that feeds them
    512 instead can't run.
    """
    at_least("vgg-c", 32, input_shape)
    return _vgg(_C, 2, 2, num_classes, input_shape, width)


def vgg_d(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """VGG-D (VGG-16) of SNIP and ITOP, 512-512-512-10: 15,255,626 parameters with 10 classes."""
    at_least("vgg-d", 32, input_shape)
    return _vgg(_D, 1, 2, num_classes, input_shape, width)


def vgg_like(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """VGG-D with one hidden linear layer, 512-512-10: 14,991,946 parameters with 10 classes."""
    at_least("vgg-like", 32, input_shape)
    return _vgg(_D, 1, 1, num_classes, input_shape, width)


def vgg19(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """VGG-19 as Chase (arXiv 2305.19454) trains it: sixteen convolutions and one linear layer, 512-10.

    20,040,522 parameters with 10 classes, 20,086,692 with 100. Average pooling takes the place of the last max
    pooling. Convolutions start Kaiming-normal (fan out).
    """
    at_least("vgg19", 16, input_shape)
    return kaiming_fan_out(_vgg(_19, 1, 0, num_classes, input_shape, width))


def _vgg(
    definition: str, grid: int, hidden: int, num_classes: int, input_shape: tuple[int, int, int], width: float
) -> nn.Sequential:
    """The convolutions of ``definition``, then ``hidden`` linear layers of 512 with ReLU and norm, and the last.

    Images larger than 32x32 are averaged down to the ``grid`` x ``grid`` pixels that the linear layers take.
    ``width`` multiplies all channels. Unless said otherwise the initial weights are torch's default.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels_in, convolutions, pools = input_shape[0], 0, 0
    for word in definition.split():
        if word == "M":
            pools += 1
            layers[f"pool{pools}"] = nn.MaxPool2d(2)
            continue
        size, _, kernel = word.partition("@")
        channels = widen(int(size), width)
        convolutions += 1
        layers[f"conv{convolutions}"] = nn.Conv2d(channels_in, channels, int(kernel or 3), padding=1)
        layers[f"bn{convolutions}"] = nn.BatchNorm2d(channels)
        layers[f"relu{convolutions}"] = nn.ReLU()
        channels_in = channels
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(grid), flatten=nn.Flatten())
    features, wide = channels_in * grid**2, widen(512, width)
    for index in range(1, hidden + 1):
        layers[f"fc{index}"] = nn.Linear(features, wide)
        layers[f"fc{index}_relu"] = nn.ReLU()
        layers[f"fc{index}_bn"] = nn.BatchNorm1d(wide)
        features = wide
    layers[f"fc{hidden + 1}"] = nn.Linear(features, num_classes)
    return nn.Sequential(layers)
