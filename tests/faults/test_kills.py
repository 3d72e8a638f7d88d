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
from faults import runs
from faults.campaign import Campaign, litter, outcome

KILLS = int(os.environ.get("DSTBENCH_KILLS", "50"))
REAL = max(3, KILLS // 16)  # of them, on trials that train
SEED = int(os.environ.get("DSTBENCH_SEED", "0"))

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


def survive(root, kills, longest, kind, trials, *arguments):
    """Campaigns until there were so many kills; what comes of each has to be what an undisturbed run gives."""
    runs.run(kind, root / "reference", *arguments)
    expected = outcome(root / "reference")
    assert len(expected) == trials
    assert {status for status, *_ in expected.values()} == {"ok"}
    turn = 0
    while kills > 0:
        results = root / f"campaign-{turn}"

        def done(results=results):
            found = outcome(results)
            return len(found) == trials and {status for status, *_ in found.values()} == {"ok"}

        argv = [sys.executable, "-m", "faults.runs", kind, str(results), *arguments]
        campaign = Campaign(argv, results, done, min(kills, MANY), SEED + turn, longest)
        campaign.run()
        assert outcome(results) == expected, campaign.tally
        assert litter(results) == [], campaign.tally
        kills, turn = kills - sum(campaign.tally.values()), turn + 1
        assert turn < 20 + KILLS, "hardly a kill hit anything"
    return expected


@pytest.mark.slow
def test_short_trials_survive_kills(warm_server, tmp_path):
    survive(tmp_path, KILLS - REAL, 0.4, "count", 8)


@pytest.mark.slow
def test_trainings_survive_kills(warm_server, tmp_path):
    planned = plan(load_matrix(TRAINING), registry())
    trials = tmp_path / "trials.json"
    trials.write_text(json.dumps([[trial.key, trial.trial.to_json()] for trial in planned.trials]))
    expected = survive(tmp_path, REAL, 3.0, "train", 2, str(trials))
    assert all(weights for *_, weights in expected.values())
