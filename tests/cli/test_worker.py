"""``dstbench worker`` and ``status``: any process takes part in what a run planned, and any says what goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.cli.eta import seconds_of
from dstbench.errors import BadInput
from dstbench.results.record import read_record
from dstbench.runner.execution import lease, queue
from dstbench.runner.execution.lease import HOLDER, LEASE, acquire, clock
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.plan_file import write_plan
from fakes.jobs import job

pytestmark = pytest.mark.usefixtures("warm_server")
KEYS = [f"{i:02x}" * 16 for i in range(5)]


def planned(out, *dos, timed=0, **changes):
    """A plan of trials that behave so, the first of them to be timed."""
    jobs = [job(out, key, do, **changes) for key, do in zip(KEYS, dos, strict=False)]
    timing = [job(out, key, task="fakes.trials:measure", phase="throughput") for key in KEYS[:timed]]
    write_plan(Order(out, tuple(jobs), tuple(timing), ("fakes.trials",)), "suite")
    return jobs


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def statuses(jobs):
    return [record["status"] if isinstance(record := read_record(one.folder), dict) else None for one in jobs]


def start(*arguments):
    """The command in a process of its own, which shells' background jobs have ignore Ctrl-C."""
    code = "from dstbench.cli import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    assert condition()


def test_a_worker_runs_what_is_open_and_times_what_is_to_be_timed(tmp_path):
    jobs = planned(tmp_path, "succeed", "raise", timed=1)
    said = call("worker", tmp_path)
    assert (said.exit_code, said.stdout) == (75, f"{tmp_path}: 2 trials to train, 1 to time\n")
    assert statuses(jobs) == [None, None]
    done = call("worker", tmp_path, "--claim", "--workers", 2)
    assert done.exit_code == 0
    assert statuses(jobs) == ["ok", "failed"]
    assert read_record(jobs[0].folder)["measures"]["throughput"]["train"]["ratio"] == 0.5
    assert "[1/1] ok" in done.stderr
    again = call("worker", tmp_path, "--claim")
    assert (again.exit_code, again.stderr) == (0, f"{tmp_path}: nothing is open\n")


def test_a_retry_is_of_the_record_that_was_there(tmp_path):
    """Else workers that come later would run a trial that fails again for ever."""
    [failing] = planned(tmp_path, "raise")
    call("worker", tmp_path, "--claim")
    first = read_record(failing.folder)["checksum"]
    planned(tmp_path, "raise", retry=frozenset({"failed"}), replaces=first)
    assert call("worker", tmp_path).exit_code == 75
    assert call("worker", tmp_path, "--claim").exit_code == 0
    assert read_record(failing.folder)["checksum"] != first
    assert call("worker", tmp_path).exit_code == 0


def test_a_worker_waits_for_others_and_takes_over_what_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "LOOK", 0.05)
    done, lost = planned(tmp_path, "succeed", "succeed")
    leases = [acquire(one.folder) for one in (done, lost)]
    seen = []
    looked = lease.look

    def look(folder, now=None):
        """At the third look the one has ended well, and the other's last beat was long ago."""
        seen.append(folder)
        if seen.count(lost.folder) == 3:
            stale = clock(tmp_path) - lease.EXPIRY - 1
            os.utime(leases[1].scratch / HOLDER, (stale, stale))
        return looked(folder, now)

    monkeypatch.setattr(queue, "look", look)
    monkeypatch.setattr(lease, "_has_ended", lambda said: False)
    from dstbench.runner.execution.worker import record_death

    record_death(done, "killed", "there", 1.0)
    result = call("worker", tmp_path, "--claim", "--workers", 1)
    assert result.exit_code == 0
    assert "waiting: label" in result.stderr
    assert seen.count(lost.folder) >= 3
    assert statuses([done, lost]) == ["killed", "ok"]
    assert not leases[1].is_held()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR2, 75), (signal.SIGINT, 130)])
def test_a_worker_that_is_asked_stops_where_trials_can_go_on(tmp_path, number, code):
    [one, late] = planned(tmp_path, "go on", "succeed")
    worker = start("worker", tmp_path, "--claim", "--workers", 1)
    wait_for((one.folder / "started").exists)
    worker.send_signal(number)
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == code
    assert "interrupted" in err
    assert (one.folder / "checkpoint").exists()
    assert statuses([one, late]) == [None, None]
    assert not (one.folder / LEASE).exists()
    if number == signal.SIGUSR2:
        assert call("worker", tmp_path, "--claim").exit_code == 0
        assert statuses([one, late]) == ["ok", "ok"]


def test_a_worker_ends_before_its_time_is_up(tmp_path):
    [one] = planned(tmp_path, "go on")
    done = call("worker", tmp_path, "--claim", "--until", "2s")
    assert done.exit_code == 75
    assert (one.folder / "checkpoint").exists()
    assert call("worker", tmp_path, "--claim", "--until", "1h").exit_code == 0


def test_a_trial_that_does_not_stop_is_ended_in_time_and_stays_open(tmp_path):
    [one] = planned(tmp_path, "sleep")
    done = call("worker", tmp_path, "--claim", "--until", "2s")
    assert done.exit_code == 75
    assert "it left no checkpoint in time" in done.stderr
    assert statuses([one]) == [None]
    assert not (one.folder / LEASE).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process started")
