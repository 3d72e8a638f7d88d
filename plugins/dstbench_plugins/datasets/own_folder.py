"""Photographs of one's own: a folder a class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dstbench.api import Augment, DataUnavailable, Files, ImageData
from dstbench.errors import BadInput
from dstbench_plugins.datasets import presets
from dstbench_plugins.datasets.splits import hold_out

_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
_IGNORED = ("thumbs.db", "desktop.ini")
_TESTS = ("test", "val", "validation")
_Image = tuple[str, int]  # name below the root, class


@dataclass(frozen=True)
class ImageFolder:
    """Images of one's own, a folder a class: ``ROOT/train/CLASS`` and ``ROOT/test/CLASS`` (or ``val``), or
    ``ROOT/CLASS`` alone, of which ``test`` is held out.

    What is held out is drawn within each class by a hash of ``split_seed``, the class and the file's name: the same
    on every machine. Trained on random resized crops and flips, tested on the centre of the image, as ImageNet
    is, in its normalisation. A trial's key holds these parameters as they are written, not the images: keep
    ``root`` relative to the data root, so that another machine finds the same trials, and state the images'
    ``digest``, by which others are refused; the error for a wrong one, such as ``digest: "?"``, says the right one.
    """

    root: str  # the folder, below the data root, or absolute
    size: int = 64  # pixels, height and width, that the network sees
    validation: float = 0.1  # share of the training images that is held out, or from 1 on their number
    test: float = 0.2  # the same of all images, where there is no test folder
    split_seed: int = 0  # of what is held out
    digest: str | None = None  # of the names, sizes and classes of the files that are meant: 16 digits

    def __post_init__(self) -> None:
        """Refuse what no folder allows. Raises BadInput naming the parameter."""
        if not self.root:
            raise BadInput("root: expected a folder, got ''")
        if self.size < 1:
            raise BadInput(f"size: expected at least 1, got {self.size}")
        for name in ("validation", "test"):
            share, least = getattr(self, name), "0" if name == "validation" else "above 0"
            if share < 0 or (share >= 1 and share != int(share)) or (name == "test" and not share):
                raise BadInput(
                    f"{name}: expected a share from {least} to below 1, or a whole number of images, got {share:g}"
                )

    def __call__(self, root: Path | None, download: bool) -> ImageData:
        """List the files. Raises DataUnavailable: not there, no images, other classes, or other files than meant."""
        from timm.data import create_transform

        base, names, train, test = self._parts(root)
        self._check_digest(base, names, [*train, *test])
        # "prefetcher" in timm means: leave the pixels uint8, they are normalised on the device
        create = partial(create_transform, self.size, interpolation="bilinear", use_prefetcher=True)
        random, centre = create(is_training=True, color_jitter=0.0), create(crop_pct=0.875)
        rest, held = self._held_out(train, self.validation)

        def split(images: Sequence[_Image], transform: Any) -> Files:
            labels = torch.tensor([label for _, label in images], dtype=torch.int64)
            return Files(base, tuple(n for n, _ in images), labels, (3, self.size, self.size), transform)

        return ImageData(
            split(rest, random),
            split(held, centre),
            split(test, centre),
            len(names),
            presets.IMAGENET_MEAN,
            presets.IMAGENET_STD,
            Augment(),
        )

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know: the shape, and what is in the folder where it is there already."""
        shape = {"input_shape": (3, self.size, self.size)}
        try:
            _, names, train, test = self._parts(None)
        except DataUnavailable:
            return shape
        rest, held = self._held_out(train, self.validation)
        counts = {"train_images": len(rest), "validation_images": len(held), "test_images": len(test)}
        return {**shape, "num_classes": len(names), **counts}

    def _parts(self, data_root: Path | None) -> tuple[Path, list[str], list[_Image], list[_Image]]:
        """The folder, its classes, and the images to train on (validation included) and to test on."""
        base = self._base(data_root)
        parts = [name for name in _TESTS if (base / name).is_dir()]
        if not (base / "train").is_dir():
            names = _classes(base)
            train, test = self._held_out(_images(base, "", names), self.test)
            return base, names, train, test
        if len(parts) != 1:
            raise DataUnavailable(
                f"folder: {base} has train/, so expected one of {', '.join(_TESTS)} beside it, got {parts or 'none'}"
            )
        names, tested = _classes(base / "train"), _classes(base / parts[0])
        if odd := sorted(set(names) ^ set(tested)):
            raise DataUnavailable(
                f"folder: the class {odd[0]!r} is in one of {base / 'train'} and {base / parts[0]} only"
            )
        return base, names, _images(base, "train/", names), _images(base, f"{parts[0]}/", names)

    def _base(self, data_root: Path | None) -> Path:
        where = data_root or os.environ.get("DSTBENCH_DATA") or "."
        base = Path(where) / self.root
        if not base.is_dir():
            raise DataUnavailable(
                f"folder: looked for {base}, found nothing; root is below `--data-root DIR` (or $DSTBENCH_DATA), or "
                "absolute"
            )
        return base

    def _held_out(self, images: Sequence[_Image], share: float) -> tuple[list[_Image], list[_Image]]:
        """The rest and what is held out, each in the order of classes and names."""
        drawn = sorted(images, key=lambda image: (image[1], _drawn(self.split_seed, image[0])))
        labels: Tensor = torch.tensor([label for _, label in drawn], dtype=torch.int64)
        number = round(share * len(drawn)) if share < 1 else int(share)
        if number >= len(drawn):
            raise DataUnavailable(
                f"folder: can't hold {number} of {len(drawn)} images out and train on the others"
            )
        rest, held = hold_out(labels, number)
        by_name = [
            sorted((drawn[i] for i in part.tolist()), key=lambda n: (n[1], n[0])) for part in (rest, held)
        ]
        return by_name[0], by_name[1]

    def _check_digest(self, base: Path, names: Sequence[str], images: Sequence[_Image]) -> None:
        if self.digest is not None and self.digest != (digest := digest_of(base, names, images)):
            raise DataUnavailable(
                f"folder: {base} holds other images than are meant: expected the digest {self.digest!r}, "
                f"got {digest!r}"
            )


