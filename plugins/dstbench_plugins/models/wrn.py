"""Wide residual networks for 32x32 images."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from dstbench_plugins.models import widen
from dstbench_plugins.models.initialisation import kaiming


class PreActBlock(nn.Module):
    """Norm and ReLU before each of two 3x3 convolutions; where shapes change, the shortcut is a convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if channels_in != channels_out or stride != 1:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map float [b, in, h, w] to float [b, out, h / stride, w / stride]."""
        activated = self.relu1(self.bn1(x))
        residual: Tensor = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(activated)))))
        return residual + (x if self.shortcut is None else self.shortcut(activated))


def wrn_22_2(
    num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0, dropout: float = 0.0
) -> nn.Module:
    """WRN-22-2, RigL's network on CIFAR-10: 1,079,642 parameters with 10 classes, 1,091,252 with 100.

    RigL (arXiv 1911.11134) trains it without dropout; SNFS's wide residual networks have 0.3.
    """
    return _wrn(22, 2, num_classes, input_shape, width, dropout)


def wrn_28_2(
    num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0, dropout: float = 0.3
) -> nn.Module:
    """WRN-28-2, the network of SNFS's and DSR's CIFAR-10 tables: 1,467,610 parameters with 10 classes."""
    return _wrn(28, 2, num_classes, input_shape, width, dropout)


def wrn_22_8(
    num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0, dropout: float = 0.3
) -> nn.Module:
    """WRN-22-8 (SNFS, ITOP): 17,158,106 parameters with 10 classes."""
    return _wrn(22, 8, num_classes, input_shape, width, dropout)


def wrn_16_8(
    num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0, dropout: float = 0.3
) -> nn.Module:
    """WRN-16-8 (SNFS, ITOP): 10,961,370 parameters with 10 classes."""
    return _wrn(16, 8, num_classes, input_shape, width, dropout)


def wrn_16_10(
    num_classes: int, input_shape: tuple[int, int, int], *, width: float = 1.0, dropout: float = 0.3
) -> nn.Module:
    """WRN-16-10 (SNFS, ITOP): 17,116,634 parameters with 10 classes."""
    return _wrn(16, 10, num_classes, input_shape, width, dropout)


def _wrn(
    depth: int, factor: int, num_classes: int, input_shape: tuple[int, int, int], width: float, dropout: float
) -> nn.Module:
    """Zagoruyko and Komodakis, "Wide Residual Networks", 2016: WRN-depth-factor.

    ``width`` multiplies all channels, the stem's too, for the small-dense control; ``factor`` is the
    paper's k. All weights start Kaiming-normal (fan in). No convolution has a bias: code that ignores
    ``bias=False`` counts more parameters.
    """
    blocks = (depth - 4) // 6
    stem, *channels = (widen(size, width) for size in (16, 16 * factor, 32 * factor, 64 * factor))
    return kaiming(
        nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(input_shape[0], stem, 3, padding=1, bias=False),
                stage1=_stage(blocks, stem, channels[0], 1, dropout),
                stage2=_stage(blocks, channels[0], channels[1], 2, dropout),
                stage3=_stage(blocks, channels[1], channels[2], 2, dropout),
                bn=nn.BatchNorm2d(channels[2]),
                relu=nn.ReLU(),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(channels[2], num_classes),
            )
        )
    )


def _stage(blocks: int, channels_in: int, channels_out: int, stride: int, dropout: float) -> nn.Sequential:
    """The first block changes shape; the others keep it."""
    first = PreActBlock(channels_in, channels_out, stride, dropout)
    return nn.Sequential(
        first, *(PreActBlock(channels_out, channels_out, 1, dropout) for _ in range(blocks - 1))
    )
