"""What the engine costs and what sparsity gains, measured: ``python -m dstbench.bench SUBJECT``.

Prints JSON, with the machine described, and on the error stream a table to read. Whatever is compared runs in
one process, interleaved, in an order that rotates each round; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from dstbench.bench.cut_channels import COMPACT
from dstbench.bench.gpu import GPU
from dstbench.bench.single_layers import LAYERS
from dstbench.bench.training_steps import STEP, UPDATE
from dstbench.bench.whole_models import MODELS
from dstbench.errors import BadInput
from dstbench.runner.trial.provenance import machine

__all__ = ["main"]

SUBJECTS = {
    "step": STEP,
    "update": UPDATE,
    "layers": LAYERS,
    "models": MODELS,
    "compact": COMPACT,
    "gpu": GPU,
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
