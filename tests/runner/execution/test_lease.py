"""Leases: held by one process, given back, and taken over from the dead only."""

import json
import os
import socket
import subprocess
import sys
import time

import psutil

from dstbench.runner.execution.lease import FILE, lease, release_dead


def left_behind(folder, **changes):
    """A lease as a process that ended would leave it."""
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    content = {"pid": ended.pid, "started": 1.0, "host": socket.gethostname(), "expires": time.time() + 60}
    (folder / FILE).write_text(json.dumps({**content, **changes}))


def test_only_one_holds_it_and_it_is_given_back(tmp_path):
    with lease(tmp_path) as first, lease(tmp_path) as second:
        assert (first, second) == (True, False)
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / FILE).exists()


def test_one_that_was_refused_gives_nothing_back(tmp_path):
    with lease(tmp_path):
        with lease(tmp_path):
            pass
        assert (tmp_path / FILE).exists()


def test_given_back_when_the_holder_raises(tmp_path):
    try:
        with lease(tmp_path):
            raise RuntimeError
    except RuntimeError:
        pass
    assert list(tmp_path.iterdir()) == []


def test_taken_over_from_a_dead_process(tmp_path):
    left_behind(tmp_path)
    with lease(tmp_path) as held:
        assert held
    assert list(tmp_path.iterdir()) == []


def test_a_pid_that_is_used_again_holds_nothing(tmp_path):
    left_behind(tmp_path, pid=os.getpid())
    with lease(tmp_path) as held:
        assert held
    left_behind(tmp_path, pid=os.getpid(), started=psutil.Process().create_time())
    with lease(tmp_path) as held:
        assert not held


def test_another_machine_is_believed_until_its_time_is_over(tmp_path):
    left_behind(tmp_path, host="elsewhere")
    with lease(tmp_path) as held:
        assert not held
    left_behind(tmp_path, host="elsewhere", expires=time.time() - 1)
    with lease(tmp_path) as held:
        assert held


def test_one_being_written_is_respected_and_garbage_is_not(tmp_path):
    (tmp_path / FILE).write_text('{"pid": 1')
    with lease(tmp_path) as held:
        assert not held
    os.utime(tmp_path / FILE, (time.time() - 60,) * 2)
    with lease(tmp_path) as held:
        assert held


def test_release_dead_leaves_the_living_alone(tmp_path):
    release_dead(tmp_path)
    with lease(tmp_path):
        release_dead(tmp_path)
        assert (tmp_path / FILE).exists()
    left_behind(tmp_path)
    release_dead(tmp_path)
    assert not (tmp_path / FILE).exists()
