"""What true records may say: none of it is held against them."""

from __future__ import annotations

import pytest

from dstbench.core.training.method import as_recipe
from dstbench.registration.registry import registry
from dstbench.results.labels import spec_text
from dstbench.results.record import folder_of, read_record, write_record
from dstbench.runner.matrix.config import Measure, Training
from dstbench.runner.matrix.key import trial_key
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.submission import verify as verification
from dstbench.runner.submission.plausibility import implausible
from dstbench.runner.submission.submit import submit
from dstbench.runner.submission.verify import verify
from dstbench.runner.trial.trial import run_trial

CHTS = {"name": "chts", "decay": False, "delta_t": 4, "r": 0.25}
"""Without a decay its schedule is another component."""


@pytest.fixture(scope="module")
def submission(tmp_path_factory):
    """Of a trial that trained its active weights alone."""
    root = tmp_path_factory.mktemp("honest")
    settings = Training(epochs=1, batch_size=128, lr=0.05, storage="condensed")
    model, measure = {"name": "lenet300-100"}, Measure(throughput=False)
    trial = TrialSpec(model, {"name": "digits"}, 0.1, 0, as_recipe(CHTS), settings, measure)
    record = run_trial(trial, root / "trial", device="cpu", threads=1)
    assert record["status"] == "ok", record["traceback"]
    key = trial_key(trial, registry().choose)
    folder = folder_of(root, key)
    folder.parent.mkdir()
    (root / "trial").rename(folder)
    write_record({**record, "key": key, "label": spec_text(CHTS)}, folder)
    [submitted] = submit([folder], root / "submissions")
    return submitted.folder


def test_a_label_whose_parameters_choose_other_components(submission):
    [verified] = verify(submission)
    assert not verified.verdict.findings
    assert verified.verdict.tier == "re-evaluated"


def test_other_kernels_add_up_in_another_order(submission, monkeypatch):
    """What was trained condensed is evaluated masked dense: a loss 1e-7 apart is no contradiction."""
    evaluated = verification.evidence.evaluated

    def in_another_order(*arguments):
        evidence = evaluated(*arguments)
        evidence.measures["loss"] *= 1 + 1e-7
        return evidence

    monkeypatch.setattr(verification.evidence, "evaluated", in_another_order)
    [verified] = verify(submission)
    assert not verified.verdict.findings
    assert not verified.verdict.exact


def test_seconds_count_from_the_first_start_of_a_training_that_was_gone_on_with(submission):
    record = read_record(submission)
    trial = TrialSpec.from_json(record["trial"])
    assert record["provenance"]["began"] == record["provenance"]["started"]
    record["measures"]["seconds"] = 3000.0
    assert [fault[0] for fault in implausible(record, trial, ())] == ["measures.seconds"]
    record["provenance"]["began"] = "2026-01-01T00:00:00+00:00"
    assert not list(implausible(record, trial, ()))
    del record["provenance"]["began"]  # an older record, which doesn't say
    assert not list(implausible(record, trial, ()))
