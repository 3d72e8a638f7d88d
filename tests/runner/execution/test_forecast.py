"""What a plan says of time, against sums by hand; and that paces are measured, kept and never hang a plan."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dstbench.registration.registry import registry
from dstbench.results.record import folder_of, write_record
from dstbench.runner.execution import paces
from dstbench.runner.execution.forecast import START, TIMING_START, forecast
from dstbench.runner.execution.paces import Machine, pace_of
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.outlook import Outlook
from dstbench.runner.matrix.plan import plan
from dstbench.runner.trial.pace import Pace, Spent, is_crowded
from dstbench.runner.trial.provenance import processor

MATRIX = {
    "schema": 1,
    "name": "tiny",
    "axes": {
        "model": "small_cnn",
        "dataset": "digits",
        "density": 0.1,
        "seed": [0, 1, 2],
        "recipe": ["rigl"],
    },
    "controls": [],
    "training": {"epochs": 2, "batch_size": 32, "eval_every": 1},
    "measure": {"rounds": 3, "warmup": 1},
}
PACE = Pace(start=2.0, step=0.1, image=0.001)


def planned(measure=MATRIX["measure"], **training):
    training = {**MATRIX["training"], **training}
    return plan(load_matrix({**MATRIX, "training": training, "measure": measure}), registry()).trials


def ahead(trials, tmp_path, pace=PACE, workers=2, timed=()):
    return forecast(
        trials, timed, Outlook(registry()), tmp_path, Machine(workers, "cpu"), lambda *_, **__: pace
    )


def test_training_is_its_steps_its_evaluations_and_its_start(tmp_path):
    trials = planned()
    # 1258 images to train on: 39 batches of 32; 180 are evaluated after each of two epochs, 359 at the end
    each = START + 2.0 + 2 * 39 * 0.1 + (2 * 180 + 359) * 0.001
    said = ahead(trials, tmp_path)
    assert said.seconds == pytest.approx({("train", trial.key): each for trial in trials})
    assert said.wall == pytest.approx(1.5 * each)  # three trials on two workers
    assert ahead(trials, tmp_path, workers=8).wall == pytest.approx(each)  # never shorter than one trial
    assert said.basis == "measured steps"
    macs = Outlook(registry()).profile(trials[0].trial).macs
    assert said.macs == 3 * (3 * macs * 1258 * 2)


@pytest.mark.parametrize(
    ("rounds", "timed_calls"),
    [(3, 4 * 3), (11, 4 * 3 + 2 * 11)],  # of four ways three heats, if there are more rounds, choose two
)
def test_timing_is_included_one_trial_after_the_other(rounds, timed_calls, tmp_path):
    trials = planned(measure={"rounds": rounds, "warmup": 1})
    # four ways to do it, a warm-up and one for the repeats; a timing of a call of an image lasts 2 ms at least
    warm = 4 * (1 + 1) * (0.1 + 32 * 0.001 + 0.001)
    each = START + TIMING_START + 2 * 2.0 + warm + timed_calls * (0.1 + 32 * 0.001 + 0.002)
    said = ahead([], tmp_path, timed=trials)
    assert said.phase("throughput") == pytest.approx(3 * each)
    assert said.phase("train") == 0


def test_finished_trials_of_this_machine_come_first(tmp_path):
    trials = planned()
    times = {"started": "2026-11-20T10:00:00+00:00", "finished": "2026-11-20T10:00:20+00:00"}
    for trial, cpu, seconds in ((trials[0], processor(), 15.0), (trials[1], "another processor", 900.0)):
        record = {
            "key": trial.key, "status": "ok", "trial": trial.trial.to_json(), "label": "rigl",
            "measures": {"top1": 90.0, "seconds": seconds}, "provenance": {**times, "cpu": cpu},
        }  # fmt: skip
        write_record(record, folder_of(tmp_path, trial.key))
    said = ahead(trials[2:], tmp_path, pace=None)
    assert said.wall == pytest.approx(START + 20.0)
    assert said.basis == "finished trials of the same kind"


def test_a_precision_that_is_slower_is_said_with_the_way_out(tmp_path):
    slow, native = Pace(2.0, 5.5, 0.001, float32=0.64), Pace(2.0, 0.6, 0.001, float32=0.64)
    [note] = ahead(planned(mixed_precision="bf16"), tmp_path, slow).notes
    assert note == (
        "bf16 is slower than float32 here, for it is emulated: a step of small_cnn takes 5.5 s, in float32 0.64 s "
        "(`-S training.mixed_precision=no` trains in float32)"
    )
    assert not ahead(planned(mixed_precision="bf16"), tmp_path, native).notes


def test_what_cannot_be_measured_is_not_guessed(tmp_path, monkeypatch):
    said = ahead(planned(), tmp_path, pace=None)
    assert said.wall is None
    assert "pace of small_cnn isn't known: a few steps of it failed" in said.notes[0]
    # a folder that nobody has read yet
    monkeypatch.setattr(Outlook, "declared", lambda self, trial, what: None)
    said = ahead(planned(), tmp_path)
    assert said.wall is None
    assert said.notes == (
        "the pace of small_cnn isn't known: of what shape the entries of digits are, it says only once it is read",
    )


def test_a_pace_is_measured_in_another_process_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DSTBENCH_CACHE", str(tmp_path))
    trial, machine = planned(mixed_precision="bf16")[0].trial, Machine(paces.cores(), "cpu")
    pace = pace_of(trial, (1, 8, 8), 10, machine)
    assert all(value > 0 for value in (pace.start, pace.step, pace.image, pace.float32))
    monkeypatch.setattr(paces, "_together", None)  # not a second time
    assert pace_of(trial, (1, 8, 8), 10, machine) == pace
    [file] = tmp_path.glob("pace/*.json")
    for damaged in (
        "{",
        json.dumps({"step": 1.0}),
        "[]",
        json.dumps(dict.fromkeys(json.loads(file.read_text()), "x")),
    ):
        file.write_text(damaged)
        with pytest.raises(TypeError, match="not callable"):
            pace_of(trial, (1, 8, 8), 10, machine)


def test_a_network_that_crashes_or_hangs_has_no_pace(tmp_path, monkeypatch):
    monkeypatch.setenv("DSTBENCH_CACHE", str(tmp_path))
    trial = planned()[0].trial
    assert pace_of(trial, (1, 8), 10, Machine(1, "cpu")) is None  # raises in the child
    monkeypatch.setattr(paces, "_PATIENCE", 0.0)
    assert pace_of(trial, (1, 8, 8), 10, Machine(1, "cpu")) is None
    assert not list(tmp_path.glob("pace/*"))


def test_threads_that_others_keep_waiting_are_told_from_those_that_a_small_network_has_no_use_for():
    """As measured with two threads of two processors: beside others 6.2 s for the 0.16 s of one thread."""
    one = Spent(wall=0.16, processors=0.16)
    assert is_crowded(Spent(wall=6.2, processors=5.9), one, threads=2)
    assert not is_crowded(Spent(wall=6.2, processors=12.4), one, threads=2)  # they had all there is
    assert not is_crowded(Spent(wall=0.3, processors=0.2), one, threads=2)  # no worse than starting them


def test_a_disturbed_pace_is_said_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DSTBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(paces, "_together", lambda *_: [PACE, replace(PACE, step=0.3, busy=True)])
    trials = planned()
    pace = pace_of(trials[0].trial, (1, 8, 8), 10, Machine(2, "cpu"), alone=True)
    assert (pace.busy, pace.step) == (True, pytest.approx(0.2))
    assert not list(tmp_path.glob("pace/*"))
    said = ahead(trials, tmp_path, pace=pace, timed=trials)
    assert said.wall is not None
    assert ["the machine is busy" in note for note in said.notes] == [True]
