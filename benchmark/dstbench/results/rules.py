"""How a result comes about, where no component says it: results by other rules can't be compared. Torch-free."""

from __future__ import annotations

EVALUATION = 1
"""Of the evaluation: the task's metrics of the final epoch over the whole test split, nothing chosen on it. A change
of what ``top1`` means is a new number here. Records that name none are by the first."""
