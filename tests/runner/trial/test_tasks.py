"""A data set brings its task: an outside one is trained, judged and resumed by what it says itself."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from dstbench.api import CLASSIFICATION, Examples, Metric, Task, Tokens, next_token
from dstbench.core.training.method import as_recipe
from dstbench.errors import BadInput
from dstbench.registration.loader import load_plugins
from dstbench.registration.registry import Registry
from dstbench.results.measure_table import MEASURES
from dstbench.results.record import seal
from dstbench.runner.matrix.config import Measure, Training
from dstbench.runner.matrix.outlook import Outlook
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial import loop
from dstbench.runner.trial.feeding import SampledBatches
from dstbench.runner.trial.running import CURVE
from dstbench.runner.trial.throughput import measure_throughput
from dstbench.runner.trial.trial import run_trial
from fake_distribution import install
from fakes import tasks as fake

SOURCE = Path(fake.__file__).read_text().replace("from dstbench import hookimpl\n", "")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Everything installed, and an outside distribution with a task of its own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("site")
        install(folder, "outside-tasks", SOURCE.replace("from __future__ import annotations\n", ""))
        patch.syspath_prepend(str(folder))
        loaded = load_plugins({}, strict=True)
        yield Registry(loaded.components, loaded.observers, loaded.disabled)


def spec(model, dataset, *, recipe="set", **training):
    return TrialSpec(
        model={"name": f"outside-tasks/{model}"},
        dataset=dataset,
        density=0.5,
        seed=0,
        recipe=as_recipe({"init": "uniform", "prune": "magnitude", "grow": "random",
                          "schedule": {"name": "cosine", "delta_t": 3}} if recipe == "set" else recipe),
        training=Training(**{"epochs": 2, "batch_size": 25, "lr": 0.05, **training}),
        measure=Measure(rounds=1, warmup=0, batch_size=4),
    )  # fmt: skip


def plane(**training):
    return spec("mlp", {"name": "outside-tasks/plane"}, **training)


def text(**training):
    return spec("words", {"name": "fables", "windows": 60}, **training)


def run(trial, folder, source):
    record = run_trial(trial, folder, device="cpu", threads=1, registry=source)
    assert record["status"] == "ok", record["traceback"]
    seal({"key": "0" * 8, "label": "set", **record})
    return record["measures"]


def test_a_task_from_outside_is_trained_and_judged_by_its_own_metric(tmp_path, source):
    measures = run(plane(epochs=3), tmp_path, source)
    assert measures["task"] == "regression"
    assert measures["metric"] == {"key": "squared_error", "title": "squared error", "better": "lower"}
    assert measures["metrics"] == {"squared_error": measures["score"]}
    assert "top1" not in measures
    curve = [json.loads(line) for line in (tmp_path / CURVE).read_text().splitlines()]
    scores = [line["score_validation"] for line in curve]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == measures["score_validation"]
    timed = measure_throughput(plane(epochs=3), tmp_path, device="cpu", threads=1, registry=source)
    assert timed["train"]["ratio"] > 0


def test_a_split_counts_what_its_task_counts():
    """Two images of 3x3 pixels: a task of pixels evaluates 18 of them in batches of images."""
    labels = torch.zeros(2, 3, 3, dtype=torch.int64)
    split = Examples(torch.zeros(2, 1, 3, 3), labels, count=torch.Tensor.numel)
    assert (len(split), split.entries, [len(batch) for batch in split.passes(4)]) == (18, 2, [2])
    assert sorted(split.draw(torch.Generator())) == [0, 1]


def test_a_failed_trial_says_what_it_would_have_been_ranked_by(tmp_path, source):
    record = run_trial(plane(lr=1e6, optimizer="sgd"), tmp_path, device="cpu", registry=source)
    assert (record["status"], record["measures"]["metric"]["title"]) == ("diverged", "squared error")


def test_density_is_said_over_maskable_over_multiplied_and_over_all_weights(tmp_path, source):
    """12 · 16² = 3,072 weights are maskable, half of them active; the tied head has 35 · 16 = 560, positions 32 · 16,
    three norms 16 each."""
    gpt = {"name": "gpt", "layers": 1, "heads": 2, "dim": 16}
    measures = run(replace(text(epochs=1), model=gpt), tmp_path, source)
    assert measures["density"] == 0.5
    assert measures["density_all"] == (1536 + 560) / (3072 + 560)
    over_all = MEASURES["density_parameters"].value(measures)
    assert over_all == (1536 + 560 + 512 + 48) / (3072 + 560 + 512 + 48)


def test_next_token_counts_every_target_once(tmp_path, source):
    measures = run(text(), tmp_path, source)
    loss, bits = measures["metrics"]["loss"], measures["metrics"]["bits_per_character"]
    assert measures["score"] == loss
    assert measures["metrics"]["perplexity"] == pytest.approx(math.exp(loss), rel=1e-12)
    assert bits == pytest.approx(loss / math.log(2), rel=1e-12)
    trained = torch.load(tmp_path / "state.pt", weights_only=True)["model"]
    model = source.build("model", "words")(num_classes=35, input_shape=(32,))
    model.load_state_dict(trained)
    data = source.build("dataset", "fables")(None, False)
    ids = torch.from_numpy(data.test.ids.astype("int64"))
    total, targets = 0.0, 0
    for start in range(0, len(ids) - 1, 32):  # by hand: one window after the other
        window = ids[start : min(start + 33, len(ids))]
        logits = model(window[None, :-1])[0].detach()
        total += float(functional.cross_entropy(logits.double(), window[1:], reduction="sum"))
        targets += len(window) - 1
    assert targets == len(ids) - 1 == 7_999
    assert loss == pytest.approx(total / targets, rel=1e-6)


@pytest.mark.parametrize("trial", [plane, text])
def test_a_training_goes_on_in_the_middle_of_an_epoch(tmp_path, source, monkeypatch, trial):
    whole = run(trial(), tmp_path / "whole", source)
    steps = 0

    def stop(running, *arguments, **options):
        nonlocal steps
        steps += 1
        if steps == 3:
            loop.save_checkpoint(running)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "pause", stop)
        with pytest.raises(KeyboardInterrupt):
            run_trial(trial(), tmp_path / "parts", device="cpu", threads=1, registry=source)
    parts = run(trial(), tmp_path / "parts", source)
    machine = ("seconds", "peak_memory")
    assert {k: v for k, v in parts.items() if k not in machine} == {
        k: v for k, v in whole.items() if k not in machine
    }


def test_ranks_share_the_batches_of_one_process(source):
    split = source.build("dataset", "fables")(None, False).train
    one = list(SampledBatches(split, 8, seed=1, device="cpu", rank=0, world=1).epoch(3, done=2))
    two = [
        list(SampledBatches(split, 4, seed=1, device="cpu", rank=r, world=2).epoch(3, done=2)) for r in (0, 1)
    ]
    assert len(one) == split.entries // 8 - 2
    for (whole, _), (first, _), (second, _) in zip(one, *two, strict=True):
        assert torch.equal(whole, torch.cat([first, second]))


def test_windows_are_drawn_anywhere_that_one_fits():
    ids = torch.arange(40, dtype=torch.uint8).numpy()
    split = Tokens(ids, block=8, windows=4000, vocabulary=40)
    starts = split.draw(torch.Generator().manual_seed(0))
    assert set(starts.tolist()) == set(range(32))  # nanoGPT: randint(len(data) - block)
    inputs, targets = split.take(torch.tensor([0, 31]))
    assert inputs[1].tolist() == list(range(31, 39))
    assert targets[1].tolist() == list(range(32, 40))
    assert [[*batch] for batch in split.passes(3)] == [[0, 8, 16], [24], [32]]
    assert split.take(split.passes(3)[-1])[1].tolist() == [[33, 34, 35, 36, 37, 38, 39]]
    with pytest.raises(ValueError, match="below the vocabulary's 39, got 39"):
        Tokens(ids, 8, 1, vocabulary=39).take(torch.tensor([31]))


def test_words_of_a_loss():
    task = next_token(0.25)
    found = task.figures([2 * 1.4697], 2)
    assert found["perplexity"] == pytest.approx(4.348, abs=1e-3)
    assert found["bits_per_character"] == pytest.approx(2.1203 / 4, abs=1e-4)
    assert [metric.key for metric in next_token(None).metrics] == ["loss", "perplexity"]
    assert CLASSIFICATION.figures([3, 2.0], 4) == {"top1": 75.0, "loss": 0.5}


def test_what_no_task_can_be(source):
    with pytest.raises(ValueError, match="better: expected 'higher' or 'lower', got 'up'"):
        Metric("iou", "IoU", "up", lambda sums, samples: 0.0)
    with pytest.raises(ValueError, match="metrics: expected at least one"):
        Task("none", (), functional.mse_loss, lambda o, t: o, fake.noise)
    with pytest.raises(BadInput, match=r"training.label_smoothing: the task regression has none"):
        run_trial_or_raise(plane(label_smoothing=0.1), source)
    with pytest.raises(BadInput, match=r"training.label_smoothing: the task regression has none"):
        Outlook(source).check_task(plane(label_smoothing=0.1))


def run_trial_or_raise(trial, source):
    from dstbench.runner.trial.blueprint import Blueprint

    return Blueprint(trial, source).task
