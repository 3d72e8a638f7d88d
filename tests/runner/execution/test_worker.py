from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest

from dstbench.recipe import Recipe
from dstbench.runner.execution import worker
from dstbench.runner.matrix.config import Training
from dstbench.runner.matrix.trial_spec import TrialSpec

Times = namedtuple("Times", "user nice system idle iowait irq softirq steal guest")


class Machine:
    """Four processors on which this process used one second, and others what ``busy`` says."""

    def __init__(self, busy):
        self.busy, self.seconds = busy, 0

    def cpu_times(self, percpu=False):
        by_cpu = [
            Times(user * self.seconds, 0, 0, (10 - user) * self.seconds, 0, 0, 0, 0, 0) for user in self.busy
        ]
        return by_cpu if percpu else Times(*map(sum, zip(*by_cpu, strict=True)))

    def Process(self):
        return SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=self.seconds, system=0))


@pytest.mark.parametrize(
    ("allowed", "share"),
    [
        ({0, 1}, 0.0),  # the others' ten seconds on processors 2 and 3 don't slow this process down
        ({0, 2}, 10 / 20),
        ({0, 1, 2, 3}, 20 / 40),
        (None, 20 / 40),
        ({7}, 20 / 40),  # a number that the system doesn't list
    ],
)
def test_only_neighbours_on_the_processors_of_this_process_count(monkeypatch, allowed, share):
    machine = Machine([1, 0, 10, 10])
    monkeypatch.setattr(worker, "psutil", machine)
    monkeypatch.setattr(worker, "allowed_cpus", lambda: allowed)
    with worker._Neighbours() as neighbours:
        machine.seconds = 1
    assert neighbours.share == pytest.approx(share)


def test_stack_of_a_crash_survives_the_long_list_of_modules_after_it(tmp_path):
    log = "Fatal Python error: Segmentation fault\n  File 'a.py', line 1\n\nExtension modules: "
    (tmp_path / worker.LOG).write_text(log + "a.module, " * 1000 + "(total: 1000)\n")
    trial = TrialSpec({"name": "m"}, {"name": "d"}, 0.1, 0, Recipe(), Training(epochs=1))
    job = worker.Job("ab" * 16, trial, "rigl", None, tmp_path, "fakes.trials:behave")
    record = worker.record_death(job, "killed", "killed by SIGSEGV", 1.0)
    assert record["traceback"] == "Fatal Python error: Segmentation fault\n  File 'a.py', line 1\n\n"


def test_allowed_cpus_are_those_of_the_affinity(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert worker.allowed_cpus() == {3, 5}
