"""A board that the code that stands here would make otherwise says so."""

from __future__ import annotations

from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.errors import BadInput
from dstbench.report import ranking_rules
from dstbench.report.page import write_leaderboards
from dstbench.report.stale import staleness


def test_what_was_written_is_what_would_be_written(results, tmp_path):
    write_leaderboards(results, tmp_path / "boards")
    found = staleness(results, tmp_path / "boards")
    assert found.is_fresh
    assert (
        f'<meta name="dstbench-rules" content="{found.rules}">'
        in (tmp_path / "boards" / "index.html").read_text()
    )


def test_other_rules_other_files_and_missing_ones_are_named(results, tmp_path, monkeypatch):
    boards = tmp_path / "boards"
    write_leaderboards(results, boards)
    before = {file.name: file.read_bytes() for file in boards.iterdir()}
    monkeypatch.setattr(ranking_rules, "RANKING", 2)
    (boards / "flops.md").unlink()
    done = CliRunner().invoke(app, ["leaderboard", str(results), "--out", str(boards), "--check"])
    assert done.exit_code == 1
    assert "older than this code: the page was made by ranking rules" in done.stdout
    assert "differs from what would be written today: index.html" in done.stdout
    assert "missing: flops.md" in done.stdout
    assert {file.name: file.read_bytes() for file in boards.iterdir()} | {
        "flops.md": before["flops.md"]
    } == before


def test_a_page_of_before_names_no_rules(results, tmp_path):
    (tmp_path / "index.html").write_text("<html>")
    found = staleness(results, tmp_path)
    assert found.rules == ""
    assert "names no ranking rules" in found.lines()[0]


def test_check_needs_a_folder(results):
    done = CliRunner().invoke(app, ["leaderboard", str(results), "--check"])
    assert isinstance(done.exception, BadInput) or "expected --out" in done.output
