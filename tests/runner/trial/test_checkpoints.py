"""Checkpoints in the middle of an epoch: what goes on from them equals what was never stopped, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dstbench.api import Augment
from dstbench.core.storage import fastest
from dstbench.core.training.method import as_recipe
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial import interruption, loop, tensor_files
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.interruption import Interrupted
from dstbench.runner.trial.running import CHECKPOINT, CURVE, PREVIOUS, STATE, Pauses
from dstbench.runner.trial.trial import run_trial

TESTS = Path(__file__).parents[2]
EVERY_OTHER = {"name": "cosine", "delta_t": 2}
CASES = {
    "rigl": ({"name": "rigl", "schedule": EVERY_OTHER}, {"mixed_precision": "bf16"}),
    "snfs": ({"name": "snfs", "schedule": EVERY_OTHER}, {"optimizer": "adamw", "lr": 1e-3}),
    "dsr": ("dsr", {}),
    "chase": ({"name": "chase", "channel_sparsity": 0.3}, {}),
    "gmp": ("gmp", {"gradient_accumulation": 2, "clip_norm": 1.0}),
    "dsb-16": ({"name": "dsb-16", "schedule": EVERY_OTHER}, {"mixed_precision": "fp16"}),
    "condensed": ({"name": "dsb-fast-16", "schedule": EVERY_OTHER}, {"storage": "condensed"}),
}


def spec(case="rigl"):
    recipe, training = CASES[case]
    settings = {"epochs": 2, "batch_size": 32, "lr": 0.05, **training}
    data = {"name": "synthetic", "images": 256, "size": 8}
    return TrialSpec({"name": "small_cnn"}, data, 0.2, 0, as_recipe(recipe), Training(**settings))


@pytest.fixture(autouse=True)
def augmented(monkeypatch):
    """Images that are cropped and flipped by chance; condensed layers wherever they can be."""
    load = Blueprint.data
    augment = Augment(padding=1, flip=True)
    monkeypatch.setattr(Blueprint, "data", lambda self, *where: replace(load(self, *where), augment=augment))
    monkeypatch.setattr(fastest, "speedup", lambda *_: 2.0)


def run(trial, folder, **options):
    return run_trial(trial, folder, device="cpu", threads=1, **options)


@pytest.fixture
def asked_at(monkeypatch):
    """Have the trial find that it is asked to stop at some of the times that it looks."""

    def at(*looks):
        made = iter(range(10_000))
        monkeypatch.setattr(interruption, "asked", lambda: next(made) in looks)

    return at


def assert_same(one, other):
    states = [tensor_files.read(folder / STATE) for folder in (one, other)]
    for kind in ("model", "masks"):
        assert all(torch.equal(value, states[1][kind][name]) for name, value in states[0][kind].items())
    assert states[0]["sparsifier"]["history"] == states[1]["sparsifier"]["history"]
    assert curve(one) == curve(other)


def curve(folder):
    lines = map(json.loads, (folder / CURVE).read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.mark.parametrize("case", CASES)
def test_a_trial_stopped_within_epochs_continues_bit_for_bit(case, tmp_path, asked_at):
    """Twice within an epoch, and once in an evaluation."""
    whole = run(spec(case), tmp_path / "whole")
    assert whole["status"] == "ok", whole["traceback"]
    for look in (
        (1, 0, 1) if case == "gmp" else (3, 1, 2)
    ):  # gmp's steps are of two batches: four an epoch, not eight
        asked_at(look)
        with pytest.raises(Interrupted):
            run(spec(case), tmp_path / "parts")
        assert not (tmp_path / "parts" / STATE).exists()
    asked_at()
    parts = run(spec(case), tmp_path / "parts")
    assert "checkpoint" not in parts["provenance"]
    assert_same(tmp_path / "whole", tmp_path / "parts")
    measured = ({**record["measures"], "seconds": 0, "peak_memory": 0} for record in (whole, parts))
    assert next(measured) == next(measured)


def test_a_trial_asked_in_its_last_evaluation_trains_no_more(tmp_path, asked_at, monkeypatch):
    asked_at(8 + 1 + 8 + 1)  # behind the steps of two epochs, each with an evaluation of one batch
    with pytest.raises(Interrupted):
        run(spec(), tmp_path)
    asked_at()
    monkeypatch.setattr(loop, "_batch", None)
    assert run(spec(), tmp_path)["status"] == "ok"


def test_a_real_signal_stops_a_trial_behind_its_step(tmp_path, monkeypatch):
    original, steps = loop._step, []

    def step(running, total):
        original(running, total)
        steps.append(running.sparsifier.steps)
        if len(steps) == 3:
            os.kill(os.getpid(), interruption.SIGNAL)

    monkeypatch.setattr(loop, "_step", step)
    before = signal.getsignal(interruption.SIGNAL)
    interruption.listen()
    try:
        with pytest.raises(Interrupted):
            run(spec(), tmp_path)
        saved = tensor_files.read(tmp_path / CHECKPOINT)["progress"]
        assert (saved["epoch"], saved["batches"], steps) == (0, 3, [1, 2, 3])
    finally:
        interruption.listen()
        signal.signal(interruption.SIGNAL, before)


def test_checkpoints_come_by_the_clock():
    pauses = Pauses(3600.0, last=time.monotonic() - 3601.0)
    assert pauses.due
    pauses.made()
    assert not pauses.due
    assert not Pauses(0.0, last=time.monotonic() - 3601.0).due


def test_none_are_made_by_the_clock_where_that_is_off(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(loop, "save_checkpoint", made.append)
    assert run(spec(), tmp_path / "off", checkpoint_seconds=0)["status"] == "ok"
    assert made == []
    assert run(spec(), tmp_path / "on", checkpoint_seconds=1e-9)["status"] == "ok"
    assert len(made) == 16


def test_a_kill_at_any_moment_of_writing_leaves_a_whole_checkpoint(tmp_path):
    """``python tests/fakes/writing.py FOLDER 500`` kills more of them."""
    script = [sys.executable, "-W", "ignore", "-m", "fakes.writing", str(tmp_path), "10"]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        script, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    torn, written = map(int, done.stdout.split())
    assert torn + written > 1
    assert {path.name for path in tmp_path.iterdir()} <= {
        CHECKPOINT,
        PREVIOUS,
        f"{CHECKPOINT}.new",
        f"{PREVIOUS}.new",
    }
