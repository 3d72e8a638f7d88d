"""Batch scripts as text, time limits, sizes of arrays, and what a queue says of jobs."""

import os
import subprocess

import pytest

from dstbench.errors import BadInput
from dstbench.runner.cluster.sbatch import array_sizes, is_alive, minutes, option, script, states


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("4h", 240), ("3h50m", 230), ("2d", 2880), ("90s", 2), ("90m", 90), ("1d12h", 2160), (90, 90), ("90", 90),
        ("1:30", 2), ("4:00:00", 240), ("1-12", 2160), ("1-12:30", 2190), ("1-12:30:01", 2191), ("00:00:01", 1),
    ],
)  # fmt: skip
def test_time_limits_are_read_as_people_and_as_slurm_write_them(time, expected):
    assert minutes(time) == expected


@pytest.mark.parametrize("time", ["", "never", "0", 0, -5, "4 hours", "1-", "h", "1:2:3:4", "1e3", "0h", 1.5])
def test_what_is_no_time_limit_is_refused(time):
    with pytest.raises(BadInput, match="time: expected a duration such as 4h"):
        minutes(time)


@pytest.mark.parametrize(
    ("workers", "most", "expected"),
    [
        (1, 999, [1]),
        (999, 999, [999]),
        (1000, 999, [500, 500]),
        (2500, 999, [834, 833, 833]),
        (5, 2, [2, 2, 1]),
    ],
)
def test_arrays_stay_below_what_a_site_allows(workers, most, expected):
    assert array_sizes(workers, most) == expected


def test_a_queue_is_read_task_by_task():
    listing = "12|0|RUNNING|node1|None\n12|1|PENDING||Resources\n7|N/A|COMPLETED|n2|None\n\n"
    assert states(listing) == {
        "12_0": {"state": "RUNNING", "node": "node1", "reason": ""},
        "12_1": {"state": "PENDING", "node": "", "reason": "Resources"},
        "7_N/A": {"state": "COMPLETED", "node": "n2", "reason": ""},
    }


def test_what_a_queue_no_longer_knows_has_ended():
    alive = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED", "CONFIGURING")
    ended = (
        "COMPLETED",
        "CANCELLED",
        "FAILED",
        "TIMEOUT",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "GONE",
        "UNKNOWN",
    )
    assert [is_alive(state) for state in (*alive, *ended)] == [True] * len(alive) + [False] * len(ended)


def test_values_are_quoted():
    assert option("job-name", "it's here") == """--job-name='it'"'"'s here'"""


@pytest.fixture
def batch(tmp_path):
    """Run the script of a command as task 7_1, of a state that the queue says; returns exit code, output and the
    arguments of scontrol."""

    def call(command, state="RUNNING", requeue=True, until=0, setup=()):
        commands = {"squeue": f"echo {state}", "scontrol": f'echo "$@" >> {tmp_path}/asked'}
        for name, body in commands.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        text = script(
            ["--array=0-1"], setup, {"DSTBENCH_X": "a 'b'"}, ["bash", "-c", command], requeue, until
        )
        (tmp_path / "worker.sh").write_text(text)
        environment = {
            **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "1",
        }  # fmt: skip
        done = subprocess.run(
            ["bash", tmp_path / "worker.sh"], env=environment, capture_output=True, text=True, timeout=60
        )
        asked = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
        return done.returncode, done.stdout, asked

    return call


def test_a_worker_has_setup_and_environment(batch):
    code, output, asked = batch('echo "$FOO $DSTBENCH_X"', setup=["export FOO=1", "false"])
    assert (code, output, asked) == (0, "1 a 'b'\n", [])


def test_a_worker_that_stopped_early_is_queued_again_by_the_id_of_its_task_alone(batch):
    _, _, asked = batch("exit 75")
    assert asked == ["requeue 7_1"]


@pytest.mark.parametrize(
    "how", [{"state": "COMPLETING"}, {"state": "CANCELLED"}, {"state": ""}, {"requeue": False}]
)
def test_a_job_that_was_cancelled_is_not_brought_back(batch, how):
    code, _, asked = batch("exit 75", **how)
    assert (code, asked) == (75, [])


def test_a_worker_that_gives_up_before_its_time_has_failed(batch):
    for until in (None, 3600):
        assert batch("exit 75", until=until)[::2] == (75, [])


@pytest.mark.parametrize("code", [0, 1, 2, 130, 137])
def test_any_other_end_is_the_jobs(batch, code):
    assert batch(f"exit {code}")[::2] == (code, [])


def test_the_signal_before_the_limit_reaches_the_worker_which_ends_when_it_is_ready(batch):
    worker = "trap 'sleep 0.2; echo heard; exit 75' USR2; kill -USR2 $PPID; for i in $(seq 300); do sleep 0.1; done"
    _, output, asked = batch(worker, until=None)
    assert output.startswith("heard\n")
    assert asked == ["requeue 7_1"]


def test_a_worker_that_can_not_listen_yet_is_ended_by_the_signal_and_queued_again(batch):
    _, _, asked = batch("kill -USR2 $PPID; sleep 30", until=None)
    assert asked == ["requeue 7_1"]


def test_a_signal_during_setup_starts_no_worker(batch):
    _, output, asked = batch("echo started", setup=["kill -USR2 $$"], until=None)
    assert "started" not in output
    assert asked == ["requeue 7_1"]
