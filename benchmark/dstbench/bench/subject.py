"""What every subject of the benchmark is made of: its options, its parts, and how figures are taken."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One thing that is measured by itself, and the rows that it comes to."""

    name: str
    rows: Callable[[], Iterable[Row]]
    table: str = "rows"  # under which name its rows stand in the JSON


@dataclass(frozen=True)
class Subject:
    """One kind of measurement. ``columns`` are what a row shows as it comes; the JSON has everything."""

    summary: str
    parts: Callable[[argparse.Namespace], Sequence[Part]]
    columns: Sequence[str]
    rounds: int
    warmup: int
    quick: Mapping[str, Any]  # option -> its value under --quick, unless it was given
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # "--flag" -> of add_argument
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of options that ``quick`` may set otherwise

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The subject's own options, and those that every subject has."""
        for flag, settings in self.options.items():
            parser.add_argument(flag, **settings)
        parser.add_argument("--only", **repeated("parts whose name contains this"))
        parser.add_argument("--quick", action="store_true", help="less of everything: about a minute")
        parser.add_argument("--rounds", type=int, help=f"by default {self.rounds}")
        parser.add_argument("--warmup", type=int, help=f"by default {self.warmup}")

    def completed(self, options: argparse.Namespace) -> argparse.Namespace:
        """Options with what was not given: from ``quick`` where that was asked for, else the defaults."""
        defaults = {"rounds": self.rounds, "warmup": self.warmup, **self.defaults}
        defaults |= self.quick if options.quick else {}
        return argparse.Namespace(
            **{
                name: defaults[name] if value is None and name in defaults else value
                for name, value in vars(options).items()
            }
        )


def repeated(help: str | None = None, **settings: Any) -> dict[str, Any]:
    """An option that may stand several times."""
    return {"action": "append", "help": "may be repeated" + (f"; {help}" if help else ""), **settings}
