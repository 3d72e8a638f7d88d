"""A long suite in slices, as on a machine that is lent for minutes: stopped, and gone on with."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.results.record import read_record
from dstbench.runner.execution.lease import LEASE

SMALL = """-S dataset=digits -S model=small_cnn -S recipe=rigl -S density=0.1 -S seed=0 -S training.epochs=3
    -S training.milestones=[2] -S measure.throughput=false"""


@pytest.mark.slow
def test_rigls_setting_goes_on_where_it_was_stopped(warm_server, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = shlex.split(f"run wrn-22-2 {SMALL} --workers 1 --out {tmp_path}")
    first = subprocess.Popen([sys.executable, "-m", "dstbench", *words], env=environment)
    until = time.monotonic() + 120
    while not (taken := list(tmp_path.glob(f"*/*/{LEASE}"))) and time.monotonic() < until:
        time.sleep(0.05)
    assert taken, "no trial began"
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=120) == 130
    before = {path.parent for path in tmp_path.glob("*/*/result.json")}
    gone_on = CliRunner().invoke(app, shlex.split(f"worker {tmp_path} --claim --until 9m --workers 2"))
    assert gone_on.exit_code == 0, gone_on.output
    records = {path.parent: read_record(path.parent) for path in tmp_path.glob("*/*/result.json")}
    assert len(records) == 4
    assert before < records.keys()
    assert {record["status"] for record in records.values()} == {"ok"}
