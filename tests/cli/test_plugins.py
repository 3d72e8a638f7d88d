"""The commands plugins, models and datasets."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import pytest
import typer
from typer.testing import CliRunner

from dstbench.cli import catalogue
from dstbench.cli.plugins import datasets, describe, models, plugins_app
from dstbench.cli.scaffold import scaffold
from dstbench.errors import BadInput
from dstbench.registration.registry import _registry, registry
from fake_distribution import install, registering

app = typer.Typer()
app.add_typer(plugins_app, name="plugins")
app.command()(models)
app.command()(datasets)


def run(*arguments):
    """Output of a command that ends well."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments):
    """The message of a command that the user got wrong."""
    with pytest.raises(BadInput) as caught:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    return str(caught.value)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on ``sys.path`` for made-up distributions."""
    _registry.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    _registry.cache_clear()


def test_list_is_an_array_with_name_first():
    rows = json.loads(run("plugins", "list", "--json"))
    assert all(next(iter(row)) == "name" for row in rows)
    assert len(rows) == sum(len(components) for components in registry().values())
    [erk] = [row for row in rows if (row["kind"], row["name"]) == ("init", "erk")]
    assert (erk["distribution"], erk["version"], erk["status"]) == ("dstbench", "1", "ok")
    assert erk["summary"]


def test_list_as_a_table_of_one_kind():
    lines = run("plugins", "list", "--kind", "grow").splitlines()
    assert lines[0].split() == ["kind", "name", "distribution", "version", "summary"]
    assert {line.split()[1] for line in lines[1:]} == set(registry()["grow"])


def test_list_leaves_torch_alone():
    code = (
        "import sys; from dstbench.cli.plugins import plugins_app\n"
        "plugins_app(['list'], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_disabled_plugins_are_listed(site):
    install(site, "broken", "1 / 0", plugin="bad", version="3.0")
    rows = json.loads(run("plugins", "list", "--json"))
    [row] = [row for row in rows if row["status"] == "disabled"]
    assert (row["name"], row["kind"], row["distribution"]) == ("bad", "plugin", "broken")
    assert row["distribution_version"] == "3.0"
    assert "ZeroDivisionError" in row["reason"]
    result = CliRunner().invoke(app, ["plugins", "list"], catch_exceptions=False)
    assert "disabled: bad (broken 3.0): ZeroDivisionError" in result.stderr


def test_show():
    details = json.loads(run("plugins", "show", "grow", "random", "--json"))
    assert details["name"] == "random"
    assert details["full_name"] == "dstbench/random"
    assert details["parameters"] == [
        {"name": "exclude_dropped", "type": "bool", "default": False, "required": False}
    ]
    assert details["file"].endswith("strategies.py")
    assert details["line"] > 1
    assert details["documentation"].startswith("Uniformly random")
    text = run("plugins", "show", "grow", "random")
    assert "exclude_dropped  bool  False" in text


def test_show_a_recipe_with_its_parts():
    parts = json.loads(run("plugins", "show", "rigl", "--json"))["parts"]
    assert parts["grow"]["name"] == "gradient"
    assert set(parts) >= {"init", "structure", "prune", "grow", "schedule"}
    assert "grow: {'name': 'gradient'" in run("plugins", "show", "recipe", "rigl")


def test_show_calls_the_parts_of_a_recipe_by_the_names_that_say_most():
    installed = registry()
    assert describe(installed, "recipe", "chts")["parts"]["grow"] == {"name": "ch2-l3n", "soft": True}
    assert installed.normalise("grow", "ch2-l3n") == {"name": "ch2-l3n"}  # a key of its own, which stays
    assert describe(installed, "recipe", "gse")["parts"]["grow"]["name"] == "gse"


def test_show_says_of_what_a_name_is_an_alias(site):
    assert "alias of              {'name': 'chase', 'channel_sparsity': 0.4}" in run(
        "plugins", "show", "chase-0.4"
    )
    assert "alias" not in run("plugins", "show", "chase")
    details = json.loads(run("plugins", "show", "recipe", "chase-1.5x-0.3", "--json"))
    assert details["alias_of"] == {"name": "chase", "channel_sparsity": 0.3, "multiplier": 1.5}
    assert {p["name"]: p["default"] for p in details["parameters"]}["channel_sparsity"] == 0.3
    assert (details["parts"]["multiplier"], details["parts"]["structure"]["channel_sparsity"]) == (1.5, 0.3)
    source = "@hookimpl\ndef register_grow(register):\n"
    source += "    register('late', 'dstbench.api:Random', parameters={'exclude_dropped': True})\n"
    source += "    register('odd', 'torch.nn:Linear', parameters={'bias': True})\n"
    install(site, "outsider", source)
    _registry.cache_clear()
    late, odd = (json.loads(run("plugins", "show", name, "--json"))["alias_of"] for name in ("late", "odd"))
    assert late == {"name": "random", "exclude_dropped": True}
    assert odd == {"name": "torch.nn:Linear", "bias": True}


def test_names_are_refused_with_the_nearest():
    assert "did you mean 'gradient'" in refused("plugins", "show", "gradeint")
    assert "did you mean 'grow'" in refused("plugins", "show", "grwo", "gradient")
    assert "'random' is registered as prune and grow: say which" in refused("plugins", "show", "random")
    assert "unknown kind 'grw'" in refused("plugins", "list", "--kind", "grw")
    assert "no plugin comes from 'dstbnch'; did you mean 'dstbench'" in refused(
        "plugins", "check", "--distribution", "dstbnch"
    )
    assert "not both" in refused("plugins", "check", "erk", "--distribution", "dstbench")


def test_check_of_a_good_one():
    assert run("plugins", "check", "init", "erk") == "init erk: ok\n"
    kinds = ["init", "prune", "grow"]
    assert run("plugins", "check", "magnitude").splitlines() == [f"{kind} magnitude: ok" for kind in kinds]
    assert json.loads(run("plugins", "check", "schedule", "--json")) == []


BAD = """
import torch

