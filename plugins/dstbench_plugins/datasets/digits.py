"""Handwritten digits that come with scikit-learn: real data without a download."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dstbench.api import ImageData, Split
from dstbench_plugins.datasets.splits import hold_out


@dataclass(frozen=True)
class Digits:
    """1,797 scans of 8x8 pixels in 10 classes: 1,258 to train, 180 to validate, 359 to test.

    Alpaydin & Kaynak, "Optical recognition of handwritten digits", 1998 (UCI). Grey levels 0..16 are scaled
    to 0..255. The scans come ordered by writer, so they are shuffled once, always alike, before they are
    split: every split has every writer.
    """

    def __call__(self, root: Path | None, download: bool) -> ImageData:
        """Load; needs neither a folder nor a download."""
        scans, classes = _scans()
        # RandomState, because its stream is frozen across numpy's versions
        order = torch.from_numpy(np.random.RandomState(0).permutation(len(classes)))
        pixels = torch.from_numpy(scans).reshape(-1, 1, 8, 8)[order]
        images = (pixels * (255 / 16)).round().to(torch.uint8)
        labels = torch.from_numpy(classes).to(torch.int64)[order]
        train, validation, test = (Split(images[part], labels[part]) for part in _three_ways(labels))
        return ImageData(train, validation, test, num_classes=10, mean=(0.305,), std=(0.376,))


def _scans() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What sklearn.datasets.load_digits returns, float64 [1797, 64] and [1797], from its own file: importing
    scikit-learn takes over a second of every process, for this one table."""
    spec = find_spec("sklearn")
    file = Path(spec.origin if spec and spec.origin else "").parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():  # it may be elsewhere one day
        from sklearn.datasets import load_digits

        scans, classes = load_digits(return_X_y=True)
        return scans, classes
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1], table[:, -1]


def _three_ways(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of 70 % to train, 10 % to validate and 20 % to test, each int64."""
    rest, test = hold_out(labels, round(0.2 * len(labels)))
    train, validation = hold_out(labels[rest], round(0.1 * len(labels)))
    return rest[train], rest[validation], test
