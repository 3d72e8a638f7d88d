"""The local executor: what becomes of trials that fail, die, hang or ignore signals."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from dstbench.results.record import read_record, write_record
from dstbench.runner.execution.lease import HOLDER, LEASE
from dstbench.runner.execution.local import cores, default_workers, run_local, visible_gpus
from dstbench.runner.execution.worker import LOG
from fakes.jobs import TRIAL, job, outcomes


def test_each_ending_is_a_row_of_its_own(tmp_path):
    expected = {
        "succeed": ("ok", None),
        "raise": ("failed", "ValueError: a wrong value"),
        "oom": ("oom", "MemoryError"),
        "kill": ("killed", "killed by SIGKILL, which is also how a system out of memory ends a process"),
        "segfault": ("killed", "killed by SIGSEGV; see log.txt"),
        "leave": ("killed", "its process ended with exit code 3; see log.txt"),
    }  # fmt: skip
    jobs = {do: job(tmp_path, f"{i:02x}" * 16, do) for i, do in enumerate(expected)}
    events = outcomes(list(jobs.values()))
    for do, (status, reason) in expected.items():
        record = read_record(jobs[do].folder)
        assert (record["status"], record["reason"]) == (status, reason)
        assert events[jobs[do].key].status == status
        assert record["label"] == "label"
        assert not (jobs[do].folder / LEASE).exists()
    assert "in raise_error" in read_record(jobs["raise"].folder)["traceback"]
    assert "a line for the log" in (jobs["succeed"].folder / LOG).read_text()
    assert "Segmentation fault" in read_record(jobs["segfault"].folder)["traceback"]


def test_trials_run_in_their_own_processes_with_their_share_of_cores(tmp_path):
    jobs = [job(tmp_path, f"{i:02x}" * 16) for i in range(2)]
    outcomes(jobs)
    provenance = [read_record(one.folder)["provenance"] for one in jobs]
    assert len({p["pid"] for p in provenance} | {os.getpid()}) == 3
    assert {p["threads"] for p in provenance} == {max(1, cores() // 2)}


def test_limit_ends_a_hanging_trial_and_all_that_it_started(tmp_path):
    stubborn, other = job(tmp_path, do="ignore", limit=0.5), job(tmp_path, "cd" * 16)
    events = outcomes([stubborn, other])
    assert events[stubborn.key].status == "timeout"
    assert events[other.key].status == "ok"
    assert read_record(stubborn.folder)["reason"] == "stopped at its limit of 0.5 s"
    grandchild = int((stubborn.folder / "grandchild").read_text())
    for _ in range(50):
        if not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the grandchild lives on")


def test_interrupt_ends_children_and_leaves_no_record(tmp_path):
    hanging = job(tmp_path, do="sleep")
    finished = job(tmp_path, "cd" * 16)
    seen = []

    def interrupt(event):
        seen.append(event)
        if event.kind == "finished":
            until = time.monotonic() + 20
            while not (hanging.folder / "started").exists() and time.monotonic() < until:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_local([hanging, finished], workers=2, on_event=interrupt, grace=0.3)
    assert not (hanging.folder / "result.json").exists()
    assert not (hanging.folder / LEASE).exists()
    assert read_record(finished.folder)["status"] == "ok"
    assert outcomes([job(tmp_path, do="succeed")])[hanging.key].status == "ok"


def test_finished_result_stands_and_a_failed_one_is_replaced_on_request(tmp_path):
    assert outcomes([job(tmp_path, do="raise")])["ab" * 16].status == "failed"
    assert outcomes([job(tmp_path)])["ab" * 16].status == "cached"
    assert outcomes([job(tmp_path, retry=frozenset({"oom"}))])["ab" * 16].status == "cached"
    assert outcomes([job(tmp_path, retry=frozenset({"failed"}))])["ab" * 16].status == "ok"


def test_trial_that_another_scheduler_runs_is_left_to_it(tmp_path):
    both = [job(tmp_path, do="sleep", limit=1.5), job(tmp_path)]
    started = threading.Event()
    events = []

    def first():
        run_local(both[:1], on_event=events.append, grace=0.3)

    thread = threading.Thread(target=first)
    thread.start()
    until = time.monotonic() + 20
    while not (both[0].folder / "started").exists() and time.monotonic() < until:
        started.wait(0.01)
    assert outcomes(both[1:])["ab" * 16].status == "elsewhere"
    thread.join()
    assert read_record(both[0].folder)["status"] == "timeout"


def test_throughput_is_added_to_the_record(tmp_path):
    outcomes([job(tmp_path)])
    timing = job(tmp_path, task="fakes.trials:measure", phase="throughput")
    assert outcomes([timing], workers=1)[timing.key].status == "ok"
    record = read_record(timing.folder)
    assert record["measures"]["top1"] == 50.0
    assert record["measures"]["throughput"]["train"]["ratio"] == 0.5


def test_death_while_timing_leaves_the_result_as_it_is(tmp_path):
    outcomes([job(tmp_path)])
    before = read_record(job(tmp_path).folder)
    timing = job(tmp_path, task="fakes.trials:measure", phase="throughput", do="kill")
    assert outcomes([timing])[timing.key].status == "killed"
    assert read_record(timing.folder) == before


def test_a_measurement_that_fails_says_why_and_leaves_the_result_as_it_is(tmp_path):
    outcomes([job(tmp_path)])
    before = read_record(job(tmp_path).folder)
    timing = job(tmp_path, task="fakes.trials:measure", phase="throughput", do="raise")
    event = outcomes([timing])[timing.key]
    assert (event.status, event.reason) == ("failed", "ValueError: a wrong value")
    assert read_record(timing.folder) == before


def test_a_trial_whose_network_is_elsewhere_cant_be_timed_and_says_so(tmp_path):
    outcomes([job(tmp_path)])  # of a fake, which leaves no network
    timing = job(tmp_path, task="dstbench.runner.trial.throughput:measure_throughput", phase="throughput")
    event = outcomes([replace(timing, options={})])[timing.key]
    assert event.status == "failed"
    assert "has no state.pt, which holds the trained network and stays where a trial ran" in event.reason


def test_children_die_with_a_killed_scheduler(tmp_path):
    code = (
        "from pathlib import Path\nfrom dstbench.runner.execution.local import run_local\n"
        "from dstbench.runner.execution.worker import Job\n"
        "from dstbench.runner.matrix.trial_spec import TrialSpec\n"
        f"trial = TrialSpec.from_json({TRIAL.to_json()!r})\n"
        f"job = Job('ab' * 16, trial, '', None, Path({str(tmp_path / 'ab')!r}), "
        "'fakes.trials:behave', options={'device': 'cpu', 'do': 'sleep'})\n"
        "run_local([job], on_event=lambda event: None)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    scheduler = subprocess.Popen([sys.executable, "-c", code], env=environment)
    until = time.monotonic() + 20
    while not (tmp_path / "ab" / "started").exists() and time.monotonic() < until:
        time.sleep(0.01)
    [said] = (tmp_path / "ab" / LEASE).glob(f"*/{HOLDER}")
    holder = json.loads(said.read_text())["processes"][0]["pid"]
    scheduler.kill()
    scheduler.wait()
    psutil.wait_procs([psutil.Process(holder)] if psutil.pid_exists(holder) else [], timeout=20)
    assert not psutil.pid_exists(holder) or psutil.Process(holder).status() == psutil.STATUS_ZOMBIE
    assert not (
        tmp_path / "ab" / LEASE
    ).exists()  # given back: nobody has to find out that its holder is dead
    again = job(tmp_path)
    run_local([replace(again, folder=tmp_path / "ab")], on_event=lambda event: None)
    assert read_record(tmp_path / "ab")["status"] == "ok"


def test_as_many_workers_as_their_threads_leave_room_for(monkeypatch):
    monkeypatch.setattr("dstbench.runner.execution.local.cores", lambda: 8)
    monkeypatch.setattr("dstbench.runner.execution.local._MEMORY", 1)
    assert [default_workers([], threads) for threads in (1, 2, 3, 8, 100)] == [8, 4, 2, 1, 1]
    assert default_workers(["0", "1"], 8) == 2


def test_visible_gpus_follow_the_environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_invalid_record_is_neither_used_nor_overwritten(tmp_path):
    invalid = job(tmp_path, retry=frozenset({"failed", "ok"}))
    write_record({"key": invalid.key, "status": "ok", "label": "", "trial": TRIAL.to_json()}, invalid.folder)
    path = invalid.folder / "result.json"
    path.write_text(path.read_text()[:-20])
    text = path.read_text()
    assert outcomes([invalid])[invalid.key].status == "cached"
    assert path.read_text() == text
