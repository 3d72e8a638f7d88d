"""Submissions by those who mean harm: checkpoints, verdicts, and trials that nobody could rebuild."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.core.training.method import as_recipe
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.results.record import FILE, checksum, folder_of, read_record, write_record
from dstbench.results.verdicts import SECRET, Verdict, read_verdicts, tiers, write_verdict
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.key import trial_key
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.submission import weights
from dstbench.runner.submission.submit import submit
from dstbench.runner.submission.verify import verify
from dstbench.runner.trial.trial import run_trial


@pytest.fixture(scope="module")
def true(tmp_path_factory):
    """A results folder with one finished trial of one epoch, and its submission."""
    root = tmp_path_factory.mktemp("true")
    parts = {"init": "uniform", "structure": "channel", "prune": "magnitude", "grow": "random"}
    recipe = as_recipe({**parts, "schedule": {"name": "cosine", "delta_t": 4}})
    named = recipe.but(**{kind: {"name": name} for kind, name in parts.items()})
    training = Training(epochs=1, batch_size=256, lr=0.05)
    trial = TrialSpec({"name": "small_cnn"}, {"name": "digits"}, 0.2, 0, named, training)
    record = run_trial(trial, root / "trial", device="cpu", threads=1)
    assert record["status"] == "ok", record["traceback"]
    key = trial_key(trial, registry().choose)
    folder = folder_of(root / "results", key)
    folder.parent.mkdir(parents=True)
    (root / "trial").rename(folder)
    write_record({**record, "key": key, "label": "uniform · channel · magnitude · random"}, folder)
    [submitted] = submit([root / "results"], root / "submissions")
    assert submitted.size < 1.5 * submitted.theoretical_size
    return submitted.folder


@pytest.fixture
def mine(true, tmp_path):
    """A copy to spoil."""
    folder = folder_of(tmp_path / "submissions", true.name)
    return shutil.copytree(true, folder)


def content(folder):
    with safe_open(folder / weights.FILE, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def findings(folder, **options):
    [verified] = verify(folder, **options)
    assert not verified.ok
    return [str(finding) for finding in verified.verdict.findings]


class Harm:
    def __reduce__(self):
        return (open, ("executed", "w"))


def put_pickle(folder):
    (folder / weights.FILE).write_bytes(pickle.dumps(Harm()))


def put_torch(folder):
    torch.save({"a": torch.zeros(1)}, folder / weights.FILE)


def put_link(folder):
    (folder / weights.FILE).rename(folder / "elsewhere")
    (folder / weights.FILE).symlink_to(folder / "elsewhere")


def put_nothing(folder):
    (folder / weights.FILE).unlink()


def put_much(folder):
    with (folder / weights.FILE).open("r+b") as file:
        file.truncate(10**9)


@pytest.mark.parametrize("put", [put_pickle, put_torch, put_link, put_nothing, put_much])
def test_a_file_that_is_no_checkpoint(mine, put, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    put(mine)
    [finding] = findings(mine)
    assert weights.FILE in finding
    assert not (tmp_path / "executed").exists()


def outside(tensors, shapes):
    tensors["conv2.weight.bits"] = torch.full_like(tensors["conv2.weight.bits"], 255)


def another_shape(tensors, shapes):
    shapes["conv2.weight"] = [10**9, 10**9]


def not_finite(tensors, shapes):
    tensors["fc2.bias"][0] = float("nan")


def of_half_precision(tensors, shapes):
    tensors["fc2.bias"] = tensors["fc2.bias"].half()


def another_tensor(tensors, shapes):
    tensors["backdoor"] = torch.zeros(3)


def one_is_missing(tensors, shapes):
    del tensors["fc2.bias"]


def twice(tensors, shapes):
    values = tensors["conv2.weight.values"]
    tensors.pop("conv2.weight.bits", None)
    tensors["conv2.weight.gaps"] = torch.zeros(len(values), dtype=torch.uint8)


@pytest.mark.parametrize(
    "spoil", [outside, another_shape, not_finite, of_half_precision, another_tensor, one_is_missing, twice]
)
def test_a_checkpoint_that_does_not_fit(mine, spoil):
    tensors, about = content(mine)
    shapes = json.loads(about["sparse"])
    spoil(tensors, shapes)
    save_file(tensors, mine / weights.FILE, {**about, "sparse": json.dumps(shapes)})
    [finding] = findings(mine)
    assert weights.FILE in finding


def test_masks_that_the_structure_does_not_allow(mine):
    """Channels were asked for; a single weight of another channel is active as well."""
    tensors, about = content(mine)
    bits = weights.checkpoint.unpack(tensors["conv2.weight.bits"], torch.zeros(64, 32, 3, 3))
    free = (~bits.flatten()).nonzero()[0]
    before = int(bits.flatten()[:free].count_nonzero())
    bits.view(-1)[free] = True
    values = tensors["conv2.weight.values"]
    tensors["conv2.weight.bits"] = weights.checkpoint.pack(bits)
    tensors["conv2.weight.values"] = torch.cat([values[:before], torch.ones(1), values[before:]])
    save_file(tensors, mine / weights.FILE, about)
    [finding] = findings(mine)
    assert "not a mask of" in finding


def test_weights_that_were_not_trained_are_noticed_by_what_they_compute(mine):
    tensors, about = content(mine)
    tensors["fc2.weight.values"] = torch.randn_like(tensors["fc2.weight.values"])
    save_file(tensors, mine / weights.FILE, about)
    assert any("measures.loss: evaluation says" in finding for finding in findings(mine))


def test_a_trial_too_large_to_rebuild_is_refused(mine):
    record = copy.deepcopy(read_record(mine))
    record["trial"]["model"]["width"] = 10**6
    (mine / FILE).write_text(json.dumps({**record, "checksum": checksum(record)}))
    assert any("at most" in finding for finding in findings(mine))


def test_a_component_that_is_not_installed_is_named(mine):
    record = copy.deepcopy(read_record(mine))
    record["trial"]["recipe"]["grow"] = {"name": "their-own"}
    (mine / FILE).write_text(json.dumps({**record, "checksum": checksum(record)}))
    assert any("their-own" in finding for finding in findings(mine))


def test_a_record_of_before_is_evaluated_but_not_replayed(mine):
    record = copy.deepcopy(read_record(mine))
    del record["measures"]["course"]
    (mine / FILE).write_text(json.dumps({**record, "checksum": checksum(record)}))
    [verified] = verify(mine, replay=2)
    assert (verified.verdict.tier, verified.verdict.steps) == ("re-evaluated", 0)
    assert "not replayed: its record says nothing of its first steps" in verified.verdict.notes


def test_without_its_data_a_submission_stays_reported(mine, monkeypatch):
    from dstbench.api import DataUnavailable
    from dstbench.runner.submission import evidence

    def missing(blueprint, data):
        raise DataUnavailable("no files here")

    monkeypatch.setattr(evidence, "load", missing)
    [verified] = verify(mine)
    assert (verified.verdict.tier, verified.ok) == ("reported", True)
    assert "measures.bits" in verified.verdict.checked
    assert "not evaluated" in verified.verdict.notes[0]


def a_verdict(folder, **changes):
    record = read_record(folder)
    return replace(Verdict(record["key"], record["checksum"], None, "replayed"), **changes)


def test_verdicts_are_of_one_record(true, tmp_path):
    record = read_record(true)
    write_verdict(a_verdict(true), tmp_path)
    verdicts, rejected = read_verdicts(tmp_path)
    assert not rejected
    assert tiers([record], verdicts) == {record["key"]: "replayed"}
    assert tiers([{**record, "checksum": "another"}], verdicts) == {record["key"]: "reported"}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda verdict: verdict | {"tier": "perfect"}, "tier: expected one of"),
        (lambda verdict: verdict | {"key": "0" * 64}, "the file's name"),
        (lambda verdict: verdict | {"steps": "many"}, "steps"),
        (lambda verdict: [verdict], "no verdict of version 1"),
    ],
)
def test_what_is_no_verdict_is_named(true, tmp_path, spoil, reason):
    file = write_verdict(a_verdict(true), tmp_path)
    file.write_text(json.dumps(spoil(json.loads(file.read_text()))))
    verdicts, [rejected] = read_verdicts(tmp_path)
    assert not verdicts
    assert reason in rejected.reason


def test_with_a_secret_only_what_it_signed_counts(true, tmp_path, monkeypatch):
    unsigned = write_verdict(a_verdict(true), tmp_path)
    monkeypatch.setenv(SECRET, "known to the verifier")
    assert "isn't signed" in read_verdicts(tmp_path)[1][0].reason
    write_verdict(a_verdict(true), tmp_path)
    assert read_verdicts(tmp_path)[0][true.name].tier == "replayed"
    forged = json.loads(unsigned.read_text()) | {"tier": "reproduced elsewhere"}
    unsigned.write_text(json.dumps(forged))
    assert read_verdicts(tmp_path)[0] == {}


def test_the_commands(true, tmp_path):
    run = CliRunner()
    done = run.invoke(app, ["results", "submit", str(true), "--out", str(tmp_path / "s")])
    assert done.exit_code == 2  # a submission has no state.pt
    assert "state.pt" in done.stderr
    done = run.invoke(app, ["results", "verify", str(true), "--verdicts", str(tmp_path / "v")])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("re-evaluated  ")
    assert read_verdicts(tmp_path / "v")[0][true.name].tier == "re-evaluated"
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "nowhere"):  # a check of the wrong folder isn't one that passed
        done = run.invoke(app, ["results", "verify", str(tmp_path / nothing)])
        assert done.exit_code == 2
        assert nothing in done.stderr


def test_another_result_of_the_trial_is_not_overwritten(true, tmp_path):
    source = true.parents[2] / "results" / true.parent.name / true.name
    [first] = submit([source], tmp_path)
    [again] = submit([source], tmp_path)
    assert (again.folder / weights.FILE).read_bytes() == (first.folder / weights.FILE).read_bytes()
    record = read_record(source)
    write_record({**record, "reason": None, "more": 1}, first.folder)
    with pytest.raises(BadInput, match="another result"):
        submit([source], tmp_path)


@pytest.mark.parametrize(("label", "density"), [("dense", 1.0), ("small-dense", 0.2)])
def test_networks_without_a_mask_are_recounted_as_they_were_measured(tmp_path, label, density):
    """Controls have every measure that methods have, such as live channels: a true one isn't refused for it."""
    control = registry().choose("recipe", label).make()
    training = Training(epochs=1, batch_size=512, lr=0.05)
    trial = TrialSpec({"name": "small_cnn"}, {"name": "digits"}, density, 0, control, training)
    folder = folder_of(tmp_path / "results", trial_key(trial, registry().choose))
    folder.mkdir(parents=True)
    record = run_trial(trial, folder, device="cpu", threads=1)
    write_record({**record, "key": folder.name, "label": label, "control": label}, folder)
    [submitted] = submit([folder], tmp_path / "submissions")
    [verified] = verify(submitted.folder)
    assert (verified.verdict.tier, verified.verdict.findings) == ("re-evaluated", ())
    assert verified.verdict.how["measures.live_channels"] == "recounted"
