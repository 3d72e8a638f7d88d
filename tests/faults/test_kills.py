"""Processes are killed at random moments: once all is done, the records are those of an undisturbed run.

50 kills by default; ``DSTBENCH_KILLS=500 pytest tests/faults/test_kills.py`` for more.
"""

from __future__ import annotations

import json
import os
import sys

import pytest

from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan
from faults.campaign import Campaign, litter, outcome

KILLS = int(os.environ.get("DSTBENCH_KILLS", "50"))
REAL = max(3, KILLS // 16)  # of them, on trials that train
SEED = int(os.environ.get("DSTBENCH_SEED", "0"))

SHORT = """
import sys
from pathlib import Path
from dataclasses import replace
from dstbench.runner.execution.local import run_local
from fakes.jobs import job
jobs = [
    job(Path(sys.argv[1]), f"{i:02x}" * 16, "count", retry=frozenset({"killed"})) for i in range(8)
]
run_local(jobs, workers=2, on_event=lambda event: None, grace=0.3)
"""

REAL_TRIALS = """
import json, sys
from pathlib import Path
from dstbench.results.record import folder_of
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.worker import Job
from dstbench.runner.matrix.trial_spec import TrialSpec
root, task = Path(sys.argv[1]), "dstbench.runner.trial.trial:run_trial"
jobs = [
    Job(key, TrialSpec.from_json(trial), "label", None, folder_of(root, key), task,
        options={"device": "cpu", "checkpoint_seconds": 0.02}, retry=frozenset({"killed"}))
    for key, trial in json.loads(Path(sys.argv[2]).read_text())
]
run_local(jobs, workers=2, on_event=lambda event: None, preload=["dstbench.runner.trial.trial", "torch._dynamo"])
"""

TRAINING = {
    "schema": 1,
    "name": "kills",
    "axes": {
        "model": "small_cnn",
        "dataset": {"name": "synthetic", "images": 256, "size": 8},
        "density": 0.2,
        "recipe": [
            {"name": "rigl", "schedule": {"name": "cosine", "delta_t": 3}},
            {"name": "set", "schedule": {"name": "cosine", "delta_t": 3}},
        ],
    },
    "controls": [],
    "training": {"epochs": 12, "batch_size": 32},
    "measure": {"throughput": False},
}


MANY = 25
"""Kills of one campaign at most."""


def survive(argv, trials, root, kills, longest):
    """Campaigns until there were so many kills; what comes of each has to be what an undisturbed run gives."""
    reference = root / "reference"
    Campaign(argv(reference), reference, lambda: len(outcome(reference)) == trials).run()
    expected = outcome(reference)
    assert {status for status, *_ in expected.values()} == {"ok"}
    turn = 0
    while kills > 0:
        results = root / f"campaign-{turn}"

        def done(results=results):
            found = outcome(results)
            return len(found) == trials and {status for status, *_ in found.values()} == {"ok"}

        campaign = Campaign(argv(results), results, done, min(kills, MANY), SEED + turn, longest)
        campaign.run()
        assert outcome(results) == expected, campaign.tally
        assert litter(results) == [], campaign.tally
        kills, turn = kills - sum(campaign.tally.values()), turn + 1
        assert turn < 20 + KILLS, "hardly a kill hit anything"
    return expected


@pytest.mark.slow
def test_short_trials_survive_kills(tmp_path):
    survive(lambda results: [sys.executable, "-c", SHORT, str(results)], 8, tmp_path, KILLS - REAL, 0.4)


@pytest.mark.slow
def test_trainings_survive_kills(tmp_path):
    planned = plan(load_matrix(TRAINING), registry())
    trials = tmp_path / "trials.json"
    trials.write_text(json.dumps([[trial.key, trial.trial.to_json()] for trial in planned.trials]))
    expected = survive(
        lambda results: [sys.executable, "-c", REAL_TRIALS, str(results), str(trials)], 2, tmp_path, REAL, 3.0
    )
    assert all(weights for *_, weights in expected.values())
