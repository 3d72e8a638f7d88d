"""Measuring speed: calls timed side by side, medians and quantiles, and how it was done."""

from __future__ import annotations

import contextlib
import copy
import math
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from dstbench.core.network.inputs import (
    Inputs,
    arguments,
    batch_size,
    each_tensor,
    first_sample,
    tensors,
)
from dstbench.core.storage.timing import Call, time_interleaved, time_rounds, warm_up
from dstbench.errors import BadInput, nearest

PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast computes in, by the name that a trial's ``mixed_precision`` has."""
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

HEATS = 3
"""Rounds that decide which layout each side runs in."""
FEWEST, NARROW = 6, 0.05
"""Rounds after which a race may end early, and how far from its median the interval of the ratio may reach then."""
SHORTEST = 2e-3
"""Seconds that a timing in a race lasts at least: the median over its rounds does the rest."""


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
    precision: str = "float32"  # what products are computed in: autocast's name, else the dtype
    channels_last: bool = False  # how the input lies in memory
    compile: str | None = None  # torch.compile's mode; None: not compiled
    versions: str = ""  # "torch 2.14.1, Python 3.11.9"
    dense_images_per_second: float | None = None  # these four: against what ``against`` did, if anything
    ratio: float | None = None  # median over the rounds; > 1 = faster
    ratio_low: float | None = None  # quartiles over the rounds
    ratio_high: float | None = None
    single: Throughput | None = None  # the same of one image; None where that is what this is


def throughput(
    model: nn.Module,
    example_input: Inputs,
    *,
    against: nn.Module | None = None,
    rounds: int = 20,
    warmup: int = 3,
    precision: str = "no",
    channels_last: bool | None = None,
    compile: str | None = None,
) -> Throughput:
    """Measure inference of ``model`` on ``example_input``, [batch, ...], and on one image of it, ``single``.

    example_input: a tensor, a tuple of positional or a dict of keyword arguments; the first tensor says how long the
    batch is, and of all as long as that ``single`` takes the first entry.
    against: another model, timed in the same rounds: dense, for a sparse one.
    precision: "no" (the input's), or autocast to "bf16" or "fp16". channels_last: the memory format of input
    and convolutions; None: as they are. compile: a mode of torch.compile, such as "default".
    Models are copied and run in eval mode without gradients. Raises BadInput for an unknown precision, a layout
    that the input can't have, and where there is no round to time.
    """
    _check(example_input, rounds, warmup, precision, channels_last)
    if channels_last is not None:
        layout = LAYOUTS["channels_last" if channels_last else "contiguous"]
        example_input = each_tensor(
            example_input, lambda x: x.contiguous(memory_format=layout) if x.dim() == 4 else x
        )
    models = [model] if against is None else [model, against]

    def measured(images: Inputs, single: Throughput | None) -> Throughput:
        first, size = tensors(images)[0], batch_size(images)
        calls = [inference_call(network, images, precision, channels_last, compile) for network in models]
        return Throughput(
            **figures(*time_interleaved(calls, rounds, warmup), batch_size=size),
            batch_size=size,
            rounds=rounds,
            warmup=warmup,
            device=str(first.device),
            threads=torch.get_num_threads(),
            dtype=(dtype := _dtype(model, images)),
            precision=dtype if precision == "no" else precision,
            channels_last=any(is_channels_last(x) for x in tensors(images)),
            compile=compile,
            versions=f"torch {torch.__version__}, Python {platform.python_version()}",
            single=single,
        )

    several = batch_size(example_input) > 1
    return measured(example_input, measured(first_sample(example_input), None) if several else None)


def _dtype(model: nn.Module, inputs: Inputs) -> str:
    """What products are computed in without autocast: the input's, or the weights' where inputs are integers."""
    floating = [x for x in (*tensors(inputs), *model.parameters()) if x.is_floating_point()]
    return str((floating or tensors(inputs))[0].dtype).removeprefix("torch.")


def _check(inputs: Inputs, rounds: int, warmup: int, precision: str, channels_last: bool | None) -> None:
    if rounds < 1 or warmup < 0:
        raise BadInput(f"rounds and warmup: expected at least 1 and 0, got {rounds} and {warmup}")
    if precision not in PRECISIONS:
        raise BadInput(f"precision: unknown {precision!r}{nearest(precision, PRECISIONS)}")
    arguments(inputs)
    if channels_last and not any(x.dim() == 4 for x in tensors(inputs)):
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors(inputs))
        raise BadInput(f"channels_last: expected an input [batch, channels, height, width], got {shapes}")


def is_channels_last(images: Tensor) -> bool:
    """Whether images lie in memory channel by channel; of one channel both are true, and it counts as not."""
    return (
        images.dim() == 4
        and images.is_contiguous(memory_format=torch.channels_last)
        and not images.is_contiguous()
    )


