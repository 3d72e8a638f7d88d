"""Processes are killed at random moments: once all is done, records, weights, curves and boards are those of an
undisturbed run.

50 kills by default; ``DSTBENCH_KILLS=500 pytest tests/faults/test_kills.py`` for more.
"""

from __future__ import annotations

import os
import sys

import pytest

from dstbench.registration.registry import registry
from dstbench.results.record import folder_of
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.plan_file import read_plans, write_plan
from dstbench.runner.execution.worker import Job
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan
from fakes.jobs import job
from faults.campaign import Campaign, litter
from faults.outcomes import boards, outcome

KILLS = int(os.environ.get("DSTBENCH_KILLS", "50"))
REAL = max(3, KILLS // 16)  # of them, on trials that train
SHARED = (KILLS - REAL) // 3  # of the others, where two workers share a folder
SEED = int(os.environ.get("DSTBENCH_SEED", "0"))

RUN = """
import sys
from pathlib import Path
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.plan_file import read_plans
order, _ = read_plans(Path(sys.argv[1]))
run_local(order.train, workers=2, on_event=lambda event: None, grace=0.3)
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
AGAIN = frozenset({"killed"})


MANY = 25
"""Kills of one campaign at most."""


def alone(results):
    """A scheduler with two trials at a time."""
    return [sys.executable, "-c", RUN, str(results)]


def worker(results):
    """A worker that takes one trial after another, and shares them with others."""
    return [sys.executable, "-m", "dstbench", "worker", str(results), "--claim", "--workers", "1"]


def undisturbed(results):
    """In this process, with the server that other tests found."""
    order, _ = read_plans(results)
    run_local(order.train, workers=2, on_event=lambda event: None)


def survive(argv, planned, root, kills, longest, width=1):
    """Campaigns until there were so many kills; what comes of each has to be what an undisturbed run gives. Returns
    the folders, that of the undisturbed run first.

    planned: given a results folder, puts a plan there and returns how many trials it has.
    """
    folders, expected, turn = [], None, 0
    while expected is None or kills > 0:
        results = root / ("reference" if expected is None else f"campaign-{turn}")
        trials = planned(results)

        def done(results=results, trials=trials):
            came = outcome(results)
            return len(came) == trials and {status for status, *_ in came.values()} == {"ok"}

        campaign = Campaign(argv(results), results, done, min(kills, MANY), SEED + turn, longest, width)
        if expected is None:
            undisturbed(results)
            assert done()
        else:
            campaign.run()
        print(f"{results.name}: {dict(campaign.tally)}", flush=True)
        came = outcome(results)
        assert came == (expected or came), campaign.tally
        assert litter(results) == [], campaign.tally
        expected, kills, turn = came, kills - sum(campaign.tally.values()), turn + 1
        folders.append(results)
        assert turn < 20 + KILLS, "hardly a kill hit anything"
    return folders


def short_trials(results):
    jobs = [job(results, f"{i:02x}" * 16, "count", retry=AGAIN) for i in range(8)]
    write_plan(Order(results, tuple(jobs), (), ("fakes.trials",)), "kills")
    return len(jobs)


def trainings(results):
    task = "dstbench.runner.trial.trial:run_trial"
    trials = plan(load_matrix(TRAINING), registry()).trials
    jobs = [
        Job(
            trial.key, trial.trial, trial.label, None, folder_of(results, trial.key), task,
            options={"device": "cpu", "checkpoint_seconds": 0.02}, retry=AGAIN,
        )
        for trial in trials
    ]  # fmt: skip
    write_plan(Order(results, tuple(jobs), (), ("dstbench.runner.trial.trial", "torch._dynamo")), "kills")
    return len(jobs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "kills", "width"),
    [(alone, KILLS - REAL - SHARED, 1), (worker, SHARED, 2)],
    ids=["alone", "shared"],
)
def test_short_trials_survive_kills(warm_server, tmp_path, argv, kills, width):
    survive(argv, short_trials, tmp_path, kills, 0.4, width)


@pytest.mark.slow
def test_trainings_survive_kills(warm_server, tmp_path):
    reference, *others = survive(worker, trainings, tmp_path, REAL, 3.0, width=2)
    assert all(curve and weights for _, _, curve, weights in outcome(reference).values())
    expected = boards(reference, tmp_path / "boards-reference")
    assert {
        "index.html",
        "accuracy.csv",
        "accuracy.md",
        "accuracy.json",
        "leaderboard.svg",
    } <= expected.keys()
    for results in others:
        came = boards(results, tmp_path / f"boards-{results.name}")
        assert came.keys() == expected.keys()
        assert [name for name in came if came[name] != expected[name]] == []
