"""Leases: held by one process, given back, taken over from the lost only, and nothing is written without."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dstbench.results.record import read_record
from dstbench.runner.execution import lease as module
from dstbench.runner.execution import losses
from dstbench.runner.execution.lease import BEAT, EXPIRY, HOLDER, LEASE, Lease, acquire, clock, end, look
from dstbench.runner.execution.worker import ELSEWHERE, record_death, work
from dstbench.runner.trial import fence
from dstbench.runner.trial.fence import LeaseLost
from fakes.jobs import job


def ago(path, seconds):
    """Make a beat so many seconds old, by the clock of the file system."""
    when = clock(path.parent) - seconds
    os.utime(path, (when, when), follow_symlinks=False)


def left_behind(folder, seconds=0.0, **changes):
    """A lease as another machine's process left it, with its last beat so long ago."""
    lease = acquire(folder)
    file = lease.scratch / HOLDER
    said = {**json.loads(file.read_text()), "boot": "another", "host": "nodeA", "node": None, **changes}
    file.write_text(json.dumps(said))
    ago(file, seconds)
    return lease


def ended_pid():
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    return ended.pid


def here(pid, started=1):
    """What a holder on this machine says, of this pid."""
    return {"boot": module._boot(), "processes": [{"pid": pid, "started": started}]}


def test_only_one_holds_it_and_it_is_given_back(tmp_path):
    first = acquire(tmp_path)
    assert acquire(tmp_path) is None
    assert first.is_held()
    said = json.loads((first.scratch / HOLDER).read_text())
    assert (said["token"], said["processes"][0]["pid"]) == (first.token, os.getpid())
    first.release()
    assert list(tmp_path.iterdir()) == []
    assert acquire(tmp_path) is not None


def test_a_holder_is_seen_without_being_touched(tmp_path):
    assert look(tmp_path) is None
    lease = left_behind(tmp_path, 40, node="node1")
    holder = look(tmp_path)
    assert (holder.path, holder.name, holder.is_lost) == (lease.scratch, "node1", False)
    assert 40 <= holder.age < 60
    assert lease.beat()
    assert look(tmp_path).age < 20


@pytest.mark.parametrize(("seconds", "free"), [(0, False), (EXPIRY - 20, False), (EXPIRY + 1, True)])
def test_another_machine_is_believed_for_so_long_after_its_last_beat(tmp_path, seconds, free):
    left_behind(tmp_path, seconds)
    assert look(tmp_path).is_lost == free
    assert (acquire(tmp_path) is not None) == free
    assert {path.name for path in tmp_path.iterdir()} == {LEASE} | ({losses.FOLDER} if free else set())


def test_no_machines_clock_counts(tmp_path, monkeypatch):
    left_behind(tmp_path, EXPIRY - 20)
    for wrong in (1e9, -1e9):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: 1.8e9 + wrong)
        assert acquire(tmp_path) is None
    ago(next((tmp_path / LEASE).glob(f"*/{HOLDER}")), EXPIRY + 1)
    assert acquire(tmp_path) is not None


def test_what_is_known_to_be_dead_is_not_waited_for(tmp_path):
    left_behind(tmp_path, **here(ended_pid()))
    assert acquire(tmp_path) is not None


def test_a_pid_that_is_used_again_holds_nothing(tmp_path):
    left_behind(tmp_path, **here(os.getpid()))
    assert acquire(tmp_path) is not None


def test_the_scheduler_answers_for_a_supervisor_that_is_gone(tmp_path):
    both = here(ended_pid())
    both["processes"].append({"pid": os.getpid(), "started": module._started(os.getpid())})
    left_behind(tmp_path, **both)
    assert acquire(tmp_path) is None


@pytest.mark.parametrize("changed", ["_namespace", "_boot"])
def test_pids_of_another_namespace_or_boot_say_nothing(tmp_path, monkeypatch, changed):
    left_behind(tmp_path, **here(ended_pid()))
    for elsewhere in ("another", None):
        monkeypatch.setattr(module, changed, lambda elsewhere=elsewhere: elsewhere)
        assert acquire(tmp_path) is None


