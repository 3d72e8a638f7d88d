"""Files that no trial of ours wrote: each is rejected by name at once, and the others stand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from dstbench.results.merge import merge, validate
from dstbench.results.record import (
    DEEPEST,
    FILE,
    LARGEST_FILE,
    checksum,
    folder_of,
    read_record,
    read_trial,
    seal,
    search,
    write_record,
)
from dstbench.results.table import load_results, read


@pytest.fixture
def one(tmp_path, make, put):
    """A results folder with one good record, and the empty folder of another trial."""
    root = put(tmp_path / "results", [make(seed=0)])
    folder = folder_of(root, make(seed=1)["key"])
    folder.mkdir(parents=True)
    return root, folder


def a_pipe(path, text):
    os.mkfifo(path)


def a_socket(path, text):
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{short}/s")  # an address has at most 108 characters
        Path(short, "s").rename(path)


def a_device(path, text):
    path.symlink_to("/dev/zero")


def a_folder(path, text):
    path.mkdir()


def of_terabytes(path, text):
    with path.open("wb") as file:
        file.truncate(10**11)


def of_spaces(path, text):
    path.write_text(" " * LARGEST_FILE + text)


def itself(path, text):
    path.symlink_to(path.name)


def of_a_name_twice(path, text):
    path.write_text(text.replace('"seed":', '"seed": 7, "seed":'))


def of_a_huge_integer(path, text):
    path.write_text(text.replace('"seed": 1', f'"seed": {"9" * 5000}'))


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (a_pipe, "expected a plain file, got a pipe"),
        (a_socket, "can't be read"),
        (a_device, "expected a plain file, got a device"),
        (a_folder, "expected a plain file, got a folder"),
        (of_terabytes, "expected at most 8,388,608 bytes, got 100,000,000,000"),
        (of_spaces, "expected at most 8,388,608 bytes, got 8,39"),
        (itself, "can't be read"),
        (of_a_name_twice, "'seed' is there twice"),
        (of_a_huge_integer, "not valid JSON"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_no_record_is_named_and_the_others_stand(one, make, write, reason):
    root, folder = one
    write(folder / FILE, json.dumps(seal(make(seed=1))))
    loaded = read(root)
    assert len(loaded.records) == 1
    [rejected] = loaded.rejected
    assert rejected.path == folder / FILE
    assert reason in rejected.reason
    assert [validate(root).ok, validate(root).rejected] == [1, loaded.rejected]


def resealed(record, path, value):
    """A record whose field was changed by someone who sealed it again."""
    record = json.loads(json.dumps(seal(record)))
    inner, (*steps, last) = record, path.split(".")
    for step in steps:
        inner = inner[int(step)] if isinstance(inner, list) else inner.setdefault(step, {})
    inner[last] = value
    return {**record, "checksum": checksum(record)}


LAYER = {"name": "conv", "shape": [4, 3], "active": 5}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("trial.training", [1], "trial.training: "),
        ("trial.recipe.dense_layers", 7, "trial.recipe.dense_layers: "),
        ("trial.recipe.init", 5, "trial.recipe.init"),
        ("trial.recipe.grow", {"name": None}, "trial.recipe.grow"),
        ("trial.recipe.structure", True, "trial.recipe.structure"),
        ("trial.model", {}, "trial.model: expected a component"),
        ("trial.model", {"name": {"a": 1}}, "trial.model: expected a component"),
        ("trial.seed", 10**400, "trial.seed: "),
        ("trial.seed", -1, "trial.seed: "),
        ("trial.density", 1.5, "trial.density: "),
        ("trial.density", 0, "trial.density: "),
        ("trial.recipe.grow", {"name": "g" * 70_000}, "trial: expected at most 65,536 characters"),
        ("trial.training.lr", 10**400, "trial.training.lr: expected a number within"),
        ("measures.layers", [{}], "measures.layers.0.name: "),
        ("measures.layers", [{"name": None, "shape": None, "active": 1}], "measures.layers.0.name: "),
        ("measures.layers", [LAYER | {"shape": [0]}], "measures.layers.0.active: "),
        ("measures.layers", [LAYER | {"active": 13}], "at most the weights of 4×3, got 13"),
        ("measures.layers", [LAYER | {"r_s": -1}], "measures.layers.0.r_s: "),
        ("measures.exploration", {"epoch": [0, 1], "r_s": [0.1]}, "a value for each of 2 epochs, got 1"),
        ("measures.exploration", {"epoch": [1, 0]}, "expected increasing epochs, got [1, 0]"),
        ("measures.exploration", {"epoch": [0, None]}, "expected increasing epochs"),
        ("measures.throughput", {"train": {"ratio": 0.0}}, "measures.throughput.train.ratio: "),
        ("measures.throughput", {"train": {"ratio": "1"}}, "measures.throughput.train.ratio: "),
        ("measures.throughput.threads", -2, "measures.throughput.threads: "),
        ("measures.epochs", 10**400, "measures.epochs: "),
        ("measures.top1", 250.0, "measures.top1: expected a number from 0 to 100, got 250.0"),
        ("measures.top1", -5, "measures.top1: expected a number from 0 to 100, got -5"),
        ("measures.density", -3, "measures.density: "),
        ("measures.r_s", 7, "measures.r_s: "),
        ("measures.loss", -1, "measures.loss: "),
        ("measures.seconds", -1, "measures.seconds: "),
        ("measures.seconds", 1e308, "measures.seconds: "),
        ("measures.training_flops_ratio", 5e-324, "measures.training_flops_ratio: "),
        ("provenance.memory", 10**400, "provenance.memory: expected a number within"),
        ("provenance.cpu", "x" * 10_001, "provenance.cpu: expected at most 10,000 characters, got 10,001"),
        ("label", "L" * 1_000_001, "label: expected at most 1,000 characters, got 1,000,001"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_all_alike(one, make, field, value, reason):
    root, folder = one
    record = resealed(make(seed=1), field, value)
    (folder / FILE).write_text(json.dumps(record))
    loaded = read(root)
    assert [record["trial"]["seed"] for record in loaded.records] == [0]
    assert reason in loaded.rejected[0].reason
    assert len(loaded.rejected[0].reason) < 400
    assert validate(root).rejected == loaded.rejected
    assert len(load_results(root)) == 1


def test_a_row_that_cannot_be_made_is_rejected_by_name(one, make, monkeypatch):
    """What the schema has no rule for."""
    from dstbench.results import table

    root, folder = one
    write_record(make(seed=1), folder)
    made = table._row
    monkeypatch.setattr(table, "_row", lambda record: 1 / (1 - record["trial"]["seed"]) and made(record))
    [rejected] = read(root).rejected
    assert rejected.reason.startswith("makes no row: ZeroDivisionError: division by zero")
    assert rejected.fault
    assert validate(root).ok == 1


NASTY = "can't open 'caf\udce9.jpg' \x1b[2J\u202egnp\x00\x9b\n\ufffe"
TAME = r"can't open 'caf\udce9.jpg' \x1b[2J\u202egnp\x00\x9b\n\ufffe"


def test_what_acts_is_escaped_when_written(tmp_path, make):
    said = {
        "reason": NASTY,
        "label": NASTY,
        "traceback": f"Error:\n\t{NASTY}",
        "provenance": {NASTY: [NASTY]},
    }
    record = make() | said
    written = write_record(record, folder_of(tmp_path, record["key"]))
    assert (written["label"], written["reason"], written["provenance"]) == (TAME, TAME, {TAME: [TAME]})
    assert written["traceback"] == "Error:\n\t" + TAME.replace(r"\n", "\n")
    assert read(tmp_path).records == (written,)


def test_what_acts_is_escaped_when_read(tmp_path, make):
    record = resealed(make(), "label", NASTY)
    folder = folder_of(tmp_path, record["key"])
    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps(record))
    assert read_record(folder)["label"] == TAME
    assert list(load_results(tmp_path)["label"]) == [TAME]


def test_a_long_text_is_shortened_rather_than_lost(make):
    sealed = seal(
        make() | {"label": "L" * 10**7, "reason": "r" * 10**6, "traceback": "a" + "t" * 10**6 + "z"}
    )
    assert 990 < len(sealed["label"]) <= 1_000
    assert len(sealed["reason"]) <= 10_000
    assert sealed["traceback"].startswith("at")
    assert sealed["traceback"].endswith("tz")


def test_a_record_nested_without_end_is_named(one, make):
    root, folder = one
    nested = "[" * 300 + "]" * 300
    record = {**seal(make(seed=1)), "more": json.loads(nested)}
    (folder / FILE).write_text(json.dumps({**record, "checksum": checksum(record)}))
    assert "in more than 32 levels" in read(root).rejected[0].reason


def test_another_trials_record_is_not_counted(tmp_path, make, put):
    root = put(tmp_path, [make(seed=0), make(seed=1), make(seed=2)])
    first, second = (folder_of(root, make(seed=seed)["key"]) for seed in range(2))
    texts = [(folder / FILE).read_text() for folder in (first, second)]
    for folder, text in zip((first, second), reversed(texts), strict=True):
        (folder / FILE).write_text(text)
    assert list(load_results(root)["seed"]) == [2]
    assert validate(root).ok == 1
    assert "the folder's name is" in read_trial(first).reason
    folder_of(root, make(seed=2)["key"]).rename(root / "Ünïcode \U0001f4a5")
    assert load_results(root).empty


def test_folders_behind_links_are_read_once(tmp_path, make, put):
    machines = tmp_path / "all"
    machines.mkdir()
    (machines / "one").symlink_to(put(tmp_path / "one", [make(seed=0)]))
    (machines / "again").symlink_to(tmp_path / "one")
    (machines / "loop").symlink_to(machines)
    (machines / "trial").symlink_to(folder_of(put(tmp_path / "two", [make(seed=1)]), make(seed=1)["key"]))
    (machines / "gone").symlink_to(tmp_path / "nothing")
    loaded = read(machines)
    assert sorted(record["trial"]["seed"] for record in loaded.records) == [0, 1]
    assert [str(rejected) for rejected in loaded.rejected] == [f"{machines / 'gone'}: is a link to nothing"]
    assert sorted(merge(machines, tmp_path / "merged").copied) == sorted(
        make(seed=seed)["key"] for seed in range(2)
    )


def test_a_linked_record_is_merged_as_what_it_says(tmp_path, make, put):
    source = put(tmp_path / "source", [make()])
    folder = folder_of(tmp_path / "linked", make()["key"])
    folder.mkdir(parents=True)
    (folder / FILE).symlink_to(folder_of(source, make()["key"]) / FILE)
    assert merge(tmp_path / "linked", tmp_path / "merged").copied == (make()["key"],)
    copied = folder_of(tmp_path / "merged", make()["key"]) / FILE
    assert not copied.is_symlink()
    assert read_record(copied)["measures"]["top1"] == 91.0
    assert merge(source, tmp_path / "merged").same == (make()["key"],)


def test_folders_without_end_are_named_and_not_searched(one):
    root, folder = one
    nest = "mkdir d && cd d || exit 1; " * 400
    for _ in range(2):  # a command line has its length, too
        subprocess.run(["sh", "-c", f"while [ -d d ]; do cd d; done; {nest}"], cwd=folder, check=True)
    try:
        loaded = read(root)
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)  # shutil's recursion would end
    assert len(loaded.records) == 1
    assert f"{DEEPEST} levels deep" in loaded.rejected[0].reason


def test_paths_that_act_are_escaped_in_messages(tmp_path):
    folder = tmp_path / "\x1b[31m<img>\udcff"
    folder.mkdir()
    (folder / FILE).write_text("{")
    [rejected] = read(tmp_path).rejected
    assert r"\x1b[31m<img>\udcff" in str(rejected)
    assert rejected.place.endswith(r"\x1b[31m<img>\udcff/result.json")


def test_a_folder_that_goes_while_others_are_searched_is_nothing(one, monkeypatch):
    """Leases come and go beneath trials that run; a results folder that isn't there is said, though."""
    results, folder = one
    gone, scandir = folder / "lease", os.scandir

    def scan(folder):
        if folder == gone:
            raise FileNotFoundError(2, "No such file or directory")
        return scandir(folder)

    gone.mkdir(parents=True)
    monkeypatch.setattr(os, "scandir", scan)
    assert [path.name for path in search(results)] == ["result.json"]
    [missing] = search(results / "nowhere")
    assert missing.reason == "can't be searched: No such file or directory"
