"""README and the pages on running are true: their Python and commands run, and CI runs the two set-up commands."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dstbench.cli import catalogue
from dstbench.cli.app import app
from dstbench.errors import BadInput
from dstbench.registration.registry import registry
from dstbench.runner.execution import local, paces
from dstbench.runner.matrix.axes import Axes
from dstbench.runner.matrix.config import Budget, Matrix, Measure, Override, Training, load_matrix
from dstbench.runner.matrix.plan import plan
from dstbench.runner.matrix.yaml import parse_yaml
from dstbench.runner.trial.pace import Pace

ROOT = Path(__file__).parents[1]
README, MATRIX, *REST = ("README.md", "docs/matrix.md", "docs/boards.md", "docs/running.md")


def blocks(kind: str, page: str = README) -> list[str]:
    """The code of that language on a page; none where the tests lie without the pages."""
    text = (ROOT / page).read_text() if (ROOT / page).exists() else ""
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


COMMANDS = list(
    dict.fromkeys(
        line for page in (README, *REST) for body in blocks("bash", page) for line in body.splitlines()
    )
)
SMALL = (
    "-S prune=magnitude -S init=erk -S structure=channel -S training.epochs=2 -S controls=dense "
    "-S measure.rounds=1 -S schedule.delta_t=4"
)

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor")


def test_python_of_the_engine_runs():
    torch.manual_seed(0)
    loop, more, speed, _ = blocks("python")
    names: dict[str, object] = {}
    exec(loop.replace("1000", "250"), names)
    assert names["sparsifier"].history
    assert names["sparsifier"].density == pytest.approx(0.1, abs=1e-4)
    exec(more, names)
    exec(speed, names)
    assert names["fast"].execution_path


def test_python_of_the_plugin_registers_a_working_strategy():
    from dstbench.testing import check_score

    names: dict[str, object] = {"__name__": "readme"}
    exec(blocks("python")[3], names)
    registered = {}
    names["register_grow"](lambda name, target, **rest: registered.update({name: target}))
    assert not check_score(registered["agreement"]())


def test_toml_names_the_entry_point_group():
    [toml] = blocks("toml")
    assert tomllib.loads(toml)["project"]["entry-points"]["dstbench"]


def test_the_matrix_file_names_every_key_and_is_one():
    [text] = blocks("yaml", MATRIX)
    document = parse_yaml(text)
    matrix = load_matrix(document)
    for model, written in (
        (Matrix, document), (Axes, document["axes"]), (Training, document["training"]),
        (Measure, document["measure"]), (Budget, document["budget"]), (Override, document["overrides"][0]),
    ):  # fmt: skip
        assert written.keys() == {field.alias or name for name, field in model.model_fields.items()}
    planned = plan(matrix, registry())
    # 4 recipes and combinations by parts of each model, of which the wider one has no channels: 6 and 4; times two
    # densities and three seeds; controls for each, dense once for both densities
    assert len(planned.trials) == 6 * (6 + 4) + 2 * 3 * (1 + 2 * 2)
    assert not any(trial.skip for trial in planned.trials)


def test_the_short_matrix_file_is_one():
    [text] = blocks("yaml")
    planned = plan(load_matrix(parse_yaml(text)), registry())
    # two models, three seeds: three recipes and two controls for each of two densities, and dense once
    assert len(planned.trials) == 2 * 3 * (2 * (3 + 2) + 1)


def test_defaults_in_the_matrix_file_are_the_defaults():
    document = parse_yaml(blocks("yaml", MATRIX)[0])
    chosen = {"epochs", "batch_size", "schedule", "milestones"}  # what the example sets otherwise
    for name, model in (("training", Training), ("measure", Measure)):
        for key, value in document[name].items():
            if key not in chosen:
                assert model.model_fields[key].default == value, key


def test_what_a_matrix_file_lacks_is_told_as_it_is_written():
    with pytest.raises(BadInput) as error:
        load_matrix({"axes": {}, "training": {}})
    lines = str(error.value).splitlines()
    for wanted in ("write `schema: 1`", "write `name: mine`", "write `epochs: 10`", "write `density: 0.1`"):
        assert sum(wanted in line for line in lines) == 1


def test_ci_does_what_the_readme_says():
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    setup = [line for line in COMMANDS if line.startswith("pip install")]
    assert len(setup) == 2
    assert set(setup) <= set(script)


def of_a_small_one(installed, name, *how, count=catalogue.model_row):
    """In the row of each model: tests/cli/test_plugins.py counts all thirty."""
    return {**count(installed, "lenet300-100", *how), "name": name}


@pytest.mark.slow
def test_every_command_runs(warm_server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # a few steps of thirty networks, up to ImageNet's size; tests/runner/execution/test_forecast.py makes them
    monkeypatch.setattr(paces, "_together", lambda arguments, copies: [Pace(0.1, 0.1, 0.001)] * copies)
    monkeypatch.setattr(local, "cores", lambda: 1)  # timing on two threads takes minutes beside other tests
    monkeypatch.setattr(catalogue, "model_row", of_a_small_one)
    ours = [line for line in COMMANDS if line.startswith("dstbench")]
    runs = [line for line in ours if line.startswith("dstbench run")]
    assert runs, "the README runs no suite"
    for line in sorted(ours, key=lambda line: line not in runs):  # others read what runs leave
        words = shlex.split(line)[1:] + (shlex.split(SMALL) if line in runs else [])
        done = CliRunner().invoke(app, words)
        verdict = {1, 3} if line.startswith("dstbench compare") else set()  # worse, can't tell
        assert done.exit_code in {0} | verdict, f"{line}: {done.output}"


BENCH = {
    "layers": "--only conv1x1-1024 --density 0.1 --rounds 1 --warmup 0",
    "models": "--model small_cnn --batch 2 --rounds 1 --warmup 0",
    "compact": "--phase inference --widths 'residual 40 %' --model cifar_resnet_20 --size 32 --batch 1 --rounds 1",
    "gpu": "--rounds 1",
    "step": "--model small_cnn --size 8 --rounds 2 --warmup 1",
    "update": "--model small_cnn --size 8 --rounds 2 --warmup 1",
    "scheduler": "--trials 1 --epochs 1 --rounds 1",
}


def test_bench_commands_run(warm_server, capsys, monkeypatch):
    from dstbench import bench
    from dstbench.bench import single_layers

    commands = [line.split()[3:] for line in COMMANDS if line.startswith("python -m dstbench.bench")]
    assert commands == [[subject] for subject in BENCH]
    monkeypatch.setattr(bench, "settle", lambda: None)
    layer, (_, *image) = single_layers.CASES["conv1x1-1024"]
    monkeypatch.setitem(single_layers.CASES, "conv1x1-1024", (layer, (2, *image)))
    for words in commands:
        small = [*shlex.split(BENCH[words[0]]), "--threads", "1"]
        monkeypatch.setattr("sys.argv", ["bench", *words, *small])
        if words == ["gpu"]:
            monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
            with pytest.raises(SystemExit):
                bench.main()
            assert "expected a CUDA device" in capsys.readouterr().err
            continue
        bench.main()
        measured = json.loads(capsys.readouterr().out)
        assert measured["machine"]["cores"]
        figures = ("ratio", "speedup", "sparse_over_dense", "update_ms", "scheduler_s")
        assert all(any(name in row for name in figures) for row in measured["rows"])
