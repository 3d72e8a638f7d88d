"""What is evaluated when: the final epoch on the test set, once; validation as it is, never augmented."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from dstbench.api import Augment, Split
from dstbench.registration.registry import registry
from dstbench.results.record import seal
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial import loop
from dstbench.runner.trial.batches import evaluation_batches
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.running import CURVE, STATE
from dstbench.runner.trial.trial import run_trial
from dstbench_plugins.datasets.digits import Digits

TRIAL = {
    "model": {"name": "small_cnn"},
    "dataset": {"name": "digits"},
    "density": 1.0,
    "seed": 0,
    "recipe": {"dense": True},
    "training": {"epochs": 2, "batch_size": 64, "lr": 0.05},
}


def run(folder):
    record = run_trial(TrialSpec.from_json(TRIAL), folder, device="cpu", threads=1)
    assert record["status"] == "ok", record["traceback"]
    return record


def curve(folder):
    return [json.loads(line) for line in (folder / CURVE).read_text().splitlines()]


@pytest.fixture
def digits(monkeypatch):
    """Digits with crops and flips, which change what the network answers."""
    data = replace(Digits()(None, False), augment=Augment(2, "constant", flip=True))
    monkeypatch.setattr(Blueprint, "data", lambda self, root, download: data)
    return data


def top1_of_saved(folder, split, data):
    """Accuracy of the weights that the trial left, on pixels as they are, in percent."""
    network = registry().build("model", "small_cnn")(num_classes=10, input_shape=(1, 8, 8))
    network.load_state_dict(torch.load(folder / STATE, weights_only=True)["model"])
    ((images, labels),) = evaluation_batches(split, len(split), data.mean, data.std, "cpu")
    with torch.no_grad():
        return 100 * float((network.eval()(images).argmax(1) == labels).double().mean())


def test_validation_is_not_augmented(digits, tmp_path):
    """ITOP's CIFAR-10 loaders share the training set's transform with the validation split."""
    run(tmp_path)
    expected = top1_of_saved(tmp_path, digits.validation, digits)
    assert curve(tmp_path)[-1]["top1_validation"] == pytest.approx(expected, abs=1e-9)


def test_the_test_set_is_read_once_after_training(digits, tmp_path, monkeypatch):
    """ITOP and Chase choose the best epoch by a validation loader that is the test loader."""
    seen, original = [], loop.evaluate

    def watched(running, split):
        names = [name for name in ("train", "validation", "test") if getattr(running.data, name) is split]
        seen.append((names, running.progress.epoch))
        return original(running, split)

    monkeypatch.setattr(loop, "evaluate", watched)
    record = run(tmp_path)
    assert seen == [(["validation"], 0), (["validation"], 1), (["test"], 2)]  # epochs that are over
    expected = top1_of_saved(tmp_path, digits.test, digits)
    assert record["measures"]["top1"] == pytest.approx(expected, abs=1e-9)


def test_the_final_epoch_is_reported_however_bad(tmp_path, monkeypatch):
    """Chase reports the best of its last epochs."""
    original = loop._epoch

    def spoilt(running, epoch):
        loss = original(running, epoch)
        if epoch == 1:
            with torch.no_grad():
                running.model.fc2.weight.zero_()
                running.model.fc2.bias.copy_(torch.eye(10)[3])  # always answers 3
        return loss

    monkeypatch.setattr(loop, "_epoch", spoilt)
    measures = run(tmp_path)["measures"]
    labels = Digits()(None, False).test.labels
    threes = 100 * float((labels == 3).double().mean())
    assert measures["top1"] == pytest.approx(threes)
    before, after = (line["top1_validation"] for line in curve(tmp_path))
    assert measures["top1_validation"] == after < 12 < before


def test_without_a_validation_split_its_accuracy_is_unknown(digits, tmp_path, monkeypatch):
    everything = Split(
        torch.cat([digits.train.images, digits.validation.images]),
        torch.cat([digits.train.labels, digits.validation.labels]),
    )
    nothing = Split(digits.test.images[:0], digits.test.labels[:0])
    data = replace(digits, train=everything, validation=nothing)
    monkeypatch.setattr(Blueprint, "data", lambda self, root, download: data)
    record = run(tmp_path)
    assert record["measures"]["steps"] == 2 * (1438 // 64)
    assert record["measures"]["top1_validation"] is None
    assert [line["top1_validation"] for line in curve(tmp_path)] == [None, None]
    seal({**record, "key": "0" * 64, "label": "dense", "control": None})  # fits the schema