def inference_call(
    model: nn.Module,
    images: Inputs,
    precision: str = "no",
    channels_last: bool | None = None,
    compile: str | None = None,
) -> Call:
    """One forward pass in eval mode. The model is copied, so that timing it changes nothing."""
    frozen = copy.deepcopy(model).eval()
    if channels_last is not None:
        layout = LAYOUTS["channels_last" if channels_last else "contiguous"]
        for module in frozen.modules():
            if isinstance(module, nn.Conv2d):  # other layers store what they store as suits them
                module.to(memory_format=layout)
    frozen = _compiled(frozen, compile)
    (args, kwargs), device = arguments(images), tensors(images)[0].device

    @torch.inference_mode()
    def call() -> object:
        with autocast(device, precision):
            return frozen(*args, **kwargs)

    return call


def training_call(
    model: nn.Module,
    optimizer: Steps,
    inputs: Tensor,
    targets: Tensor,
    precision: str = "no",
    compile: str | None = None,
    loss_of: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
) -> Call:
    """One training step: forward, backward, ``optimizer.step()``. Trains the model."""
    parameters = list(model.parameters())
    compiled = _compiled(model, compile)

    def call() -> object:
        model.train()
        with autocast(inputs.device, precision):
            loss = loss_of(compiled(inputs), targets)
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(loss)
        return optimizer.step()

    return call


@dataclass(frozen=True)
class Runner:
    """One way to do the work, and what to say of it."""

    call: Call
    path: str  # "masked-dense", "compacted", …
    layout: str  # of LAYOUTS


def race(
    mine: Sequence[Runner], dense: Sequence[Runner], batch_size: int, rounds: int, warmup: int
) -> dict[str, float | str]:
    """The fastest of ``mine`` against the fastest of ``dense``, interleaved, each side in its best layout.

    Where many rounds are asked for, a few decide which layouts run in them. Of two runners no more rounds are made
    once their ratio is known well enough (``is_narrow``); ``rounds`` of the figures says how many there were.
    """
    runners = [*mine, *dense]
    repeats = warm_up([runner.call for runner in runners], warmup, SHORTEST)
    if rounds > HEATS and len(runners) > 2:
        heats = time_rounds([runner.call for runner in runners], repeats, HEATS)
        kept = [_best(heats[: len(mine)]), len(mine) + _best(heats[len(mine) :])]
        runners, repeats = [runners[index] for index in kept], [repeats[index] for index in kept]
        mine, dense = runners[:1], runners[1:]
    enough = is_narrow if len(runners) == 2 else None
    seconds = time_rounds([runner.call for runner in runners], repeats, rounds, enough)
    best, rival = _best(seconds[: len(mine)]), _best(seconds[len(mine) :])
    return {
        "path": mine[best].path,
        "layout": mine[best].layout,
        "dense_layout": dense[rival].layout,
        "rounds": len(seconds[best]),
        **figures(seconds[best], seconds[len(mine) + rival], batch_size=batch_size),
    }


def is_narrow(seconds: Sequence[list[float]]) -> bool:
    """Whether two calls' seconds over rounds tell their ratio well enough: from FEWEST rounds on, the 95 % interval
    of the median ratio lies within NARROW of it.

    The interval is that of order statistics (Conover, Practical Nonparametric Statistics, 3.2): it takes nothing for
    granted of how ratios are spread. It is a rule for when to stop; of what was measured, quartiles are reported.
    """
    ratios = sorted(d / m for m, d in zip(*seconds, strict=True))
    rounds, median = len(ratios), statistics.median(ratios)
    if rounds < FEWEST:
        return False
    left_out = _left_out(rounds)
    low, high = ratios[left_out], ratios[rounds - 1 - left_out]
    return bool(median * (1 - NARROW) <= low and high <= median * (1 + NARROW))


def _left_out(rounds: int) -> int:
    """How many values at either end of so many don't belong to the 95 % interval of their median."""
    beyond, left_out = 0.5**rounds, 0
    while (beyond := beyond + math.comb(rounds, left_out + 1) * 0.5**rounds) <= 0.025:
        left_out += 1
    return left_out


def _best(seconds: Sequence[list[float]]) -> int:
    return min(range(len(seconds)), key=lambda index: statistics.median(seconds[index]))


def figures(mine: list[float], dense: list[float] | None = None, *, batch_size: int) -> dict[str, float]:
    """Seconds of calls over the rounds as figures: see ``Throughput``. Ratios are taken within each round."""
    deciles = _quantiles(mine, 10)
    latencies = {
        "images_per_second": batch_size / statistics.median(mine),
        "latency_median": statistics.median(mine),
        "latency_low": deciles[0],
        "latency_high": deciles[-1],
    }
    if dense is None:
        return latencies
    ratios = [d / m for m, d in zip(mine, dense, strict=True)]
    low, _, high = _quantiles(ratios, 4)
    return latencies | {
        "dense_images_per_second": batch_size / statistics.median(dense),
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
    }


def _quantiles(values: list[float], n: int) -> list[float]:
    return statistics.quantiles(values, n=n, method="inclusive") if len(values) > 1 else values * (n - 1)


def _compiled(model: nn.Module, mode: str | None) -> nn.Module:
    return model if mode is None else cast(nn.Module, torch.compile(model, mode=mode))


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Products in the precision of that name; "no": as they are."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()
