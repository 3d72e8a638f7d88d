"""Runs of a few short trials, to be killed: ``python -m faults.runs JOBS RESULTS [ARGUMENT]``."""

import json
import sys
from pathlib import Path

from dstbench.results.record import folder_of
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.worker import Job
from dstbench.runner.matrix.trial_spec import TrialSpec
from fakes.jobs import job

PRELOAD = {"count": [], "train": ["dstbench.runner.trial.trial", "torch._dynamo"]}


def count(results):
    """Eight trials of no training."""
    return [job(results, f"{i:02x}" * 16, "count", retry=frozenset({"killed"})) for i in range(8)]


def train(results, planned):
    """The trials of a file, as JSON: [key, trial] each."""
    options = {"device": "cpu", "checkpoint_seconds": 0.02}
    return [
        Job(key, TrialSpec.from_json(trial), "label", None, folder_of(results, key),
            "dstbench.runner.trial.trial:run_trial", options=options, retry=frozenset({"killed"}))
        for key, trial in json.loads(Path(planned).read_text())
    ]  # fmt: skip


def run(kind, results, *arguments):
    """To their end."""
    jobs = {"count": count, "train": train}[kind](Path(results), *arguments)
    run_local(jobs, workers=2, on_event=lambda event: None, grace=0.3, preload=PRELOAD[kind])


if __name__ == "__main__":
    run(*sys.argv[1:])
