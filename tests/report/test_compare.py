from __future__ import annotations

import pytest

from dstbench.report.compare import compare


def sides(tmp_path, put, make, before, after, **changes):
    """Results of one method with these accuracies by seed."""
    return (
        put(tmp_path / name, [make(seed=seed, top1=value, **changes) for seed, value in enumerate(values)])
        for name, values in (("a", before), ("b", after))
    )


@pytest.mark.parametrize(
    ("before", "after", "verdict", "basis"),
    [
        ([90.0, 91.0, 92.0], [92.0, 93.1, 93.9], "better", "95 % interval over 3 seeds"),
        ([90.0, 91.0, 92.0], [88.0, 89.1, 89.9], "worse", "95 % interval over 3 seeds"),
        ([90.0, 91.0, 92.0], [90.5, 90.0, 93.0], "can't tell", "95 % interval over 3 seeds"),
        ([90.0], [89.5], "can't tell", "tolerance of 1 point: 1 seed, no interval to go by"),
        ([90.0], [88.5], "worse", "tolerance of 1 point: 1 seed, no interval to go by"),
        ([90.0, 91.0], [90.0, 91.0], "identical", "the same top-1 at 2 seeds"),
        (
            [90.0, 91.3, 92.0],
            [90.4, 91.7, 92.4],
            "can't tell",
            "tolerance of 1 point: 3 seeds, no interval to go by",
        ),
        ([90.0, 90.0], [92.0, 92.0], "better", "tolerance of 1 point: 2 seeds, no interval to go by"),
    ],
)
def test_verdicts(tmp_path, put, make, before, after, verdict, basis):
    row = compare(*sides(tmp_path, put, make, before, after)).iloc[0]
    assert (row["verdict"], row["basis"], bool(row["regressed"])) == (verdict, basis, verdict == "worse")
    assert row["difference"] == pytest.approx(sum(after) / len(after) - sum(before) / len(before))


def test_the_tolerance_is_the_callers(tmp_path, put, make):
    folders = list(sides(tmp_path, put, make, [90.0], [89.5]))
    assert compare(*folders, tolerance=0.4).iloc[0]["verdict"] == "worse"


def test_only_common_seeds_are_compared(tmp_path, put, make):
    row = compare(*sides(tmp_path, put, make, [90.0], [90.0, 10.0])).iloc[0]
    assert (row["seeds"], row["difference"], row["after"]) == (1, 0.0, 90.0)


def test_a_trial_that_no_longer_finishes_regressed(tmp_path, put, make):
    before = put(tmp_path / "a", [make()])
    after = put(tmp_path / "b", [make(status="diverged", reason="loss is NaN", measures={})])
    row = compare(before, after).iloc[0]
    assert row["regressed"]
    assert row["basis"] == "no result any more: diverged (seed 0)"


def test_what_only_one_side_has_is_no_regression(tmp_path, put, make):
    table = compare(put(tmp_path / "a", [make("rigl")]), put(tmp_path / "b", [make("set")]))
    assert dict(zip(table["method"], table["verdict"], strict=True)) == {
        "rigl": "only before",
        "set": "only after",
    }
    assert not table["regressed"].any()


def test_a_folder_against_itself(results):
    table = compare(results, results)
    assert len(table) == 12
    nothing_finished = table["before"].isna()
    assert set(table["verdict"][~nothing_finished]) == {"identical"}
    assert set(table["verdict"][nothing_finished]) <= {"can't tell"}


def test_what_was_left_out_is_named(tmp_path, put, make):
    before = put(tmp_path / "a", [make()])
    broken = tmp_path / "b" / "x" / "result.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    assert len(compare(before, tmp_path / "b").attrs["rejected"]) == 1
