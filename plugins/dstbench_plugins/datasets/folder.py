"""Image files found in the folder layouts in which large sets are handed on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dstbench.api import DataUnavailable

_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
_TEST = ("val", "validation")


@dataclass(frozen=True)
class Found:
    """Files of a published training and test part, in a fixed order: by class, then by name."""

    base: Path
    train_names: tuple[str, ...]  # below base
    train_labels: tuple[int, ...]  # classes in the order of their folders' names
    test_names: tuple[str, ...]
    test_labels: tuple[int, ...]


@dataclass(frozen=True)
class Folder:
    """Where a set is looked for below the data root, and how large it is when whole."""

    title: str
    folders: tuple[str, ...]
    classes: int
    train: int  # published training images
    test: int

    def find(self, root: Path | None, classes: int) -> Found:
        """List the files. Raises DataUnavailable: nothing there, other classes, or an incomplete copy."""
        base, test = self._base(root)
        names = _folders(base / "train")
        if len(names) != classes:
            raise DataUnavailable(
                f"{self.title}: {base / 'train'} has {len(names)} class folders, expected {classes} "
                f"(for a subset, set the parameter classes: {len(names)})"
            )
        train = [(image, k) for k, name in enumerate(names) for image in _images(base, f"train/{name}")]
        tested = _annotated(base, test, names) or self._by_folder(base, test, names)
        self._check_counts(base, classes, len(train), len(tested))
        return Found(base, *_columns(train), *_columns(tested))

    def _base(self, root: Path | None) -> tuple[Path, str]:
        """The folder that holds train/ and its test part's name."""
        wanted = f"{self.folders[0]}/train and {self.folders[0]}/{_TEST[0]}"
        if root is None:
            raise DataUnavailable(
                f"{self.title} is read from a folder: say which with `--data-root DIR` or $DSTBENCH_DATA "
                f"(it should hold {wanted}); it can't be downloaded from here"
            )
        for base in (*(Path(root) / name for name in self.folders), Path(root)):
            for test in _TEST:
                if (base / "train").is_dir() and (base / test).is_dir():
                    return base, test
        raise DataUnavailable(
            f"{self.title}: looked for {wanted} in the data root {root}, found nothing; unpack the published "
            "archive there, it can't be downloaded from here"
        )

    def _by_folder(self, base: Path, test: str, names: Sequence[str]) -> list[tuple[str, int]]:
        """Test images of a folder a class. Raises DataUnavailable where their classes aren't the training's."""
        classes = _folders(base / test)
        if set(classes) != set(names):
            odd = sorted(set(classes) ^ set(names))
            raise DataUnavailable(
                f"{self.title}: {base / test} and {base / 'train'} differ in {len(odd)} class folders, such as "
                f"{odd[0]!r}"
            )
        return [(image, k) for k, name in enumerate(names) for image in _images(base, f"{test}/{name}")]

    def _check_counts(self, base: Path, classes: int, train: int, test: int) -> None:
        """A whole set must be whole: an interrupted copy would train, and score, unnoticed."""
        wanted = (self.train, self.test) if classes == self.classes else (max(1, train), max(1, test))
        if (train, test) != wanted:
            raise DataUnavailable(
                f"{self.title}: {base} has {train} training and {test} test images, "
                f"expected {wanted[0]} and {wanted[1]}"
            )


def _annotated(base: Path, test: str, names: Sequence[str]) -> list[tuple[str, int]]:
    """Test images named by a table, file<TAB>class<TAB>…, as Tiny-ImageNet has it; empty without one."""
    table = base / test / "val_annotations.txt"
    if not table.is_file() or not (base / test / "images").is_dir():
        return []
    labels = {name: k for k, name in enumerate(names)}
    rows = [line.split("\t")[:2] for line in table.read_text(encoding="utf-8").splitlines() if line]
    if unknown := [row for row in rows if len(row) < 2 or row[1] not in labels]:
        raise DataUnavailable(f"{table}: expected a file and one of the training classes, got {unknown[0]}")
    return sorted(
        ((f"{test}/images/{file}", labels[name]) for file, name in rows), key=lambda r: (r[1], r[0])
    )


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images(base: Path, folder: str) -> list[str]:
    """Names below ``base`` of the images in a class's folder, or in ``images`` within."""
    if (base / folder / "images").is_dir():
        folder = f"{folder}/images"
    with os.scandir(base / folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.lower().endswith(_SUFFIXES))
    return [f"{folder}/{name}" for name in names]


def _columns(rows: Sequence[tuple[str, int]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return tuple(name for name, _ in rows), tuple(label for _, label in rows)
