"""Batches of images: from memory or files, then cropped, flipped and normalised on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dstbench.api import Augment, Batch, Files, ImageData, Split
from dstbench.errors import BadInput, nearest
from dstbench.runner.trial.image_files import FileSource, digest_of

_MODES = ("constant", "reflect")


class Batches:
    """The training batches of one split, epoch by epoch.

    A split in memory stays uint8 on ``device``; only one batch at a time is float. Files are read ahead by
    ``workers`` processes: by default as many as torch has threads, none beside a single one. All draws come
    from generators made from (seed, epoch), so every device, every restart and every number of workers sees
    the same batches. With ``world`` ranks, step k of all ranks together is step k of one process with
    batches ``world`` times as large, augmentation included; shards are disjoint and of equal size.

    ``mean`` and ``std`` are per channel, of pixels scaled to [0, 1]. ``drop_last`` leaves out the last,
    incomplete batch. Raises BadInput where no batch would be left, or where padding and images don't fit.
    """

    def __init__(
        self,
        split: Split | Files,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment | None,
        seed: int,
        device: torch.device | str,
        drop_last: bool = True,
        rank: int = 0,
        world: int = 1,
        workers: int | None = None,
    ) -> None:
        _check_batch_size(batch_size)
        if not 0 <= rank < world:
            raise ValueError(f"rank: expected 0 <= rank < world = {world}, got {rank}")
        self._labels = split.labels.to(device)
        self._augment = _checked(augment or Augment(), split.shape)
        self._normalise = _Normalise.of(mean, std, split.shape[0], device)
        self._seed, self._rank, self._world = seed, rank, world
        self._spans = spans(len(split), batch_size * world, world, drop_last)
        if not self._spans:
            ranks = f" on each of {world} ranks" if world > 1 else ""
            raise BadInput(
                f"batch_size: {batch_size}{ranks} is more than the {len(split)} training images: "
                f"no whole batch; choose at most {len(split) // world}"
            )
        self._source = _source(split, device, seed, workers, len(self._spans))

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self._spans)

    def epoch(self, k: int, done: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch k: images float32 [b, c, h, w], labels int64 [b]. The first ``done`` are left
        out; those that follow are the same."""
        draws = _Draws.of(len(self._labels), self._augment, epoch_generator(self._seed, k))
        order = draws.order.to(self._source.device)
        draws = draws.to(self._labels.device)
        parts = [self._mine(start, stop) for start, stop in self._spans[done:]]
        for part, pixels in zip(parts, self._source.batches([order[p] for p in parts], k), strict=True):
            mine = draws.part(part)
            images = pixels.to(self._labels.device, non_blocking=True)
            yield self._normalise(_crop_and_flip(images, mine, self._augment)), self._labels[mine.order]

    def _mine(self, start: int, stop: int) -> slice:
        """This rank's positions of one step."""
        size = (stop - start) // self._world
        first = start + self._rank * size
        return slice(first, first + size)


