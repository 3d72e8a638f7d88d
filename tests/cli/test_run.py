"""``dstbench run`` and ``dstbench plan``: exit codes, messages, what goes to stdout and what to stderr."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from dstbench.cli.app import app
from dstbench.cli.progress import Progress
from dstbench.recipe import Recipe
from dstbench.runner.execution import forecast, run
from dstbench.runner.execution.jobs import Tasks
from dstbench.runner.execution.lease import LEASE
from dstbench.runner.execution.worker import Event, Job
from dstbench.runner.matrix.config import Matrix, Training
from dstbench.runner.matrix.planned import Plan, PlannedTrial
from dstbench.runner.matrix.trial_spec import TrialSpec
from dstbench.runner.trial.pace import Pace

pytestmark = pytest.mark.usefixtures("warm_server")

MATRIX = """
schema: 1
name: small
summary: two methods
axes: {model: small_cnn, dataset: digits, density: 0.1, seed: [0], recipe: [rigl, set]}
controls: []
training: {epochs: 1}
budget: {tuning: "none here"}
"""


@pytest.fixture
def matrix(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(MATRIX)
    return str(path)


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Run a command with fake trials; results go to ``tmp_path/results``."""
    monkeypatch.setattr(run, "Tasks", lambda: Tasks("fakes.trials:by_seed", "fakes.trials:measure"))
    monkeypatch.setattr(forecast, "pace_of", lambda *_, **__: Pace(1.0, 0.1, 0.001))

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)

    return invoke


def test_run_ends_with_the_leaderboard_and_says_where_it_is(call, matrix, tmp_path):
    out = tmp_path / "results"
    done = call("run", matrix, "--out", out, "--device", "cpu", "--workers", 2)
    assert done.exit_code == 0
    assert "rigl" in done.stdout
    assert "50.00" in done.stdout
    assert "[2/2] ok" in done.stderr
    assert "2 trials: 2 ok (2 trained and 2 timed now" in done.stderr
    assert str(out / "leaderboards" / "index.html") in done.stderr
    assert (out / "leaderboards" / "index.html").is_file()
    again = call("run", matrix, "--out", out, "--device", "cpu")
    assert "2 there already, 0 to train" in again.stderr
    assert again.stdout == done.stdout


def test_failed_trials_make_exit_code_1_and_are_named(call, matrix, tmp_path):
    done = call("run", matrix, "-o", tmp_path / "r", "-S", "seed=1", "-S", "recipe=rigl", "--device", "cpu")
    assert done.exit_code == 1
    assert "ValueError: a wrong value" in done.stderr
    assert "1 failed" in done.stderr


def test_a_reason_that_acts_ends_neither_the_run_nor_its_boards(call, matrix, tmp_path):
    done = call("run", matrix, "-o", tmp_path / "r", "-S", "seed=4", "-S", "recipe=rigl", "--device", "cpu")
    assert done.exit_code == 1
    assert r"RuntimeError: bad \udcff \x1b[2J" in done.stderr
    assert "\x1b[2J" not in done.output
    assert r"bad \udcff \x1b[2J" in (tmp_path / "r" / "leaderboards" / "index.html").read_text("utf-8")


def test_many_cells_ask_for_yes(call, matrix, tmp_path, monkeypatch):
    monkeypatch.setattr("dstbench.runner.matrix.plan.MOST_CELLS", 1)
    for command in (("plan", matrix), ("run", matrix, "--device", "cpu")):
        refused = call(*command, "-o", tmp_path / "r")
        assert refused.exit_code == 2
        assert "2 cells (recipe 2), more than 1" in refused.stderr
        assert call(*command, "-o", tmp_path / "r", "--yes").exit_code == 0


def test_json_is_all_there_is_on_stdout(call, matrix, tmp_path):
    done = call("run", matrix, "-o", tmp_path / "r", "--json", "--device", "cpu")
    assert sorted(row["name"] for row in json.loads(done.stdout)) == ["rigl", "set"]


