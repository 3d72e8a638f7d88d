"""How far rows were verified, on the boards."""

from __future__ import annotations

import csv
import io

from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.report.page import write_leaderboards
from dstbench.results.record import read_record, record_files
from dstbench.results.table import load_results
from dstbench.results.verdicts import Finding, Verdict, write_verdict


def verdicts(results, folder, tiers):
    """A verdict for each record whose label and seed are named."""
    for file in record_files(results):
        record = read_record(file)
        if tier := tiers.get((record["label"], record["trial"]["seed"])):
            findings = (Finding("evaluation", "measures.top1", "10", "93"),) if tier == "refused" else ()
            write_verdict(Verdict(record["key"], record["checksum"], None, tier, findings), folder)
    return folder


def rows(file):
    return list(csv.DictReader(io.StringIO(file.read_text())))


def test_a_row_is_as_verified_as_its_least_verified_seed(results, tmp_path):
    tiers = {
        ("rigl", 0): "replayed",
        ("rigl", 1): "re-evaluated",
        ("rigl", 2): "replayed",
        ("set", 0): "replayed",
    }
    folder = verdicts(results, tmp_path / "verdicts", tiers)
    write_leaderboards(results, tmp_path / "boards", folder)
    tier = {
        row["method"]: row["tier"]
        for row in rows(tmp_path / "boards" / "accuracy.csv")
        if row["seeds"] != "0"
    }
    assert tier["rigl"] == "re-evaluated"
    assert tier["set"] == tier["dense"] == "reported"
    assert "| verified |" in (tmp_path / "boards" / "accuracy.md").read_text()
    assert "re-evaluated" in (tmp_path / "boards" / "index.html").read_text()


def test_what_was_refused_is_left_out_by_name(results, tmp_path):
    folder = verdicts(results, tmp_path / "verdicts", {("set", 1): "refused"})
    written = write_leaderboards(results, tmp_path / "boards", folder)
    assert len(written.rejected) == 2  # on both data sets
    assert all("verified and refused: measures.top1" in line for line in written.rejected)
    assert {row["seeds"] for row in rows(tmp_path / "boards" / "accuracy.csv") if row["method"] == "set"} == {
        "2"
    }


def test_without_verdicts_boards_say_nothing_of_them(results, tmp_path):
    write_leaderboards(results, tmp_path / "boards")
    assert "tier" not in rows(tmp_path / "boards" / "accuracy.csv")[0]
    assert load_results(results)["tier"].isna().all()


def test_what_lies_among_the_results_is_no_verdict(results, tmp_path):
    """Nor does a record's own word for it count."""
    verdicts(results, results, {("rigl", seed): "replayed" for seed in range(3)})
    (tmp_path / "empty").mkdir()
    write_leaderboards(results, tmp_path / "boards", tmp_path / "empty")
    assert {row["tier"] for row in rows(tmp_path / "boards" / "accuracy.csv")} <= {"reported", ""}


def test_a_folder_of_verdicts_that_is_not_there(results, tmp_path):
    done = CliRunner().invoke(app, ["leaderboard", str(results), "--verdicts", str(tmp_path / "none")])
    assert done.exit_code == 2
    assert "verdicts: expected an existing folder" in done.stderr
