"""Trained networks as files that run without dstbench: the same outputs, sparse sizes, errors in words."""

from __future__ import annotations

import copy
import errno
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import dstbench
from dstbench.accel import export as formats
from dstbench.accel.export import FORMATS, Format
from dstbench.cli.app import app
from dstbench.core.training.method import as_recipe
from dstbench.errors import BadInput
from dstbench.recipe import Recipe
from dstbench.results.record import folder_of, write_record
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial.export import export
from dstbench.runner.trial.running import STATE
from dstbench.runner.trial.trained import load_trained
from dstbench.runner.trial.trial import run_trial

WITHOUT_US = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("dstbench", "dstbench_plugins"):
            raise ImportError(f"{name} isn't here")

sys.meta_path.insert(0, Refuse())
"""


def trial(structure):
    recipe = Recipe(structure=structure, schedule={"name": "cosine", "delta_t": 4})
    training = Training(epochs=1, batch_size=64, lr=0.05)
    return TrialSpec({"name": "small_cnn"}, {"name": "digits"}, 0.1, 0, recipe, training)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Five finished trials, whose keys begin with a, b, c, e and f."""
    root = tmp_path_factory.mktemp("results")
    trials = {"a": trial("unstructured"), "b": trial("channel")}
    trials["c"] = replace(trials["a"], recipe=Recipe(dense=True), density=1.0)
    chase = as_recipe({"name": "chase", "channel_sparsity": 0.5, "delta_t": 3, "channel_delta_t": 3})
    trials["e"] = replace(trials["a"], recipe=chase, density=0.2)
    blocks = {"name": "shuffled_block", "block_size": 8, "columns": "channel", "balanced": True}
    trials["f"] = trial(blocks)
    for letter, settings in trials.items():
        folder = folder_of(root, letter * 64)
        record = run_trial(settings, folder, device="cpu", threads=1)
        assert record["status"] == "ok", record["traceback"]
        write_record({**record, "key": letter * 64, "label": letter, "control": None}, folder)
    return root


def test_channels_that_were_removed_for_good_are_cut_out(results, tmp_path):
    """Chase: any mask within the channels that are left."""
    sizes = []
    for key, path in (("e", "compacted"), ("c", "dense")):
        done = export(key, "pt2", tmp_path / f"{key}.pt2", results=results)
        assert (done.ok, done.path) == (True, path)
        weights = torch.export.load(tmp_path / f"{key}.pt2").state_dict
        sizes.append(sum(value.numel() for value in weights.values()))
    assert sizes[0] < 0.8 * sizes[1]


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_rows_that_read_the_same_channels_read_those_alone(results, tmp_path, format):
    done = export("f", format, tmp_path / "file", results=results)
    assert done.ok
    assert done.path.startswith("row groups (")
    assert done.size < done.dense_size / 2


