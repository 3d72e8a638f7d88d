"""What can't be compared shares no block: other data, other versions of model or data set, other rules."""

from __future__ import annotations

import csv
import io
import json

import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.registration.registry import registry
from dstbench.report.apart import apart, apart_frame, mixtures, outdated
from dstbench.report.compare import compare
from dstbench.report.leaderboards import leaderboards, summarise
from dstbench.report.methods import compare_methods
from dstbench.report.page import write_leaderboards
from dstbench.results.table import load_results, read

OTHER = "e" * 64


def with_provenance(record, **changes):
    return record | {"provenance": {**record["provenance"], **changes}}


def of(record, kind, version):
    parts = {
        "model": {"name": "dstbench/small_cnn", "version": "1"},
        "dataset": {"name": "dstbench/digits", "version": "1"},
        "grow": {"name": "dstbench/x", "version": "1"},
    }
    parts[kind] = {**parts[kind], "version": version}
    return with_provenance(record, components=parts)


def methods(make, top1):
    """Dense and two methods at three seeds."""
    for seed in range(3):
        yield make("dense", seed, 95.0, density=1.0, recipe={"dense": True}, control="dense")
        yield make("rigl", seed, top1 + seed)
        yield make("set", seed, top1 - 1 + seed)


def rekeyed(record, letter):
    return record | {"key": letter + record["key"][1:]}


@pytest.fixture
def two_revisions(tmp_path, make, put):
    """Seeds 0 to 2 on one revision of the data, and better ones on another."""
    other = [rekeyed(with_provenance(r, dataset_fingerprint=OTHER), "f") for r in methods(make, 93.0)]
    return put(tmp_path / "results", [*methods(make, 90.0), *other])


def test_other_data_is_another_block(two_revisions):
    table = leaderboards(load_results(two_revisions))["accuracy"]
    rigl = table[table["method"] == "rigl"].set_index("dataset")
    assert len(rigl) == 2
    assert rigl.loc["digits(data=eeeeeeee)", "top1"] == 94.0
    assert set(rigl["seeds"]) == {3}
    assert sorted(rigl["difference"]) == [-4.0, -1.0]  # each with the dense control of its own data
    assert set(table[table["method"] == "set"]["rank"]) == {2.0}


def test_where_all_agree_nothing_changes(results):
    table = load_results(results)
    assert apart_frame(table).equals(table)


def test_keeping_apart_twice_is_keeping_apart_once(two_revisions):
    once = apart(load_results(two_revisions).to_dict("records"))
    assert apart(once) == once


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda r: of(r, "model", "2"), "small_cnn(version=2)"),
        (lambda r: of(r, "dataset", "2"), "digits(version=2)"),
        (lambda r: with_provenance(of(r, "model", "1"), evaluation=2), "digits(evaluation=2)"),
        (lambda r: of(r, "model", "1") | {"measures": {**r["measures"], "convention": "rigl"}}, "digits(flops=rigl)"),
    ],
)  # fmt: skip
def test_what_keeps_apart(tmp_path, make, put, change, name):
    records = [of(make(seed=0), "model", "1"), rekeyed(change(make(seed=1)), "f")]
    table = summarise(load_results(put(tmp_path, records)))
    assert len(table) == 2
    assert name in {*table["model"], *table["dataset"]}


def test_another_version_of_a_strategy_is_a_row_of_its_own_in_the_block(tmp_path, make, put):
    records = [of(make(seed=0), "grow", "1"), rekeyed(of(make(seed=1), "grow", "2"), "f")]
    table = summarise(load_results(put(tmp_path, records)))
    assert set(table["dataset"]) == {"digits"}
    assert sorted("grow v2" in setting for setting in table["setting"]) == [False, True]


def test_a_trial_that_failed_before_it_knew_its_data_stays_with_its_siblings(tmp_path, make, put):
    failed = make("set", 0, status="failed", reason="no", measures={}, provenance={})
    other = [rekeyed(with_provenance(make("set", 1), dataset_fingerprint=OTHER), "f")]
    table = summarise(load_results(put(tmp_path, [make("rigl", 0), failed, *other])))
    [row] = table[table["method"] == "set"].to_dict("records")
    assert (row["dataset"], row["statuses"]) == ("digits(data=eeeeeeee)", "1 ok, 1 failed")


def test_a_mixture_is_named(two_revisions):
    [line] = mixtures(load_results(two_revisions).to_dict("records"))
    assert line.startswith("small_cnn on digits: data ")
    done = CliRunner().invoke(app, ["leaderboard", str(two_revisions)])
    assert "shown apart" in done.stderr


def test_sides_on_other_data_are_not_comparable(tmp_path, make, put):
    before = put(tmp_path / "a", [make(seed=0)])
    after = put(tmp_path / "b", [with_provenance(make(seed=0, top1=80.0), dataset_fingerprint=OTHER)])
    table = compare(before, after)
    assert set(table["verdict"]) == {"not comparable"}
    assert CliRunner().invoke(app, ["compare", str(before), str(after)]).exit_code == 3


def test_methods_are_compared_on_the_same_data_alone(two_revisions):
    table = compare_methods(two_revisions, "rigl", "set")
    assert list(table["seeds"]) == [3, 3]
    assert table["difference"].tolist() == [1.0, 1.0]


def test_versions_of_before_are_said_where_the_code_is_newer(tmp_path, make, put):
    parts = {
        "grow": {"name": "dstbench/gradient", "version": "0"},
        "prune": {"name": "who/knows", "version": "7"},
    }
    results = put(tmp_path / "results", [with_provenance(make(), components=parts)])
    [text] = outdated(read(results).records, registry()).values()
    assert text == "grow v0, now v1"
    write_leaderboards(results, tmp_path / "boards")
    [row] = csv.DictReader(io.StringIO((tmp_path / "boards" / "accuracy.csv").read_text()))
    assert row["note"] == "older than this code: grow v0, now v1"
    assert "older than this code" in (tmp_path / "boards" / "index.html").read_text()


def test_blocks_and_all_together(tmp_path, make, put):
    """Means by hand: on digits 2, 2 and 3 over seeds, on mnist 2 throughout."""

    def side(name, steps):
        records = [
            make(method, seed, 80.0 + steps * change, dataset=dataset)
            for method, dataset, changes in (
                ("rigl", "digits", (1, 2, 4)), ("set", "digits", (3, 2, 2)), ("rigl", "mnist", (2, 2, 2)),
            )
            for seed, change in enumerate(changes)
        ]  # fmt: skip
        return put(tmp_path / name, records)

    a, b = side("a", 0), side("b", 1)
    digits, mnist, whole = compare(a, b).attrs["blocks"]
    assert (digits["dataset"], digits["of"], digits["seeds"], digits["verdict"]) == ("digits", 2, 3, "better")
    assert digits["difference"] == pytest.approx((2 + 2 + 3) / 3)
    assert (mnist["of"], mnist["difference"], mnist["difference_low"]) == (1, 2.0, None)
    assert (whole["model"], whole["of"], whole["verdict"]) == (None, 2, "better")
    assert whole["difference"] == pytest.approx((2 + 2 + 2.5) / 3)
    rows = json.loads(CliRunner().invoke(app, ["compare", str(a), str(b), "--json"]).stdout)
    assert [row["name"] for row in rows[-3:]] == ["all methods"] * 3
    done = CliRunner().invoke(app, ["compare", str(b), str(a)])
    assert done.exit_code == 1
    assert "worse: −2.17" in done.stdout
    assert "all 2 blocks" in done.stdout
