"""A trial that takes every worker with it becomes a row with its reason; one that gets on is tried for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dstbench.results.record import FILE, read_record, write_record
from dstbench.runner.cluster.follow import Census, follow
from dstbench.runner.execution import losses
from dstbench.runner.execution.claim import claim, find_open
from dstbench.runner.execution.lease import EXPIRY, HOLDER, acquire, clock
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.plan_file import write_plan
from dstbench.runner.execution.status import status
from dstbench.runner.execution.worker import is_open
from fakes.jobs import job

KEYS = [f"{i:02x}" * 16 for i in range(4)]


def planned(root, train, timed=()):
    write_plan(Order(root, tuple(train), tuple(timed), ("fakes.trials",)), "suite")


def lose(folder, *nodes):
    """The lease of a trial, lost on one node after the other."""
    for node in nodes:
        lease = acquire(folder)
        file = lease.scratch / HOLDER
        file.write_text(json.dumps({**json.loads(file.read_text()), "node": node, "boot": "another"}))
        stale = clock(folder) - EXPIRY - 1
        os.utime(file, (stale, stale))


def age(path, seconds):
    when = clock(path.parent) - seconds
    os.utime(path, (when, when))


WORKER = """
import sys
from pathlib import Path
from dstbench.runner.execution.claim import claim
claim(Path(sys.argv[1]), workers=2, on_event=lambda event: None)
"""


def worker(root):
    """A worker in processes of its own; returns its exit code."""
    return subprocess.run(
        [sys.executable, "-c", WORKER, str(root)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    ).returncode


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a dead holder is waited for")
def test_a_trial_that_kills_its_workers_is_given_up_and_the_others_are_not(tmp_path):
    bad, good = job(tmp_path, KEYS[0], "kill worker"), job(tmp_path, KEYS[1], "alone")
    planned(tmp_path, [bad, good])
    codes = []
    while 0 not in codes:
        codes.append(worker(tmp_path))
        assert len(codes) < 8
    # both are lost twice, side by side; then one runs by itself and ends well, and the other takes one more worker
    assert codes == [-9, -9, -9, 0]
    record = read_record(bad.folder)
    host = os.uname().nodename
    assert (record["status"], record["reason"]) == (
        "killed",
        f"lost its worker 3 times, and never got on: on {host}, {host}, {host}; `--retry killed` tries it again",
    )
    assert read_record(good.folder)["status"] == "ok"
    assert not [*tmp_path.glob(f"*/*/{losses.FOLDER}")]
    [failed] = status(tmp_path)["failed"]
    assert failed["reason"] == record["reason"]


def test_what_is_lost_is_counted_by_whoever_takes_it_over(tmp_path):
    one = job(tmp_path)
    lose(one.folder, "node1", "node2", "node3")
    assert losses.lost_on(one.folder) == ["node1", "node2"]  # nobody took the third one over
    assert losses.given_up(one.folder) is None
    lease = acquire(one.folder)
    assert losses.given_up(one.folder) == (
        "lost its worker 3 times, and never got on: on node1, node2, node3"
    )
    lease.release()
    planned(tmp_path, [one])
    [waiting] = status(tmp_path)["open"]
    assert waiting["lost_on"] == ["node1", "node2", "node3"]
    claim(tmp_path, on_event=print)
    record = read_record(one.folder)
    assert "on node1, node2, node3" in record["reason"]
    assert not find_open(tmp_path)


def test_a_trial_that_gets_on_is_never_given_up(tmp_path):
    one = job(tmp_path)
    lose(one.folder, "node1", "node2", "node3", "node4")
    checkpoint = one.folder / "checkpoint.pt"
    checkpoint.touch()
    assert losses.lost_on(one.folder) == []
    age(checkpoint, EXPIRY + 100)  # it is of before them all
    assert len(losses.lost_on(one.folder)) == 3
    checkpoint.touch()
    planned(tmp_path, [one])
    claim(tmp_path, on_event=print)
    assert read_record(one.folder)["status"] == "ok"
    assert not (one.folder / losses.FOLDER).exists()


def test_a_trial_that_is_given_up_can_be_tried_again(tmp_path):
    one = job(tmp_path)
    lose(one.folder, "node1", "node2", "node3")
    planned(tmp_path, [one])
    claim(tmp_path, on_event=print)
    again = job(tmp_path, retry=frozenset({"killed"}), replaces=read_record(one.folder)["checksum"])
    planned(tmp_path, [again])
    claim(tmp_path, on_event=print)
    assert read_record(one.folder)["status"] == "ok"


def test_a_timing_that_takes_its_workers_with_it_is_left_and_said(tmp_path):
    one = job(tmp_path, KEYS[0])
    timing = job(tmp_path, KEYS[0], task="fakes.trials:measure", phase="throughput")
    planned(tmp_path, [one], [timing])
    record = {"key": one.key, "trial": one.trial.to_json(), "label": "label", "status": "ok"}
    write_record(record, one.folder)
    age(one.folder / FILE, 1000)
    lose(one.folder, "node1", "node2", "node3")
    acquire(one.folder).release()
    assert not is_open(timing)
    assert not find_open(tmp_path)
    seen = []
    claim(tmp_path, on_event=seen.append)
    [failed] = status(tmp_path)["failed"]
    assert failed["status"] == "untimed"
    assert failed["reason"].startswith("lost its worker 3 times")
    follow(Order(tmp_path, (), (timing,)), Nobody(), seen.append)
    assert [(event.status, event.reason[:16]) for event in seen] == [("killed", "lost its worker ")]
    losses.forget(one.folder)  # as another run of the suite does
    claim(tmp_path, on_event=seen.append)
    assert read_record(one.folder)["measures"]["throughput"]


class Nobody:
    """No workers at all."""

    def start(self, number):
        raise AssertionError

    def census(self):
        return Census(0)

    def last_words(self):
        return ""
