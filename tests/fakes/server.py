"""A server that outlives the runs of many tests: importing torch anew in each would take most of their time."""

from __future__ import annotations

import pytest

from dstbench.runner.execution.server import warm_up


@pytest.fixture(scope="session")
def warm_server():
    """Runs find it and leave it as it is."""
    warm_up(["dstbench.runner.trial.trial", "torch._dynamo"])
