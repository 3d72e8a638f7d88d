"""Trials that choose settings: no figure of test data is computed, and what is handed in of them can be verified."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstbench.errors import BadInput
from dstbench.recipe import Recipe
from dstbench.registration.registry import registry
from dstbench.results.record import read_record, write_record
from dstbench.results.tuning import TUNED
from dstbench.runner.execution.run import run
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.key import trial_key
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.submission.hub import write_model
from dstbench.runner.submission.submit import submit
from dstbench.runner.submission.verify import verify
from dstbench.runner.trial import loop
from dstbench.runner.trial.trial import run_trial

GPT = {"name": "gpt", "layers": 1, "heads": 1, "dim": 8}
FABLES = {"name": "fables", "windows": 32, "block": 8}
CASES = {
    "images": ({"name": "small_cnn"}, {"name": "digits"}, "top1"),
    "text": (GPT, FABLES, "score"),
}


def tuning_trial(case, **changes):
    model, dataset, _ = CASES[case]
    components = {
        kind: registry().normalise(kind, spec) for kind, spec in (("model", model), ("dataset", dataset))
    }
    spec = TrialSpec(
        components["model"], components["dataset"], 1.0, 0, Recipe(dense=True),
        Training(epochs=1, batch_size=16), evaluated="validation",
    )  # fmt: skip
    return replace(spec, **changes)


@pytest.mark.parametrize("case", CASES)
def test_it_is_evaluated_on_validation_data_alone(case, tmp_path, monkeypatch):
    seen, evaluate = [], loop.evaluate
    monkeypatch.setattr(
        loop, "evaluate", lambda running, split: (seen.append(split), evaluate(running, split))[1]
    )
    record = run_trial(tuning_trial(case), tmp_path, device="cpu")
    assert record["status"] == "ok", record["traceback"]
    figure = CASES[case][2]
    measures = record["measures"]
    assert measures[f"{figure}_validation"] > 0
    assert {"top1", "loss", "score", "metrics"}.isdisjoint(measures)
    assert ("metric" in measures) == (case == "text")
    assert len(seen) == 1
    data = registry().build("dataset", tuning_trial(case).dataset)(None, False)
    assert len(seen[0]) == len(data.validation) != len(data.test)


def test_without_a_validation_split_it_fails_with_the_reason(tmp_path):
    trial = tuning_trial("text", dataset={**FABLES, "validation": 0})
    record = run_trial(trial, tmp_path, device="cpu")
    assert (record["status"], record["phase"]) == ("failed", "build")
    assert "has no validation split to choose settings on" in record["reason"]


def test_its_key_is_its_own_and_reads_back():
    trial = tuning_trial("images")
    tested = replace(trial, evaluated="test")
    assert trial_key(trial, registry().choose) != trial_key(tested, registry().choose)
    assert TrialSpec.from_json(trial.to_json()) == trial
    assert TrialSpec.from_json(tested.to_json()) == tested
    assert "evaluated" not in tested.to_json()


MATRIX = {
    "schema": 1,
    "name": "test",
    "axes": {"model": GPT, "dataset": FABLES, "density": 0.5, "recipe": "set", "seed": 1},
    "controls": ["dense"],
    "training": {"epochs": 1, "batch_size": 16, "optimizer": "adamw", "weight_decay": 0},
    "measure": {"throughput": False},
    "tune": {"lr": [0.01, 0.0001]},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A text, two methods, two rates: the loss is less with the larger one."""
    return run(MATRIX, tmp_path_factory.mktemp("tuned") / "results", device="cpu", workers=2)


def test_a_text_is_tuned_by_its_loss(done):
    assert (done.counts, list(done.tuning.values())) == ({"ok": 2}, ["ok"] * 4)
    for trial in done.plan.trials:
        tuned = read_record(done.out / trial.key[:2] / trial.key)["provenance"][TUNED]
        assert (tuned["better"], tuned["chosen"]) == ("lower", {"lr": 0.01})
        scores = {one["settings"]["lr"]: one["score"] for one in tuned["candidates"]}
        assert scores[0.01] < scores[0.0001]


def test_what_was_tuned_and_what_tuned_it_can_be_verified(done, tmp_path):
    submitted = submit([done.out], tmp_path)
    assert len(submitted) == 6
    verdicts = {one.verdict.key: one.verdict for one in verify(tmp_path, device="cpu")}
    assert {verdict.tier for verdict in verdicts.values()} == {"re-evaluated"}
    key = next(iter(done.tuning))
    assert "measures.score_validation" in verdicts[key].checked
    assert "measures.score" not in verdicts[key].checked
    with pytest.raises(BadInput, match="was there to choose settings by"):
        write_model(tmp_path / key[:2] / key, "hf://me/model", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"chosen": {"lr": 0.0001}}, "provenance.tuned.chosen"),
        ({"settings": {"lr": 0.0001}}, "provenance.tuned.settings"),
        ({"candidates": []}, "provenance.tuned"),
    ],
)
def test_a_choice_that_contradicts_itself_is_refused(done, change, field, tmp_path):
    key = done.plan.trials[0].key
    [one] = submit([done.out / key[:2] / key], tmp_path)
    record = read_record(one.folder)
    tuned = {**record["provenance"][TUNED], **change}
    write_record({**record, "provenance": {**record["provenance"], TUNED: tuned}}, one.folder)
    [verified] = verify(tmp_path, device="cpu")
    assert field in {finding.field for finding in verified.verdict.findings}


def test_a_tuning_trial_that_says_something_of_test_data_is_refused(done, tmp_path):
    key = next(iter(done.tuning))
    [one] = submit([done.out / key[:2] / key], tmp_path)
    record = read_record(one.folder)
    write_record({**record, "measures": {**record["measures"], "score": 1.0}}, one.folder)
    [verified] = verify(tmp_path, device="cpu")
    assert "measures.score" in {finding.field for finding in verified.verdict.findings}
