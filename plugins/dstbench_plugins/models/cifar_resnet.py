"""The narrow residual networks for 32x32 images."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from dstbench_plugins.models import widen
from dstbench_plugins.models.initialisation import kaiming

_STAGES = (16, 32, 64)  # channels of the three stages; the second and third halve the resolution


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is the input wherever the shapes allow it."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = _shortcut(channels_in, channels_out, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map float [b, in, h, w] to float [b, out, h / stride, w / stride]."""
        residual: Tensor = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(residual + self.shortcut(x))
        return out


def cifar_resnet_20(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """ResNet-20 for CIFAR: 272,474 parameters with 10 classes, 278,324 with 100."""
    return _cifar_resnet(3, num_classes, input_shape, width)


def cifar_resnet_32(num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0) -> nn.Module:
    """ResNet-32 for CIFAR: 466,906 parameters with 10 classes, 472,756 with 100."""
    return _cifar_resnet(5, num_classes, input_shape, width)


def _cifar_resnet(
    blocks: int, num_classes: int, input_shape: tuple[int, int, int], width: float
) -> nn.Module:
    """He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2.

    Departures, both those of the open_lth variant that Chase trains: shortcuts that change shape are 1x1
    convolutions with batch norm, not zero padding, and all weights start Kaiming-normal (fan in).
    """
    channels = [widen(size, width) for size in _STAGES]
    return kaiming(
        nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(input_shape[0], channels[0], 3, padding=1, bias=False),
                bn=nn.BatchNorm2d(channels[0]),
                relu=nn.ReLU(),
                stage1=_stage(blocks, channels[0], channels[0], stride=1),
                stage2=_stage(blocks, channels[0], channels[1], stride=2),
                stage3=_stage(blocks, channels[1], channels[2], stride=2),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(channels[2], num_classes),
            )
        )
    )


def _stage(blocks: int, channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """The first block changes shape; the others keep it."""
    first = BasicBlock(channels_in, channels_out, stride)
    return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)))


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
