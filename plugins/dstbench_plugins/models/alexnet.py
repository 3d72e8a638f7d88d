"""AlexNet for 32x32 images, as SNIP (arXiv 1810.02340) and the sparse training papers after it use it."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from dstbench_plugins.models import at_least, widen

# channels, kernel, stride, padding; maps of 13, 7, 4, 2 and 1 pixels from 32
_CONVOLUTIONS = ((96, 11, 2, 2), (256, 5, 2, 2), (384, 3, 2, 1), (384, 3, 2, 1), (256, 3, 2, 1))


def alexnet_s(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """AlexNet-s: linear layers 256-1024-1024-10; 5,077,066 parameters with 10 classes."""
    return _alexnet("alexnet-s", 1024, num_classes, input_shape, width)


def alexnet_b(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """AlexNet-b: linear layers 256-2048-2048-10; 8,501,322 parameters with 10 classes."""
    return _alexnet("alexnet-b", 2048, num_classes, input_shape, width)


def _alexnet(
    name: str, hidden: int, num_classes: int, input_shape: tuple[int, int, int], width: float
) -> nn.Module:
    """Five strided convolutions without pooling, then three linear layers; norm and ReLU behind all but the last.

    All layers have biases. Images larger than 32x32 are averaged down to the one pixel that the linear layers
    take. ``width`` multiplies all channels. The initial weights are torch's default. Raises BadInput where
    the input is smaller than 7x7.
    """
    at_least(name, 7, input_shape)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels_in = input_shape[0]
    for index, (size, kernel, stride, padding) in enumerate(_CONVOLUTIONS, 1):
        channels = widen(size, width)
        layers[f"conv{index}"] = nn.Conv2d(channels_in, channels, kernel, stride, padding)
        layers[f"bn{index}"] = nn.BatchNorm2d(channels)
        layers[f"relu{index}"] = nn.ReLU()
        channels_in = channels
    wide = widen(hidden, width)
    layers |= OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc1=nn.Linear(channels_in, wide),
        bn6=nn.BatchNorm1d(wide),
        relu6=nn.ReLU(),
        fc2=nn.Linear(wide, wide),
        bn7=nn.BatchNorm1d(wide),
        relu7=nn.ReLU(),
        fc3=nn.Linear(wide, num_classes),
    )
    return nn.Sequential(layers)