def test_a_proc_of_another_namespace_says_nothing(monkeypatch):
    monkeypatch.setattr(os, "readlink", lambda path: "1" if path == "/proc/self" else "pid:[1]")
    assert module._namespace() is None


ODD = {
    "empty": lambda place: (place / "a").mkdir(parents=True),
    "no JSON": lambda place: written(place / "a" / HOLDER, "{"),
    "empty file": lambda place: written(place / "a" / HOLDER, ""),
    "a list": lambda place: written(place / "a" / HOLDER, "[1]"),
    "NaN": lambda place: written(place / "a" / HOLDER, '{"age": NaN, "expires": 1e999}'),
    "negative pid": lambda place: written(place / "a" / HOLDER, json.dumps(here_in_all(-5))),
    "huge pid": lambda place: written(place / "a" / HOLDER, json.dumps(here_in_all(10**30))),
    "pid 0": lambda place: written(place / "a" / HOLDER, json.dumps(here_in_all(0))),
    "pid true": lambda place: written(place / "a" / HOLDER, json.dumps(here_in_all(True))),
    "no list of pids": lambda place: written(place / "a" / HOLDER, json.dumps(here_in_all(1, "x"))),
    "odd names": lambda place: written(place / "a" / HOLDER, '{"host": ["x"], "node": 7}'),
    "holder is a folder": lambda place: (place / "a" / HOLDER).mkdir(parents=True),
    "file for a holder": lambda place: written(place / "a", "x"),
    "file": lambda place: written(place, "x"),
    "pipe": lambda place: os.mkfifo(place),
    "holder is a pipe": lambda place: ((place / "a").mkdir(parents=True), os.mkfifo(place / "a" / HOLDER)),
    "link to nothing": lambda place: place.symlink_to("nothing"),
    "link to a folder": lambda place: place.symlink_to("/"),
}


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def here_in_all(pid, processes=None):
    return {
        **here(pid),
        "pid_namespace": module._namespace(),
        **({"processes": processes} if processes else {}),
    }


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_lease_holds_for_the_same_time_and_no_longer(tmp_path, kind):
    ODD[kind](tmp_path / LEASE)
    assert acquire(tmp_path) is None
    assert not look(tmp_path).is_lost
    assert isinstance(look(tmp_path).name, str)
    place = tmp_path / LEASE
    below = [] if place.is_symlink() else [place / "a" / HOLDER, place / "a"]
    for path in (*filter(Path.exists, below), place):
        ago(path, EXPIRY + 1)
    lease = acquire(tmp_path)
    assert lease is not None
    assert lease.is_held()


def test_a_lease_from_the_future_lasts_no_longer_than_one_of_now(tmp_path):
    lease = left_behind(tmp_path, -86400)
    assert look(tmp_path).age < -80000
    assert acquire(tmp_path) is None
    assert abs(look(tmp_path).age) < BEAT
    ago(lease.scratch / HOLDER, EXPIRY + 1)
    assert acquire(tmp_path) is not None


def test_of_two_that_take_one_lost_lease_one_gets_it(tmp_path, monkeypatch):
    """The second does all it has to do when the first has found the lease lost, and is about to remove it."""
    for step in ("_remove", "_put"):
        folder = tmp_path / step
        left_behind(folder, EXPIRY + 1)
        plain, second = getattr(module, step), []

        def late(*arguments, plain=plain, second=second, folder=folder, step=step, **options):
            monkeypatch.setattr(module, step, plain)
            second.append(acquire(folder))
            return plain(*arguments, **options)

        monkeypatch.setattr(module, step, late)
        assert acquire(folder) is None
        assert second[0].is_held()


def test_of_many_that_take_one_lost_lease_one_gets_it(tmp_path):
    for i in range(5):
        folder = tmp_path / str(i)
        left_behind(folder, EXPIRY + 1)
        barrier, got = threading.Barrier(8), []

        def take(folder=folder, barrier=barrier, got=got):
            barrier.wait()
            got.append(acquire(folder))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [lease] = filter(None, got)
        assert lease.is_held()
        assert sorted(path.name for path in folder.iterdir()) == [LEASE, losses.FOLDER]
        assert len([*(folder / losses.FOLDER).iterdir()]) == 1


