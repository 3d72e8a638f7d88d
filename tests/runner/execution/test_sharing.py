"""Schedulers that share a folder: each trial runs once, and none waits for what nobody does."""

from __future__ import annotations

import threading

import pytest

from dstbench.results.record import read_record
from dstbench.runner.execution import queue
from dstbench.runner.execution.lease import LEASE, acquire
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.stop import Stop
from fakes.jobs import job


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(queue, "LOOK", 0.05)


def test_two_schedulers_run_each_trial_once(tmp_path):
    jobs = [job(tmp_path, f"{i:02x}" * 16) for i in range(8)]
    events = {name: [] for name in "ab"}
    schedulers = [
        threading.Thread(
            target=run_local,
            args=(jobs[:: 1 if name == "a" else -1],),
            kwargs={"workers": 2, "on_event": events[name].append, "patient": True},
        )
        for name in events
    ]
    for scheduler in schedulers:
        scheduler.start()
    for scheduler in schedulers:
        scheduler.join()
    for one in jobs:
        assert read_record(one.folder)["status"] == "ok"
        assert not (one.folder / LEASE).exists()
        assert (one.folder / "log.txt").read_text().count("a line for the log") == 1
    ended = {name: [e for e in told if e.kind == "finished"] for name, told in events.items()}
    assert {name: len(told) for name, told in ended.items()} == {"a": 8, "b": 8}
    both = [event.status for told in ended.values() for event in told]
    assert both.count("ok") == 8
    assert set(both) <= {"ok", "cached", "elsewhere"}


def test_a_trial_that_was_taken_is_waited_for_and_not_recorded(tmp_path):
    """Its supervisor finds another lease in the place of its own at the next beat."""
    one = job(tmp_path)
    held, events, stop = acquire(one.folder), [], Stop()

    def see(event):
        events.append(event)
        if event.kind == "held":
            stop.ask()

    run_local([one], on_event=see, patient=True, stop=stop)
    assert [(event.kind, event.reason) for event in events] == [
        ("held", f"runs on {queue.look(one.folder).name}")
    ]
    assert held.is_held()
    assert not (one.folder / "result.json").exists()


def test_an_impatient_one_leaves_it(tmp_path):
    one, events = job(tmp_path), []
    held = acquire(one.folder)
    run_local([one], on_event=events.append)
    assert [(event.kind, event.status) for event in events] == [("finished", "elsewhere")]
    assert held.is_held()


def test_a_lease_lost_in_mid_trial_ends_the_trial(tmp_path):
    """Removed with its folder, say: the holder, which can't write any more, is told by the trial that fails to."""
    one, events, stop = job(tmp_path, do="lose"), [], Stop()

    def see(event):
        events.append(event)
        if event.kind == "held":
            stop.ask()

    run_local([one], on_event=see, patient=True, stop=stop)
    assert [event.kind for event in events] == ["started", "held"]
    assert not (one.folder / "result.json").exists()


def test_a_file_server_that_is_away_for_a_moment_ends_nobody(tmp_path, monkeypatch):
    one, events, looked = job(tmp_path), [], []
    look = queue.look

    def away_at_first(folder):
        looked.append(folder)
        if len(looked) == 1:
            raise OSError(5, "Input/output error")
        return look(folder)

    monkeypatch.setattr(queue, "look", away_at_first)
    run_local([one], on_event=events.append, patient=True)
    assert [(event.kind, event.status) for event in events] == [
        ("held", ""),
        ("started", ""),
        ("finished", "ok"),
    ]
    assert events[0].reason == "its lease can't be read: Input/output error"
