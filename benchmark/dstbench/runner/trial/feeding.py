"""Where a trial's batches come from: images have their own way, every other data set draws its entries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from dstbench.api import Batch, Files, ImageData, Samples, Split, TaskData
from dstbench.errors import BadInput
from dstbench.runner.trial import batches
from dstbench.runner.trial.batches import Batches, epoch_generator, evaluation_batches, spans

Data = ImageData | TaskData
AnySplit = Split | Files | Samples


class Feed(Protocol):
    """The training batches of one rank, epoch by epoch."""

    def __len__(self) -> int:
        """Batches of an epoch."""
        ...

    def epoch(self, k: int, done: int = 0) -> Iterator[Batch]:
        """Those of epoch k on the device, the first ``done`` left out; those that follow are the same."""
        ...


class SampledBatches:
    """The training batches of any split but of images.

    All draws of an epoch come at once from a generator made from (seed, epoch), so every device and every restart
    sees the same batches; step k of all ranks together is step k of one process with batches as large as theirs
    together. A last, incomplete batch is left out. Raises BadInput where no batch is left.
    """

    def __init__(
        self, split: Samples, batch_size: int, *, seed: int, device: torch.device | str, rank: int, world: int
    ) -> None:
        self._split, self._device = split, device
        self._seed, self._rank, self._world = seed, rank, world
        self._spans = spans(split.entries, batch_size * world, world, drop_last=True)
        if not self._spans:
            raise BadInput(
                f"batch_size: {batch_size}{f' on each of {world} ranks' if world > 1 else ''} is more than the "
                f"{split.entries} entries of an epoch: no whole batch; choose at most {split.entries // world}"
            )

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._spans)

    def epoch(self, k: int, done: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch k from the one after ``done``."""
        order = self._split.draw(epoch_generator(self._seed, k))
        for start, stop in self._spans[done:]:
            size = (stop - start) // self._world
            first = start + self._rank * size
            yield _moved(self._split.take(order[first : first + size]), self._device)


def training_batches(
    data: Data,
    batch_size: int,
    *,
    seed: int,
    device: torch.device | str,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
) -> Feed:
    """What a trial trains on. ``batch_size``: of each of ``world`` ranks. Raises BadInput where no batch is left."""
    if isinstance(data, ImageData):
        return Batches(
            data.train, batch_size, mean=data.mean, std=data.std, augment=data.augment,
            seed=seed, device=device, rank=rank, world=world, workers=workers,
        )  # fmt: skip
    return SampledBatches(data.train, batch_size, seed=seed, device=device, rank=rank, world=world)


def evaluated_batches(
    data: Data,
    split: AnySplit,
    batch_size: int,
    *,
    device: torch.device | str,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
) -> Iterator[Batch]:
    """Every sample of a split once, in order; with ``world`` ranks each gets every ``world``-th batch."""
    if isinstance(data, ImageData):
        assert isinstance(split, Split | Files)
        yield from evaluation_batches(split, batch_size, data.mean, data.std, device, workers, rank, world)
        return
    assert not isinstance(split, Split | Files)
    for which in split.passes(batch_size)[rank::world]:
        yield _moved(split.take(which), device)


def fingerprint(data: Data) -> str:
    """A SHA-256 over the three splits, as 64 hexadecimal digits."""
    if isinstance(data, ImageData):
        return batches.fingerprint(data)
    digest = hashlib.sha256(f"{data.input_shape}{data.num_classes}".encode())
    for split in (data.train, data.validation, data.test):
        digest.update(split.digest())
    return digest.hexdigest()


def laid_out(inputs: Tensor, layout: torch.memory_format) -> Tensor:
    """Inputs as they lie in memory: images in the layout, what has other dimensions one after the other."""
    return inputs.contiguous(memory_format=layout) if inputs.dim() == 4 else inputs.contiguous()


def _moved(batch: Batch, device: torch.device | str) -> Batch:
    inputs, targets = batch
    return inputs.to(device), targets.to(device)