def call(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("key", "path"), [("a", "masked-dense"), ("b", "compacted"), ("c", "dense")])
def test_a_file_computes_what_the_masked_model_computes(results, tmp_path, format, key, path):
    file = tmp_path / "new" / "model"
    done = call(key, "--format", format, "--out", file, "--results", results, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["ok"]
    assert said["difference"] <= 1e-5
    assert said["outputs"] == [5, 10]
    assert said["path"] == (path if FORMATS[format].runs else "weights")
    assert said["size"] == file.stat().st_size
    if path == "compacted":
        assert said["size"] < said["dense_size"] / 3


@pytest.mark.parametrize(("key", "most"), [("a", 1.05), ("b", 1.15), ("c", 1.05)])
def test_sparse_weights_take_about_the_theoretical_bits(results, tmp_path, key, most):
    """What theory leaves out is the file's header, and a norm's three other vectors."""
    done = export(key, "safetensors", tmp_path / "file", results=results)
    assert done.size <= most * done.theoretical_size


def test_what_is_printed_and_where_it_goes(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for result in (folder_of(results, "a" * 64), folder_of(results, "a" * 64) / "result.json"):
        done = call(result, "--format", "safetensors")
        assert done.exit_code == 0
        assert "Wrote aaaaaaaaaaaa.safetensors" in done.stdout
        assert "same outputs: 5x10" in done.stdout
        assert "x the theoretical bits" in done.stdout
        (tmp_path / "aaaaaaaaaaaa.safetensors").unlink()


def test_a_file_that_computes_something_else_is_exit_code_1(results, tmp_path, monkeypatch):
    def write(network, file):
        wrong = copy.deepcopy(network.running)
        with torch.no_grad():
            wrong.get_parameter("fc2.bias")[0] += 1
        FORMATS["pt2"].write(replace(network, running=wrong), file)

    monkeypatch.setattr(formats, "FORMATS", {"wrong": Format(write, FORMATS["pt2"].load)})
    done = call("a", "--format", "wrong", "--out", tmp_path / "file", "--results", results)
    assert done.exit_code == 1
    assert "OUTPUTS DIFFER" in done.stdout


def expected(results, key):
    folder = folder_of(results, key * 64)
    record = json.loads((folder / "result.json").read_text())
    return load_trained(TrialSpec.from_json(record["trial"]), folder).model.eval()


def run(code, folder):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_US + code], cwd=folder, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize("key", ["a", "b"])
def test_an_exported_program_runs_where_dstbench_is_not(results, tmp_path, key):
    export(key, "pt2", tmp_path / "model.pt2", results=results)
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        torch.save((images, expected(results, key)(images)), tmp_path / "io.pt")
    code = """
import torch
images, logits = torch.load("io.pt")
model = torch.export.load("model.pt2").module()
for batch in (1, 3):
    torch.testing.assert_close(model(images[:batch]), logits[:batch], rtol=1e-4, atol=1e-5)
assert not [name for name in sys.modules if name.split(".")[0] in ("dstbench", "dstbench_plugins")]
"""
    run(code, tmp_path)


def test_the_documented_lines_read_sparse_weights_without_dstbench(results, tmp_path):
    export("a", "safetensors", tmp_path / "model.safetensors", results=results)
    torch.save(expected(results, "a").state_dict(), tmp_path / "state.pt")
    code = textwrap.dedent(formats.__doc__.split("::\n", 1)[1])
    check = """
state = torch.load("state.pt")
assert tensors.keys() == state.keys()
for name, value in state.items():
    assert torch.equal(tensors[name], value), name
assert len(shapes) > 2
assert not [name for name in sys.modules if name.split(".")[0] in ("dstbench", "dstbench_plugins")]
"""
    run(code + check, tmp_path)
    loaded = dstbench.load_export(tmp_path / "model.safetensors")
    for name, value in expected(results, "a").state_dict().items():
        assert torch.equal(loaded[name], value), name


@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.08, 0.5, 1.0])
def test_positions_are_kept_in_the_smaller_way(density):
    torch.manual_seed(0)
    weight, mask = torch.randn(97, 13, 3, 3), torch.rand(97, 13, 3, 3) < density
    weight *= mask
    parts = formats._sparse(weight, mask)
    assert torch.equal(
        formats._dense({f"w.{name}": part for name, part in parts.items()}, "w", weight.shape), weight
    )
    assert ("gaps" in parts) == (density <= 0.08)
    at = parts["gaps"] if "gaps" in parts else parts["bits"]
    assert at.nbytes <= (mask.numel() + 7) // 8


def test_active_weights_that_are_zero_stay_active():
    weight, mask = torch.zeros(4, 4), torch.eye(4, dtype=torch.bool)
    assert len(formats._sparse(weight, mask)["values"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "--format", "onxn"), "format: unknown 'onxn'; did you mean 'onnx'?"),
        (("d", "--format", "pt2"), "got 'd'; matching: none"),
        (("", "--format", "pt2"), "got ''; matching: aaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbb"),
    ],
)
def test_bad_usage_is_said_in_words(results, arguments, message):
    done = call(*arguments, "--results", results)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


@pytest.mark.parametrize("format", FORMATS)
def test_a_path_that_can_not_be_written_is_said_in_words(results, tmp_path, monkeypatch, format):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()

    def full(network, file):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    places = [("folder", "got the folder"), ("file/net", "out: expected a folder, got the file")]
    for place, message in [*places, ("net", "can't be written: OSError: [Errno 28] No space left")]:
        if place == "net":
            monkeypatch.setitem(formats.FORMATS, format, replace(formats.FORMATS[format], write=full))
        done = call("a", "--format", format, "--results", results, "--out", tmp_path / place)
        assert done.exit_code == 2
        assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"status": "oom", "reason": "too big"}, "expected a finished trial, got one that is oom: too big"),
        ({"status": "ok"}, f"has no {STATE}"),
        (None, "is not valid JSON"),
    ],
)
def test_a_result_without_a_network_is_refused(tmp_path, record, message):
    if record is None:
        (tmp_path / "result.json").write_text("{")
    else:
        write_record({"trial": trial("channel").to_json(), "key": "d" * 64, "label": "d", **record}, tmp_path)
    with pytest.raises(BadInput, match=message):
        export(tmp_path, "pt2", tmp_path / "file")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(BadInput, match=r"'onnx' needs onnxruntime: pip install 'dstbench\[export\]'"):
        formats.get_format("onnx")


def test_only_our_own_files_are_loaded(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match="expected an export of format_version 1, got none"):
        dstbench.load_export(tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("no tensors")
    for file in (tmp_path / "text", tmp_path / "nowhere"):
        with pytest.raises(BadInput, match="can't be read as safetensors"):
            dstbench.load_export(file)
