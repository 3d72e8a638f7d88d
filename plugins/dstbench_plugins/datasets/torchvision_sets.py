"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, read from a folder by torchvision's own classes.

Test is the published test set. Validation is the end of each class in the published training set, and is
never trained on; ``validation: 0`` trains on the whole of that set, and reports no validation accuracy. Mean
and standard deviation are those of the published training pixels, unless a preset has others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dstbench.api import Augment, DataUnavailable, ImageData, Split
from dstbench.errors import BadInput
from dstbench_plugins.datasets import presets
from dstbench_plugins.datasets.splits import hold_out


@dataclass(frozen=True)
class _Source:
    """Where torchvision keeps a data set, and what is known of its pixels."""

    kind: str  # the class in torchvision.datasets
    folder: str  # below the data root
    train: int  # published training images
    size: int  # pixels, height and width
    channels: int
    num_classes: int


_MNIST = _Source("MNIST", "MNIST/raw", 60_000, 28, 1, 10)
_FASHION = _Source("FashionMNIST", "FashionMNIST/raw", 60_000, 28, 1, 10)
_CIFAR10 = _Source("CIFAR10", "cifar-10-batches-py", 50_000, 32, 3, 10)
_CIFAR100 = _Source("CIFAR100", "cifar-100-python", 50_000, 32, 3, 100)


@dataclass(frozen=True)
class MNIST:
    """Handwritten digits (LeCun et al., 1998): 28x28, 60,000 to train and validate, 10,000 to test."""

    validation: int = 5000  # images of the training set that are held out

    def __post_init__(self) -> None:
        """Refuse what no image of this set allows."""
        _check(_MNIST, self.validation)

    def __call__(self, root: Path | None, download: bool) -> ImageData:
        """Load without augmentation. Raises DataUnavailable."""
        plain = presets.Preset(Augment(), (0.1307,), (0.3081,))
        return _load(_MNIST, root, download, self.validation, plain)

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know at these parameters."""
        return _declared(_MNIST, self.validation)


@dataclass(frozen=True)
class FashionMNIST:
    """Pieces of clothing (Xiao et al., 2017): 28x28, 60,000 to train and validate, 10,000 to test."""

    validation: int = 5000  # images of the training set that are held out

    def __post_init__(self) -> None:
        """Refuse what no image of this set allows."""
        _check(_FASHION, self.validation)

    def __call__(self, root: Path | None, download: bool) -> ImageData:
        """Load without augmentation. Raises DataUnavailable."""
        plain = presets.Preset(Augment(), (0.2860,), (0.3530,))
        return _load(_FASHION, root, download, self.validation, plain)

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know at these parameters."""
        return _declared(_FASHION, self.validation)


