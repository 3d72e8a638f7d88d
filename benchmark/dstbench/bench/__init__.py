"""What the engine costs and what sparsity gains, measured: ``python -m dstbench.bench SUBJECT``.

Rows come on the error stream as they are measured; at the end, or when stopped, all of them are printed as JSON,
with the machine described. Whatever is compared runs in one process, interleaved, in an order that rotates each
round; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from dstbench.bench.cut_channels import COMPACT
from dstbench.bench.gpu import GPU
from dstbench.bench.progress import Progress
from dstbench.bench.scheduling import SCHEDULER
from dstbench.bench.single_layers import LAYERS
from dstbench.bench.subject import Part, Subject
from dstbench.bench.training_steps import STEP, UPDATE
from dstbench.bench.whole_models import MODELS
from dstbench.errors import BadInput
from dstbench.runner.execution.allocator import keep_freed
from dstbench.runner.trial.provenance import machine

__all__ = ["main"]

SUBJECTS = {
    "step": STEP,
    "update": UPDATE,
    "layers": LAYERS,
    "models": MODELS,
    "compact": COMPACT,
    "gpu": GPU,
    "scheduler": SCHEDULER,
}


def main() -> None:
    """Parse, measure, print. Exits with 130 when stopped, with 1 when a part failed: what was measured is printed."""
    parser = argparse.ArgumentParser(prog="python -m dstbench.bench", description=__doc__)
    subparsers = parser.add_subparsers(dest="what", required=True)
    for name, subject in SUBJECTS.items():
        options = subparsers.add_parser(name, help=subject.summary, description=subject.summary)
        options.add_argument("--threads", type=int, default=2)
        options.add_argument("--out", type=Path, help="a file for the JSON, complete after every part")
        subject.add_arguments(options)
    parsed = parser.parse_args()
    subject = SUBJECTS[parsed.what]
    completed = subject.completed(parsed)
    torch.set_num_threads(parsed.threads)
    keep_freed()
    try:
        parts = _wanted(subject.parts(completed), parsed.only)
    except BadInput as error:
        parser.error(str(error))
    settle()
    before = signal.signal(signal.SIGTERM, _stop)
    code, measured = measure(subject, parts, completed)
    signal.signal(signal.SIGTERM, before)
    print(json.dumps(measured, indent=2, default=str))
    if code:
        sys.exit(code)


def measure(subject: Subject, parts: list[Part], options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Every part's rows, and the exit code. A part that fails is a row with its reason; the rest goes on."""
    tables: dict[str, list[dict[str, Any]]] = {part.table: [] for part in parts}
    measured = {**vars(options), **tables, "machine": machine()}
    code = 0
    with Progress(subject.columns, len(parts)) as progress:
        for part in parts:
            progress.begin(part.name)
            try:
                for row in part.rows():
                    tables[part.table].append(dict(row))
                    progress.show(row)
            except KeyboardInterrupt:
                return 130, {**measured, "stopped": part.name}
            except Exception as error:
                code, reason = 1, f"{type(error).__name__}: {error}"
                tables[part.table].append({"part": part.name, "failed": reason})
                progress.fail(part.name, reason)
            progress.end()
            if options.out is not None:
                _write(measured, options.out)
    return code, measured


def settle(seconds: float = 3.0) -> None:
    """Keep the threads busy until the system has spread them over the cores: before that, all is far too slow."""
    end = time.perf_counter() + seconds
    a, b = torch.randn(2, 512, 512)
    while time.perf_counter() < end:
        a @ b


def _wanted(parts: Sequence[Part], only: list[str] | None) -> list[Part]:
    """The parts whose name contains one of the words."""
    if only is None:
        return list(parts)
    for word in only:
        if not any(word in part.name for part in parts):
            names = "; ".join(part.name for part in parts)
            raise BadInput(f"--only: no part's name contains {word!r}; there are: {names}")
    return [part for part in parts if any(word in part.name for word in only)]


def _write(measured: dict[str, Any], path: Path) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(measured, indent=2, default=str), encoding="utf-8")
    fresh.replace(path)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt
