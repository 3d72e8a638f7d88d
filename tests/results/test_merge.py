from __future__ import annotations

import pytest

from dstbench.errors import BadInput
from dstbench.results.merge import merge, validate
from dstbench.results.record import FILE, folder_of, read_record


def test_merging_brings_whole_folders_and_is_idempotent(tmp_path, make, put):
    mine, theirs = (
        put(tmp_path / "mine", [make(seed=0)]),
        put(tmp_path / "theirs", [make(seed=1), make(seed=0)]),
    )
    folder = folder_of(theirs, make(seed=1)["key"])
    (folder / "log.txt").write_text("trained")
    done = merge(theirs, mine)
    assert (done.copied, done.same) == ((make(seed=1)["key"],), (make(seed=0)["key"],))
    assert not done.conflicts
    assert not done.rejected
    copy = folder_of(mine, make(seed=1)["key"])
    assert (copy / "log.txt").read_text() == "trained"
    assert (copy / FILE).read_bytes() == (folder / FILE).read_bytes()
    assert len(merge(theirs, mine).same) == 2
    assert validate(mine).ok == 2


def test_a_conflict_keeps_what_is_there_and_names_the_other(tmp_path, make, put):
    mine, theirs = put(tmp_path / "mine", [make(top1=90.0)]), put(tmp_path / "theirs", [make(top1=99.0)])
    done = merge(theirs, mine)
    assert not done.copied
    assert str(theirs) in str(done.conflicts[0])
    assert "kept the target's" in done.conflicts[0].reason
    assert read_record(folder_of(mine, make()["key"]))["measures"]["top1"] == 90.0


def test_even_a_broken_record_in_the_target_is_not_overwritten(tmp_path, make, put):
    mine, theirs = put(tmp_path / "mine", [make()]), put(tmp_path / "theirs", [make()])
    broken = folder_of(mine, make()["key"]) / FILE
    broken.write_text("{")
    assert "left as it is" in merge(theirs, mine).conflicts[0].reason
    assert broken.read_text() == "{"


def test_links_and_broken_records_stay_outside(tmp_path, make, put):
    theirs = put(tmp_path / "theirs", [make(seed=0), make(seed=1)])
    secret = tmp_path / "secret"
    secret.write_text("mine alone")
    (folder_of(theirs, make(seed=0)["key"]) / "log.txt").symlink_to(secret)
    (folder_of(theirs, make(seed=1)["key"]) / FILE).write_text("")
    done = merge(theirs, tmp_path / "out")
    assert [len(part) for part in (done.copied, done.rejected)] == [1, 1]
    copied = [path for path in (tmp_path / "out").rglob("*") if not path.is_dir()]
    assert [path.name for path in copied] == [FILE]


def test_validate_counts_and_names(results, records):
    (folder_of(results, records[0]["key"]) / FILE).write_text("[]")
    moved = folder_of(results, records[1]["key"])
    moved.rename(moved.with_name("f" * 64))
    validated = validate(results)
    assert validated.ok == 34
    assert validated.statuses == {"ok": 30, "oom": 1, "skipped": 3}
    assert sorted(item.reason.split(",")[0] for item in validated.rejected) == [
        "expected a JSON object",
        f"key: the folder's name is {'f' * 64!r}",
    ]


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match="existing folder"):
        merge(tmp_path / "none", tmp_path / "out")
