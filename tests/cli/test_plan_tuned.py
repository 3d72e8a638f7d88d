"""What `plan` and `status` say of a tuned matrix, before, between and after its tuning trials."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.runner.execution import paces
from dstbench.runner.execution.jobs import Tasks
from dstbench.runner.execution.run import run
from dstbench.runner.trial.pace import Pace
from fakes import inline

MATRIX = {
    "schema": 1,
    "name": "mine",
    "axes": {"model": "small_cnn", "dataset": "digits", "density": 0.1, "recipe": "rigl", "seed": [0, 1]},
    "controls": ["static"],
    "training": {"epochs": 1},
    "measure": {"throughput": False},
    "tune": {"lr": [0.08, 0.04, 0.3]},
}


@pytest.fixture(autouse=True)
def _inline(monkeypatch):
    inline.use(monkeypatch)
    monkeypatch.setattr(paces, "_together", lambda arguments, copies: [Pace(0.1, 0.1, 0.001)] * copies)


def said(*words):
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


def test_trials_count_once_whatever_is_chosen(tmp_path):
    suite, out = tmp_path / "mine.yaml", tmp_path / "results"
    suite.write_text(json.dumps(MATRIX))
    before = json.loads(said("plan", suite, "--out", out, "--json"))
    assert (before["counts"]["trials"], before["counts"]["tuning"], before["counts"]["to run"]) == (4, 6, 4)
    assert [len(trial["candidates"]) for trial in before["trials"]] == [3] * 4
    assert {trial["state"] for trial in before["tuning_trials"]} == {"to run"}
    text = said("plan", suite, "--out", out)
    assert "tuning    6 trials first: 6 to run; lr of 0.08, 0.04, 0.3, on validation data of seed 0" in text
    assert run(MATRIX, out, tasks=Tasks("fakes.trials:by_rate"), device="cpu").ok
    after = json.loads(said("plan", suite, "--out", out, "--json"))
    assert (after["counts"]["trials"], after["counts"]["ok"], after["estimate"]["seconds"]) == (4, 4, 0)
    assert [trial["settings"] for trial in after["trials"]] == [{"lr": 0.08}] * 4
    assert {trial["state"] for trial in after["tuning_trials"]} == {"ok"}
    assert "10 trials: 10 ok" in said("status", out)
    shown = said("results", "show", out)
    assert shown.count("tuning rigl (lr=") == 3
