"""What one running trial holds, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from dstbench.api import ImageData
from dstbench.core.cost.training import TrainingMeter
from dstbench.core.training.sparsifier import Sparsifier
from dstbench.registration.registry import Registry
from dstbench.runner.matrix.config import Training
from dstbench.runner.trial.batches import Batches
from dstbench.runner.trial.exploration import Exploration

STATE = "state.pt"  # weights and masks of a finished trial


CURVE = "curve.jsonl"


CHECKPOINT = "checkpoint"


@dataclass
class Progress:
    """Where a trial stands; checkpointed with everything else."""

    epoch: int = 0
    seconds: float = 0.0
    exploration: Exploration = field(default_factory=Exploration)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return asdict(self)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from there."""
        self.epoch, self.seconds = saved["epoch"], saved["seconds"]
        self.exploration = Exploration(**saved["exploration"])


@dataclass
class RunningTrial:
    """Everything that one running trial holds."""

    trial: Mapping[str, Any]
    folder: Path
    data: ImageData
    training: Training
    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    sparsifier: Sparsifier
    batches: Batches
    meter: TrainingMeter
    registry: Registry
    progress: Progress = field(default_factory=Progress)