def evaluation_batches(
    split: Split | Files,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    workers: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Yield every image once, in order, without augmentation; the last batch may be smaller.

    With ``world`` ranks each gets every ``world``-th batch: all of them together yield every image once.
    A split that is already on the device isn't copied. ``workers`` as for Batches; they end with the pass.
    """
    _check_batch_size(batch_size)
    normalise = _Normalise.of(mean, std, split.shape[0], device)
    if isinstance(split, Split):
        for start in range(rank * batch_size, len(split), world * batch_size):
            part = slice(start, start + batch_size)
            yield normalise(split.images[part].to(device)), split.labels[part].to(device)
        return
    orders = torch.split(torch.arange(len(split)), batch_size)[rank::world]
    source = _source(split, device, seed=0, workers=workers, batches=len(orders))
    for order, pixels in zip(orders, source.batches(orders, epoch=0), strict=True):
        yield normalise(pixels.to(device, non_blocking=True)), split.labels[order].to(device)


def fingerprint(data: ImageData) -> str:
    """Return a SHA-256 over the three splits, as 64 hexadecimal digits.

    Over pixels and labels of a split in memory; over names, sizes in bytes and labels of one in files.
    """
    digest = hashlib.sha256()
    for name in ("train", "validation", "test"):
        split: Split | Files = getattr(data, name)
        digest.update(f"{name}{(len(split), *split.shape)}".encode())
        if isinstance(split, Files):
            digest.update(digest_of(split))
            continue
        for tensor in (split.images, split.labels):
            digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def reading_workers(threads: int) -> int:
    """The processes that read files ahead where a trial has so many threads: none beside a single one."""
    return threads if threads > 1 else 0


class _Memory:
    """Batches of raw pixels from a split that lives whole on the device."""

    def __init__(self, split: Split, device: torch.device | str) -> None:
        self._images = split.images.to(device)
        self.device = self._images.device

    def batches(self, orders: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """Yield a batch, uint8 [b, c, h, w], for each of the orders, int64 [b]: indices of images."""
        return (self._images[order] for order in orders)


def _source(
    split: Split | Files, device: torch.device | str, seed: int, workers: int | None, batches: int
) -> _Memory | FileSource:
    """Where pixels come from. Processes that would have no batch to read aren't started."""
    if isinstance(split, Split):
        return _Memory(split, device)
    if workers is None:
        workers = reading_workers(torch.get_num_threads())
    pin = torch.device(device).type == "cuda"
    return FileSource(split, seed=seed, workers=min(workers, batches), pin=pin)


@dataclass(frozen=True)
class _Normalise:
    """Map pixels to (pixel / 255 - mean) / std, as one multiplication and one addition."""

    scale: Tensor  # float32 [c, 1, 1]
    shift: Tensor  # float32 [c, 1, 1]

    @classmethod
    def of(
        cls, mean: Sequence[float], std: Sequence[float], channels: int, device: torch.device | str
    ) -> _Normalise:
        """Check and convert. Raises ValueError where the lengths differ from the number of channels."""
        if not len(mean) == len(std) == channels:
            raise ValueError(f"expected {channels} means and deviations, got {len(mean)} and {len(std)}")
        centre, spread = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
        scale, shift = 1 / (255 * spread), -centre / spread
        return cls(scale.to(device, torch.float32), shift.to(device, torch.float32))

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 [b, c, h, w] to float32 of the same shape."""
        return images.to(torch.float32).mul_(self.scale).add_(self.shift)


@dataclass(frozen=True)
class _Draws:
    """What chance decides in one epoch: for every position in it, which image, cropped where, flipped or not.

    Drawn for the whole epoch at once, so a position's draws don't depend on batch size or ranks.
    """

    order: Tensor  # int64 [n]: the image at each position
    top: Tensor  # int64 [n]: the crop's first row and column in the padded image
    left: Tensor  # int64 [n]
    flip: Tensor  # bool [n]

    @classmethod
    def of(cls, n: int, augment: Augment, rng: Generator) -> _Draws:
        """Draw in a fixed order, used or not: switching flips off leaves order and crops as they were."""
        order = torch.randperm(n, generator=rng)
        top, left = torch.randint(2 * augment.padding + 1, (2, n), generator=rng)
        flip = torch.rand(n, generator=rng) < 0.5
        return cls(order, top, left, flip)

    def to(self, device: torch.device) -> _Draws:
        """Copy to a device."""
        return _Draws(*(t.to(device) for t in (self.order, self.top, self.left, self.flip)))

    def part(self, where: slice) -> _Draws:
        """The draws of some positions."""
        return _Draws(*(t[where] for t in (self.order, self.top, self.left, self.flip)))


def _crop_and_flip(images: Tensor, draws: _Draws, augment: Augment) -> Tensor:
    """Move every image of a batch, uint8 [b, c, h, w], by its own crop and flip: one gather, no loop.

    Every output pixel is looked up in the original: a padded image is never made.
    """
    if not augment.padding and not augment.flip:
        return images
    batch, channels, height, width = images.shape
    rows = _sources(draws.top, height, augment)
    columns = _sources(draws.left, width, augment)
    if augment.flip:
        columns = torch.where(draws.flip[:, None], columns.flip(1), columns)
    # black padding: position -1 stands for "outside", looked up at 0 and then cleared
    where = rows.clamp_min(0)[:, :, None] * width + columns.clamp_min(0)[:, None, :]
    where = where.flatten(1)[:, None, :].expand(-1, channels, -1)
    moved = images.flatten(2).gather(2, where).view(batch, channels, height, width)
    if augment.padding and augment.mode == "constant":
        moved.masked_fill_(((rows < 0)[:, :, None] | (columns < 0)[:, None, :])[:, None], 0)
    return moved


def _sources(offset: Tensor, size: int, augment: Augment) -> Tensor:
    """Which row (or column) of the original each row of a crop shows: int64 [b, size], -1 = black padding."""
    position = torch.arange(size, device=offset.device) + (offset - augment.padding)[:, None]
    if augment.mode == "reflect":  # ... 2 1 0 1 2 ...: the edge itself isn't repeated
        return (size - 1) - (size - 1 - position.abs()).abs()
    return torch.where((position >= 0) & (position < size), position, -1)


def spans(n: int, step: int, world: int, drop_last: bool) -> tuple[tuple[int, int], ...]:
    """Start and stop in the epoch of every step, all ranks together; each divides by ``world``."""
    spans = [(start, start + step) for start in range(0, n - step + 1, step)]
    left = n % step // world * world
    if left and not drop_last:
        spans.append((n - n % step, n - n % step + left))
    return tuple(spans)


def epoch_generator(seed: int, epoch: int) -> Generator:
    """A CPU generator of its own for every (seed, epoch): hashed, so near seeds share nothing."""
    digest = hashlib.sha256(f"batches/{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise BadInput(f"batch_size: expected at least 1, got {batch_size}")


def _checked(augment: Augment, shape: Sequence[int]) -> Augment:
    """The augmentation, if images of this shape, (c, h, w), allow it."""
    if augment.mode not in _MODES:
        raise BadInput(f"padding mode: no {augment.mode!r}{nearest(augment.mode, _MODES)}")
    limit = min(shape[1:]) - 1 if augment.mode == "reflect" else min(shape[1:])
    if not 0 <= augment.padding <= limit:
        raise BadInput(
            f"padding: expected 0 to {limit} for images of {shape[1]}x{shape[2]} with mode "
            f"{augment.mode!r}, got {augment.padding}"
        )
    return augment
