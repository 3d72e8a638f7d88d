from __future__ import annotations

import json
import math
import os
import time

import pytest

from dstbench.results import record as module
from dstbench.results.record import (
    FILE,
    SCHEMA_VERSION,
    Rejected,
    canonical,
    checksum,
    folder_of,
    read_record,
    record_files,
    remembering,
    seal,
    write_record,
)


def draft(**changes):
    trial = {
        "model": {"name": "m"},
        "dataset": {"name": "d"},
        "density": 0.1,
        "seed": 0,
        "recipe": {"grow": {"name": "random"}},
    }
    return {
        "key": "ab" * 32,
        "status": "ok",
        "reason": None,
        "phase": None,
        "traceback": None,
        "trial": trial,
        "label": "set",
        "control": None,
        "measures": {"top1": 91.5, "updates": 12},
        "provenance": {"torch": "2"},
    } | changes


def test_what_is_written_is_what_is_read(tmp_path):
    folder = folder_of(tmp_path, draft()["key"])
    written = write_record(draft(), folder)
    assert read_record(folder / "result.json") == written == read_record(folder)
    assert [file.name for file in folder.iterdir()] == ["result.json"]
    assert list(record_files(tmp_path)) == [folder / "result.json"]
    assert folder.parent.name == "ab"


def test_canonical_ignores_order_and_refuses_nan():
    assert canonical({"b": 1, "a": [0.1, "é"]}) == '{"a":[0.1,"\\u00e9"],"b":1}'
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": math.nan})


def test_the_checksum_covers_everything_but_itself():
    sealed = seal(draft())
    assert sealed["checksum"] == checksum(sealed) == checksum({**sealed, "checksum": "other"})
    assert checksum({**sealed, "label": "other"}) != sealed["checksum"]


def test_seal_turns_nan_into_null_and_tuples_into_lists():
    sealed = seal(draft(measures={"loss": math.nan, "top1": math.inf, "fallbacks": ("conv1",)}))
    assert sealed["measures"] == {"loss": None, "top1": None, "fallbacks": ["conv1"]}
    assert sealed["schema_version"] == SCHEMA_VERSION


def test_seal_refuses_what_no_one_could_read_again():
    with pytest.raises(ValueError, match=r"measures\.top1: .*number.* got 'high'"):
        seal(draft(measures={"top1": "high"}))
    with pytest.raises(ValueError, match="key: expected 8 to 64 hexadecimal digits"):
        seal(draft(key="../../x"))
    with pytest.raises(ValueError, match="status"):
        seal(draft(status="fine"))


def put(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_record(path)


def resealed(**changes):
    record = {**seal(draft()), **changes}
    return {**record, "checksum": checksum(record)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps(seal(draft()))[:-40], "not valid JSON"),
        ("", "not valid JSON"),
        ("[1, 2]", "expected a JSON object, got list"),
        ("[" * 100_000, "not valid JSON"),
        ({"schema_version": "1"}, "schema_version: expected an integer, got '1'"),
        (resealed(schema_version=SCHEMA_VERSION + 1), "is newer than"),
        (seal(draft()) | {"measures": {"top1": 99.9}}, "doesn't match its checksum"),
        (json.dumps(seal(draft())).replace("91.5", "NaN"), "doesn't match its checksum"),
        (resealed(measures={"top1": "99"}), "measures.top1: "),
        (resealed(trial={"model": {"name": "m"}}), "trial.dataset: "),
        (resealed(schema_version=0), "schema_version 0 can't be read any more"),
    ],
)
def test_untrustworthy_files_are_named_not_raised(tmp_path, content, reason):
    path = tmp_path / "result.json"
    rejected = put(path, content)
    assert isinstance(rejected, Rejected)
    assert rejected.path == path
    assert reason in rejected.reason


def test_a_missing_file_is_rejected(tmp_path):
    rejected = read_record(tmp_path / "none" / "result.json")
    assert isinstance(rejected, Rejected)
    assert "No such file" in str(rejected)


def test_an_older_record_is_migrated_in_memory_only(tmp_path, monkeypatch):
    monkeypatch.setitem(module.MIGRATIONS, 0, lambda old: {**old, "label": old["label"].upper()})
    path = tmp_path / "result.json"
    old = resealed(schema_version=0)
    migrated = put(path, old)
    assert (migrated["label"], migrated["schema_version"]) == ("SET", SCHEMA_VERSION)
    assert json.loads(path.read_text()) == old


def test_a_failed_write_leaves_no_litter(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_record(draft(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_remembered_record_is_read_again_once_its_file_changed(tmp_path):
    first = write_record(draft(), tmp_path)
    path, long_ago = tmp_path / FILE, time.time() - 100
    os.utime(path, (long_ago, long_ago))
    with remembering():
        assert read_record(tmp_path) is read_record(tmp_path) == first
        second = write_record(draft(label="other"), tmp_path)
        assert read_record(tmp_path) == second  # so new that its stamp may be another's too
        path.write_text("{")
        os.utime(path, (long_ago, long_ago))
        assert isinstance(read_record(tmp_path), Rejected)
        path.unlink()
        assert isinstance(read_record(tmp_path), Rejected)
    write_record(draft(), tmp_path)
    assert read_record(tmp_path) is not read_record(tmp_path)