def digest_of(base: Path, names: Sequence[str], images: Sequence[_Image]) -> str:
    """16 hexadecimal digits of SHA-256 over the images' names, sizes in bytes and classes, sorted by name."""
    digest = hashlib.sha256()
    for image, label in sorted(images):
        digest.update(f"{image}\0{(base / image).stat().st_size}\0{names[label]}\n".encode())
    return digest.hexdigest()[:16]


def _drawn(seed: int, name: str) -> str:
    """A number that is as good as random, of a class's folder and a file's name; the same on any system."""
    return hashlib.sha256(f"{seed}/{'/'.join(name.split('/')[-2:])}".encode()).hexdigest()


def _classes(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise DataUnavailable(
            f"folder: expected at least two class folders in {folder}, got {names or 'none'}"
        )
    return names


def _images(base: Path, part: str, names: Sequence[str]) -> list[_Image]:
    """All images of all classes. Raises DataUnavailable naming the class or the file that isn't what it should be."""
    images: list[_Image] = []
    for label, name in enumerate(names):
        files = sorted(path for path in (base / part / name).iterdir() if not path.name.startswith("."))
        files = [path for path in files if path.name.lower() not in _IGNORED]
        for path in files:
            if wrong := _wrong(path):
                raise DataUnavailable(
                    f"folder: {path} in the class {name!r}: expected an image ({', '.join(_SUFFIXES)}), got {wrong}"
                )
        if not files:
            raise DataUnavailable(f"folder: the class {name!r} has no images: {base / part / name} is empty")
        images += [(f"{part}{name}/{path.name}", label) for path in files]
    return images


def _wrong(path: Path) -> str:
    """What a file is instead of an image; "" where it may be one."""
    if not path.is_file():
        return "a folder" if path.is_dir() else "something that isn't a file"
    if path.suffix.lower() not in _SUFFIXES:
        return f"a {path.suffix or 'nameless'} file"
    return "" if path.stat().st_size else "an empty file"
