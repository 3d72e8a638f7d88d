"""What our side of SLURM does, with commands that only look like SLURM's: see test_real_slurm for the real ones."""

import contextlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.cluster import follow, slurm
from dstbench.runner.cluster.slurm import Slurm
from dstbench.runner.cluster.submissions import submissions
from dstbench.runner.execution.order import Order
from dstbench.runner.execution.plan_file import write_plan
from dstbench.runner.execution.run import run
from dstbench.runner.execution.worker import record_death, work
from fakes import cluster, slurm_commands
from fakes.jobs import job

TESTS = Path(cluster.__file__).parents[1]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """The commands are in the PATH; returns the folder of their state."""
    programs = slurm_commands.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "slurm" / "state"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, sys.path), str(TESTS)]))
    monkeypatch.setattr(slurm, "BETWEEN_LISTINGS", 0.0)
    monkeypatch.setattr(follow, "PAUSE", 0.05)
    yield tmp_path / "slurm" / "state"
    for started in (tmp_path / "slurm" / "state").glob("*.job"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(started.read_text()), signal.SIGKILL)


def program(tmp_path, body):
    """An interpreter that does something else."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def order_of(root, trials=3):
    root.mkdir(exist_ok=True)
    return Order(root, tuple(job(root, f"{i:02x}" * 16, task="fakes.cluster:train") for i in range(trials)))


def ends(order, engine, workers=None):
    events = []
    left = engine(order, workers=workers, on_event=events.append)
    return left, [(e.status, e.reason) for e in events if e.kind == "finished"]


def submitted(root):
    """The states of the jobs of each submission, as its file has them."""
    files = [json.loads(path.read_text()) for path in sorted((root / "engine").glob("slurm-*.json"))]
    return sorted([[j["state"] for j in file["jobs"]] for file in files])


def test_workers_carry_a_plan_out(tmp_path, commands):
    order = order_of(tmp_path / "out", 3)
    write_plan(order, "test")
    assert ends(order, Slurm(), workers=2) == (None, [("ok", None)] * 3)
    histories = cluster.histories(order.results)
    assert len(histories) == 3
    assert all(history.count("ended here") == 1 for history in histories.values())
    [one] = submissions(order.results, "slurm")
    assert [*one.jobs] == ["1_0", "1_1"]
    assert one.cancel == "scancel 1"


def test_the_script_says_what_was_asked_for(tmp_path):
    engine = Slurm(
        partition="gpu", account="lab", qos="high", constraint="a100|h100", time="3h50m", gpus="a100:2", cpus=8,
        memory="64G", setup=("module load cuda",), sbatch=("--exclude=n7",), signal_seconds=60,
    )  # fmt: skip
    assert engine.options(Path("/data/my results"), Path("/data/100%"), 40) == [
        "--job-name='dstbench-my results'", "--array=0-39", "--output=/data/100%%/%A_%a.log", "--open-mode=append",
        "--signal=B:USR2@60", "--partition=gpu", "--account=lab", "--qos=high", "--constraint='a100|h100'",
        "--time=230", "--gres=gpu:a100:2", "--cpus-per-task=8", "--mem=64G", "--requeue", "--exclude=n7",
    ]  # fmt: skip
    assert engine.command(Path("/r"))[1:] == [
        "-m", "dstbench", "worker", "/r", "--claim", "--workers", "2", "--until", "13770s",
    ]  # fmt: skip


def test_a_short_job_is_told_to_stop_at_its_half():
    assert Slurm(time="2m").notice == 60
    assert Slurm(time="1h").notice == 120
    assert Slurm().notice == 120


def test_as_many_jobs_as_there_is_work_in_arrays_that_the_site_allows(tmp_path, commands):
    engine = Slurm(python=program(tmp_path, "exec sleep 60"), detach=True)
    left, _ = ends(order_of(tmp_path / "out", 7), engine, workers=20)
    assert sorted(map(len, submitted(tmp_path / "out"))) == [2, 2, 3]  # MaxArraySize is 3 there
    assert "7 workers are in SLURM's queue, as job 1, 2, 3;" in left
    assert "`scancel 1 2 3` ends them" in left


def test_trials_at_a_time_are_shared_by_the_jobs(tmp_path, commands):
    engine = Slurm(python=program(tmp_path, "exec sleep 60"), detach=True, trials=2)
    ends(order_of(tmp_path / "out", 7), engine, workers=5)
    assert sum(map(len, submitted(tmp_path / "out"))) == 3


def test_a_second_run_follows_the_jobs_of_the_first_and_submits_only_what_is_missing(tmp_path, commands):
    order = order_of(tmp_path / "out", 4)
    engine = Slurm(python=program(tmp_path, "exec sleep 60"), detach=True)
    ends(order, engine, workers=1)
    left, _ = ends(order, engine, workers=3)
    assert submitted(tmp_path / "out") == [["PENDING", "PENDING"], ["RUNNING"]]
    left, _ = ends(order, engine, workers=3)
    assert submitted(tmp_path / "out") == [["RUNNING"], ["RUNNING", "RUNNING"]]
    assert "3 workers" in left


def test_status_asks_slurm_where_it_can_and_reads_files_where_it_can_not(tmp_path, commands):
    order = order_of(tmp_path / "out", 2)
    write_plan(order, "test")
    ends(order, Slurm(python=program(tmp_path, "exec sleep 60"), detach=True))
    assert submitted(tmp_path / "out") == [["PENDING", "PENDING"]]
    (commands / "deaf").touch()
    assert "queue: slurm: 2 pending" in CliRunner().invoke(app, ["status", str(order.results)]).output
    (commands / "deaf").unlink()
    assert "queue: slurm: 2 running" in CliRunner().invoke(app, ["status", str(order.results)]).output
    assert submitted(tmp_path / "out") == [["RUNNING", "RUNNING"]]


def test_jobs_that_still_wait_at_the_end_are_cancelled(tmp_path, commands):
    order = order_of(tmp_path / "out", 1)
    ends(order, Slurm(python=program(tmp_path, "exec sleep 60"), detach=True))
    work(order.train[0], 1)
    assert ends(order, Slurm()) == (None, [("cached", None)])
    assert json.loads((commands / "cancelled").read_text()) == ["--state=PENDING", "1"]


def test_where_a_failure_stops_all_jobs_that_wait_are_cancelled(tmp_path, commands, monkeypatch):
    order = order_of(tmp_path / "out", 2)
    order = replace(order, train=tuple(replace(job, stops_with="run") for job in order.train))
    monkeypatch.setattr(follow, "_pause", lambda _: record_death(order.train[0], "killed", "so", 1.0))
    told = ends(order, Slurm(python=program(tmp_path, "exec sleep 60")), workers=2)
    assert told == (None, [("killed", "so")])
    assert json.loads((commands / "cancelled").read_text()) == ["--state=PENDING", "1"]


def test_workers_that_end_at_once_end_the_run_with_what_they_said(tmp_path, commands):
    engine = Slurm(python=program(tmp_path, "echo 'No module named dstbench' >&2; exit 1"))
    _, told = ends(order_of(tmp_path / "out", 2), engine)
    assert len(told) == 2
    for status, reason in told:
        assert status == "lost"
        assert "is FAILED" in reason
        assert reason.endswith("ends with: No module named dstbench")
    assert sum(map(len, submitted(tmp_path / "out"))) == 2 * (1 + follow.PATIENCE)


def test_a_lost_trial_is_counted_and_no_success(tmp_path, commands):
    broken = {"name": "slurm", "python": program(tmp_path, "exit 1")}
    done = run(cluster.matrix(2), tmp_path / "out", tasks=cluster.TASKS, executor=broken, device="cpu")
    assert (done.counts, done.ran, done.ok) == ({"lost": 2}, 0, False)


def test_a_controller_that_does_not_answer_is_waited_for(tmp_path, commands, monkeypatch):
    order = order_of(tmp_path / "out", 1)
    engine = Slurm(python=program(tmp_path, "exit 1"))
    naps = []

    def sleep(_):
        naps.append(1)
        if len(naps) == 1:
            (commands / "deaf").touch()  # behind the submission
        if len(naps) == 5:
            work(order.train[0], 1)

    monkeypatch.setattr(follow, "_pause", sleep)
    assert ends(order, engine)[1] == [("ok", None)]
    assert len(submitted(tmp_path / "out")) <= 2


def test_ctrl_c_leaves_the_jobs_and_says_how_to_end_them(tmp_path, commands, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "_pause", interrupt)
    with pytest.raises(KeyboardInterrupt, match="`scancel 1` ends them"):
        ends(order_of(tmp_path / "out", 1), Slurm(python=program(tmp_path, "exec sleep 60")))
    assert not (commands / "cancelled").exists()


def test_a_submission_that_is_refused_is_told_before_anything_is_waited_for(tmp_path, commands):
    (commands / "refuses").touch()
    with pytest.raises(BadInput, match=r"sbatch refused .*worker.sh: sbatch: error: invalid partition"):
        ends(order_of(tmp_path / "out", 1), Slurm(partition="x"))


def test_a_machine_without_slurm_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="executor slurm: expected SLURM's commands sbatch and squeue"):
        ends(order_of(tmp_path / "out", 1), Slurm())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"partitoin": "gpu"}, "unknown parameter 'partitoin'; did you mean 'partition'"),
        ({"time": "soon"}, "executor 'slurm': time: expected a duration such as 4h"),
        ({"gpus": "two"}, "gpus: expected a number, or a type and a number such as a100:2, got 'two'"),
        ({"cpus": 0}, "cpus: expected 1 to 1,000,000, got 0"),
        ({"trials": 0}, "trials: expected 1"),
        ({"cpus": "4"}, "parameter 'cpus' expected int, got '4'"),
        ({"setup": "module load x\nrm"}, "setup: expected a list of lines"),
        ({"sbatch": ["exclude=n7"]}, "sbatch: expected options such as --exclude=node7, got 'exclude=n7'"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, message):
    with pytest.raises(BadInput, match=message):
        registry().build("executor", {"name": "slurm", **parameters})


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"engine": "slurm"}', '{"jobs": [1]}', "[" * 9999])
def test_a_file_of_an_engine_that_is_garbage_is_none(tmp_path, content):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "slurm-1.json").write_text(content)
    assert submissions(tmp_path, "slurm") == []