def test_result_that_is_not_used_is_named(call, matrix, tmp_path):
    call("run", matrix, "-o", tmp_path / "r", "--device", "cpu")
    path = sorted((tmp_path / "r").glob("*/*/result.json"))[0]
    path.write_text("{")
    done = call("run", matrix, "-o", tmp_path / "r", "--device", "cpu")
    assert done.exit_code == 1
    assert f"not used: {path}" in done.stderr
    assert "--retry invalid" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quikc"], "did you mean 'quick'"),
        (["plan", "quick", "-S", "grow=gradiant"], "axes.grow[0]: unknown grow 'gradiant'"),
        (["plan", "quick", "-S", "density=2"], "axes.density[0]: expected a number in (0, 1], got 2"),
        (["run", "quick", "--shard", "3/2"], "shard: expected i/n"),
        (["run", "quick", "--retry", "fail"], "did you mean 'failed'"),
        (["run", "quick", "-S", "dataset=mnist"], "--data-root"),
        (["--no-plugin", "builtn", "plan", "quick"], "no plugin or distribution 'builtn'"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = call(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_missing_argument_is_exit_code_2(call):
    assert call("run").exit_code == 2
    assert call("nothing").exit_code == 2


def test_plan_says_what_would_run(call, matrix, tmp_path):
    done = call("plan", matrix, "--out", tmp_path, "--workers", 2, "--device", "cpu")
    assert done.exit_code == 0
    assert "trials    2: 2 methods, 0 control trials; 2 to run" in done.stdout
    assert (
        "time      about 24 s: 3 s training with 2 workers, 21 s timing (from measured steps)" in done.stdout
    )
    assert "none here" in done.stdout
    assert "masks never move in rigl at density 0.1" in done.stdout  # 9 steps and a delta_t of 100
    assert list(tmp_path.glob("*/*")) == []


def test_plan_as_json(call, tmp_path):
    plan = json.loads(call("plan", "quick", "--out", tmp_path, "--json").stdout)
    assert next(iter(plan)) == "name"
    assert plan["counts"]["trials"] == len(plan["trials"]) == 80
    assert plan["counts"]["methods"] == 72
    assert plan["notes"] == []
    assert next(iter(plan["trials"][0])) == "name"
    assert plan["estimate"]["training_macs"] > 0


def test_plan_knows_what_is_done(call, matrix, tmp_path):
    call("run", matrix, "-o", tmp_path / "r", "-S", "seed=0,1", "--device", "cpu")
    plan = json.loads(call("plan", matrix, "-o", tmp_path / "r", "-S", "seed=0,1,5", "--json").stdout)
    states = [trial["state"] for trial in plan["trials"]]
    assert sorted(states) == ["failed", "failed", "ok", "ok", "to run", "to run"]


def test_version(call):
    assert call("--version").stdout.startswith("dstbench 0")


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom dstbench.cli.app import app\n"
        "try: app(['run', '--help'])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_interrupt_keeps_what_is_finished_and_says_how_to_go_on(matrix, tmp_path):
    code = (
        # a shell's background jobs, which the tests may be one of, ignore Ctrl-C
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from dstbench.runner.execution import run\nfrom dstbench.runner.execution.jobs import Tasks\n"
        "run.Tasks = lambda: Tasks('fakes.trials:by_seed', 'fakes.trials:measure')\n"
        "from dstbench.cli import run as command\ncommand._forecast = lambda *given: None\n"
        "from dstbench.cli import main\nmain()"
    )
    out = tmp_path / "results"
    arguments = ["run", matrix, "-o", str(out), "-S", "seed=0,3", "-S", "recipe=rigl", "--device", "cpu"]
    running = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--workers", "2"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 500
    while time.monotonic() < until and not (
        any(out.glob("*/*/started")) and any(out.glob("*/*/result.json"))
    ):
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=500)
    assert running.returncode == 130
    assert f"What is finished is kept in {out}; the same command continues." in err
    assert "Traceback" not in err
    assert len(list(out.glob("*/*/result.json"))) == 1
    assert not list(out.glob(f"*/*/{LEASE}"))


def event(kind, status="", reason=None, key="a" * 8):
    trial = TrialSpec({"name": "m"}, {"name": "d"}, 0.1, 3, Recipe(), Training(epochs=1))
    return Event(kind, Job(key, trial, "rigl", None, Path(), ""), status, reason, 1.5)


def test_progress_is_one_plain_line_a_trial_without_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    with Progress(console) as progress:
        progress(event("started"))
        progress(event("finished", "failed", "ValueError: [brackets] stay"))
    assert console.file.getvalue() == (
        "[1/1] failed      1.5 s  training rigl (m, d, density 0.1, seed 3): ValueError: [brackets] stay\n"
    )


def test_progress_says_how_long_it_will_take_and_what_is_slow():
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    trials = [PlannedTrial(key * 8, event("started").job.trial, "rigl") for key in "abcd"]
    seconds = {("train", trial.key): 10.0 for trial in trials}
    ahead = forecast.Forecast(seconds, 2, None, None, "measured steps", ("bf16 is slower",))
    with Progress(console) as progress:
        progress.plan(Plan(Matrix.model_validate(yaml.safe_load(MATRIX)), tuple(trials)), 4, 0, ahead)
        progress(event("finished", "ok"))
    plan, note, line = console.file.getvalue().splitlines()
    assert plan == "small: 4 trials, 0 there already, 4 to train; about 20 s"
    assert note == "note: bf16 is slower"
    assert (
        line == "[1/4] ok          1.5 s  training rigl (m, d, density 0.1, seed 3); 2 s left"
    )  # 3 x 1.5 s / 2


def test_progress_on_a_terminal_says_only_what_went_wrong(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with Progress(console) as progress:
        for number, status in enumerate(["ok", "oom"]):
            progress(event("started", key=f"{number}"))
            progress(event("finished", status, "MemoryError" if status == "oom" else None, key=f"{number}"))
    text = console.file.getvalue()
    assert "MemoryError" in text
    assert "[1/1] ok" not in text


def test_progress_is_plain_in_ci(monkeypatch):
    monkeypatch.setenv("CI", "true")
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with Progress(console) as progress:
        progress(event("started"))
        progress(event("finished", "ok"))
    assert "[1/1] ok" in console.file.getvalue()
