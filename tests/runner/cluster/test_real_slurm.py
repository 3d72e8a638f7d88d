"""On a real SLURM of two nodes, which the tests start on this machine: see ``fakes.slurm`` for what that takes."""

import os
import sys
import threading
from pathlib import Path

import pytest

from dstbench.results.record import read_record
from dstbench.runner.cluster import slurm as engine
from dstbench.runner.cluster.slurm import Slurm
from dstbench.runner.cluster.submissions import submissions
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.plan_file import write_plan
from fakes import cluster
from fakes.jobs import job

pytest_plugins = ["fakes.slurm"]

TESTS = Path(cluster.__file__).parents[1]


@pytest.fixture
def nodes(slurm, monkeypatch):
    """The cluster, with its commands in reach of ours and nothing in its queue."""
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, sys.path), str(TESTS)]))
    monkeypatch.setattr(engine, "BETWEEN_LISTINGS", 1.0)
    yield slurm
    slurm.clear()


def order_of(root, trials):
    """A plan of so many trials in a folder whose name needs quotes."""
    order = Order(
        root / "results of mine",
        tuple(
            job(root / "results of mine", f"{i:02x}" * 16, task="fakes.cluster:train") for i in range(trials)
        ),
    )
    write_plan(order, "test")
    return order


class Followed:
    """A run that is followed in the background."""

    def __init__(self, order, workers=2, **parameters):
        self.events = []
        self.order = order
        self._thread = threading.Thread(target=self._follow, args=(workers, parameters), daemon=True)
        self._thread.start()

    def _follow(self, workers, parameters):
        Slurm(**parameters)(self.order, workers=workers, on_event=self.events.append)

    @property
    def ended(self):
        return [e for e in self.events if e.kind == "finished"]

    @property
    def is_over(self):
        return not self._thread.is_alive()


def nodes_of(order):
    """The node on which each trial ended, of those that did."""
    records = [read_record(done.folder) for done in order.train if (done.folder / "result.json").exists()]
    return [record["provenance"]["node"] for record in records]


def test_trials_run_on_both_nodes_each_once(nodes, tmp_path):
    order = order_of(tmp_path, 6)
    run = Followed(order, setup="export FOO=bar", time="10m", memory="500M")
    nodes.wait(lambda: run.is_over, 180)
    assert [e.status for e in run.ended] == ["ok"] * 6
    assert set(nodes_of(order)) <= {"node1", "node2"}
    for history in cluster.histories(order.results).values():
        assert [line.split()[0] for line in history] == ["began", "ended"]
    [one] = submissions(order.results, "slurm")
    assert {job["node"] for job in one.jobs.values()} == {"node1", "node2"}
    nodes.wait(lambda: not nodes.jobs(), 180)


def test_a_job_that_is_told_to_stop_is_queued_again_and_its_trial_stays_open(nodes, tmp_path, monkeypatch):
    monkeypatch.setenv(cluster.SECONDS, "600")
    order = order_of(tmp_path, 1)
    left = Slurm(detach=True)(order, workers=1, on_event=lambda _: None)
    [array] = {name.partition("_")[0] for one in submissions(order.results, "slurm") for name in one.jobs}
    assert f"`scancel {array}` ends them" in left
    nodes.wait(lambda: bool(cluster.histories(order.results)), 120)
    nodes("scancel", "--batch", "--signal=USR2", array)  # as SLURM does before the limit
    nodes.wait(lambda: f"{array}_0 PENDING BeginTime" in nodes.jobs("%F_%K %T %r"), 120)
    [history] = cluster.histories(order.results).values()
    assert [line.split()[0] for line in history] == ["began", "interrupted"]
    assert not (order.train[0].folder / "result.json").exists()
    assert not (order.train[0].folder / "lease").exists()


def test_a_cancelled_job_is_gone_for_good_and_the_run_ends(nodes, tmp_path, monkeypatch):
    monkeypatch.setenv(cluster.SECONDS, "600")
    order = order_of(tmp_path, 1)
    run = Followed(order)
    nodes.wait(lambda: bool(cluster.histories(order.results)), 120)
    nodes(
        "scancel",
        *{name.partition("_")[0] for one in submissions(order.results, "slurm") for name in one.jobs},
    )
    nodes.wait(lambda: run.is_over, 120)
    [end] = run.ended
    assert end.status == "lost"
    assert "CANCELLED" in end.reason


@pytest.mark.long
@pytest.mark.parametrize("restarted", [False, True], ids=["", "controller restarted"])
def test_forty_trials_outlive_a_node(nodes, tmp_path, monkeypatch, restarted):
    """One node is set down, the other's job is requeued, both in mid-run: all trials end, and none twice."""
    monkeypatch.setenv(cluster.SECONDS, "3")
    order = order_of(tmp_path, 40)
    run = Followed(order)
    nodes.wait(lambda: len(run.ended) >= 6, 300)
    nodes("scontrol", "update", "nodename=node1", "state=down", "reason=test")
    if restarted:
        nodes.kill("slurmctld")
        nodes.wait(lambda: len(run.ended) >= 8, 300)  # workers go on without it
        nodes.start_controller()
    nodes.wait(lambda: len(run.ended) >= 12, 300)
    for task in [line.split()[0] for line in nodes.jobs() if "RUNNING" in line]:
        nodes("scontrol", "requeue", task)
    nodes("scontrol", "update", "nodename=node1", "state=resume", check=False)  # unless it is back by itself
    nodes.wait(lambda: run.is_over, 900)
    assert sorted(e.status for e in run.ended) == ["ok"] * 40
    histories = cluster.histories(order.results)
    assert len(histories) == 40
    assert all([line.split()[0] for line in history].count("ended") == 1 for history in histories.values())
    assert sum(len(history) > 2 for history in histories.values()) >= 1  # some were begun anew
    assert set(nodes_of(order)) == {"node1", "node2"}
