"""What every subject of the benchmark is made of: its options, its measurement, and how figures are taken."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dstbench.core.storage.timing import Call, time_interleaved

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Subject:
    """One thing to measure."""

    summary: str
    measure: Callable[[argparse.Namespace], dict[str, Any]]  # with "rows", what a table shows
    rounds: int
    warmup: int
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # "--flag" -> of add_argument

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The subject's own options, and those that every subject has."""
        for flag, settings in self.options.items():
            parser.add_argument(flag, **settings)
        parser.add_argument("--rounds", type=int, default=self.rounds)
        parser.add_argument("--warmup", type=int, default=self.warmup)


def repeated(help: str | None = None, **settings: Any) -> dict[str, Any]:
    """An option that may stand several times."""
    return {"action": "append", "help": "may be repeated" + (f"; {help}" if help else ""), **settings}


def median_ms(calls: Sequence[Call], options: argparse.Namespace) -> list[float]:
    """Milliseconds of each call, the median over interleaved rounds."""
    seconds = time_interleaved(calls, options.rounds, options.warmup)
    return [statistics.median(times) * 1e3 for times in seconds]
