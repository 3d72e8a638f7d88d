"""Tiny-ImageNet and ImageNet, read from folders of image files while training.

Test is the published validation set, whose labels are public. Validation is the end of each class, by file
name, in the published training set, and is never trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dstbench.api import Augment, Files, ImageData
from dstbench.errors import BadInput
from dstbench_plugins.datasets import presets
from dstbench_plugins.datasets.folder import Folder
from dstbench_plugins.datasets.splits import hold_out

_TINY = Folder("Tiny-ImageNet", ("tiny-imagenet-200", "tiny-imagenet"), 200, 100_000, 10_000)
_IMAGENET = Folder("ImageNet", ("imagenet",), 1000, 1_281_167, 50_000)


@dataclass(frozen=True)
class TinyImageNet:
    """Photographs of 200 classes (Stanford CS231n, 2015): 64x64, 100,000 to train and validate, 10,000 to test.

    Its layout as published (``train/CLASS/images``, ``val/images`` with ``val_annotations.txt``) or a folder
    a class (``train/CLASS``, ``val/CLASS``). No augmentation is standard here: the default is CIFAR's crop
    and flip with the padding doubled as the images are, and ImageNet's normalisation. Preset ``dsb`` is
    that paper's code: rotation by up to 20 degrees, flip, pixels in [0, 1] as they are.
    """

    validation: int = 10_000  # images of the training set that are held out
    classes: int = 200  # a subset says how many it has
    preset: str | None = None  # dsb, plain
    padding: int | None = None  # pixels on every side before the random crop, 0 = none; else the preset's
    padding_mode: presets.PaddingMode | None = None  # else the preset's
    flip: bool | None = None  # else the preset's

    def __post_init__(self) -> None:
        """Refuse what no image of this set allows."""
        _check(self.validation, self.classes, _TINY)
        presets.check_padding(self._preset, 64, _TINY.title)

    def __call__(self, root: Path | None, download: bool) -> ImageData:
        """List the files. Raises DataUnavailable."""
        from torchvision.transforms import Compose, PILToTensor, RandomRotation

        read = PILToTensor()
        rotated = Compose([RandomRotation(20), read]) if self.preset == "dsb" else read
        return _load(self, _TINY, root, (3, 64, 64), rotated, read, self._preset)

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know at these parameters."""
        return _declared(self.validation, self.classes, _TINY, 64)

    @property
    def _preset(self) -> presets.Preset:
        chosen = presets.pick(presets.TINY_IMAGENET_PRESETS, presets.TINY_IMAGENET, self.preset)
        return chosen.but(self.padding, self.padding_mode, self.flip)


@dataclass(frozen=True)
class ImageNet:
    """Photographs of 1,000 classes (ILSVRC 2012): 1,281,167 to train and validate, 50,000 to test.

    A folder a class: ``train/CLASS`` and ``val/CLASS`` (or ``validation/CLASS``). Trained on random resized
    crops (8 to 100 % of the area, aspect 3:4 to 4:3) and flips, tested on the centre of the image resized
    by 8/7 (224 out of 256), bilinear, all by timm's transforms.
    """

    validation: int = 10_000  # images of the training set that are held out
    classes: int = 1000  # a subset says how many it has
    size: int = 224  # pixels, height and width, that the network sees

    def __post_init__(self) -> None:
        """Refuse what no image of this set allows."""
        _check(self.validation, self.classes, _IMAGENET)
        if self.size < 1:
            raise BadInput(f"size: expected at least 1, got {self.size}")

    def __call__(self, root: Path | None, download: bool) -> ImageData:
        """List the files. Raises DataUnavailable."""
        from timm.data import create_transform

        # "prefetcher" in timm means: leave the pixels uint8, they are normalised on the device
        create = partial(create_transform, self.size, interpolation="bilinear", use_prefetcher=True)
        train, test = create(is_training=True, color_jitter=0.0), create(crop_pct=0.875)
        shape = (3, self.size, self.size)
        usual = presets.Preset(Augment(), presets.IMAGENET_MEAN, presets.IMAGENET_STD)
        return _load(self, _IMAGENET, root, shape, train, test, usual)

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know at these parameters."""
        return _declared(self.validation, self.classes, _IMAGENET, self.size)


def _check(validation: int, classes: int, folder: Folder) -> None:
    """Find bad numbers before any file is looked for. Raises BadInput naming the parameter."""
    limits = {"validation": (validation, 0, folder.train - 1), "classes": (classes, 2, folder.classes)}
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise BadInput(f"{name}: expected {low} to {high} for {folder.title}, got {value}")


def _load(
    config: TinyImageNet | ImageNet,
    folder: Folder,
    root: Path | None,
    shape: tuple[int, int, int],
    train: Callable[[Any], Tensor],
    test: Callable[[Any], Tensor],
    preset: presets.Preset,
) -> ImageData:
    """Hold the validation split out of the training files; it is read as the test files are."""
    files = folder.find(root, config.classes)
    labels = torch.tensor(files.train_labels, dtype=torch.int64)
    rest, held = hold_out(labels, config.validation)
    base = Files(files.base, (), torch.empty(0, dtype=torch.int64), shape, test)

    def part(indices: Tensor, transform: Callable[[Any], Tensor]) -> Files:
        names = tuple(files.train_names[i] for i in indices.tolist())
        return replace(base, names=names, labels=labels[indices], transform=transform)

    return ImageData(
        train=part(rest, train),
        validation=part(held, test),
        test=replace(base, names=files.test_names, labels=torch.tensor(files.test_labels, dtype=torch.int64)),
        num_classes=config.classes,
        mean=preset.mean,
        std=preset.std,
        augment=preset.augment,
    )


def _declared(validation: int, classes: int, folder: Folder, size: int) -> Mapping[str, Any]:
    said: dict[str, Any] = {"input_shape": (3, size, size), "num_classes": classes}
    if classes == folder.classes:  # how many images a subset has, only its folder knows
        said |= {"train_images": folder.train - validation, "validation_images": validation}
    return said