def wrong(layer, rng):
    return torch.zeros(3)

@hookimpl
def register_grow(register):
    register("wrong", wrong, summary="of the wrong shape")
"""


def test_check_of_a_bad_one_names_it_and_exits_1(site):
    install(site, "bad-scores", BAD)
    result = CliRunner().invoke(app, ["plugins", "check", "wrong"], catch_exceptions=False)
    assert result.exit_code == 1
    assert "grow wrong: shape: layer 'one' [1, 1], half: expected [1, 1], got [3]" in result.stdout
    result = CliRunner().invoke(app, ["plugins", "check", "--distribution", "Bad_Scores", "--json"])
    assert result.exit_code == 1
    # it also ignores the weight's device
    assert {(row["component"], row["check"]) for row in json.loads(result.stdout)} == {
        ("grow wrong", "shape"),
        ("grow wrong", "device"),
    }


def test_check_of_a_distribution_whose_plugin_is_broken(site):
    install(site, "broken", "1 / 0", plugin="bad")
    result = CliRunner().invoke(app, ["plugins", "check", "--distribution", "broken"], catch_exceptions=False)
    assert result.exit_code == 1
    assert "plugin bad of broken 1.0: loads: ZeroDivisionError" in result.stdout


# Scaffold

KINDS = [
    "init",
    "structure",
    "prune",
    "grow",
    "share",
    "schedule",
    "values",
    "recipe",
    "model",
    "dataset",
    "executor",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_scaffold_conforms(site, kind):
    from dstbench.testing import check_component

    name = f"made-{kind}"
    folder = scaffold(kind, name, site / "out")
    module = f"dstbench_made_{kind}"
    source = f"import sys; sys.path.insert(0, {str(folder / 'src')!r})\nfrom {module}.plugin import *\n"
    install(site, f"dstbench-{name}", source, plugin=name)
    assert check_component(kind, f"dstbench-{name}/{name}", registry(strict=True)) == []


def test_scaffold_builds_and_passes_its_own_test(tmp_path):
    output = run("plugins", "new", "--kind", "grow", "my-score", "--out", str(tmp_path))
    folder = tmp_path / "dstbench-my-score"
    assert f"pip install -e {folder}" in output
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"import sys, pytest; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
    code += "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-W', 'error']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("grow", "none", "'none' would make a class None, which is a word of Python's"),
        ("grow", "true", "'true' would make a class True"),
        ("grow", "random", "grow 'random' is there already, from dstbench"),
        ("structure", "shuffled-block", "structure 'shuffled_block' is there already, from dstbench"),
    ],
)
def test_scaffold_refuses_names_that_are_taken(tmp_path, kind, name, reason):
    assert reason in refused("plugins", "new", "--kind", kind, name, "--out", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_scaffold_refuses_what_it_cannot_make(tmp_path):
    assert "no template for 'grw'; did you mean 'grow'" in refused(
        "plugins", "new", "x", "--kind", "grw", "--out", str(tmp_path)
    )
    assert "expected lower-case words" in refused("plugins", "new", "My Score", "--out", str(tmp_path))
    run("plugins", "new", "mine", "--out", str(tmp_path))
    (tmp_path / "dstbench-mine" / "README.md").write_text("edited")
    assert "exists: nothing was written" in refused("plugins", "new", "mine", "--out", str(tmp_path))
    assert (tmp_path / "dstbench-mine" / "README.md").read_text() == "edited"


# Models and data sets


def test_models():
    rows = {row["name"]: row for row in json.loads(run("models", "--json"))}
    assert set(rows) == {name for name in registry()["model"] if not name.endswith(":")}
    lenet = rows["lenet300-100"]
    assert next(iter(lenet)) == "name"
    assert lenet["parameters"] == 784 * 300 + 300 * 100 + 100 * 10 + 410
    assert lenet["maskable"] == lenet["macs"] == 784 * 300 + 300 * 100 + 100 * 10
    assert (lenet["input_shape"], lenet["num_classes"]) == ([1, 28, 28], 10)


def test_flops_by_another_convention():
    [row] = json.loads(run("models", "lenet300-100", "--convention", "rigl", "--json"))
    assert (row["convention"], row["flops"]) == ("rigl", 2 * row["macs"] + 410)
    assert "532,810" in run("models", "lenet300-100", "--convention", "rigl")


def test_models_as_a_table(monkeypatch):
    """Without their sizes: test_models counts them."""
    sizes = {"parameters": 1, "maskable": 1, "macs": 1, "input_shape": [1, 28, 28], "num_classes": 10}
    monkeypatch.setattr(catalogue, "model_row", lambda installed, name, *how: {**sizes, "name": name})
    listing = run("models")
    assert all(name in listing for name in registry()["model"])
    assert "and timm:NAME: " in listing


def test_one_model_with_other_classes_and_input():
    arguments = ["models", "lenet300-100", "--num-classes", "7", "--input-shape", "1,8,8", "--json"]
    [row] = json.loads(run(*arguments))
    assert row["maskable"] == 64 * 300 + 300 * 100 + 100 * 7
    assert "expected channels,height,width" in refused("models", "small_cnn", "--input-shape", "8,8")
    assert "unknown model 'small_cn'" in refused("models", "small_cn")


def test_models_leave_the_global_generator_alone():
    import torch

    torch.manual_seed(3)
    state = torch.get_rng_state()
    run("models", "small_cnn")
    assert torch.equal(state, torch.get_rng_state())


def test_datasets(site):
    rows = {row["name"]: row for row in json.loads(run("datasets", "--json"))}
    assert rows["digits"]["input_shape"] == [1, 8, 8]
    assert rows["cifar100"]["num_classes"] == 100
    assert rows["imagenet"]["train"] == 1_271_167
    assert "chase" in rows["cifar10"]["presets"]
    assert "chase" in run("plugins", "show", "dataset", "cifar10")
    assert "chase, dsb, itop, mest, plain" in run("datasets")
    [digits] = json.loads(run("datasets", "digits", "--json"))
    assert digits["train"] + digits["validation"] + digits["test"] == 1797
    assert "unknown dataset 'digts'" in refused("datasets", "digts")


@pytest.mark.parametrize("where", [[], ["--data-root", "nowhere"]])
def test_a_data_set_without_its_files_says_what_was_looked_for(site, where):
    message = refused("datasets", "cifar10", *where)
    assert "cifar-10-batches-py" in message
    assert "--download" in message


def test_a_model_of_a_third_party_is_listed(site):
    install(site, "outsider", registering("model", "theirs", target="torch.nn:Linear"))
    assert "theirs" in {
        row["name"] for row in json.loads(run("plugins", "list", "--kind", "model", "--json"))
    }


def test_show_says_formula_source_defaults_and_departures():
    text = CliRunner().invoke(plugins_app, ["show", "grow", "ch3-l3n"]).output
    for said in ("arXiv 2501.19107", "φ = (c + 1)/(d - c)", "Departures:", "variant", "computes: log S"):
        assert said in text


def test_show_of_a_function_says_what_its_score_does():
    text = CliRunner().invoke(plugins_app, ["show", "init", "brf"]).output
    for said in (
        "as published",
        "p ∝ (1 + D)^(-(1 - r)/r)",
        "Departures: the paper fixes",
        "computes: At least 1",
    ):
        assert said in text
