"""A server that outlives the runs of many tests: importing torch anew in each would take most of their time."""

from __future__ import annotations

from multiprocessing import forkserver

import pytest

from dstbench.runner.execution.server import warm_up


@pytest.fixture(scope="session")
def warm_server():
    """Runs find it and leave it as it is."""
    warm_up(["dstbench.runner.trial.trial", "torch._dynamo"])


@pytest.fixture
def cold_server():
    """None runs at first. What other tests have warmed is put aside meanwhile: another would load torch anew."""
    server = vars(forkserver._forkserver)
    warm = dict(server)
    server.update(vars(forkserver.ForkServer()))
    yield forkserver._forkserver
    forkserver._forkserver._stop()
    server.update(warm)
