"""The committed leaderboards are what the code that stands here makes of the committed records."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstbench.registration.registry import registry
from dstbench.report.page import write_leaderboards
from dstbench.results.curve_file import CURVE, curve_points
from dstbench.results.record import folder_of
from dstbench.results.table import read
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.plan import plan
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.submission.record_checks import contradictions

AS_COMMITTED = {
    "cifar10-10-epochs": ["training.mixed_precision=bf16"],  # its suite trains in float32 now
    "mnist-mlp-99": ["training.storage=condensed"],  # what two cores can bear
    "quick": ["seed=0,1,2,3,4"],  # its suite runs the first
}
ROOT = Path(__file__).parents[2] / "leaderboards"
BOARDS = sorted(path.parent for path in ROOT.glob("*/results"))


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_committed_board_is_derived_from_its_records(board, tmp_path):
    (tmp_path / "results").symlink_to(
        board / "results"
    )  # its page links to the index, as one beside results does
    written = write_leaderboards([tmp_path / "results"], tmp_path)
    assert not written.rejected
    for file in written.files:
        fresh = Path(file)
        assert (board / fresh.name).read_bytes() == fresh.read_bytes(), fresh.name


def test_the_quick_board_holds_the_whole_suite():
    loaded = read([ROOT / "quick" / "results"])
    planned = {trial.key for trial in plan(load_matrix("quick", AS_COMMITTED["quick"]), registry()).trials}
    assert {record["key"] for record in loaded.records} == planned
    assert {record["status"] for record in loaded.records} == {"ok"}
    timings = [timed for record in loaded.records if (timed := record["measures"].get("throughput"))]
    assert len(timings) >= 80
    assert not any(timing["contended"] for timing in timings)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_no_committed_record_contradicts_itself_or_its_curve(board):
    """As `results verify` looks at those of others; what was run before there were curves has none."""
    for record in read([board / "results"]).records:
        file = folder_of(board / "results", record["key"]) / CURVE
        curve = curve_points(file)[0] if file.exists() else []
        trial = TrialSpec.from_json(record["trial"])
        found = contradictions(record, trial, curve, registry(), 1)
        assert not [one for one in found if one.field != CURVE or curve], record["label"]


@pytest.mark.parametrize("board", [board for board in BOARDS if board.name != "quick"], ids=lambda b: b.name)
def test_committed_records_are_trials_of_the_suite_that_names_the_board(board):
    """Long suites are committed as far as they got: what is missing is missing, but nothing is of another suite."""
    records = read([board / "results"]).records
    planned = {
        trial.key
        for trial in plan(load_matrix(board.name, AS_COMMITTED.get(board.name, ())), registry()).trials
    }
    assert records
    assert {record["key"] for record in records} <= planned
