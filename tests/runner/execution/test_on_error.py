"""Whether a run goes on after a trial that fails; and the lines that say what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from dstbench.errors import BadInput
from dstbench.results.record import read_record
from dstbench.runner.execution import event_log
from dstbench.runner.execution.claim import claim, find_open
from dstbench.runner.execution.event_log import EventLog
from dstbench.runner.execution.jobs import Tasks
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.plan_file import read_plan, write_plan
from dstbench.runner.execution.run import run
from dstbench.runner.execution.status import status
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
    bad, slow, never = (
        job(tmp_path, key * 16, do, stops_with="run")
        for key, do in (("ab", "raise"), ("cd", "second"), ("ef", "succeed"))
    )
    seen = []
    run_local([bad, slow, never], workers=2, on_event=seen.append)
    ended = {event.job.key: event.status for event in seen if event.kind == "finished"}
    assert ended == {bad.key: "failed", slow.key: "ok"}


def planned(root, *dos, word="run", name="suite", first=0):
    """A plan of trials that behave so, each of which stops with the others."""
    jobs = tuple(
        job(root, f"{first + i:02x}" * 16, do, stops_with=word) for i, do in enumerate(dos)
    )  # fmt: skip
    write_plan(Order(root, jobs, (), ("fakes.trials",)), name)
    return jobs


def ends(jobs):
    return [record["status"] if isinstance(record := read_record(one.folder), dict) else None for one in jobs]


def test_no_worker_takes_a_trial_after_one_of_anothers_failed(tmp_path):
    """Two workers on one folder, a trial each: the first fails only once the other is running."""
    jobs = planned(tmp_path, "raise beside", "second", "succeed", "succeed")
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "dstbench", "worker", str(tmp_path), "--claim", "--workers", "1"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [worker.communicate(timeout=120)[1] for worker in workers]
    assert ends(jobs) == ["failed", "ok", None, None]
    assert [worker.returncode for worker in workers] == [1, 1]
    for words in said:
        assert words.endswith("are not started any more, for a trial of their plan failed\n")


def test_a_worker_that_comes_later_starts_nothing(tmp_path):
    jobs = planned(tmp_path, "succeed", "raise", "succeed")
    run_local(jobs[1:2], on_event=print)
    left = claim(tmp_path, on_event=print)
    assert (bool(left), left.stopped, ends(jobs)) == (False, 2, [None, "failed", None])
    counts = status(tmp_path)["counts"]
    assert (counts["to train"], counts["not started after a failure"]) == (0, 2)


def test_a_failure_stops_its_own_plan_alone_and_a_new_plan_goes_on(tmp_path):
    failed, *rest = planned(tmp_path, "raise", "succeed", "succeed")
    others = planned(tmp_path, "succeed", word=None, name="other", first=8)
    run_local([failed], on_event=print)
    claim(tmp_path, on_event=print)
    assert ends([*rest, *others]) == [None, None, "ok"]
    write_plan(Order(tmp_path, tuple(replace(one, stops_with="again") for one in rest), ()), "suite")
    assert not claim(tmp_path, on_event=print).stopped  # what failed belongs to the older plan
    assert ends(rest) == ["ok", "ok"]


@pytest.mark.usefixtures("warm_server")
def test_a_matrix_says_it_too_and_no_key_changes(tmp_path):
    seen = []
    options = {"tasks": TASKS, "workers": 1, "device": "cpu", "progress": seen.append}
    done = run(MATRIX | {"on_error": "stop"}, tmp_path / "a", **options)
    assert (done.counts, done.ok) == ({"failed": 1, "missing": 2}, False)
    [plan_file] = (tmp_path / "a" / "plans").iterdir()
    [word] = {one.stops_with for one in read_plan(plan_file).train}
    assert word
    again = run(MATRIX, tmp_path / "b", **options)
    assert [trial.key for trial in again.plan.trials] == [trial.key for trial in done.plan.trials]
    assert run(MATRIX | {"on_error": "stop"}, tmp_path / "c", on_error="continue", **options).ran == 3
    with pytest.raises(BadInput, match="on_error"):
        run(MATRIX | {"on_error": "halt"}, tmp_path / "d", **options)


@pytest.mark.usefixtures("warm_server")
def test_what_fails_the_first_time_is_not_tried_again_for_ever(tmp_path):
    """With --retry failed, workers would each find a trial open that just failed."""
    done = run(MATRIX, tmp_path, tasks=TASKS, workers=1, device="cpu", retry=["failed", "killed"])
    assert done.counts == {"failed": 1, "killed": 1, "ok": 1}
    assert not find_open(tmp_path)


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
