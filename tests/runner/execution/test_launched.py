"""Processes that a launcher started: rank 0 runs a matrix, the others their rank of each of its trials."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from dstbench.results.record import read_record

TESTS = Path(__file__).parents[2]
MATRIX = {
    "schema": 1, "name": "launched", "controls": [],
    "axes": {
        "model": "small_cnn", "dataset": {"name": "synthetic", "images": 64, "size": 8}, "density": 0.2,
        "recipe": "rigl", "seed": [1, 2, 3],
    },
    "training": {"epochs": 1, "batch_size": 32, "processes": 2},
    "measure": {"throughput": False},
}  # fmt: skip
RUN = """
import json, sys
import dstbench
from dstbench.runner.execution.jobs import Tasks
done = dstbench.run(json.loads(sys.argv[1]), sys.argv[2], device="cpu", tasks=Tasks(train="fakes.ranked:by_seed"))
print(json.dumps([dict(done.statuses), done.ran]))
"""


def test_launched_processes_train_each_trial_together(tmp_path):
    """What becomes of one trial, a killed rank too, is nothing to the next."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RUN, json.dumps(MATRIX), str(tmp_path)],
            env={**os.environ, **place, "PYTHONPATH": path, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=500) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
    statuses, others = (json.loads(out) for out, _ in said)
    assert statuses[1] == 3
    assert others[0] == statuses[0]
    records = [read_record(result.parent) for result in tmp_path.glob("??/*/result.json")]
    assert {record["trial"]["seed"]: (record["status"], record["reason"]) for record in records} == {
        1: ("failed", "rank 1: RuntimeError: only here"),
        2: ("killed", "rank 1: killed by SIGKILL, which is also how a system out of memory ends a process"),
        3: ("ok", None),
    }
