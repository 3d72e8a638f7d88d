"""Noticing optimizer state that others wrote, without reading it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dstbench.core.storage.conduct import entrywise
from dstbench.core.storage.states import States


class Watch:
    """Tells of which weights the optimizer's state may have been written to since it last looked.

    A tensor counts the writes to it, and new memory has another address.
    """

    def __init__(self, states: States) -> None:
        self._states = states
        self._seen: dict[str, tuple[tuple[str, int, int], ...]] = {}  # by layer

    def look(self, weights: Mapping[str, Tensor]) -> None:
        """Their state is known, by layer."""
        self._seen = {name: self._written(weight) for name, weight in weights.items()}

    def forget(self) -> None:
        """Nothing is known any more."""
        self._seen = {}

    def written(self, weights: Mapping[str, Tensor]) -> list[str]:
        """The layers whose state isn't known to be what it was."""
        return [name for name, weight in weights.items() if self._seen.get(name) != self._written(weight)]

    def _written(self, weight: Tensor) -> tuple[tuple[str, int, int], ...]:
        state = self._states.of(weight)
        return tuple((key, state[key]._version, state[key].data_ptr()) for key in entrywise(state, weight))
