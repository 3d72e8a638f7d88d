"""How fast this machine trains: a few real steps of a trial's network, timed, in its own precision."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dstbench.accel.throughput import autocast, training_call
from dstbench.api import Batch
from dstbench.registration.registry import Registry
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.feeding import laid_out
from dstbench.runner.trial.optimization import build_optimizer, memory_format

_FEW = 8  # entries that are tried first: a step of a full batch can take minutes
_SLOW = 1.0  # seconds: a full batch that would take longer is reckoned from the few
_BUDGET = 0.4  # seconds of steps, if one step isn't longer
_SLOWED = 3.0  # times that several threads may take what one takes: starting them costs something
_USED = 0.9  # of the processors' time that threads have which nobody else keeps waiting


@dataclass(frozen=True)
class Pace:
    """Seconds that parts of a trial take on this machine."""

    start: float  # until the first step: the network and its sparsifier are made
    step: float  # one training step of a whole batch
    image: float  # evaluating one entry of a batch
    float32: float | None = None  # that step without mixed precision; None: there is none
    busy: bool = (
        False  # whether something else kept threads waiting for one another, so that this is one's pace
    )


@dataclass(frozen=True)
class Spent:
    """What a call took."""

    wall: float  # seconds
    processors: float  # seconds, of all threads


def is_crowded(many: Spent, one: Spent, threads: int) -> bool:
    """Whether so many threads were much slower than one because something else was running.

    At each barrier all wait for the one that has lost its processor, and OpenMP's spin meanwhile: a step can take
    hundreds of times as long. Threads that are slow for a network that is too small for them have processors, though.
    """
    return many.wall > _SLOWED * one.wall and many.processors < _USED * threads * many.wall


def measure_pace(
    trial: TrialSpec,
    shape: tuple[int, ...],
    classes: int,
    *,
    device: str = "auto",
    threads: int | None = None,
    registry: Registry,
) -> Pace:
    """Train a trial's network on a made-up batch for a moment: about a second, without data.

    A slow network is timed with eight entries and reckoned up in proportion, which is a little too long.
    """
    if threads:
        torch.set_num_threads(threads)
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    pace = _measured(trial, shape, classes, where, registry)
    if trial.training.mixed_precision == "no":
        return pace
    plain = replace(trial, training=trial.training.model_copy(update={"mixed_precision": "no"}))
    other = _measured(plain, shape, classes, where, registry)
    return replace(pace, float32=other.step, busy=pace.busy or other.busy)


def _measured(
    trial: TrialSpec, shape: tuple[int, ...], classes: int, device: torch.device, registry: Registry
) -> Pace:
    training, blueprint = trial.training, Blueprint(trial, registry)
    few = min(_FEW, training.batch_size)
    start = time.perf_counter()
    model = blueprint.model(shape, classes).to(device).to(memory_format=memory_format(training))
    inputs, targets = _batch(blueprint, few, shape, classes, device)
    # a short training, but with updates as the whole one has them
    optimizer = blueprint.sparsifier(model, build_optimizer(model, training), 10_000, inputs)
    started = time.perf_counter() - start

    def training_step(inputs: Tensor, targets: Tensor) -> Callable[[], object]:
        return training_call(
            model, optimizer, inputs, targets, training.mixed_precision, loss_of=blueprint.task.loss
        )

    busy = device.type == "cpu" and _leave_crowd(training_step(inputs, targets))
    step, tried = _per_batch(
        training_step,
        (inputs, targets),
        lambda: _batch(blueprint, training.batch_size, shape, classes, device),
        training.batch_size,
    )
    model.eval()

    @torch.inference_mode()
    def evaluate() -> object:
        with autocast(device, training.mixed_precision):
            return model(tried)

    return Pace(started, step, _timed(evaluate) / len(tried), busy=busy)


def _leave_crowd(call: Callable[[], object]) -> bool:
    """Go on with one thread where several are in each other's way because of somebody else's; whether they are."""
    if (threads := torch.get_num_threads()) == 1:
        return False
    many = _spent(call)
    torch.set_num_threads(1)
    if is_crowded(many, _spent(call), threads):
        return True
    torch.set_num_threads(threads)
    return False


def _spent(call: Callable[[], object]) -> Spent:
    """On a call, after one that doesn't count."""
    call()
    wall, processors = time.perf_counter(), time.process_time()
    call()
    return Spent(time.perf_counter() - wall, time.process_time() - processors)


def _per_batch(
    make: Callable[[Tensor, Tensor], Callable[[], object]], few: Batch, whole: Callable[[], Batch], size: int
) -> tuple[float, Tensor]:
    """Seconds of a call on a whole batch, of so many entries, and the inputs that it was tried with."""
    tried, _ = few
    seconds = _timed(make(*few), budget=0.0)
    if seconds * size / len(tried) > _SLOW:
        return seconds * size / len(tried), tried
    inputs, targets = whole()
    return _timed(make(inputs, targets)), inputs


def _timed(call: Callable[[], object], budget: float = _BUDGET) -> float:
    """Median seconds of a call, after one that doesn't count; as many as fit the budget, and at least two."""
    _finished(call)
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < budget:
        seconds.append(_finished(call))
    return statistics.median_low(seconds)


def _finished(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _batch(
    blueprint: Blueprint, size: int, shape: tuple[int, ...], classes: int, device: torch.device
) -> Batch:
    inputs, targets = (part.to(device) for part in blueprint.example(size, shape, classes))
    return laid_out(inputs, memory_format(blueprint.trial.training)), targets
