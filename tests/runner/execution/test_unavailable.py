"""A machine that lacks the data takes no trial of it away from others."""

from __future__ import annotations

import pytest

from dstbench.errors import BadInput
from dstbench.results.record import read_record
from dstbench.runner.execution.local import run_local
from fakes.jobs import job, outcomes


def test_trials_whose_data_are_elsewhere_stay_open_and_none_is_started_after_one(tmp_path):
    jobs = [job(tmp_path, f"{i:02x}" * 32, do="lack data") for i in range(4)]
    seen = []
    with pytest.raises(BadInput, match=r"not on this machine: .*log\.txt.*the rest stays open"):
        run_local(jobs, workers=1, on_event=seen.append)
    assert [event.status for event in seen if event.kind == "finished"] == ["unavailable"]
    assert "no files of 'pictures'" in (jobs[0].folder / "log.txt").read_text()
    assert not any((one.folder / "result.json").exists() for one in jobs)
    (tmp_path / "data").touch()  # on another machine
    assert {event.status for event in outcomes(jobs).values()} == {"ok"}
    assert {read_record(one.folder)["status"] for one in jobs} == {"ok"}
