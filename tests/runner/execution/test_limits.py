"""Limits of a trial: what it may hold, and how limits are written."""

from __future__ import annotations

import os
import re
import signal
import sys

import psutil
import pytest

from dstbench.errors import BadInput
from dstbench.results.record import read_record
from dstbench.runner.execution import memory
from dstbench.runner.execution.memory import held_by
from dstbench.runner.matrix.config import load_matrix
from dstbench.runner.matrix.quantities import bytes_of, memory_text, seconds
from fakes.jobs import job, outcomes

MIB = 2**20

# a server that earlier tests left has torch loaded, which counts as its children's memory
pytestmark = pytest.mark.usefixtures("cold_server")


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what processes share")


@pytest.mark.parametrize("do", ["allocate", "allocate in children", "allocate, ignore"])
def test_a_trial_that_holds_more_than_its_memory_is_ended(do, tmp_path):
    greedy, next_one = job(tmp_path, do=do, memory=100 * MIB), job(tmp_path, "cd" * 16, memory=100 * MIB)
    events = outcomes([greedy, next_one], workers=1)
    record = read_record(greedy.folder)
    assert events[greedy.key].status == record["status"] == "oom"
    if record["reason"] != "MemoryError (the trial's limit is 100 MiB)":  # it grew faster than anyone looked
        assert re.fullmatch(
            r"its processes held [\d.]+ MiB, more than their limit of 100 MiB", record["reason"]
        )
        assert record["measures"]["peak_memory"] > 100 * MIB
    assert events[next_one.key].status == "ok"


@linux
def test_an_allocation_of_more_than_its_memory_fails_where_it_is_made(tmp_path):
    greedy = job(tmp_path, do="allocate at once", memory=2**30)
    assert outcomes([greedy])[greedy.key].status == "oom"
    record = read_record(greedy.folder)
    assert record["reason"] == "MemoryError (the trial's limit is 1 GiB)"
    assert "in take_memory_at_once" in record["traceback"]


def test_a_trial_under_its_limit_is_left_alone(tmp_path):
    modest = job(tmp_path, do="second", memory=500 * MIB)
    assert outcomes([modest])[modest.key].status == "ok"


def test_memory_counts_in_the_timing_too(tmp_path):
    outcomes([job(tmp_path)])
    timing = job(tmp_path, task="fakes.trials:measure", phase="throughput", do="allocate", memory=100 * MIB)
    event = outcomes([timing])[timing.key]
    assert event.status == "oom"
    assert read_record(timing.folder)["status"] == "ok"


@linux
def test_what_processes_share_counts_once():
    shared = bytearray(os.urandom(MIB)) * 64
    mine = psutil.Process()
    alone = held_by([mine])
    children = []
    for _ in range(4):
        ready, done = os.pipe()
        if (pid := os.fork()) == 0:
            os.write(done, b"x")
            signal.pause()
        os.read(ready, 1)
        children.append(pid)
    try:
        processes = [mine, *map(psutil.Process, children)]
        assert memory._resident(processes[1]) > 64 * MIB - MIB
        assert held_by(processes) < alone + 4 * 32 * MIB
    finally:
        for pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    assert len(shared) == 64 * MIB


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2h", 7200),
        ("3h50m", 13800),
        ("90m", 5400),
        ("90min", 5400),
        ("1d 2h", 93600),
        ("1.5h", 5400),
        ("45", 45),
    ],
)
def test_times(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8G", 8 * 2**30),
        ("512M", 512 * MIB),
        ("1.5 GiB", 3 * 2**29),
        ("2TB", 2**41),
        ("1000000", 10**6),
        ("4k", 4096),
    ],
)
def test_memory(text, value):
    assert bytes_of(text) == value


def test_memory_as_people_read_it():
    assert [memory_text(size) for size in (100, 2**20, 3.14 * 2**30)] == ["100 B", "1 MiB", "3.14 GiB"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("budget.trial_seconds=soon", "expected a time such as 2h, 3h50m or 90s, got 'soon'"),
        ("budget.trial_seconds=2h30", "expected a time such as"),
        ("budget.trial_seconds=0s", "expected a number greater than 0"),
        ("budget.trial_memory=lots", "expected an amount of memory such as 8G or 512M, got 'lots'"),
        ("budget.trial_memory=12", "expected a number greater than or equal to 1048576, got 12"),
        ("budget.trial_memory=-3G", "expected an amount"),
        ("budget.trial_memory=" + "9" * 400 + "G", "expected an amount"),
        ("budget.trial_memory=true", "expected a valid integer, got True"),
    ],
)  # fmt: skip
def test_wrong_limits_say_what_was_expected(setting, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        load_matrix("quick", [setting])


def test_limits_in_a_matrix_file_are_numbers_or_texts():
    budget = load_matrix("quick", ["budget.trial_memory=8G", "budget.trial_seconds=1h"]).budget
    assert (budget.trial_memory, budget.trial_seconds) == (8 * 2**30, 3600)
