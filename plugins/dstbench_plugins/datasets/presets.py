"""Papers' augmentation and normalisation as named presets of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dstbench.api import Augment
from dstbench.errors import BadInput, nearest

PaddingMode = Literal["constant", "reflect"]
Channels = tuple[float, ...]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training pixels, as everyone uses them."""


@dataclass(frozen=True)
class Preset:
    """How a paper's code prepares one data set."""

    augment: Augment
    mean: Channels  # per channel, of pixels scaled to [0, 1]
    std: Channels

    def but(self, padding: int | None, mode: PaddingMode | None, flip: bool | None) -> Preset:
        """The same with another augmentation, as far as it is given."""
        given = {"padding": padding, "mode": mode, "flip": flip}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(self, augment=replace(self.augment, **changes))


def pick(presets: Mapping[str, Preset], default: Preset, name: str | None) -> Preset:
    """The preset of a name; None is the data set's own. Raises BadInput with the nearest name."""
    if name is None:
        return default
    if name not in presets:
        raise BadInput(f"preset: no {name!r}{nearest(name, presets)}")
    return presets[name]


def check_padding(preset: Preset, size: int, title: str) -> None:
    """Refuse padding that images of size x size don't allow. Raises BadInput."""
    if not 0 <= preset.augment.padding < size:
        raise BadInput(f"padding: expected 0 to {size - 1} for {title}, got {preset.augment.padding}")


_REFLECT, _BLACK = Augment(4, "reflect", flip=True), Augment(4, "constant", flip=True)
_MEAN_10, _STD_10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_STD_COPIED = (0.2023, 0.1994, 0.2010)
"""What most code divides CIFAR-10 by: the mean over images of each image's own deviation, not that of all pixels."""
_MEAN_100, _STD_100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

CIFAR10 = Preset(_REFLECT, _MEAN_10, _STD_10)
CIFAR10_PRESETS = {
    "chase": Preset(_REFLECT, _MEAN_10, _STD_COPIED),
    "dsb": Preset(_BLACK, _MEAN_10, _STD_COPIED),
    "itop": Preset(_REFLECT, _MEAN_10, _STD_COPIED),
    "mest": Preset(_BLACK, _MEAN_10, _STD_COPIED),
    "plain": Preset(Augment(), _MEAN_10, _STD_10),
    # its code repeats the edge when it reflects, and standardises each image by itself: neither is done here
    "rigl": Preset(_REFLECT, _MEAN_10, _STD_10),
    "snfs": Preset(_REFLECT, _MEAN_10, _STD_COPIED),
}
"""As in each paper's code. SET's rotates and shifts by fractions of a pixel, so it isn't here."""

CIFAR100 = Preset(_BLACK, (0.5071, 0.4866, 0.4409), _STD_100)
CIFAR100_PRESETS = {
    **dict.fromkeys(("chase", "dsb", "itop", "mest"), Preset(_BLACK, _MEAN_100, _STD_100)),
    "plain": Preset(Augment(), CIFAR100.mean, _STD_100),
}
"""As in each paper's code; RigL and SNFS don't use this set."""

TINY_IMAGENET = Preset(Augment(8, "constant", flip=True), IMAGENET_MEAN, IMAGENET_STD)
TINY_IMAGENET_PRESETS = {
    "dsb": Preset(Augment(flip=True), (0.0,) * 3, (1.0,) * 3),  # and rotation, which is done while reading
    "plain": Preset(Augment(), IMAGENET_MEAN, IMAGENET_STD),
}
