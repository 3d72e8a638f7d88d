"""What a training went through, in a few points that whoever retrains it can compare: losses, and hashes of masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dstbench.core.training import checkpoint
from dstbench.core.training.sparsifier import Sparsifier

UPDATES = 10
"""The first topology updates that have a point each; later ones have none."""

Waypoint = dict[str, Any]


@dataclass
class Course:
    """Points at the steps 1, 2, 4, 8, … and at the first updates; checkpointed with the trial."""

    points: list[Waypoint] = field(default_factory=list)

    def begin(self, sparsifier: Sparsifier) -> None:
        """The point before the first step: the initial masks, where they don't follow from gradients, which machines
        of another kind round otherwise."""
        masks = None if sparsifier.passes else _masks(sparsifier)
        self.points.append({"step": 0, "loss": None, "masks": masks})

    def observe(self, sparsifier: Sparsifier, loss: Tensor) -> None:
        """Add a point where the step that was just made is to have one. ``loss``: of its last batch, float [].

        The loss is read from its device at these few steps alone.
        """
        step, history = sparsifier.steps, sparsifier.history
        updated = bool(history) and history[-1].step == step and len(history) <= UPDATES
        if updated or step & (step - 1) == 0:
            self.points.append({"step": step, "loss": float(loss), "masks": _masks(sparsifier)})

    def measures(self) -> dict[str, Any]:
        """The field of the record: each figure a list over the points."""
        names = ("step", "loss", "masks")
        return {"course": {name: [point[name] for point in self.points] for name in names}}


def masks_digest(masks: Mapping[str, Tensor]) -> str:
    """sha256, hex, over the layers' names, shapes and packed masks, bool [*w], in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(masks):
        digest.update(f"{name}{tuple(masks[name].shape)}".encode())
        digest.update(checkpoint.pack(masks[name]).numpy().data)
    return digest.hexdigest()


def _masks(sparsifier: Sparsifier) -> str | None:
    """The hash of the masks; None where there are none, or none yet."""
    if sparsifier.method.dense or not sparsifier.decided:
        return None
    return masks_digest(sparsifier.masks)
