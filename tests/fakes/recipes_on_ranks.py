"""Every recipe on two gloo ranks, and in one process, at five topology updates or more: ``python -m
fakes.recipes_on_ranks [RECIPE ...]`` in ``tests`` prints whose masks are equal."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dstbench.core.training.method import as_recipe
from dstbench.registration.registry import registry
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.worker import Job
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.trial_spec import TrialSpec

PRELOAD = ("fakes.ranked", "torch._dynamo")


@dataclass(frozen=True)
class Found:
    """What a recipe came to."""

    status: str  # of both trials, else the reason of what failed
    updates: int = 0
    ranks: bool = False  # masks at every update, and weights at the end, are equal on both ranks
    alone: bool = False  # and the masks are those of one process


def spec(name, processes, **training):
    """Four steps an epoch, for eight epochs; an update at every second one, where the recipe has a period."""
    recipe = as_recipe({"name": name})
    settings = {"epochs": 8, "batch_size": 16, "lr": 0.05, "processes": processes, **training}
    data = {"name": "synthetic", "images": 64, "size": 8}
    return TrialSpec(
        {"name": "small_cnn"}, data, 0.3, 0, as_recipe({"name": name, **often(recipe)}), Training(**settings)
    )


def often(recipe):
    if recipe.dense or recipe.narrow:
        return {}
    schedule = recipe.schedule
    schedule = {"name": schedule} if isinstance(schedule, str) else dict(schedule)
    for more in ({"delta_t": 2, "unit": "steps"}, {"delta_t": 2}):
        try:
            registry().build("schedule", {**schedule, **more})
        except Exception:
            continue
        return {"schedule": {**schedule, **more}}
    return {}


def jobs_of(names, root):
    """Each recipe's trial in two processes, and in one."""
    return [
        Job(f"{index:04x}{processes:04x}" * 8, spec(name, processes), name, None, root / name / str(processes),
            "fakes.ranked:observed", options={"device": "cpu", "checkpoint_seconds": 0})
        for index, name in enumerate(names, start=1)
        for processes in (2, 1)
    ]  # fmt: skip


def found_in(folder, reason=None):
    """What became of a recipe's two trials; ``reason`` of one that failed."""
    if reason is not None:
        return Found(reason)
    zero, one, alone = (
        json.loads((folder / path).read_text())
        for path in ("2/masks.0.json", "2/masks.1.json", "1/masks.0.json")
    )
    return Found("ok", zero["updates"], zero == one, zero["masks"] == alone["masks"])


def main(names):
    names = names or [component.name for component in registry()["recipe"].values()]
    reasons = {}

    def note(event):
        if event.kind == "finished" and event.status != "ok":
            reasons[event.job.label] = f"{event.status}: {event.reason}"

    with tempfile.TemporaryDirectory() as root:
        run_local(jobs_of(names, Path(root)), workers=2, on_event=note, preload=PRELOAD)
        found = {name: found_in(Path(root) / name, reasons.get(name)) for name in names}
    print(f"{'':18} updates  ranks equal  as one process")
    for name, each in found.items():
        print(f"{name:18} {each.updates:7}  {each.ranks!s:11}  {each.alone!s:14}  {each.status}")
    equal, alone = (sum(getattr(each, field) for each in found.values()) for field in ("ranks", "alone"))
    often = sum(each.updates >= 5 for each in found.values())
    print(
        f"of {len(found)}: {equal} equal on both ranks, {alone} as in one process; {often} with five updates"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
