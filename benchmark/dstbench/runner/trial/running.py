"""What one running trial holds, and where it stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from dstbench.api import Task
from dstbench.core import ranks
from dstbench.core.cost.layers import Workload
from dstbench.core.cost.training import TrainingMeter
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.results.curve_file import CURVE as CURVE
from dstbench.runner.matrix.config import Training
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.course import Course
from dstbench.runner.trial.exploration import Exploration
from dstbench.runner.trial.feeding import Data, Feed
from dstbench.runner.trial.started import Started
from dstbench.runner.trial.tracking import Tracking

# in a trial's folder:
STATE = "state.pt"  # weights and masks of a finished trial
CHECKPOINT = "checkpoint.pt"  # while training
PREVIOUS = "checkpoint.previous.pt"  # the one before: what is left where that one can't be read
MEETING = 1.0
"""Seconds, about, after which ranks hear from each other whether to stop."""


@dataclass
class TrialProgress:
    """Where a trial stands; checkpointed with everything else."""

    epoch: int = 0  # epochs done
    batches: int = 0  # done, of the epoch under way
    samples: int = 0  # entries of those that a loss scaler kept from being a step
    loss: float = 0.0  # of the batches done, summed: of this rank's share, in float32
    seconds: float = 0.0  # of training, in all processes that it took
    began: str | None = None  # when the first of them started; None: an older checkpoint doesn't say
    validation: float | None = None  # the metric after the last epoch; None: not evaluated then
    exploration: Exploration = field(default_factory=Exploration)
    course: Course = field(default_factory=Course)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain values and tensors."""
        return asdict(self)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from where ``state_dict`` was taken."""
        exploration = Exploration(**saved["exploration"])
        course = Course(**saved.get("course", {}))  # older checkpoints don't have it
        if "top1_validation" in saved:  # an older checkpoint's
            saved = {**saved, "validation": saved["top1_validation"]}
        saved = {"began": None, **saved}
        fields = {name: saved[name] for name in asdict(self) if name != "course"}
        vars(self).update({**fields, "exploration": exploration, "course": course})

    def next_epoch(self) -> None:
        """The epoch under way is over, and in the curve."""
        self.epoch, self.batches, self.samples, self.loss = self.epoch + 1, 0, 0, 0.0


@dataclass
class Stopwatch:
    """Counts training, and neither evaluations nor what is written."""

    started: float | None = None

    def start(self) -> None:
        """Count from now on."""
        self.started = time.perf_counter()

    def stop(self) -> float:
        """The seconds since ``start``; none if it isn't counting."""
        seconds = 0.0 if self.started is None else time.perf_counter() - self.started
        self.started = None
        return seconds


@dataclass
class Pauses:
    """When a trial writes its checkpoint by the clock, so many seconds after the last one (0: never), or stops.

    Ranks do both at the same step: every ``MEETING`` they hear whether one of them was asked, and from rank 0 whether
    it is time.
    """

    seconds: float = 0.0
    last: float = field(default_factory=time.monotonic)
    looks: int = 0  # since ranks met
    until: int = 1  # the looks after which they meet again
    met: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        """Whether it is time."""
        return self.seconds > 0 and time.monotonic() - self.last >= self.seconds

    def look(self, asked: bool) -> tuple[bool, bool]:
        """Whether to stop, and whether it is time: the same on every rank, which all look equally often."""
        if ranks.world() == 1:
            return asked, self.due
        self.looks += 1
        if self.looks < self.until:
            return False, False
        now, first = time.monotonic(), ranks.rank() == 0
        looks = int(MEETING * self.looks / max(now - self.met, 1e-3))
        stop, due, until = ranks.most([asked, first and self.due, first and max(1, looks)])
        self.looks, self.until, self.met = 0, until, now
        return bool(stop), bool(due)

    def made(self) -> None:
        """One was written."""
        self.last = time.monotonic()


@dataclass
class RunningTrial:
    """Everything that one running trial holds."""

    blueprint: Blueprint
    folder: Path
    data: Data
    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    sparsifier: Sparsifier
    batches: Feed
    meter: TrainingMeter
    set_rate: Callable[[int], None]  # the learning rate, for the step to come, counted from 0
    work: Workload  # the products of one forward pass
    readers: int | None = None  # processes that read image files; None: as Batches has it
    tracking: Tracking | None = None
    started: Started | None = None  # the weights that it had first; None: its seed's
    progress: TrialProgress = field(default_factory=TrialProgress)
    last_step: int | None = None  # after which training stops; None: at its end
    pauses: Pauses = field(default_factory=Pauses)
    watch: Stopwatch = field(default_factory=Stopwatch)
    norms: AbstractContextManager[Any] = field(
        default_factory=nullcontext
    )  # around each forward pass in training

    @property
    def inner(self) -> nn.Module:
        """The model without what the accelerator put around it."""
        inner: nn.Module = self.accelerator.unwrap_model(self.model)
        return inner

    @property
    def task(self) -> Task:
        """What the data set asks for."""
        return self.blueprint.task

    @property
    def training(self) -> Training:
        """How the trial trains."""
        return self.blueprint.trial.training
