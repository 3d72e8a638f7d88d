"""What can be trained, and on what: data sets, their splits in memory or in files, and models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from dstbench.api.samples import TaskData


@dataclass(frozen=True)
class Split:
    """Images of one split, kept whole in memory."""

    images: Tensor  # uint8 [n, c, h, w]
    labels: Tensor  # int64 [n]

    def __post_init__(self) -> None:
        """Refuse a split whose parts don't belong together."""
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images: expected uint8 [n, c, h, w], got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: expected int64 [{len(self.images)}], got {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, channels, height, width = self.images.shape
        return channels, height, width


@dataclass(frozen=True)
class Files:
    """Images of one split as files, read batch by batch in worker processes: for what memory can't hold.

    ``transform`` maps a PIL image (RGB, or grey where ``shape`` has one channel) to uint8 [c, h, w]. Where it
    draws, it draws from the global generators of ``random``, numpy and torch: the reader sets those from
    (seed, epoch, image) before each call and puts them back, so a pixel depends neither on the number of
    workers nor on what was read before. It must pickle. Normalisation, and the data set's ``Augment``, come
    after it, on the device.
    """

    root: Path
    names: tuple[str, ...]  # of the files, below root, with forward slashes
    labels: Tensor  # int64 [n]
    shape: tuple[int, int, int]  # channels, height, width of what the transform returns
    transform: Callable[[Any], Tensor]

    def __post_init__(self) -> None:
        """Refuse a split whose parts don't belong together."""
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.names),):
            raise ValueError(
                f"labels: expected int64 [{len(self.names)}], got {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)


@dataclass(frozen=True)
class Augment:
    """Training augmentation that runs batched on the device."""

    padding: int = 0  # pixels added on every side before a random crop back to size; 0 = no crop
    mode: Literal["constant", "reflect"] = "constant"
    flip: bool = False  # horizontally, with probability one half


@dataclass(frozen=True)
class ImageData:
    """A data set: three disjoint splits, how to normalise and how to augment.

    Each split is in memory or in files. ``validation`` may be empty: then all of the published training set
    is trained on. Nothing is ever chosen by ``test``.
    """

    train: Split | Files
    validation: Split | Files
    test: Split | Files
    num_classes: int
    mean: tuple[float, ...]  # per channel, of pixels scaled to [0, 1]
    std: tuple[float, ...]
    augment: Augment = field(default_factory=Augment)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.train.shape


class DatasetFactory(Protocol):
    """A registered data set: a frozen dataclass whose fields are its parameters.

    What it is registered with (``train_images``, ``input_shape``, ``num_classes``) holds at its defaults. A
    property ``declared`` with the same keys, optional, says it at other parameters, so that a plan can count
    before there is any data. An attribute or property ``task``, optional, is the ``Task``: what is asked, known
    without data. Without one it is classification; what asks for something else returns ``TaskData``, and its
    ``train_images`` are the entries of an epoch.
    """

    def __call__(self, root: Path | None, download: bool) -> ImageData | TaskData:
        """Load. Raises DataUnavailable, naming what was looked for, where, and what would fetch it."""
        ...


ModelFactory = Callable[..., nn.Module]
"""``(num_classes, input_shape, **parameters) -> nn.Module``; ``width`` among the parameters is a multiplier
of the hidden channels, which the small-dense control needs."""
