"""Made-up images, for throughput and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from dstbench.api import ImageData, Split
from dstbench.errors import BadInput

_GRID = 4  # the pattern of a class is a coarse picture of 4x4 patches, so that small kernels can see it


@dataclass(frozen=True)
class Synthetic:
    """Noise over one fixed random pattern per class, so labels can be learnt; accuracy says nothing else.

    ``images`` is the size of the training split; validation and test hold a quarter of it each, at least
    one of every class.
    """

    images: int = 2048
    channels: int = 3
    size: int = 32  # pixels, height and width
    classes: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that make no data set."""
        least = {"images": self.classes, "channels": 1, "size": 1, "classes": 2}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise BadInput(f"{name}: expected at least {bound}, got {getattr(self, name)}")

    @property
    def declared(self) -> Mapping[str, Any]:
        """What a plan needs to know at these parameters."""
        shape = (self.channels, self.size, self.size)
        said = {"train_images": self.images, "validation_images": max(self.classes, self.images // 4)}
        return {**said, "input_shape": shape, "num_classes": self.classes}

    def __call__(self, root: Path | None, download: bool) -> ImageData:
        """Draw the three splits from one generator; needs neither a folder nor a download."""
        rng = torch.Generator().manual_seed(self.seed)
        patterns = self._patterns(rng)
        held_out = max(self.classes, self.images // 4)
        train, validation, test = (self._split(n, patterns, rng) for n in (self.images, held_out, held_out))
        # of the sum of two uniform draws from 0..127: 127 / 255 and sqrt(2 (128² - 1) / 12) / 255
        mean, std = (0.498,) * self.channels, (0.205,) * self.channels
        return ImageData(train, validation, test, self.classes, mean, std)

    def _patterns(self, rng: Generator) -> Tensor:
        """One picture per class, uint8 [classes, channels, size, size] in 0..127."""
        coarse = torch.randint(128, (self.classes, self.channels, _GRID, _GRID), generator=rng)
        patch = torch.arange(self.size) * _GRID // self.size
        return coarse.to(torch.uint8)[:, :, patch[:, None], patch[None, :]]

    def _split(self, n: int, patterns: Tensor, rng: Generator) -> Split:
        """Draw n images, the classes in turn. Pattern and noise are at most 127 each: no overflow."""
        labels = torch.arange(n) % self.classes
        shape = (n, self.channels, self.size, self.size)
        noise = torch.randint(128, shape, generator=rng, dtype=torch.uint8)
        return Split(noise.add_(patterns[labels]), labels)
