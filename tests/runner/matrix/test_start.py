"""What a training starts from: how it is written, what it does to keys, and what is refused before anything runs."""

import pickle
from functools import cache

import pytest
import torch
from safetensors.torch import save_file

from dstbench.accel.export import write_sparse
from dstbench.core.network.layers import maskable_layers
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan
from dstbench.runner.matrix.start_fit import needed_by
from dstbench.runner.matrix.trial_spec import TrialSpec

MATRIX = {
    "schema": 1,
    "name": "test",
    "axes": {"model": "small_cnn", "dataset": "digits", "density": 0.1, "recipe": ["rigl"]},
    "controls": [],
    "training": {"epochs": 2},
}


@cache
def network(classes=10):
    torch.manual_seed(7)
    return registry().build("model", "small_cnn")(num_classes=classes, input_shape=(1, 8, 8))


def weights(file, **changes):
    """A file of the network's weights with some entries changed, or left out where they are None."""
    state = {**network().state_dict(), **changes}
    save_file({name: value.contiguous() for name, value in state.items() if value is not None}, file)
    return file


def planned(start, *settings, **changes):
    return plan(load_matrix({**MATRIX, "start": start, **changes}, settings), registry()).trials


def refused(start, *settings, **changes):
    with pytest.raises(BadInput) as error:
        planned(start, *settings, **changes)
    return str(error.value)


