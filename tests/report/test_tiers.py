"""How far rows were verified, on the boards."""

from __future__ import annotations

import csv
import io

from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.report.details import details
from dstbench.report.page import write_leaderboards
from dstbench.report.section import material_of
from dstbench.report.verified import fields_of
from dstbench.results.measure_table import MEASURES, TIMED
from dstbench.results.record import read_record, record_files
from dstbench.results.table import load_results, read
from dstbench.results.verdicts import Finding, Verdict, read_verdicts, write_verdict


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


HOW = {"measures.top1": "re-evaluated", "measures.density": "recounted", "measures.layers": "recounted"}


def labels(results, folder):
    """Of each row of the page, by method and data set, the labels of its figures."""
    material = material_of(read(results, folder))
    groups = material.summary["group"].tolist()
    said = details(material, groups, {})["checks"]
    names = zip(material.summary["method"], material.summary["dataset"], strict=True)
    return {name: said["said"][at] for name, at in zip(names, said["at"], strict=True)}


def test_each_figure_says_whether_it_was_made_again(results, tmp_path):
    """Of several seeds, the least that is known; a verdict of another record of the trial says nothing."""
    for file in record_files(results):
        record = read_record(file)
        if record["label"] == "rigl":
            better = {"measures.top1": "replayed"} if record["trial"]["seed"] else {}
            write_verdict(
                Verdict(record["key"], record["checksum"], None, "replayed", how=HOW | better), tmp_path / "v"
            )
        if record["label"] == "set":
            write_verdict(Verdict(record["key"], "0" * 64, None, "replayed", how=HOW), tmp_path / "v")
    by_row = labels(results, tmp_path / "v")
    rigl, other = by_row["rigl", "digits"], by_row["set", "digits"]
    assert (rigl["top1"], rigl["score"], rigl["density"]) == ("re-evaluated", "re-evaluated", "recounted")
    assert {rigl[name] for name in ("training_flops_ratio", "train_throughput_ratio", "seconds")} == {
        "reported"
    }
    assert set(other.values()) == {"reported"}
    assert "density_requested" not in other  # no figure, but what was asked: its key holds it


def test_a_measure_is_labelled_by_the_fields_that_it_is_read_from(records):
    """What ``fields_of`` leaves out makes no difference to what the measure says."""
    speed = {"path": "compacted", "ratio": 1.1, "latency_median": 0.1}
    speed |= dict.fromkeys(("images_per_second", "dense_images_per_second", "ratio_low", "ratio_high"), 2.0)
    whole = {
        "throughput": {"device": "cpu", "contended": False, **dict.fromkeys(TIMED, speed)},
        "channels": {"below_80": 0.5, "null_80": 0.1, "below_50": 0.4, "null_50": 0.1, "gini": 0.3, "dead": 0.2},
        "metrics": {"perplexity": 3.0, "bits_per_character": 2.0, "loss": 1.0},
        "metric": {"key": "loss", "title": "loss", "better": "lower"}, "score": 1.0, "score_validation": 1.2,
        "fallbacks": ["fc"], "unscored": ["fc"],
        "convention": "mac-attention", "active_parameters": 20, "parameters": 100,
    }  # fmt: skip
    for name, row in MEASURES.items():
        if row.read:
            alone = {key: value for key, value in whole.items() if key in fields_of(name)}
            assert row.value(alone) == row.value(whole) is not None, name


def test_a_verdict_with_a_label_that_is_none_is_no_verdict(results, tmp_path):
    record = next(read_record(file) for file in record_files(results))
    write_verdict(Verdict(record["key"], record["checksum"], None, "replayed", how={"a": "proven"}), tmp_path)
    assert "how: expected one of reported, recounted" in read_verdicts(tmp_path)[1][0].reason
