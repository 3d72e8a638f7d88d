"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", 2016) in three forms.

========================  ======================  =================  ==========  ========
form                      stem                    channels           classifier  starts
========================  ======================  =================  ==========  ========
``cifar_resnet_20``, 32   3x3                     16, 32, 64         bias        fan in
``resnet18-cifar``, …     3x3                     64, 128, 256, 512  no bias     torch's
``resnet18``, …           7x7 stride 2, max pool  64, 128, 256, 512  bias        fan out
========================  ======================  =================  ==========  ========

Convolutions have no biases. Where a block changes shape its shortcut is a 1x1 convolution with batch norm.
Code that ignores ``bias=False``, or puts ImageNet's pooling in front of 32x32 images, counts other networks.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from dstbench_plugins.models import widen
from dstbench_plugins.models.initialisation import kaiming, kaiming_fan_out

_NARROW = (16, 32, 64)  # channels of the stages; all but the first halve the resolution
_WIDE = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is the input wherever the shapes allow it."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(channels_in, channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map float [b, in, h, w] to float [b, channels, h / stride, w / stride]."""
        residual: Tensor = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(residual + self.shortcut(x))
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide, beside a shortcut.

    The stride is that of the 3x3 convolution ("v1.5", torchvision's); in the paper it is the first 1x1's.
    """

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.shortcut = _shortcut(channels_in, 4 * channels, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map float [b, in, h, w] to float [b, 4 channels, h / stride, w / stride]."""
        residual = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        out: Tensor = self.relu3(self.bn3(self.conv3(residual)) + self.shortcut(x))
        return out


def cifar_resnet_20(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """ResNet-20 for CIFAR: 272,474 parameters with 10 classes, 278,324 with 100.

    As in the open_lth variant that Chase trains, shortcuts aren't padded with zeros and weights start
    Kaiming-normal (fan in).
    """
    return kaiming(_resnet(BasicBlock, _NARROW, (3, 3, 3), num_classes, input_shape, width))


def cifar_resnet_32(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """ResNet-32 for CIFAR, as ResNet-20: 466,906 parameters with 10 classes, 472,756 with 100.

    MEST's "ResNet-32" is twice as wide: ``width=2``, 1,860,522 parameters.
    """
    return kaiming(_resnet(BasicBlock, _NARROW, (5, 5, 5), num_classes, input_shape, width))


def resnet18_cifar(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """ResNet-18 for CIFAR (ITOP): 11,173,952 parameters with 10 classes, 11,220,032 with 100."""
    return _resnet(BasicBlock, _WIDE, (2, 2, 2, 2), num_classes, input_shape, width, bias=False)


def resnet34_cifar(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """ResNet-34 for CIFAR (ITOP, Chase): 21,282,112 parameters with 10 classes, 21,328,192 with 100."""
    return _resnet(BasicBlock, _WIDE, (3, 4, 6, 3), num_classes, input_shape, width, bias=False)


def resnet50_cifar(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """ResNet-50 for CIFAR (Chase): 23,520,832 parameters with 10 classes, 23,705,152 with 100."""
    return _resnet(Bottleneck, _WIDE, (3, 4, 6, 3), num_classes, input_shape, width, bias=False)


def resnet18(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """ResNet-18 for ImageNet: 11,689,512 parameters with 1,000 classes."""
    return _resnet(BasicBlock, _WIDE, (2, 2, 2, 2), num_classes, input_shape, width, imagenet=True)


def resnet34(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """ResNet-34 for ImageNet: 21,797,672 parameters with 1,000 classes."""
    return _resnet(BasicBlock, _WIDE, (3, 4, 6, 3), num_classes, input_shape, width, imagenet=True)


def resnet50(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """ResNet-50 v1.5 for ImageNet, the network of RigL's tables: 25,557,032 parameters with 1,000 classes."""
    return _resnet(Bottleneck, _WIDE, (3, 4, 6, 3), num_classes, input_shape, width, imagenet=True)


def _resnet(
    block: type[BasicBlock | Bottleneck],
    stages: tuple[int, ...],
    blocks: tuple[int, ...],
    num_classes: int,
    input_shape: tuple[int, int, int],
    width: float,
    *,
    imagenet: bool = False,
    bias: bool = True,
) -> nn.Sequential:
    """A stem, stages of so many ``blocks``, global pooling and the classifier, with a ``bias`` or without.

    The stem keeps the resolution; ``imagenet``'s leaves a quarter, and such a network starts Kaiming-normal
    (fan out), others torch's way. ``width`` multiplies all channels.
    """
    channels = [widen(size, width) for size in stages]
    kernel, stride = (7, 2) if imagenet else (3, 1)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(input_shape[0], channels[0], kernel, stride, padding=kernel // 2, bias=False),
        bn=nn.BatchNorm2d(channels[0]),
        relu=nn.ReLU(),
    )
    if imagenet:
        layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    channels_in = channels[0]
    for index, (repeats, size) in enumerate(zip(blocks, channels, strict=True), 1):
        first = block(channels_in, size, 1 if index == 1 else 2)
        channels_in = size * block.expansion
        others = (block(channels_in, size, 1) for _ in range(repeats - 1))
        layers[f"stage{index}"] = nn.Sequential(first, *others)
    layers |= OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(channels_in, num_classes, bias=bias),
    )
    model = nn.Sequential(layers)
    return kaiming_fan_out(model) if imagenet else model


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """The identity where the shapes agree, else a 1x1 convolution with batch norm."""
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
            bn=nn.BatchNorm2d(channels_out),
        )
    )
