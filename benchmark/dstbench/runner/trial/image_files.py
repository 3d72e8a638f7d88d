"""Pixels read from files by worker processes, the same whatever the number of workers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dstbench.api import Files
from dstbench.errors import BadInput

_Key = tuple[int, int]  # epoch, index of the image


class FileSource:
    """Batches of raw pixels from the files of one split.

    torch's loader, not timm's ``create_loader``: that one shuffles by the global generator, while here the
    order is the caller's, so it follows from (seed, epoch) alone. Workers stay from epoch to epoch.
    """

    device = torch.device("cpu")  # where it wants its orders

    def __init__(self, files: Files, *, seed: int, workers: int, pin: bool) -> None:
        self._orders = _Orders()
        self._loader: DataLoader[Tensor] = DataLoader(
            _Decoded(files, seed),
            batch_sampler=self._orders,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin,
            generator=torch.Generator(),  # else the loader moves the global one
        )

    def batches(self, orders: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """Yield a batch, uint8 [b, c, h, w], for each of the orders, int64 [b]: indices of images."""
        self._orders.epoch, self._orders.orders = epoch, orders
        try:
            yield from self._loader
        except BadInput as error:
            # from a reading process, whose whole traceback torch puts before what it says
            said = str(error).strip().splitlines()[-1]
            raise BadInput(said.removeprefix(f"{BadInput.__module__}.{BadInput.__name__}: ")) from None


class _Orders(Sampler[list[_Key]]):
    """What the loader is to read next; set before each pass."""

    def __init__(self) -> None:
        self.epoch: int = 0
        self.orders: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[list[_Key]]:
        for order in self.orders:
            yield [(self.epoch, index) for index in order.tolist()]


class _Decoded(Dataset[Tensor]):
    """One image by (epoch, index): read, converted, transformed."""

    def __init__(self, files: Files, seed: int) -> None:
        self._files, self._seed = files, seed
        self._mode = "L" if files.shape[0] == 1 else "RGB"  # some JPEG files of coloured sets are grey

    def __getitem__(self, key: _Key) -> Tensor:
        epoch, index = key
        path = self._files.root / self._files.names[index]
        try:
            with Image.open(path) as file:
                image = file.convert(self._mode)
        except Exception as error:  # a damaged file may have a decoder raise anything
            raise BadInput(f"{path}: expected an image, but it can't be read: {error}") from None
        with _drawing_from(f"{self._seed}/{epoch}/{index}"):
            pixels = self._files.transform(image)
        if pixels.dtype != torch.uint8 or tuple(pixels.shape) != self._files.shape:
            raise BadInput(
                f"{path}: expected uint8 {self._files.shape} after the transform, "
                f"got {pixels.dtype} {tuple(pixels.shape)}"
            )
        return pixels


@contextmanager
def _drawing_from(place: str) -> Iterator[None]:
    """Set the global generators that transforms draw from, the CPU's only, and put them back."""
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    digest = hashlib.sha256(f"files/{place}".encode()).digest()
    random.seed(digest)
    np.random.seed(int.from_bytes(digest[:4], "little"))
    torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])


def digest_of(files: Files) -> bytes:
    """SHA-256 over names, sizes in bytes and labels: reading a million images to name them would take hours."""
    digest = hashlib.sha256()
    for name, label in zip(files.names, files.labels.tolist(), strict=True):
        size = (files.root / name).stat().st_size
        digest.update(f"{name}\0{size}\0{label}\n".encode())
    return digest.digest()
