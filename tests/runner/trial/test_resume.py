"""Checkpoints that a crash, a power cut or an attacker left: nothing in them runs, and the trial starts anew."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import zipfile

import numpy as np
import pytest
import torch

from dstbench.core.training.method import as_recipe
from dstbench.errors import BadInput
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial import loop, provenance, resume, tensor_files
from dstbench.runner.trial.running import CHECKPOINT, CURVE, PREVIOUS, STATE
from dstbench.runner.trial.trained import load_trained
from dstbench.runner.trial.trial import run_trial

RECIPE = {"name": "rigl", "schedule": {"name": "cosine", "delta_t": 2}}
IMAGES = {"name": "synthetic", "images": 320, "size": 8}


def spec(seed=0, **training):
    training = Training(**{"epochs": 3, "batch_size": 64, "lr": 0.05, **training})
    return TrialSpec({"name": "small_cnn"}, IMAGES, 0.2, seed, as_recipe(RECIPE), training)


def run(trial, folder, **options):
    return run_trial(trial, folder, device="cpu", **options)


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A trial's folder after two of three epochs, a checkpoint a step, and what the whole trial comes to."""
    folder = tmp_path_factory.mktemp("interrupted")
    whole = run(spec(), folder / "whole")
    assert whole["status"] == "ok", whole["traceback"]
    original, epochs = loop._epoch, []

    def stopping(running, epoch):
        epochs.append(epoch)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return original(running, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_epoch", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(spec(), folder / "parts", checkpoint_seconds=1e-9)
    return folder


@pytest.fixture
def both(interrupted, tmp_path):
    """With the last checkpoint, behind the last step of the second epoch, and the one before it."""
    return shutil.copytree(interrupted / "parts", tmp_path / "parts")


@pytest.fixture
def parts(both):
    """With the last one alone."""
    (both / PREVIOUS).unlink()
    return both


@pytest.fixture
def epochs(monkeypatch):
    """The epochs that are run."""
    seen, original = [], loop._epoch
    monkeypatch.setattr(
        loop, "_epoch", lambda running, epoch: (seen.append(epoch), original(running, epoch))[1]
    )
    return seen


def assert_as_the_whole(folder, interrupted):
    one, other = (tensor_files.read(path / STATE) for path in (folder, interrupted / "whole"))
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    assert all(torch.equal(value, other["masks"][name]) for name, value in one["masks"].items())
    assert curve(folder) == curve(interrupted / "whole")


def curve(folder):
    lines = map(json.loads, (folder / CURVE).read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_a_whole_checkpoint_is_continued(parts, interrupted, epochs, monkeypatch):
    later = "2999-01-01T00:00:00+00:00"
    monkeypatch.setattr(provenance, "now", lambda: later)
    record = run(spec(), parts)
    assert (record["status"], epochs) == ("ok", [1, 2])
    assert "checkpoint" not in record["provenance"]
    assert record["provenance"]["began"] < record["provenance"]["started"] == later
    assert_as_the_whole(parts, interrupted)
    assert {path.name for path in parts.iterdir()} == {STATE, CURVE}


def test_the_curve_is_whole_whatever_became_of_its_file(parts, interrupted):
    (parts / CURVE).write_bytes(b"\xff\x00 torn")
    run(spec(), parts)
    assert_as_the_whole(parts, interrupted)


def cut(path, size):
    os.truncate(path, size)


def flip(path):
    """One bit of a weight: torch's own reader wouldn't notice."""
    with zipfile.ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
        content = parts.read(largest)
    content, whole = content[64:128], bytearray(path.read_bytes())
    whole[whole.index(content) + 5] ^= 16
    path.write_bytes(whole)


def change(path, **fields):
    tensor_files.write(tensor_files.read(path) | fields, path)


def drop(path, field):
    saved = tensor_files.read(path)
    del saved[field]
    tensor_files.write(saved, path)


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_fifo(path):
    path.unlink()
    os.mkfifo(path)


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = {
    "empty": lambda path: cut(path, 0),
    "half": lambda path: cut(path, path.stat().st_size // 2),
    "a byte short": lambda path: cut(path, path.stat().st_size - 1),
    "a flipped bit": flip,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "noise": lambda path: path.write_bytes(random.Random(0).randbytes(9999)),
    "text": lambda path: path.write_text("{}"),
    "folder": as_folder,
    "fifo": as_fifo,
    "dangling link": dangling,
    "another zip": lambda path: zipfile.ZipFile(path, "w").close(),
    "a list": lambda path: torch.save([1], path),
    "another mapping": lambda path: torch.save({"a": 1}, path),
    "newer": lambda path: change(path, version=99),
    "another trial": lambda path: change(path, trial="0" * 64),
    "no optimizer": lambda path: drop(path, "optimizer"),
    "no generators": lambda path: drop(path, "ranks"),
    "other layers": lambda path: change(path, model={"x": torch.zeros(1)}),
    "no progress": lambda path: change(path, progress={}),
    "progress of text": lambda path: change(path, progress="text"),
    "with a scaler": lambda path: change(path, scaler={"scale": 1.0}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_checkpoint_is_named_and_set_aside(damage, parts, interrupted, epochs, caplog):
    damage(parts / CHECKPOINT)
    record = run(spec(), parts)
    assert (record["status"], epochs) == ("ok", [0, 1, 2]), record["traceback"]
    assert_as_the_whole(parts, interrupted)
    [aside] = [path.name for path in parts.iterdir() if path.name.endswith(".invalid")]
    assert not (parts / CHECKPOINT).exists()
    for said in (record["provenance"]["checkpoint"], caplog.text):
        assert said.count(f"{CHECKPOINT}: not used, now {aside}: ") == 1


@pytest.mark.parametrize("damage", ["a byte short", "zeros", "another trial", "folder", "no generators"])
def test_the_one_before_a_damaged_checkpoint_is_continued(damage, both, interrupted, epochs):
    DAMAGES[damage](both / CHECKPOINT)
    record = run(spec(), both)
    assert (record["status"], epochs) == ("ok", [1, 2]), record["traceback"]
    assert_as_the_whole(both, interrupted)
    [aside] = [path.name for path in both.iterdir() if path.name.endswith(".invalid")]
    assert record["provenance"]["checkpoint"].startswith(f"{CHECKPOINT}: not used, now {aside}: ")


def test_a_kill_between_the_two_renames_of_a_checkpoint_costs_a_step(both, interrupted, epochs):
    (both / CHECKPOINT).rename(both / f"{CHECKPOINT}.new")
    record = run(spec(), both)
    assert (record["status"], epochs) == ("ok", [1, 2])
    assert "checkpoint" not in record["provenance"]
    assert_as_the_whole(both, interrupted)
    assert {path.name for path in both.iterdir()} == {STATE, CURVE}


def test_where_both_are_damaged_both_are_named(both, interrupted, epochs):
    for name in (CHECKPOINT, PREVIOUS):
        cut(both / name, 1000)
    record = run(spec(), both)
    assert epochs == [0, 1, 2]
    assert_as_the_whole(both, interrupted)
    for name in (CHECKPOINT, PREVIOUS):
        assert f"{name}: not used, now {name}." in record["provenance"]["checkpoint"]


def test_a_full_disk_costs_the_checkpoint_and_not_the_trial(tmp_path, interrupted, monkeypatch, caplog):
    def full(content, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    save = torch.save
    monkeypatch.setattr(torch, "save", full)
    original, left = loop.train, []

    def train(running):
        original(running)
        left.extend(path.name for path in running.folder.iterdir())
        monkeypatch.setattr(torch, "save", save)  # there is room for the trained network

    monkeypatch.setattr(loop, "train", train)
    record = run(spec(), tmp_path, checkpoint_seconds=1e-9)
    assert (record["status"], left) == ("ok", [CURVE])
    assert f"{CHECKPOINT}: not written: [Errno 28]" in caplog.text
    assert_as_the_whole(tmp_path, interrupted)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"lr": 0.01}], ids=str)
def test_the_checkpoint_of_another_trial_is_not_continued(changed, parts, tmp_path, epochs):
    seed = changed.pop("seed", 0)
    record = run(spec(seed, **changed), parts)
    assert epochs == [0, 1, 2]
    assert "it is of another trial" in record["provenance"]["checkpoint"]
    run(spec(seed, **changed), tmp_path / "fresh")
    one, other = (tensor_files.read(folder / STATE)["model"] for folder in (parts, tmp_path / "fresh"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def plant(path, how, mark):
    path.parent.mkdir(exist_ok=True)
    if how == "pickle":
        path.write_bytes(pickle.dumps(Evil(mark)))
    elif how == "torch":
        torch.save(Evil(mark), path)
    elif how == "old torch":
        torch.save(Evil(mark), path, _use_new_zipfile_serialization=False)
    else:  # inside what is otherwise right
        torch.save(tensor_files.read(path) | {how: Evil(mark)}, path)


FORMS = ("pickle", "torch", "old torch")
FIELDS = (
    "model",
    "optimizer",
    "scaler",
    "sparsifier",
    "meter",
    "progress",
    "curve",
    "ranks",
    "trial",
    "other",
)


@pytest.mark.parametrize("how", [*FORMS, *FIELDS])
def test_no_code_in_a_checkpoint_runs(how, parts, interrupted, epochs, tmp_path):
    plant(parts / CHECKPOINT, how, tmp_path / "ran")
    record = run(spec(), parts)
    assert not (tmp_path / "ran").exists()
    assert (record["status"], epochs) == ("ok", [0, 1, 2])
    assert_as_the_whole(parts, interrupted)


ACCELERATE = (
    "model.safetensors", "pytorch_model.bin", "optimizer.bin", "scheduler.bin", "sampler.bin", "scaler.pt",
    "random_states_0.pkl", "custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl", "custom_checkpoint_2.pkl",
)  # fmt: skip


@pytest.mark.parametrize("how", FORMS)
def test_a_folder_of_pickles_from_earlier_releases_is_refused_by_name(how, parts, interrupted, tmp_path):
    (parts / CHECKPOINT).unlink()
    for name in ACCELERATE:
        plant(parts / "checkpoint" / name, how, tmp_path / "ran")
    record = run(spec(), parts)
    assert not (tmp_path / "ran").exists()
    assert record["status"] == "ok"
    assert record["provenance"]["checkpoint"].startswith("checkpoint: not used, now checkpoint.")
    assert_as_the_whole(parts, interrupted)


@pytest.mark.parametrize("how", [*FORMS, "model", "masks", "sparsifier", "input_shape", "other"])
def test_no_code_in_the_trained_network_runs(how, interrupted, tmp_path):
    folder = shutil.copytree(interrupted / "whole", tmp_path / "whole")
    plant(folder / STATE, how, tmp_path / "ran")
    with pytest.raises(BadInput, match=r"state\.pt: can't be read as tensors and plain values"):
        load_trained(spec(), folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("masks", [1], "AttributeError"),
        ("masks", {"fc": torch.zeros(3, dtype=torch.uint8)}, "KeyError: 'fc'"),
        ("model", {}, "RuntimeError: Error.s. in loading state_dict"),
        ("input_shape", "wide", "TypeError|ValueError|BadInput"),
    ],
)
def test_a_trained_network_of_another_trial_is_refused(field, value, said, interrupted, tmp_path):
    folder = shutil.copytree(interrupted / "whole", tmp_path / "whole")
    saved = torch.load(folder / STATE, weights_only=True)
    torch.save({**saved, field: value}, folder / STATE)
    with pytest.raises(BadInput, match=rf"state\.pt: it isn't of this trial: .*({said})"):
        load_trained(spec(), folder)


def test_a_flipped_bit_in_the_trained_network_is_found(interrupted, tmp_path):
    folder = shutil.copytree(interrupted / "whole", tmp_path / "whole")
    flip(folder / STATE)
    with pytest.raises(BadInput, match=r"state\.pt: .* is damaged"):
        load_trained(spec(), folder)


def test_a_write_that_is_cut_off_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file.pt"
    tensor_files.write({"a": torch.ones(3)}, path)

    def cut_off(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tensor_files.write({"a": torch.zeros(3)}, path)
    assert torch.equal(tensor_files.read(path)["a"], torch.ones(3))


def test_the_generators_of_plugins_go_on_where_they_were():
    """The states of Python, NumPy and torch: the next draws are those that would have come."""
    cpu = torch.device("cpu")
    state = resume._random_state(cpu)
    first = random.random(), np.random.rand(), torch.rand(1)
    random.seed(9), np.random.seed(9), torch.rand(3)
    resume._set_random_state(cpu, state)
    assert (random.random(), np.random.rand(), torch.rand(1)) == first


def test_a_trial_computes_with_its_own_number_of_threads_whatever_the_machine_has(tmp_path):
    records = {count: run(spec(), tmp_path / str(count), threads=count) for count in (1, 2, 7)}
    assert {record["provenance"]["threads"] for record in records.values()} == {1}
    one, *others = (tensor_files.read(tmp_path / str(count) / STATE)["model"] for count in records)
    for other in others:
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert run(spec(threads=2, epochs=1), tmp_path / "two")["provenance"]["threads"] == 2
    torch.set_num_threads(1)
