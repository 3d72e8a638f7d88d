"""Whether a run goes on after a trial that fails; and the lines that say what happened."""

from __future__ import annotations

import json

import pytest

from dstbench.errors import BadInput
from dstbench.runner.execution import event_log
from dstbench.runner.execution.event_log import EventLog
from dstbench.runner.execution.jobs import Tasks
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.run import run
from dstbench.runner.execution.worker import Event
from fakes.jobs import job

MATRIX = {
    "schema": 1,
    "name": "test",
    "axes": {"model": "small_cnn", "dataset": "digits", "density": 0.1, "recipe": "rigl", "seed": [1, 0, 2]},
    "controls": [],
    "training": {"epochs": 1},
}
TASKS = Tasks("fakes.trials:by_seed", "fakes.trials:measure")


def lines(results):
    [file] = (results / event_log.FOLDER).iterdir()
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.usefixtures("warm_server")
@pytest.mark.parametrize(
    ("on_error", "statuses"), [("stop", ["failed"]), ("continue", ["failed", "ok", "killed"])]
)
def test_a_run_goes_on_after_a_failure_or_stops(on_error, statuses, tmp_path):
    seen = []
    done = run(
        MATRIX, tmp_path, tasks=TASKS, workers=1, device="cpu", on_error=on_error, progress=seen.append
    )
    ended = [e.status for e in seen if e.kind == "finished" and e.job.phase == "train"]
    assert ended == statuses
    assert done.timed == (on_error == "continue")
    assert done.counts.get("missing", 0) == 3 - len(statuses)
    assert not done.ok
    said = lines(tmp_path)
    assert (said[0]["kind"], said[0]["train"], said[-1]["kind"]) == ("run", 3, "end")
    told = [line for line in said if line["kind"] == "finished" and line["phase"] == "train"]
    assert [line["status"] for line in told] == statuses
    assert told[0]["reason"] == "ValueError: a wrong value"
    assert {line["key"] for line in told} <= {trial.key for trial in done.plan.trials}


def test_what_runs_beside_a_failure_goes_on_to_its_end(tmp_path):
    bad, slow, never = job(tmp_path, do="raise"), job(tmp_path, "cd" * 16, "second"), job(tmp_path, "ef" * 16)
    seen = []
    assert not run_local([bad, slow, never], workers=2, on_event=seen.append, on_error="stop")
    ended = {event.job.key: event.status for event in seen if event.kind == "finished"}
    assert ended == {bad.key: "failed", slow.key: "ok"}


def test_another_word_is_refused(tmp_path):
    with pytest.raises(BadInput, match="on_error: unknown 'stopp'; did you mean 'stop'"):
        run(MATRIX, tmp_path / "out", tasks=TASKS, on_error="stopp")
    assert not (tmp_path / "out").exists()


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / event_log.FOLDER).write_text("a file in its place")
    seen = []
    EventLog(tmp_path, seen.append)(Event("started", job(tmp_path)))
    assert len(seen) == 1


def test_several_that_write_have_a_file_each(tmp_path):
    for log in (first := EventLog(tmp_path, print), EventLog(tmp_path, print), first):
        log.say({"kind": "run"})
    assert sorted(len(file.read_text().splitlines()) for file in (tmp_path / event_log.FOLDER).iterdir()) == [
        1,
        2,
    ]
