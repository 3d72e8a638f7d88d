"""Trials that start from weights: before there are masks, told in the record, replayed by those who have them."""

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from dstbench.accel.export import write_sparse
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.results.record import folder_of, write_record
from dstbench.runner.execution.run import run
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan
from dstbench.runner.submission.submit import submit
from dstbench.runner.submission.verify import verify
from dstbench.runner.trial.blueprint import Blueprint
from dstbench.runner.trial.trial import build_trial, run_trial

SMALL = {"name": "synthetic", "images": 64, "size": 8, "classes": 4}
MATRIX = {
    "schema": 1,
    "name": "tuned",
    "axes": {"model": "small_cnn", "dataset": SMALL, "density": 0.1, "recipe": "one-shot"},
    "controls": [],
    "training": {"epochs": 1, "batch_size": 32, "lr": 0.01},
    "measure": {"throughput": False},
}


def network(classes):
    torch.manual_seed(3)
    return registry().build("model", "small_cnn")(num_classes=classes, input_shape=(3, 8, 8))


def built(start, folder, **axes):
    document = {**MATRIX, "axes": {**MATRIX["axes"], **axes}, "start": start}
    [trial] = plan(load_matrix(document), registry()).trials
    folder.mkdir(exist_ok=True)
    return build_trial(Blueprint(trial.trial, registry()), folder, device="cpu")


def test_masks_are_made_of_the_weights_that_it_starts_from(tmp_path):
    model = network(4)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    running = built({"path": str(tmp_path / "own.safetensors")}, tmp_path / "trial")
    masks = running.sparsifier.masks
    sizes = {name: model.get_submodule(name).weight.detach().abs() for name in masks}
    n = round(0.1 * sum(size.numel() for size in sizes.values()))
    assert sum(int(mask.sum()) for mask in masks.values()) == n
    least = torch.cat([size.flatten() for size in sizes.values()]).sort(descending=True).values[n - 1]
    for name, size in sizes.items():  # those of the whole network, but that each layer keeps one
        assert abs(int((size >= least).sum()) - int(masks[name].sum())) <= 1
        assert size[masks[name]].min() > size[~masks[name]].max()
    state = running.inner.state_dict()
    for name, value in model.state_dict().items():
        layer = name.rpartition(".")[0]
        masked = layer in masks and name.endswith(".weight")
        assert torch.equal(state[name], value * masks[layer] if masked else value)
    assert running.started.provenance()["fresh"] == []


def test_a_fresh_head_is_that_of_the_seed(tmp_path):
    save_file(network(7).half().state_dict(), tmp_path / "own.safetensors")
    start = {"path": str(tmp_path / "own.safetensors"), "head": "fresh"}
    running = built(start, tmp_path / "trial", recipe="dense", seed=5)
    assert running.started.provenance()["fresh"] == ["fc2.weight", "fc2.bias"]
    torch.manual_seed(5)
    seeded = registry().build("model", "small_cnn")(num_classes=4, input_shape=(3, 8, 8))
    assert torch.equal(running.inner.fc2.weight, seeded.fc2.weight)
    assert torch.equal(running.inner.fc1.weight, network(7).fc1.weight.half().float())
    assert running.inner.fc1.weight.dtype == torch.float32


def test_values_that_are_not_finite_are_refused_by_name(tmp_path):
    model = network(4)
    with torch.no_grad():
        model.bn1.bias[3] = float("nan")
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    with pytest.raises(BadInput, match=r"own.safetensors: bn1.bias: 1 values aren't finite"):
        built({"path": str(tmp_path / "own.safetensors")}, tmp_path / "trial")


def test_a_result_is_replayed_where_the_weights_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(network(4).state_dict(), "own.safetensors")
    [planned] = plan(load_matrix({**MATRIX, "start": {"path": "own.safetensors"}}), registry()).trials
    folder = folder_of(tmp_path / "out", planned.key)
    record = run_trial(planned.trial, folder, device="cpu", threads=1)
    assert record["status"] == "ok", record["traceback"]
    assert record["trial"]["start"]["path"] == "own.safetensors"
    assert record["provenance"]["start"]["sha256"] == record["trial"]["start"]["sha256"]
    write_record({**record, "key": planned.key, "label": planned.label}, folder)
    submit([tmp_path / "out"], tmp_path / "handed")
    [there] = [one.verdict for one in verify("handed", replay=1, device="cpu")]
    assert (there.tier, there.findings) == ("replayed", ())
    monkeypatch.chdir("/")
    [elsewhere] = [one.verdict for one in verify(tmp_path / "handed", replay=1, device="cpu")]
    assert elsewhere.tier == "re-evaluated"
    assert any("not replayed: start.path" in note for note in elsewhere.notes)


def test_a_sparse_export_starts_a_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    running = built(None, tmp_path / "first", recipe="static")
    write_sparse(running.inner, running.sparsifier.masks, {}, tmp_path / "sparse.safetensors")
    again = built({"path": "sparse.safetensors"}, tmp_path / "second")
    masks = running.sparsifier.masks
    assert all(torch.equal(mask, masks[name]) for name, mask in again.sparsifier.masks.items())
    for name, value in running.inner.state_dict().items():
        assert torch.equal(again.inner.state_dict()[name], value)


def test_weights_of_timm_come_from_the_cache_and_fit_other_images(tmp_path, monkeypatch):
    place = tmp_path / "models--timm--test_vit.r160_in1k"
    snapshot = place / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    pretrained = timm.create_model("test_vit")
    save_file(pretrained.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    images = {**SMALL, "size": 96}
    start = {"name": "timm:test_vit", "head": "fresh"}
    running = built(start, tmp_path / "trial", model="timm:test_vit", dataset=images, recipe="dense")
    said = running.started.provenance()
    assert said["revision"] == "a" * 40
    assert said["fresh"] == ["head.weight", "head.bias"]
    assert said["adapted"] == ["pos_embed"]
    assert torch.equal(running.inner.blocks[0].mlp.fc1.weight, pretrained.blocks[0].mlp.fc1.weight)


def test_what_is_in_no_cache_is_not_downloaded_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        BadInput, match=r"model.safetensors of a/b: it isn't in the Hugging Face cache; --download"
    ):
        run({**MATRIX, "start": "hf:a/b"}, tmp_path / "out", workers=1)
