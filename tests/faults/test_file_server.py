"""A file server that fails any one call, or tells old news: no trial is lost or run twice, no record is wrong."""

from __future__ import annotations

import errno
import uuid

import pytest

from dstbench.results import steady
from dstbench.results.record import read_record
from dstbench.runner.execution.child import _acquired
from dstbench.runner.execution.lease import LEASE, acquire, look
from dstbench.runner.execution.local import run_local
from dstbench.runner.execution.queue import Queue
from dstbench.runner.execution.worker import DONE, work
from fakes.file_server import PASSING, Failing, Late, serving
from fakes.jobs import job


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(steady, "PAUSES", (0.0, 0.0))


def whole_life(one):
    """What a scheduler and a supervisor do for a trial, in one process."""
    assert Queue([one], lambda event: None, patient=True).take() is one
    lease = _acquired(one, uuid.uuid4().hex)
    assert work(one, 1, lease) == DONE
    assert look(one.folder).path == lease.scratch
    assert lease.beat()
    lease.release()


@pytest.mark.parametrize(("code", "done"), [(errno.EIO, False), (errno.EIO, True), (errno.ESTALE, False)])
def test_any_one_call_may_fail(tmp_path, code, done):
    number, failed = 0, []
    while True:
        number += 1
        one = job(tmp_path / str(number))
        one.folder.mkdir(parents=True)
        server = Failing(one.folder, number, code, done)
        with serving(server):
            whole_life(one)
        assert read_record(one.folder)["status"] == "ok", server.failed
        left = [
            path.name for path in one.folder.iterdir() if not path.name.startswith(".lease-")
        ]  # tidied later
        assert left == ["result.json"], server.failed
        if server.failed is None:
            break
        failed.append(server.failed.split()[0])
    assert {"open", "stat", "rename", "replace", "mkdir", "utime", "listdir", "rmdir"} <= {*failed}


@pytest.mark.parametrize("code", [errno.EIO])
def test_a_lost_trial_is_taken_over_whatever_call_fails(tmp_path, code, monkeypatch):
    from dstbench.runner.execution import lease as leases

    monkeypatch.setattr(leases, "_has_ended", lambda said: True)
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        acquire(folder)
        server = Failing(folder, number, code, done=bool(number % 2))
        with serving(server):
            taken = acquire(folder)
        assert taken.is_held(), server.failed
        assert len([*(folder / LEASE).iterdir()]) == 1, server.failed
        if server.failed is None:
            break


@pytest.mark.parametrize("number", [3, 8])
def test_a_scheduler_gets_over_a_call_that_fails(tmp_path, number):
    one = job(tmp_path)
    server, seen = Failing(tmp_path, number, errno.EIO, done=True), []
    with serving(server):
        run_local([one], workers=1, on_event=seen.append, patient=True)
    assert server.failed
    assert [event.status for event in seen] == ["", "ok"], server.failed
    assert read_record(one.folder)["status"] == "ok"


@pytest.mark.parametrize("code", PASSING, ids=errno.errorcode.get)
def test_what_goes_on_failing_is_raised(code):
    calls = []

    def fails():
        calls.append(1)
        raise OSError(code, "for good")

    with pytest.raises(OSError, match="for good"):
        steady.steadily(fails)
    assert len(calls) == 3


def test_old_news_runs_no_trial_twice(tmp_path):
    """Another host has taken, and then done, what this one still believes to be open."""
    one = job(tmp_path)
    one.folder.mkdir(parents=True)
    with serving(Late(tmp_path, 3600.0)):
        assert (
            Queue([one], lambda event: None, patient=True).take() is one
        )  # it knows of no lease and no record
    late = Late(tmp_path, 3600.0)
    with serving(late):
        assert Queue([one], lambda event: None, patient=True).take() is one
        known = dict(late.known)
    other = acquire(one.folder)
    with serving(late):
        late.known.update(known)
        assert acquire(one.folder) is None
    assert work(one, 1, other) == DONE
    stamp = (one.folder / "result.json").stat()
    other.release()
    with serving(late):
        late.known.update(known)
        lease = acquire(one.folder)  # which changes the folder, so a client asks anew what is in it
        assert work(one, 1, lease) == DONE
        lease.release()
    assert (one.folder / "result.json").stat().st_mtime_ns == stamp.st_mtime_ns
