"""Short trials on several nodes that write down where they began and ended, and stop where they are asked to."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from dstbench.runner.execution.jobs import Tasks
from dstbench.runner.trial import interruption

TASKS = Tasks("fakes.cluster:train", "fakes.trials:measure")
SECONDS = "DSTBENCH_FAKE_SECONDS"
"""The variable that says how long a trial takes."""


def matrix(trials: int, **changes: object) -> dict[str, object]:
    """A matrix of so many trials that aren't timed."""
    return {
        "schema": 1,
        "name": "test",
        "axes": {
            "model": "small_cnn",
            "dataset": {"name": "synthetic", "images": 64, "size": 8},
            "density": 0.1,
            "recipe": "set",
            "seed": [*range(trials)],
        },
        "controls": [],
        "training": {"epochs": 1, "batch_size": 32},
        "measure": {"throughput": False},
        **changes,
    }  # fmt: skip


def train(trial: object, folder: Path, **options: object) -> Mapping[str, object]:
    """Sleep in steps, of which those that an earlier attempt did aren't done again."""
    node = os.environ.get("SLURMD_NODENAME", "here")
    note(folder, f"began {node}")
    steps, done = folder / "steps", 0
    if steps.exists():
        done = int(steps.read_text() or 0)
    for step in range(done, int(float(os.environ.get(SECONDS, "0.2")) * 10)):
        time.sleep(0.1)
        if interruption.asked():
            steps.write_text(str(step + 1))
            note(folder, f"interrupted {node}")
            raise interruption.Interrupted
    note(folder, f"ended {node}")
    return {"status": "ok", "measures": {"top1": 50.0, "seconds": 0.1}, "provenance": {"node": node}}


def note(folder: Path, what: str) -> None:
    """Append a line to what happened in a trial's folder."""
    with (folder / "history").open("a") as file:
        file.write(what + "\n")


def histories(results: Path) -> dict[str, list[str]]:
    """Key -> what happened to each trial, in order."""
    return {path.parent.name: path.read_text().splitlines() for path in results.glob("*/*/history")}
