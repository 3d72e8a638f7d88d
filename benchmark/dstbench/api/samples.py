"""Data sets of any task: splits that say what an epoch draws, what an evaluation goes through, and give batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from dstbench.api.tasks import Batch

_WHOLE = 2**28  # bytes of tokens up to which all are hashed
_PIECES, _PIECE = 256, 2**20  # of more, so many pieces of so many bytes


class Samples(Protocol):
    """One split. An *entry* is what a batch is made of, such as an image, or a window of a text."""

    @property
    def entries(self) -> int:
        """How many entries an epoch of training draws."""
        ...

    def __len__(self) -> int:
        """The samples that an evaluation counts, each once: what the task counts in their targets."""
        ...

    def draw(self, rng: Generator) -> Tensor:
        """Which entries an epoch trains on, in order, int64 [entries]. Draws from ``rng`` alone."""
        ...

    def passes(self, batch_size: int) -> Sequence[Tensor]:
        """The batches of an evaluation, int64 [b] each: together every sample once, in order."""
        ...

    def take(self, which: Tensor) -> Batch:
        """Inputs and targets of some entries, on the CPU."""
        ...

    def digest(self) -> bytes:
        """A hash of what is in it."""
        ...


@dataclass(frozen=True)
class Examples:
    """Inputs with a target each, whole in memory: an epoch goes through all of them, in random order.

    ``count`` is the task's, where it counts something else than targets: pixels, say.
    """

    inputs: Tensor  # [n, ...]
    targets: Tensor  # [n, ...]
    count: Callable[[Tensor], int] = len  # the samples in targets

    def __post_init__(self) -> None:
        """Refuse a split whose parts don't belong together."""
        if not self.inputs.dim() or not self.targets.dim() or len(self.inputs) != len(self.targets):
            raise ValueError(
                f"targets: expected one for each of the inputs {list(self.inputs.shape)}, got "
                f"{list(self.targets.shape)}"
            )

    @property
    def entries(self) -> int:
        """All of them."""
        return len(self.inputs)

    def __len__(self) -> int:
        """The samples in all targets: as many as there are, unless ``count`` says otherwise."""
        return int(self.count(self.targets))

    def draw(self, rng: Generator) -> Tensor:
        """A random order."""
        return torch.randperm(self.entries, generator=rng)

    def passes(self, batch_size: int) -> Sequence[Tensor]:
        """One after the other; the last batch may be smaller."""
        return torch.split(torch.arange(self.entries), batch_size) if self.entries else ()

    def take(self, which: Tensor) -> Batch:
        """As they are."""
        return self.inputs[which], self.targets[which]

    def digest(self) -> bytes:
        """Over shapes, dtypes and values."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.digest()


@dataclass(frozen=True)
class Tokens:
    """A text as ids: ``windows`` of ``block`` tokens are an epoch, at places drawn at random with replacement.

    That is how language models are trained on long texts (nanoGPT's ``get_batch``): there is no pass over all of it.
    An evaluation does go over all of it: windows one after the other, the last as long as is left, so that every
    token but the first is a target once. ``ids`` may be mapped from a file.
    """

    ids: npt.NDArray[Any]  # unsigned integers [n]
    block: int  # tokens that a model sees
    windows: int  # of an epoch
    vocabulary: int  # ids are below

    def __post_init__(self) -> None:
        """Refuse what no window fits in. An empty split, such as no validation, is one."""
        if self.ids.ndim != 1 or self.ids.dtype.kind != "u":
            raise ValueError(
                f"ids: expected unsigned integers [n], got {self.ids.dtype} {list(self.ids.shape)}"
            )
        for name in ("block", "windows", "vocabulary"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if 0 < len(self.ids) < 2:
            raise ValueError("ids: expected at least 2 tokens, a first one and its next, got 1")

    @property
    def entries(self) -> int:
        """The windows of an epoch."""
        return self.windows

    def __len__(self) -> int:
        """The tokens that have one before them."""
        return max(0, len(self.ids) - 1)

    def draw(self, rng: Generator) -> Tensor:
        """Where windows start: every place with room for one is as likely. Raises ValueError where there is none."""
        places = len(self.ids) - self.block
        if places < 1:
            raise ValueError(
                f"block: expected fewer tokens than the text's {len(self.ids)}, got {self.block}"
            )
        return torch.randint(places, (self.windows,), generator=rng)

    def passes(self, batch_size: int) -> Sequence[Tensor]:
        """Windows one after the other; what is left at the end is a batch of its own."""
        starts = torch.arange(0, len(self), self.block)
        whole = len(self) // self.block
        batches = list(torch.split(starts[:whole], batch_size)) if whole else []
        return [*batches, starts[whole:]] if whole < len(starts) else batches

    def take(self, which: Tensor) -> Batch:
        """Ids and the ids that follow, int64 [b, t]: t is ``block``, or what is left. Raises ValueError for an id
        that the vocabulary doesn't have."""
        starts = which.numpy()
        length = min(self.block, len(self) - int(starts.max()))
        read = self.ids[starts[:, None] + np.arange(length + 1)].astype(np.int64)
        if read.size and int(read.max()) >= self.vocabulary:
            raise ValueError(
                f"ids: expected ids below the vocabulary's {self.vocabulary}, got {int(read.max())}"
            )
        ids = torch.from_numpy(read)
        return ids[:, :-1], ids[:, 1:]

    def digest(self) -> bytes:
        """Over all ids; where they are more than 256 MiB, over how many, and pieces from end to end."""
        digest = hashlib.sha256(f"{self.ids.dtype}{len(self.ids)}".encode())
        if self.ids.nbytes <= _WHOLE:
            digest.update(np.ascontiguousarray(self.ids).data)
            return digest.digest()
        size = _PIECE // self.ids.itemsize
        for start in np.linspace(0, len(self.ids) - size, _PIECES).astype(int):
            digest.update(np.ascontiguousarray(self.ids[start : start + size]).data)
        return digest.digest()


@dataclass(frozen=True)
class TaskData:
    """A data set of any task. ``validation`` may be empty; nothing is ever chosen by ``test``."""

    train: Samples
    validation: Samples
    test: Samples
    input_shape: tuple[int, ...]  # of one entry
    num_classes: int  # of the model's outputs: classes, a vocabulary, or how many numbers are asked for