@dataclass(frozen=True)
class CIFAR10:
    """Photographs of 10 classes (Krizhevsky, 2009): 32x32, 50,000 to train and validate, 10,000 to test.

    Pad by 4, crop and flip as RigL and Chase do for this set: the padding reflects. A ``preset`` is a
    paper's augmentation and normalisation; what is set beside it comes first.
    """

    validation: int = 5000  # images of the training set that are held out
    preset: str | None = None  # chase, dsb, itop, mest, plain, rigl, snfs
    padding: int | None = None  # pixels on every side before the random crop, 0 = none; else the preset's
    padding_mode: presets.PaddingMode | None = None  # else the preset's
    flip: bool | None = None  # else the preset's

    def __post_init__(self) -> None:
        """Refuse what no image of this set allows."""
        _check(_CIFAR10, self.validation)
        presets.check_padding(self._preset, _CIFAR10.size, _CIFAR10.kind)

    def __call__(self, root: Path | None, download: bool) -> ImageData:
        """Load. Raises DataUnavailable."""
        return _load(_CIFAR10, root, download, self.validation, self._preset)

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know at these parameters."""
        return _declared(_CIFAR10, self.validation)

    @property
    def _preset(self) -> presets.Preset:
        chosen = presets.pick(presets.CIFAR10_PRESETS, presets.CIFAR10, self.preset)
        return chosen.but(self.padding, self.padding_mode, self.flip)


@dataclass(frozen=True)
class CIFAR100:
    """Photographs of 100 classes (Krizhevsky, 2009): 32x32, 50,000 to train and validate, 10,000 to test.

    Pad by 4, crop and flip as Chase does for this set: the padding is black. A ``preset`` is a paper's
    augmentation and normalisation; what is set beside it comes first.
    """

    validation: int = 5000  # images of the training set that are held out
    preset: str | None = None  # chase, dsb, itop, mest, plain
    padding: int | None = None  # pixels on every side before the random crop, 0 = none; else the preset's
    padding_mode: presets.PaddingMode | None = None  # else the preset's
    flip: bool | None = None  # else the preset's

    def __post_init__(self) -> None:
        """Refuse what no image of this set allows."""
        _check(_CIFAR100, self.validation)
        presets.check_padding(self._preset, _CIFAR100.size, _CIFAR100.kind)

    def __call__(self, root: Path | None, download: bool) -> ImageData:
        """Load. Raises DataUnavailable."""
        return _load(_CIFAR100, root, download, self.validation, self._preset)

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know at these parameters."""
        return _declared(_CIFAR100, self.validation)

    @property
    def _preset(self) -> presets.Preset:
        chosen = presets.pick(presets.CIFAR100_PRESETS, presets.CIFAR100, self.preset)
        return chosen.but(self.padding, self.padding_mode, self.flip)


def _check(source: _Source, validation: int) -> None:
    """Find a bad number before any file is read. Raises BadInput naming the parameter."""
    if not 0 <= validation < source.train:
        raise BadInput(f"validation: expected 0 to {source.train - 1} for {source.kind}, got {validation}")


def _declared(source: _Source, validation: int) -> Mapping[str, Any]:
    return {
        "train_images": source.train - validation,
        "validation_images": validation,
        "input_shape": (source.channels, source.size, source.size),
        "num_classes": source.num_classes,
    }


def _load(
    source: _Source, root: Path | None, download: bool, validation: int, preset: presets.Preset
) -> ImageData:
    """Read both published parts and hold the validation split out of the first."""
    if root is None:
        raise DataUnavailable(
            f"{source.kind} is read from a folder: say which with `--data-root DIR` or $DSTBENCH_DATA "
            f"(it should hold {source.folder}; `--download` fetches it there)"
        )
    published = _read(source, root, download, train=True)
    rest, held = hold_out(published.labels, validation)
    return ImageData(
        train=Split(published.images[rest], published.labels[rest]),
        validation=Split(published.images[held], published.labels[held]),
        test=_read(source, root, download, train=False),
        num_classes=source.num_classes,
        mean=preset.mean,
        std=preset.std,
        augment=preset.augment,
    )


def _read(source: _Source, root: Path, download: bool, *, train: bool) -> Split:
    """One published part as uint8 [n, c, h, w] and int64 [n]."""
    import torchvision  # here, so that planning a matrix that names the set doesn't wait for it

    kind = getattr(torchvision.datasets, source.kind)
    try:
        published = kind(root, train=train, download=download)
    # missing, unreadable, cut short or altered files, or no network; torchvision has no error of its own
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        wanted = Path(root) / source.folder
        # of what isn't there torchvision only says how its own caller could download it
        said = f" ({error})" if wanted.exists() or download else ""
        advice = "the download failed" if download else "`--download` fetches it into `--data-root`"
        if not download and any(wanted.glob("*.gz")):
            advice = f"it holds packed files: unpack them there, `gunzip -k {wanted}/*.gz`"
        raise DataUnavailable(
            f"{source.kind}: looked for {source.folder} in the data root {root}, "
            f"{'found it but could not use it' if wanted.exists() else 'found nothing'}{said}; {advice}"
        ) from error
    images = torch.as_tensor(published.data)
    # torchvision keeps grey images as [n, h, w] and coloured ones as [n, h, w, c]
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.as_tensor(published.targets, dtype=torch.int64))