def test_a_key_holds_the_weights_and_not_their_path(tmp_path):
    here, there = weights(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    there.write_bytes(here.read_bytes())
    other = weights(tmp_path / "c.safetensors", **{"bn1.bias": torch.ones(32)})
    keys = [planned({"path": str(file)})[0].key for file in (here, there, other)]
    assert keys[0] == keys[1] != keys[2]
    [fresh] = plan(load_matrix(MATRIX), registry()).trials
    assert fresh.key not in keys
    assert planned({"path": str(here), "head": "fresh"})[0].key not in (*keys, fresh.key)
    [trial] = planned({"path": str(here)})
    assert TrialSpec.from_json(trial.trial.to_json()) == trial.trial
    assert planned({"path": str(here), "sha256": trial.trial.start.sha256})[0].key == keys[0]


def test_a_path_is_from_the_current_folder_or_from_that_of_data(tmp_path, monkeypatch):
    weights(tmp_path / "own.safetensors")
    monkeypatch.chdir("/")
    assert "got none at own.safetensors" in refused({"path": "own.safetensors"})
    monkeypatch.setenv("DSTBENCH_DATA", str(tmp_path))
    assert planned({"path": "own.safetensors"})
    monkeypatch.delenv("DSTBENCH_DATA")
    monkeypatch.chdir(tmp_path)
    assert planned({"path": "own.safetensors"})


def test_a_narrower_network_has_fresh_weights_and_the_plan_says_so(tmp_path):
    file = weights(tmp_path / "own.safetensors")
    made = plan(
        load_matrix({**MATRIX, "controls": ["dense", "small-dense"], "start": {"path": str(file)}}),
        registry(),
    )
    starts = {trial.label: trial.trial.start is not None for trial in made.trials}
    assert starts == {"dense": True, "small-dense": False, "rigl": True}
    assert "small-dense has fresh weights: own.safetensors doesn't fit a narrower network" in made.notes


def test_overrides_and_settings_give_another_start(tmp_path):
    one = weights(tmp_path / "one.safetensors")
    two = weights(tmp_path / "two.safetensors", **{"bn1.bias": torch.ones(32)})
    rule = {"when": {"recipe": "set"}, "set": {"start.path": str(two)}}
    axes = {**MATRIX["axes"], "recipe": ["rigl", "set"]}
    starts = {t.label: t.trial.start for t in planned({"path": str(one)}, axes=axes, overrides=[rule])}
    assert [starts[name].source for name in ("rigl", "set")] == ["one.safetensors", "two.safetensors"]
    pinned = {"path": str(one), "sha256": starts["rigl"].sha256}
    assert planned(pinned, f"start.path={two}")[0].trial.start == starts["set"]
    assert planned({"path": str(one)}, "start=")[0].trial.start is None
    assert "is another file" in refused({"path": str(two), "sha256": starts["rigl"].sha256})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conv1.weight": torch.ones(16, 1, 3, 3)}, "conv1.weight is [32, 1, 3, 3] in the network, [16, 1, 3, 3] in"),
        ({"bn1.weight": None}, "bn1.weight isn't in the file (1"),
        ({"extra": torch.ones(1)}, "extra isn't in the network (1"),
        ({"fc2.weight": torch.ones(4, 128), "fc2.bias": torch.ones(4)}, "(2 entries don't fit); `head: fresh` makes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, changes, said):
    message = refused({"path": str(weights(tmp_path / "own.safetensors", **changes))})
    assert "own.safetensors isn't of small_cnn" in message
    assert said in message
    assert ("head: fresh" in message) == ("fc2.bias" in changes)


def test_a_fresh_head_needs_none_in_the_file(tmp_path):
    missing = dict.fromkeys(("fc2.weight", "fc2.bias"))
    for changes in (missing, {"fc2.weight": torch.ones(4, 128)}, {"bn1.num_batches_tracked": None}):
        file = weights(tmp_path / "own.safetensors", **changes)
        assert planned({"path": str(file), "head": "fresh"})


def test_only_safetensors_are_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("a pickle was run",)

    for number, write in enumerate((
        lambda file: torch.save({"conv1.weight": Trap()}, file),
        lambda file: file.write_bytes(pickle.dumps(Trap())),
    )):  # fmt: skip
        write(file := tmp_path / f"{number}.safetensors")
        message = refused({"path": str(file)})
        assert "can't be read as safetensors" in message
        assert "a pickle, which is never loaded" in message
    file.write_bytes(b"")
    assert "can't be read as safetensors" in refused({"path": str(file)})
    assert "is a folder" in refused({"path": str(tmp_path)})


def test_a_sparse_file_has_the_entries_that_it_stands_for(tmp_path):
    layers = maskable_layers(network())
    masks = {name: torch.rand(layer.weight.shape) < 0.1 for name, layer in layers.items()}
    write_sparse(network(), masks, {}, tmp_path / "sparse.safetensors", keep_masks=True)
    assert planned({"path": str(tmp_path / "sparse.safetensors")})


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("resnet18", "expected {path: weights.safetensors}, timm:NAME or hf:OWNER/NAME, got 'resnet18'"),
        ({"head": "fresh"}, "expected a name or a path"),
        ({"path": "a", "name": "timm:resnet18"}, "expected a name or a path"),
        ({"path": "a", "revision": "main"}, "a file has none"),
        ({"path": "a", "sha256": "abc"}, "sha256"),
        ({"path": "a", "hed": "fresh"}, "did you mean 'head'"),
        ("timm:resnet18.a1_in2k", "did you mean"),
        ("hf:gpt2", "expected hf:OWNER/NAME or hf:OWNER/NAME/FILE.safetensors"),
        ("hf:a/b/weights.bin", "pickles are never loaded"),
        ("timm:test_resnet", "isn't of small_cnn"),
    ],
)  # fmt: skip
def test_what_is_no_start_is_refused(start, said):
    assert said in refused(start)


def test_timm_weights_are_known_by_their_whole_name_and_fetched_by_no_plan():
    axes = {**MATRIX["axes"], "model": "timm:test_resnet", "dataset": {"name": "synthetic", "size": 64}}
    start = {"name": "timm:test_resnet", "head": "fresh"}
    trials = [
        planned({**start, "name": name}, axes=axes)[0]
        for name in (start["name"], "timm:test_resnet.r160_in1k")
    ]
    assert trials[0] == trials[1]
    assert trials[0].trial.start.name == "timm:test_resnet.r160_in1k"
    assert "fc.weight is [10, 96] in the network, [1000, 96] in the file" in refused(start["name"], axes=axes)


def test_tied_entries_fill_each_other():
    gpt = registry().build("model", {"name": "gpt", "layers": 1, "heads": 1, "dim": 8})
    needed = needed_by(gpt(num_classes=11, input_shape=(4,)))
    assert needed.tied
    for second, first in needed.tied.items():
        assert needed.shapes[second] == needed.shapes[first]
