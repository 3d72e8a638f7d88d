"""A folder of one's own images: both layouts, the same split everywhere, errors that name file and class."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from dstbench.api import DataUnavailable
from dstbench.cli.app import app
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.outlook import Outlook
from dstbench.runner.matrix.plan import plan
from dstbench.runner.trial.trial import run_trial
from dstbench_plugins.datasets.own_folder import ImageFolder
from fakes.folders import write_plain


def flat(base, sizes=(10, 20), size=16):
    """A folder a class, without a test part."""
    for name, number in zip(("cat", "dog"), sizes, strict=True):
        write_plain(base / "made", 1, number, 0, size)
        (base / "made" / "train" / "n00").rename(base / name)
    (base / "made" / "train").rmdir()
    (base / "made").rmdir()
    return base


def parts(data):
    return [list(split.names) for split in (data.train, data.validation, data.test)]


@pytest.mark.parametrize("held", ["test", "val", "validation"])
def test_train_and_test_folders(tmp_path, held):
    write_plain(tmp_path / "photos", 3, 10, 2, held=held)
    data = ImageFolder("photos", size=32)(tmp_path, False)
    assert [len(part) for part in parts(data)] == [27, 3, 6]
    assert (data.input_shape, data.num_classes) == ((3, 32, 32), 3)
    assert sorted(data.validation.labels.tolist()) == [0, 1, 2]  # one of each class
    assert all(name.startswith(f"{held}/") for name in data.test.names)


def test_without_a_test_folder_each_class_gives_its_share(tmp_path):
    data = ImageFolder(str(flat(tmp_path)), validation=0.25)(None, False)
    train, validation, test = parts(data)
    assert not {*train} & {*validation} | {*train} & {*test} | {*validation} & {*test}
    assert [sum(n.startswith("dog/") for n in part) for part in (train, validation, test)] == [12, 4, 4]
    assert [sum(n.startswith("cat/") for n in part) for part in (train, validation, test)] == [6, 2, 2]
    assert data.test.labels.tolist() == [0, 0, 1, 1, 1, 1]


def test_a_whole_number_of_images_can_be_held_out(tmp_path):
    flat(tmp_path)
    spec = {"name": "folder", "root": str(tmp_path), "validation": 3, "test": 6}
    data = registry().build("dataset", spec)(None, False)
    assert [len(part) for part in parts(data)] == [21, 3, 6]
    with pytest.raises(DataUnavailable, match="can't hold 24 of 24 images out"):
        ImageFolder(str(tmp_path), validation=24)(None, False)


def test_what_is_held_out_depends_on_the_seed_and_names_alone(tmp_path):
    flat(tmp_path / "a")
    flat(tmp_path / "b")
    one, again = (parts(ImageFolder(name)(tmp_path, False)) for name in "ab")
    assert one == again
    assert one != parts(ImageFolder("a", split_seed=1)(tmp_path, False))
    assert sorted(one[2]) != [f"cat/n00_{i}.png" for i in (8, 9)] + [
        f"dog/n00_{i}.png" for i in range(16, 20)
    ]


def test_a_digest_names_the_images(tmp_path):
    flat(tmp_path)
    with pytest.raises(DataUnavailable, match=r"expected the digest '\?', got '([0-9a-f]{16})'") as error:
        ImageFolder(".", digest="?")(tmp_path, False)
    digest = str(error.value)[-17:-1]
    ImageFolder(".", digest=digest)(tmp_path, False)
    (tmp_path / "cat" / "n00_1.png").rename(tmp_path / "dog" / "other.png")
    with pytest.raises(DataUnavailable, match="holds other images than are meant"):
        ImageFolder(".", digest=digest)(tmp_path, False)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "cat/notes.txt",
            "x",
            r"cat/notes.txt in the class 'cat': expected an image \(.*\), got a .txt file",
        ),
        ("cat/x.gif", "x", r"cat/x.gif in the class 'cat': expected an image \(.*\), got a .gif file"),
        ("dog/x.png", "", r"dog/x.png in the class 'dog': expected an image \(.*\), got an empty file"),
        ("dog/more/x.png", "x", r"dog/more in the class 'dog': expected an image \(.*\), got a folder"),
        ("train/cat/x.png", "x", "has train/, so expected one of test, val, validation beside it, got none"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, words):
    flat(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataUnavailable, match=words):
        ImageFolder(".")(tmp_path, False)


def test_classes_are_named(tmp_path):
    flat(tmp_path)
    (tmp_path / "emu").mkdir()
    with pytest.raises(DataUnavailable, match="the class 'emu' has no images"):
        ImageFolder(".")(tmp_path, False)
    (tmp_path / "one" / "cat").mkdir(parents=True)
    with pytest.raises(DataUnavailable, match=r"at least two class folders in .*, got \['cat'\]"):
        ImageFolder("one")(tmp_path, False)
    write_plain(tmp_path / "two", 2, 2, 2, held="test")
    (tmp_path / "two" / "test" / "n01").rename(tmp_path / "two" / "test" / "other")
    with pytest.raises(DataUnavailable, match=r"the class 'n01' is in one of .*train and .*test only"):
        ImageFolder("two")(tmp_path, False)
    with pytest.raises(
        DataUnavailable, match=r"looked for .*none, found nothing; root is below `--data-root"
    ):
        ImageFolder("none")(tmp_path, False)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": 0}, "size: expected at least 1, got 0"),
        (
            {"validation": 1.5},
            "validation: expected a share from 0 to below 1, or a whole number of images, got 1.5",
        ),
        ({"validation": -1}, "validation: expected a share from 0 to below 1"),
        ({"test": 0.0}, "test: expected a share from above 0 to below 1"),
        ({"root": ""}, "root: expected a folder"),
    ],
)
def test_bad_parameters(wrong, words):
    with pytest.raises(BadInput, match=words):
        ImageFolder(**{"root": "x", **wrong})


MATRIX = {
    "schema": 1,
    "name": "mine",
    "axes": {
        "model": "small_cnn",
        "dataset": {"name": "folder", "root": "photos", "size": 16},
        "density": 0.2,
        "recipe": {"name": "set", "delta_t": 2},
    },
    "controls": [],
    "training": {"epochs": 2, "batch_size": 4},
    "measure": {"throughput": False},
}


def test_it_is_planned_and_trained_below_dstbench_data(tmp_path, monkeypatch):
    flat(tmp_path / "photos")
    [blind] = plan(load_matrix(MATRIX), registry()).trials  # no data yet: the plan still stands
    monkeypatch.setenv("DSTBENCH_DATA", str(tmp_path))
    [trial] = plan(load_matrix(MATRIX), registry()).trials
    assert trial.key == blind.key
    outlook = Outlook(registry())
    assert outlook.declared(trial.trial, "train_images") == 22  # 30, less 6 to test, less 2 to validate
    record = run_trial(trial.trial, tmp_path / "out", data_root=tmp_path, device="cpu", threads=1)
    assert record["status"] == "ok", record["reason"]
    assert len(record["provenance"]["dataset_fingerprint"]) == 64


def test_the_command_takes_a_mapping_and_the_environment(tmp_path, monkeypatch):
    flat(tmp_path / "photos")
    words = ["datasets", "{name: folder, root: photos, size: 24}", "--json"]
    [row] = json.loads(CliRunner().invoke(app, words, env={"DSTBENCH_DATA": str(tmp_path)}).stdout)
    assert (row["train"], row["validation"], row["test"], row["num_classes"]) == (22, 2, 6, 2)
    assert row["input_shape"] == [3, 24, 24]
    other = CliRunner().invoke(
        app, [*words, "--data-root", str(tmp_path / "photos")], env={"DSTBENCH_DATA": str(tmp_path)}
    )
    assert "looked for" in other.stderr  # what is said comes before what the environment says
