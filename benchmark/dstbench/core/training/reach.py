"""Which layers gradients reach at all."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable


class Reach:
    """Says, once, which layers had no gradient in a training's first epoch, or until its first topology update."""

    def __init__(self, layers: Iterable[str], steps_per_epoch: int | None) -> None:
        self._unreached, self._epoch = dict.fromkeys(layers), steps_per_epoch
        self._any = False  # layer has had one: else these are no training steps

    def note(self, reached: Collection[str]) -> None:
        """These layers have a gradient."""
        if self._unreached:
            self._any |= bool(reached)
            self._unreached = {name: None for name in self._unreached if name not in reached}

    def report(self, step: int, updating: bool) -> None:
        """A step was applied, before a topology update perhaps."""
        if (
            not self._any
            or not self._unreached
            or not (updating if self._epoch is None else step >= self._epoch)
        ):
            return
        names, self._unreached = ", ".join(self._unreached), {}
        warnings.warn(
            f"no gradient has reached {names} in {step} steps: the loss doesn't depend on them, so they keep their "
            "masks and their share of the budget",
            stacklevel=2,
        )
