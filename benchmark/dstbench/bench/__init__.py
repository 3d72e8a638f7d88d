"""What the engine costs and what sparsity gains, measured: ``python -m dstbench.bench SUBJECT``.

Prints JSON, with the machine described, and on the error stream a table to read. Whatever is compared runs in
one process, interleaved, in an order that rotates each round; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dstbench.bench import compact, engine, gpu, layers, models
from dstbench.errors import BadInput
from dstbench.runner.trial.provenance import machine

__all__ = ["main"]

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """One thing to measure."""

    add_arguments: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace], dict[str, Any]]  # with "rows", what a table shows
    summary: str


SUBJECTS = {
    "step": Subject(engine.add_arguments, engine.bench_step, "a training step, sparse beside dense"),
    "update": Subject(engine.add_arguments, engine.bench_update, "one topology update"),
    "layers": Subject(layers.add_arguments, layers.measure, "single layers, shuffled blocks beside dense"),
    "models": Subject(models.add_arguments, models.measure, "whole models, shuffled blocks beside dense"),
    "compact": Subject(compact.add_arguments, compact.measure, "channels cut out, beside dense"),
    "gpu": Subject(
        gpu.add_arguments, gpu.measure, "Triton kernels of shuffled blocks beside dense, on a GPU"
    ),
}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m dstbench.bench", description=__doc__)
    subparsers = parser.add_subparsers(dest="what", required=True)
    for name, subject in SUBJECTS.items():
        options = subparsers.add_parser(name, help=subject.summary, description=subject.summary)
        options.add_argument("--threads", type=int, default=2)
        subject.add_arguments(options)
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    settle()
    try:
        measured = SUBJECTS[parsed.what].measure(parsed)
    except BadInput as error:
        parser.error(str(error))
    print(json.dumps({**vars(parsed), **measured, "machine": machine()}, indent=2))
    print(table(measured.get("rows", [])), file=sys.stderr)


def settle(seconds: float = 3.0) -> None:
    """Keep the threads busy until the system has spread them over the cores: before that, all is far too slow."""
    end = time.perf_counter() + seconds
    a, b = torch.randn(2, 512, 512)
    while time.perf_counter() < end:
        a @ b


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as aligned text; numbers with two decimals."""
    if not rows:
        return ""
    text = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in text]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
