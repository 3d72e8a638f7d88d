"""Where a training stands, besides its masks, its signals and what is stored."""

from __future__ import annotations

from dataclasses import dataclass

from dstbench.core.engine.books import Books
from dstbench.core.training.support import Removal
from dstbench.core.training.topology import UpdateReport


@dataclass(frozen=True)
class TrainingState:
    """What changes at a step, as one value. Plain values only."""

    books: Books
    undecided: bool  # no initial masks yet: all weights are active
    steps: int = 0  # applied optimizer steps
    waits: int = 0  # steps in a row at which a decision waited for gradients other than zeros
    history: tuple[UpdateReport, ...] = ()
    removals: tuple[Removal, ...] = ()
