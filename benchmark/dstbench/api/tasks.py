"""What a data set asks of a network: the loss it is trained by, the figures it is judged by, and which one ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional

Batch = tuple[Tensor, Tensor]
"""Inputs and targets, as long as each other: what a model is called with, and what its outputs are held against."""


@dataclass(frozen=True)
class Metric:
    """One figure of an evaluation of a whole split, made from sums over it: see ``Task.sums``."""

    key: str  # its name in records: a Python identifier
    title: str  # its column's, with the unit: ``loss (nats per token)``, ``mIoU %``
    better: Literal["higher", "lower"]
    of: Callable[[Sequence[float], int], float]  # the sums, and how many samples they are over

    def __post_init__(self) -> None:
        """Refuse a metric that no record can name, or that no board can rank by."""
        if not self.key.isidentifier():
            raise ValueError(f"key: expected a name such as 'squared_error', got {self.key!r}")
        if self.better not in ("higher", "lower"):
            raise ValueError(f"better: expected 'higher' or 'lower', got {self.better!r}")


class Example(Protocol):
    """Made-up batches of a task: what is timed and counted before, and without, any data."""

    def __call__(self, size: int, input_shape: tuple[int, ...], num_classes: int, rng: Generator) -> Batch:
        """``size`` inputs, [size, *input_shape], and targets that the loss takes. Draws from ``rng`` alone."""
        ...


@dataclass(frozen=True)
class Task:
    """What is asked: a data set names it in its attribute ``task``; one that names none asks for classes.

    ``sums`` maps outputs (float32) and targets of a batch to float [k]: what adds up over a split, be it evaluated
    in whatever batches and by however many ranks. The first of ``metrics`` is the one that boards rank by.
    """

    name: str
    metrics: tuple[Metric, ...]
    loss: Callable[
        ..., Tensor
    ]  # (outputs, targets) -> float []; ``label_smoothing=`` too, where it ``smooths``
    sums: Callable[[Tensor, Tensor], Tensor]
    example: Example
    count: Callable[[Tensor], int] = len  # the samples in targets
    samples: str = "samples"  # what is counted, in the plural: images, tokens
    smooths: bool = False  # whether the loss knows label smoothing

    def __post_init__(self) -> None:
        """Refuse a task that nothing could be ranked by."""
        keys = [metric.key for metric in self.metrics]
        if not keys or len(set(keys)) < len(keys):
            raise ValueError(f"metrics: expected at least one, each of its own name, got {keys}")

    @property
    def metric(self) -> Metric:
        """What boards rank by."""
        return self.metrics[0]

    def made_up(self, size: int, input_shape: tuple[int, ...], num_classes: int) -> Batch:
        """A batch like those to come, always the same; no draw from the global generator."""
        return self.example(size, input_shape, num_classes, torch.Generator().manual_seed(0))

    def sample(self, input_shape: tuple[int, ...], num_classes: int) -> Tensor | None:
        """One input to count a cost with, where zeros of that shape won't do: whole numbers, such as tokens."""
        inputs, _ = self.made_up(1, input_shape, num_classes)
        return None if inputs.is_floating_point() else inputs

    def figures(self, sums: Sequence[float], samples: int) -> dict[str, float]:
        """The metrics of a split, by key."""
        return {metric.key: metric.of(sums, samples) for metric in self.metrics}


def _noise(size: int, input_shape: tuple[int, ...], num_classes: int, rng: Generator) -> Batch:
    return torch.randn(size, *input_shape, generator=rng), torch.arange(size) % num_classes


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    right = (logits.argmax(1) == labels).sum()
    total = functional.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([right.double(), total.double()])


CLASSIFICATION = Task(
    "classification",
    (
        Metric("top1", "top-1 %", "higher", lambda sums, samples: 100 * sums[0] / samples),
        Metric("loss", "loss", "lower", lambda sums, samples: sums[1] / samples),
    ),
    functional.cross_entropy,
    _hits,
    _noise,
    samples="images",
    smooths=True,
)
"""One class for each input: logits float [b, classes] against labels int64 [b]."""


def next_token(tokens_per_character: float | None = 1.0) -> Task:
    """The token that follows each: logits float [b, t, vocabulary] against ids int64 [b, t], every one a sample.

    Losses are averaged over tokens, then put into other words: perplexity is e^loss, bits per character loss / ln 2
    times ``tokens_per_character``; None where that isn't known. Raises ValueError for one that isn't above 0.
    """
    if tokens_per_character is not None and not 0 < tokens_per_character < math.inf:
        raise ValueError(f"tokens_per_character: expected a number above 0, got {tokens_per_character!r}")
    metrics = [
        Metric("loss", "loss (nats per token)", "lower", _mean_loss),
        Metric("perplexity", "perplexity", "lower", _perplexity),
    ]
    if tokens_per_character is not None:
        bits = tokens_per_character / math.log(2)

        def bits_per_character(sums: Sequence[float], samples: int) -> float:
            return _mean_loss(sums, samples) * bits

        metrics.append(Metric("bits_per_character", "bits per character", "lower", bits_per_character))
    return Task(
        "next_token",
        tuple(metrics),
        _token_loss,
        lambda logits, ids: _token_loss(logits, ids, reduction="sum").reshape(1),
        _random_tokens,
        count=Tensor.numel,
        samples="tokens",
        smooths=True,
    )


def _mean_loss(sums: Sequence[float], samples: int) -> float:
    return sums[0] / samples


def _perplexity(sums: Sequence[float], samples: int) -> float:
    try:
        return math.exp(_mean_loss(sums, samples))
    except OverflowError:
        return math.inf


def _token_loss(
    logits: Tensor, ids: Tensor, *, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    flat = logits.flatten(0, 1)
    return functional.cross_entropy(flat, ids.flatten(), label_smoothing=label_smoothing, reduction=reduction)


def _random_tokens(size: int, input_shape: tuple[int, ...], num_classes: int, rng: Generator) -> Batch:
    ids = torch.randint(num_classes, (size, *input_shape), generator=rng)
    return ids, ids.roll(-1, dims=-1)
