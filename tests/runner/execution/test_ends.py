"""Trials that do more than fail: exit codes that look like success, what they leave behind, what they print."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from multiprocessing import forkserver

import psutil
import pytest

from dstbench.results.record import read_record
from dstbench.runner.execution import local, log
from dstbench.runner.execution.lease import LEASE
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.log import keep_log, last_words
from dstbench.runner.execution.worker import LOG
from fakes.jobs import job, outcomes

KILLED = "killed by SIGKILL, which is also how a system out of memory ends a process"


def is_gone(pid):
    """Within five seconds; what isn't is ended here."""
    try:
        process = psutil.Process(pid)
        process.wait(5)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        process.kill()
        return False
    return True


@pytest.mark.parametrize(
    ("do", "status", "reason"),
    [
        ("exit 0", "killed", "its process ended with exit code 0; see log.txt"),
        ("exit 75", "killed", "its process ended with exit code 75; see log.txt"),
        ("swallow", "killed", "its process ended with exit code 0; see log.txt"),
        ("kill group", "killed", KILLED),
        ("kill supervisor", "killed", KILLED),
        ("stop supervisor", "timeout", "stopped at its limit of 2 s"),
        ("close all", "ok", None),
    ],
)
def test_whatever_a_trial_does_it_has_a_record_and_the_next_one_runs(
    do, status, reason, tmp_path, monkeypatch
):
    monkeypatch.setattr(local, "_UNHEARD", 0.3)
    bad, good = job(tmp_path, do=do, limit=2), job(tmp_path, "cd" * 16)
    events = outcomes([bad, good], workers=1)
    record = read_record(bad.folder)
    assert events[bad.key].status == record["status"] == status
    assert record["reason"] == reason
    assert events[good.key].status == "ok"
    assert not (bad.folder / LEASE).exists()


def test_a_retried_trial_that_leaves_without_a_result_has_a_record(tmp_path):
    outcomes([job(tmp_path, do="raise")])
    again = job(tmp_path, do="exit 0", retry=frozenset({"failed"}))
    assert outcomes([again])[again.key].status == "killed"
    assert read_record(again.folder)["reason"] == "its process ended with exit code 0; see log.txt"


def test_a_measurement_that_leaves_without_a_figure_has_failed(tmp_path):
    outcomes([job(tmp_path)])
    timing = job(tmp_path, task="fakes.trials:measure", phase="throughput", do="exit 0")
    assert outcomes([timing])[timing.key].status == "killed"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")
@pytest.mark.parametrize(
    ("do", "status"),
    [("child", "ok"), ("daemon", "ok"), ("daemon, die", "killed"), ("daemon, hang", "timeout")],
)
def test_what_a_trial_started_ends_with_it(do, status, tmp_path):
    leaving = job(tmp_path, do=do, limit=2)
    assert outcomes([leaving])[leaving.key].status == status
    assert not psutil.pid_exists(int((leaving.folder / "daemon").read_text()))  # not as a zombie, either


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")
def test_daemons_die_with_a_killed_scheduler(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom fakes.jobs import job\n"
        "from dstbench.runner.execution.local import run_local\n"
        "run_local([job(Path(sys.argv[1]), do='daemon, hang')], on_event=lambda event: None)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    scheduler = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    pid, until = job(tmp_path).folder / "daemon", time.monotonic() + 20
    while not (pid.exists() and pid.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    scheduler.kill()
    scheduler.wait()
    assert is_gone(int(pid.read_text()))


def test_the_server_ends_with_the_run_that_started_it(cold_server, tmp_path):
    seen = []
    run_local([job(tmp_path)], on_event=lambda event: seen.append(cold_server._forkserver_pid))
    assert cold_server._forkserver_pid is None
    assert {is_gone(pid) for pid in seen} == {True}


def test_a_server_that_was_there_before_stays(cold_server, tmp_path):
    forkserver.ensure_running()
    pid = cold_server._forkserver_pid
    outcomes([job(tmp_path)])
    assert cold_server._forkserver_pid == pid
    assert psutil.pid_exists(pid)


@pytest.mark.parametrize("do", ["print", "print, die"])
def test_a_log_is_capped_and_holds_both_ends(do, tmp_path):
    printing = job(tmp_path, do=do)
    outcomes([printing])
    path = printing.folder / LOG
    assert 5_000_000 < path.stat().st_size <= log.LIMIT
    text = path.read_text()
    assert text.startswith("the beginning\nAAA")
    assert "the end\n" in text[-100:]
    assert text.count("left out") == 1
    if do == "print, die":
        assert read_record(printing.folder)["traceback"].endswith("the end\na line for the log\n")


def test_the_end_of_a_huge_log_is_read_without_the_rest(tmp_path):
    path = tmp_path / LOG
    with path.open("wb") as file:
        file.truncate(10**12)
        file.seek(0, os.SEEK_END)
        file.write(b"last words")
    start = time.monotonic()
    assert last_words(path)[-11:] == "\0last words"
    assert time.monotonic() - start < 2


def test_a_log_goes_on_where_an_earlier_attempt_left_it(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "LIMIT", 1000)
    monkeypatch.setattr(log, "_HEAD", 400)
    monkeypatch.setattr(log, "_TAIL", 300)
    path = tmp_path / LOG
    path.write_bytes(b"h" * 500)
    for line in (b"a" * 300, b"b" * 250, b"c" * 10):
        source, end = os.pipe()
        os.write(end, line)
        os.close(end)
        keep_log(source, path)
        os.close(source)
    content = path.read_bytes()
    assert content == b"h" * 400 + log._GAP + b"a" * 50 + b"b" * 250 + b"c" * 10


@pytest.mark.parametrize("preload", [["fakes.slow_import"], []], ids=["by the server", "by the trial"])
def test_the_limit_of_a_trial_begins_when_the_trial_does(preload, tmp_path):
    """Five seconds of imports are no part of a limit of five."""
    slow = job(tmp_path, task="fakes.slow_import:behave", limit=5)
    [event] = outcomes([slow], preload=preload).values()
    assert event.status == "ok"
    assert event.seconds < 5


def test_a_trial_that_never_begins_is_ended_nevertheless(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "_IMPORTING", 1.0)
    monkeypatch.setattr(local, "_LONGEST", 0.2)
    slow = job(tmp_path, task="fakes.slow_import:behave", limit=0.1)
    [event] = outcomes([slow]).values()
    assert (event.status, event.reason) == ("timeout", "stopped at its limit of 0.1 s")


@pytest.mark.parametrize("limit", [2_147_484, 1e9, 1e308, float("inf")])
def test_a_limit_of_any_length(limit, tmp_path):
    patient = job(tmp_path, do="second", limit=limit)
    assert outcomes([patient])[patient.key].status == "ok"


def test_a_module_that_ends_the_server_ends_its_own_trial_alone(tmp_path):
    deadly, good = job(tmp_path, task="fakes.deadly_import:behave"), job(tmp_path, "cd" * 16)
    events = outcomes([deadly, good], preload=["fakes.deadly_import"])
    assert (events[deadly.key].status, events[deadly.key].reason) == (
        "killed",
        "its process ended with exit code 9; see log.txt",
    )
    assert events[good.key].status == "ok"
