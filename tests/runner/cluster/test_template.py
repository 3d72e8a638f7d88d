"""The executor that ``dstbench plugins new`` writes runs a plan."""

import importlib.util
import os
import sys
from pathlib import Path

from dstbench.cli.scaffold import scaffold
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.plan_file import write_plan
from fakes import cluster
from fakes.jobs import job


def test_the_written_executor_runs_a_plan(tmp_path, monkeypatch):
    tests = Path(cluster.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, sys.path), str(tests)]))
    file = scaffold("executor", "my-hosts", tmp_path) / "src" / "dstbench_my_hosts" / "strategy.py"
    spec = importlib.util.spec_from_file_location("dstbench_my_hosts_strategy", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)

    root, events = tmp_path / "out", []
    order = Order(root, tuple(job(root, f"{i:02x}" * 16, task="fakes.cluster:train") for i in range(2)))
    write_plan(order, "test")
    module.MyHosts(launch=("env", "SLURMD_NODENAME=node7"))(order, workers=1, on_event=events.append)
    assert [(e.kind, e.status) for e in events if e.kind == "finished"] == [("finished", "ok")] * 2
    assert [history[-1] for history in cluster.histories(root).values()] == ["ended node7"] * 2
