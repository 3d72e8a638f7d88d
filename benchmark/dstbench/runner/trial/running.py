"""What one running trial holds, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from dstbench.api import ImageData
from dstbench.core.cost.training import TrainingMeter
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.results.table import CURVE as CURVE
from dstbench.runner.matrix.config import Training
from dstbench.runner.trial.batches import Batches
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.course import Course
from dstbench.runner.trial.exploration import Exploration

# in a trial's folder:
STATE = "state.pt"  # weights and masks of a finished trial
CHECKPOINT = "checkpoint.pt"  # while training


@dataclass
class TrialProgress:
    """Where a trial stands; checkpointed with everything else."""

    epoch: int = 0  # epochs done
    seconds: float = 0.0  # of training
    top1_validation: float | None = None  # percent, after the last epoch; None: not evaluated then
    exploration: Exploration = field(default_factory=Exploration)
    course: Course = field(default_factory=Course)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain values and tensors."""
        return asdict(self)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from where ``state_dict`` was taken."""
        self.epoch, self.seconds = saved["epoch"], saved["seconds"]
        self.top1_validation = saved.get("top1_validation")  # older checkpoints don't have it
        self.exploration = Exploration(**saved["exploration"])
        self.course = Course(**saved.get("course", {}))


@dataclass
class RunningTrial:
    """Everything that one running trial holds."""

    blueprint: Blueprint
    folder: Path
    data: ImageData
    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    sparsifier: Sparsifier
    batches: Batches
    meter: TrainingMeter
    set_rate: Callable[[int], None]  # the learning rate, for the step to come, counted from 0
    readers: int | None = None  # processes that read image files; None: as Batches has it
    progress: TrialProgress = field(default_factory=TrialProgress)
    last_step: int | None = None  # after which training stops; None: at its end

    @property
    def inner(self) -> nn.Module:
        """The model without what the accelerator put around it."""
        inner: nn.Module = self.accelerator.unwrap_model(self.model)
        return inner

    @property
    def training(self) -> Training:
        """How the trial trains."""
        return self.blueprint.trial.training
