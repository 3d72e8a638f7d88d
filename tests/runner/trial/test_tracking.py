"""Trackers by name: what TensorBoard is told, and what becomes of those that aren't there or fail."""

from __future__ import annotations

import logging

import pytest

from dstbench.errors import BadInput
from dstbench.runner.execution.jobs import Tasks
from dstbench.runner.execution.run import run
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan
from dstbench.runner.trial.tracking import FOLDER, Tracking, check_trackers
from dstbench.runner.trial.trial import run_trial

MATRIX = {
    "schema": 1,
    "name": "test",
    "axes": {
        "model": "small_cnn",
        "dataset": {"name": "synthetic", "images": 64, "size": 8},
        "density": 0.2,
        "recipe": "rigl",
    },
    "controls": [],
    "training": {"epochs": 3, "batch_size": 32},
}


@pytest.fixture
def trial():
    from dstbench.registration.registry import registry

    return plan(load_matrix(MATRIX), registry()).trials[0].trial


def test_tensorboard_shows_the_curve_and_the_record(trial, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    record = run_trial(trial, tmp_path, device="cpu", trackers=["tensorboard"], run_name="rigl, seed 0")
    assert record["status"] == "ok"
    shown = accumulator.EventAccumulator(str(tmp_path / FOLDER / "rigl, seed 0"))
    shown.Reload()
    [*_, last] = shown.Scalars("top1")
    assert last.value == pytest.approx(record["measures"]["top1"])
    assert last.step == record["measures"]["steps"]
    losses = [event.step for event in shown.Scalars("loss")]
    assert losses == [2, 4, 6, 6]  # two steps an epoch, and the test loss at the end


def test_a_tracker_that_fails_costs_no_trial(trial, tmp_path, caplog):
    (tmp_path / FOLDER).write_text("a file in its place")
    with caplog.at_level(logging.WARNING):
        record = run_trial(trial, tmp_path, device="cpu", trackers=["tensorboard"])
    assert record["status"] == "ok"
    assert "the trial goes on without it" in caplog.text


def test_each_failure_ends_one_tracker(tmp_path, caplog):
    class Broken:
        def log(self, values, step):
            raise RuntimeError("no network")

    class Good:
        seen = None

        def log(self, values, step):
            self.seen = values, step

    tracking, good = Tracking([], "run", tmp_path, {}), Good()
    tracking._trackers = {"broken": Broken(), "good": good}
    tracking.log({"loss": 0.5, "channels": [1], "label": "a", "none": None, "flag": True}, 3)
    assert good.seen == ({"loss": 0.5}, 3)
    assert list(tracking._trackers) == ["good"]
    assert "tracker broken: RuntimeError: no network" in caplog.text


def test_a_missing_tracker_is_refused_before_anything_starts(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="trackers: unknown 'tensorbord'; did you mean 'tensorboard'"):
        run(MATRIX, tmp_path / "out", tasks=Tasks(), trackers=["tensorbord"])
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(
        BadInput, match=r"tensorboard isn't installed; `pip install 'dstbench\[tensorboard\]'`"
    ):
        run(MATRIX, tmp_path / "out", tasks=Tasks(), trackers=["tensorboard"])
    with pytest.raises(BadInput, match="trackers: expected a list"):
        check_trackers("tensorboard")
    assert not (tmp_path / "out").exists()
