"""Whatever a trial does to its own process, it has a row with its reason, and the next one finds nothing of it.

More of this kind, on daemons, signals and logs, stands in ``tests/runner/execution``.
"""

from __future__ import annotations

import pytest

from dstbench.results.record import read_record
from fakes.jobs import job, outcomes


@pytest.mark.parametrize(
    ("do", "status", "reason"),
    [
        ("BaseException", "killed", "its process ended with exit code 1; see log.txt"),
        ("native", "timeout", "stopped at its limit of 1 s"),
    ],
)
def test_a_row_with_its_reason_and_the_next_one_runs(do, status, reason, tmp_path):
    bad, good = job(tmp_path, do=do, limit=1), job(tmp_path, "cd" * 16)
    events = outcomes([bad, good], workers=1)
    record = read_record(bad.folder)
    assert (record["status"], record["reason"]) == (status, reason)
    assert events[good.key].status == "ok"
    if do == "BaseException":
        assert "BaseException: no Exception" in record["traceback"]


def test_what_a_trial_changes_the_next_one_does_not_find(tmp_path):
    first, change, then = (
        job(tmp_path, key * 16, do) for key, do in (("01", "describe"), ("02", "change"), ("03", "describe"))
    )
    events = outcomes([first, change, then], workers=1)
    assert {event.status for event in events.values()} == {"ok"}
    before, after = (read_record(one.folder)["provenance"]["found"] for one in (first, then))
    assert before == after
