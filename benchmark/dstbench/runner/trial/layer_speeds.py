"""How much faster layers ran with an execution, over the trials of a run: layers that are alike are timed once."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import torch

from dstbench import __version__
from dstbench.core.storage.fastest import Measurements
from dstbench.runner.matrix import cached
from dstbench.runner.trial.provenance import processor

_HOUR = 3600.0
"""Seconds that a measurement is used again: a machine's load changes."""


class LayerSpeeds(Measurements):
    """Speedups by all that a layer's time depends on; those that others measured here within an hour are in it."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        machine = [platform.node(), processor(), threads, os.environ.get("ONEDNN_MAX_CPU_ISA")]
        self._file = cached.place("layers", [machine, __version__, torch.__version__])
        self._known = self._recalled()

    def keep(self) -> None:
        """Write down what was measured, beside what others have meanwhile."""
        if self:
            now = time.time()
            cached.keep(
                self._file, self._recalled() | {repr(key): (value, now) for key, value in self.items()}
            )

    def __contains__(self, key: object) -> bool:
        """Whether a speedup is known."""
        return super().__contains__(key) or repr(key) in self._known

    def __missing__(self, key: tuple[Any, ...]) -> float:
        """What others measured."""
        return self._known[repr(key)][0]

    def _recalled(self) -> dict[str, tuple[float, float]]:
        kept, now = cached.recall(self._file), time.time()
        try:
            return {name: (float(value), at) for name, (value, at) in kept.items() if 0 <= now - at < _HOUR}
        except (AttributeError, TypeError, ValueError):  # nothing, or no file of ours
            return {}