def test_a_holder_that_lost_it_neither_renews_nor_ends_the_next_ones(tmp_path):
    first = left_behind(tmp_path, EXPIRY + 1)
    second = acquire(tmp_path)
    assert not first.is_held()
    assert not first.beat()
    first.release()
    end(tmp_path, first.token)
    assert second.is_held()


def test_the_file_server_may_be_away_for_a_beat(tmp_path, monkeypatch):
    lease = acquire(tmp_path)

    def away(*_, **__):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "utime", away)
        assert lease.beat()
    assert lease.beat()


def test_a_loss_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.01)
    lease, lost = acquire(tmp_path), threading.Event()
    with module.renewed(lease, on_loss=lost.set):
        before = (lease.scratch / HOLDER).stat().st_mtime_ns
        until = time.monotonic() + 30
        while (lease.scratch / HOLDER).stat().st_mtime_ns == before and time.monotonic() < until:
            time.sleep(0.01)
        assert (lease.scratch / HOLDER).stat().st_mtime_ns > before
        assert not lost.is_set()
        end(tmp_path, lease.token)
        assert lost.wait(30)


def test_what_killed_processes_left_is_removed_by_the_next_holder(tmp_path):
    for name in (".lease-old", ".lease-new"):
        (tmp_path / name / "a").mkdir(parents=True)
    ago(tmp_path / ".lease-old", EXPIRY + 1)
    acquire(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lease-new", LEASE]


def taken_when(monkeypatch, module_name, name, folder):
    """Have another process take a trial's lease when something is called: the holder was paused right before it."""
    plain, taken = getattr(module_name, name), []

    def paused(*arguments, **options):
        if not taken:
            ago(next((folder / LEASE).glob(f"*/{HOLDER}")), EXPIRY + 1)
            taken.append(acquire(folder))
        return plain(*arguments, **options)

    monkeypatch.setattr(module_name, name, paused)
    return taken


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_record_of_a_holder_that_was_paused_too_long_is_not_written(tmp_path, monkeypatch, step):
    one = job(tmp_path)
    taken = taken_when(monkeypatch, os, step, one.folder)
    assert work(one, 1) == ELSEWHERE
    assert taken[0].is_held()
    assert {path.name for path in one.folder.iterdir()} == {LEASE, losses.FOLDER}


def test_nor_is_that_of_its_death(tmp_path):
    one = job(tmp_path)
    lost = left_behind(one.folder, EXPIRY + 1)
    acquire(one.folder)
    assert record_death(one, "killed", "killed by SIGSEGV", 1.0, lease=lost) is None
    assert {path.name for path in one.folder.iterdir()} == {LEASE, losses.FOLDER}
    mine = Lease(one.folder, next((one.folder / LEASE).iterdir()).name)
    assert record_death(one, "killed", "killed by SIGSEGV", 1.0, lease=mine)["status"] == "killed"
    assert read_record(one.folder)["status"] == "killed"


def test_tensors_are_written_by_the_holder_alone(tmp_path, monkeypatch):
    from dstbench.runner.trial import tensor_files

    lease = acquire(tmp_path)
    fence.guard(lease.scratch)
    try:
        tensor_files.write({"a": 1}, tmp_path / "checkpoint.pt")
        before = (tmp_path / "checkpoint.pt").read_bytes()
        taken = taken_when(monkeypatch, os, "fsync", tmp_path)
        with pytest.raises(LeaseLost, match="another process runs this trial by now"):
            tensor_files.write({"a": 2}, tmp_path / "checkpoint.pt")
        assert taken[0].is_held()
        assert (tmp_path / "checkpoint.pt").read_bytes() == before
        with pytest.raises(LeaseLost):
            fence.check(tmp_path)
        fence.check(tmp_path / "another")
        assert fence.scratch_of(tmp_path / "another") == tmp_path / "another"
    finally:
        fence.guard(None)
    fence.check(Path("anything"))