def test_a_paused_worker_writes_nothing_once_its_trial_was_taken(tmp_path):
    """All its processes are stopped, another takes the trial, and they go on."""
    [one] = planned(tmp_path, "go on")
    worker = start("worker", tmp_path, "--claim", "--workers", 1)
    wait_for((one.folder / "started").exists)
    [holder] = (one.folder / LEASE).glob(f"*/{HOLDER}")
    supervisor = json.loads(holder.read_text())["processes"][0]["pid"]
    import psutil

    stopped = [psutil.Process(supervisor), *psutil.Process(supervisor).children(recursive=True)]
    for process in stopped:
        process.suspend()
    stale = clock(tmp_path) - lease.EXPIRY - 1
    os.utime(holder, (stale, stale))
    taken = acquire(one.folder)
    worker.send_signal(signal.SIGTERM)  # the trial is asked to stop, and would write its checkpoint
    for process in stopped:
        process.resume()
    worker.communicate(timeout=60)
    assert taken.is_held()
    assert statuses([one]) == [None]
    taken.release()


def test_status_says_what_runs_where_what_is_open_and_what_failed(tmp_path):
    jobs = planned(tmp_path, "succeed", "raise", "sleep", "sleep", timed=1)
    for one in jobs[:2]:
        write_plan(Order(tmp_path, (one,)), "first")
    call("worker", tmp_path, "--claim", "--plan", next((tmp_path / "plans").glob("first-*")).stem)
    held = acquire(jobs[2].folder)
    said = json.loads((held.scratch / HOLDER).read_text())
    (held.scratch / HOLDER).write_text(json.dumps({**said, "node": "node7", "job": "12_3"}))
    curve = jobs[2].folder / "curve.jsonl"
    curve.write_text('{"epoch": 1, "seconds": 2.5, "loss": 0.5}\n{"epoch": 2, "sec')
    (tmp_path / "engine").mkdir()
    queued = {
        "engine": "slurm",
        "cancel": "scancel 12",
        "jobs": [{"id": "12_3", "state": "RUNNING"}, {"id": "12_4"}],
    }
    (tmp_path / "engine" / "slurm-1.json").write_text(json.dumps(queued))
    (tmp_path / "engine" / "odd.json").write_text("[")
    found = json.loads(call("status", tmp_path, "--json").stdout)
    done = statuses(jobs)
    assert found["counts"]["trials"] == 4
    assert found["counts"]["running"] == 1
    [running] = found["running"]
    assert (running["where"], running["job"], running["epoch"], running["epochs"]) == ("node7", "12_3", 1, 1)
    assert (running["lost"], running["phase"], running["loss"]) == (False, "train", 0.5)
    assert 0 <= running["last_beat"] < 60
    assert sum(status is not None for status in done) == 1
    text = call("status", tmp_path).stdout
    assert "node7 (12_3)" in text
    assert "queue: slurm: 1 running, 1 submitted; end: scancel 12" in text
    assert max(map(len, text.splitlines())) <= 80 + len(str(tmp_path))


def test_status_names_a_lost_holder_and_a_reason(tmp_path):
    failed, lost = planned(tmp_path, "raise", "succeed")
    write_plan(Order(tmp_path, (failed,)), "first")
    call("worker", tmp_path, "--claim", "--plan", next((tmp_path / "plans").glob("first-*")).stem)
    held = acquire(lost.folder)
    stale = clock(tmp_path) - 200
    os.utime(held.scratch / HOLDER, (stale, stale))
    text = call("status", tmp_path).stdout
    assert "2 trials: 1 failed, 1 lost, 1 to train" in text
    assert "failed label (m, d, 0.1, seed 0): ValueError: a wrong value" in text
    assert "lost: 3 min" in text
    assert held.is_held()  # looking changes nothing


def test_status_of_a_folder_without_a_plan_counts_its_records(tmp_path):
    assert f"{tmp_path}: 0 trials: none" in call("status", tmp_path).stdout
    missing = call("status", tmp_path / "missing")
    assert (missing.exit_code, missing.stdout) == (2, "")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3h50m", 13800),
        ("90m", 5400),
        ("3600s", 3600),
        ("3600", 3600),
        ("1d", 86400),
        ("1h 30m", 5400),
        ("0.5h", 1800),
    ],
)
def test_times_as_people_write_them(text, seconds):
    assert seconds_of("until", text) == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "3 hours", "-1h", "0", "0s", "1h1h", "m", "nan", "inf", "1e999", "9" * 400]
)
def test_what_is_no_time(text):
    with pytest.raises(BadInput, match="until: expected a time such as 3h50m"):
        seconds_of("until", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--claim", "--until", "soon"], "until: expected a time such as 3h50m, 90m or 3600s, got 'soon'"),
        (["--claim", "--gpus", "99"], "gpus: expected at most the"),
        (["--plan", "other"], "has no plan 'other', but suite-"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(tmp_path, arguments, message):
    planned(tmp_path, "succeed")
    done = call("worker", tmp_path, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
