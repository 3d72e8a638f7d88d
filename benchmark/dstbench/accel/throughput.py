"""Measuring speed: calls timed side by side, medians and quantiles, and how it was done."""

from __future__ import annotations

import contextlib
import copy
import statistics
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dstbench.core.timing import Call, time_interleaved
from dstbench.errors import BadInput

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Steps(Protocol):
    """An optimizer, or a Sparsifier in its place."""

    def step(self) -> Any:
        """Apply the gradients."""
        ...


@dataclass(frozen=True)
class Throughput:
    """How fast a network ran, and how that was measured. Latencies are seconds of one call on one batch."""

    images_per_second: float  # from the median latency
    latency_median: float
    latency_low: float  # 10 % quantile
    latency_high: float  # 90 % quantile
    batch_size: int
    rounds: int
    warmup: int
    device: str
    threads: int
    dtype: str


def throughput(model: nn.Module, example_input: Tensor, *, rounds: int = 20, warmup: int = 3) -> Throughput:
    """Measure inference of ``model`` on ``example_input``, [batch, ...], in eval mode without gradients.

    Raises BadInput where there is no round to time.
    """
    if rounds < 1 or warmup < 0:
        raise BadInput(f"rounds and warmup: expected at least 1 and 0, got {rounds} and {warmup}")
    seconds = time_interleaved([inference_call(model, example_input)], rounds, warmup)[0]
    quantiles = statistics.quantiles(seconds, n=10, method="inclusive") if rounds > 1 else [seconds[0]] * 9
    median = statistics.median(seconds)
    return Throughput(
        images_per_second=len(example_input) / median,
        latency_median=median,
        latency_low=quantiles[0],
        latency_high=quantiles[-1],
        batch_size=len(example_input),
        rounds=rounds,
        warmup=warmup,
        device=str(example_input.device),
        threads=torch.get_num_threads(),
        dtype=str(example_input.dtype).removeprefix("torch."),
    )


def inference_call(model: nn.Module, images: Tensor, precision: str = "no") -> Call:
    """One forward pass in eval mode. The model is copied, so that timing it changes nothing."""
    frozen = copy.deepcopy(model).eval()

    @torch.inference_mode()
    def call() -> object:
        with _autocast(images.device, precision):
            return frozen(images)

    return call


def training_call(
    model: nn.Module, optimizer: Steps, images: Tensor, labels: Tensor, precision: str = "no"
) -> Call:
    """One training step: forward, backward, ``optimizer.step()``. Trains the model."""
    parameters = list(model.parameters())

    def call() -> object:
        model.train()
        with _autocast(images.device, precision):
            loss = nn.functional.cross_entropy(model(images), labels)
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(loss)
        return optimizer.step()

    return call


def compare(mine: Call, dense: Call, batch_size: int, rounds: int, warmup: int) -> dict[str, float]:
    """``mine`` against ``dense``: medians of images/s, and of the ratio taken within each round (> 1 = faster)."""
    fast, slow = time_interleaved([mine, dense], rounds, warmup)
    ratios = sorted(d / m for m, d in zip(fast, slow, strict=True))
    low, _, high = (
        statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (ratios[0],) * 3
    )
    return {
        "images_per_second": batch_size / statistics.median(fast),
        "dense_images_per_second": batch_size / statistics.median(slow),
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
    }


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    dtype = _PRECISIONS.get(precision)
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()
