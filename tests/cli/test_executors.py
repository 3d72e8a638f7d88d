"""Which executor runs a matrix: the file's, or what the command line says; its parameters; what it leaves running."""

from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.execution import run as runs
from dstbench.runner.execution.jobs import Tasks
from dstbench.runner.execution.run import run
from dstbench.runner.matrix.config import executor_of, load_matrix
from dstbench.runner.matrix.plan import plan
from fakes import cluster

SLURM = {"name": "slurm", "partition": "gpu", "time": "4h"}


def chosen(own, given):
    matrix = cluster.matrix(1) if own is None else cluster.matrix(1, executor=own)
    return executor_of(load_matrix(matrix), given)


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [
        (None, None, {"name": "local"}),
        (None, {}, {"name": "local"}),
        (None, "ray", {"name": "ray"}),
        ("ray", None, {"name": "ray"}),
        (SLURM, None, SLURM),
        (SLURM, "slurm", SLURM),
        (SLURM, {"time": "1h", "qos": "low"}, {**SLURM, "time": "1h", "qos": "low"}),
        (SLURM, {"name": "slurm", "time": "1h"}, {**SLURM, "time": "1h"}),
        (SLURM, "local", {"name": "local"}),
        (SLURM, {"name": "ray", "gpus": 0.5}, {"name": "ray", "gpus": 0.5}),
    ],
)
def test_what_is_said_changes_the_matrix_s_executor_unless_it_is_another(own, given, expected):
    assert chosen(own, given) == expected


def test_no_trial_s_key_knows_of_an_executor():
    plans = [plan(load_matrix(cluster.matrix(3, **more)), registry()) for more in ({}, {"executor": SLURM})]
    assert [t.key for t in plans[0].trials] == [t.key for t in plans[1].trials]


@pytest.mark.parametrize("executor", [7, [], {"partition": "gpu"}, {"name": "slurm", "time": float("nan")}])
def test_a_matrix_whose_executor_is_none_is_refused(executor):
    with pytest.raises(BadInput, match="executor"):
        load_matrix(cluster.matrix(1, executor=executor))


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """Run the command on a matrix of one fake trial."""
    monkeypatch.setattr(runs, "Tasks", lambda: Tasks("fakes.cluster:train", "fakes.trials:measure"))
    file = tmp_path / "m.yaml"
    file.write_text(str(cluster.matrix(1)))

    def call(*words):
        done = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "out"), *words])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return call


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--executor", "slrm"], "unknown executor 'slrm'; did you mean 'slurm'"),
        (["-E", "partition=gpu"], "executor 'local': unknown parameter 'partition'; it takes none"),
        (["--detach"], "executor 'local': unknown parameter 'detach'; it takes none"),
        (
            ["--executor", "slurm", "-E", "partiton=gpu"],
            "unknown parameter 'partiton'; did you mean 'partition'",
        ),
        (
            ["--executor", "slurm", "-E", "partition"],
            "-E partition: expected a parameter of the executor, such as",
        ),
        (["--executor", "slurm", "-E", "=gpu"], "-E =gpu: expected a parameter of the executor"),
        (["-E", "name=slurm"], "-E name=slurm: expected a parameter"),
        (["--executor", "slurm", "-E", "time=soon"], "time: expected a duration such as 4h"),
        (["--executor", "slurm", "-E", "cpus=[1"], "-E cpus=[1"),
        (["--executor", "slurm", "-E", "time=1h", "-E", "time=2h"], "parameter 'time' expected"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(invoke, tmp_path, words, message):
    done = invoke(*words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "out" / "plans").exists()


@dataclass(frozen=True)
class Elsewhere:
    """An executor that leaves something running."""

    setup: str | tuple[str, ...] = ()
    detach: bool = False
    interrupted: bool = False

    def __call__(self, order, *, workers=None, on_event):
        if self.interrupted:
            raise KeyboardInterrupt("job 7 goes on; `cancel 7` ends it")
        return f"job 7 goes on with {len(order.train)} trial, {self.setup} and {self.detach}"


def test_a_detached_run_says_what_goes_on_and_ends_well(tmp_path):
    done = run(
        cluster.matrix(1), tmp_path, tasks=cluster.TASKS, device="cpu", registry=_With(Elsewhere(detach=True))
    )
    assert done.left == "job 7 goes on with 1 trial, () and True"
    assert (done.ran, done.counts) == (0, {"missing": 1})


class _With:
    """The registry, with one executor in place of all."""

    def __init__(self, executor):
        self._executor, self._registry = executor, registry()

    def choose(self, kind, spec):
        if kind != "executor":
            return self._registry.choose(kind, spec)
        return type("Choice", (), {"make": lambda _: self._executor})()

    def __getattr__(self, name):
        return getattr(self._registry, name)

    def __getitem__(self, kind):
        return self._registry[kind]


def test_the_command_says_what_goes_on_and_prints_no_board(invoke, monkeypatch):
    monkeypatch.setattr(runs, "default_registry", lambda: _With(Elsewhere()))
    done = invoke("--executor", "slurm")
    assert done.exit_code == 0
    assert "job 7 goes on" in done.output
    assert "dstbench status" in done.output
    assert "leaderboards" not in done.output


def test_ctrl_c_says_how_to_end_what_goes_on(invoke, monkeypatch):
    monkeypatch.setattr(runs, "default_registry", lambda: _With(Elsewhere(interrupted=True)))
    done = invoke("--executor", "slurm")
    assert done.exit_code == 130
    assert "`cancel 7` ends it" in done.output
