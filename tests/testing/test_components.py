"""Checks by name, over what is registered."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from dstbench.cli.plugins import plugins_app
from dstbench.errors import BadInput
from dstbench.registration.registry import _registry, registry
from dstbench.testing import check_component, check_loading, problems
from fake_distribution import install, registering
from fakes.folders import write_plain

NEED_FILES = {("dataset", "folder"), ("dataset", "text"), ("dataset", "tokens")}
BUILTIN = [
    (kind, name)
    for kind, components in registry().items()
    for name, component in components.items()
    if component.distribution == "dstbench" and (kind, name) not in NEED_FILES
]


@pytest.mark.parametrize(("kind", "name"), BUILTIN)
def test_every_builtin_conforms(kind, name):
    assert check_component(kind, name) == []


def test_a_folder_of_ones_own_conforms_but_for_what_only_the_folder_tells(tmp_path):
    write_plain(tmp_path / "photos", 3, 10, 2)
    found = check_component("dataset", {"name": "folder", "root": str(tmp_path / "photos"), "size": 16})
    assert [problem.check for problem in found] == ["metadata"]  # its shape and its classes


def test_a_text_of_ones_own_conforms_but_for_what_only_the_text_tells(tmp_path):
    (tmp_path / "mine.txt").write_text("to be or not to be, that is the question. " * 30)
    spec = {"name": "text", "file": str(tmp_path / "mine.txt"), "block": 8}
    assert [problem.check for problem in check_component("dataset", spec)] == ["metadata"]


@pytest.mark.parametrize(
    ("block_size", "columns", "balanced"), [(1, "entry", False), (3, "channel", False), (4, "entry", True)]
)
def test_shuffled_blocks_conform_with_other_parameters(block_size, columns, balanced):
    spec = {"name": "shuffled_block", "block_size": block_size, "columns": columns, "balanced": balanced}
    assert check_component("structure", spec) == []


def test_a_variant_of_a_family():
    assert check_component("model", "timm:resnet10t") == []


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on ``sys.path`` for made-up distributions."""
    _registry.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    _registry.cache_clear()


BAD = """
from dstbench.api import Recipe
import torch
from torch import nn

def score(layer, rng, *, untyped=1):
    return layer.weight.abs()

def quits(layer, rng):
    raise SystemExit(3)

class Misspelt:
    need = "grad"

    def __call__(self, layer, rng):
        return layer.weight.abs()

class Mistyped(Misspelt):
    needs = "grad"

class Misfitting:
    mis_fit = "classifier"

    def units(self, layer):
        return torch.arange(layer.numel).view(layer.shape)

class Retiling(Misfitting):
    whole_rows = "yes"

def model(num_classes, input_shape, *, width: float = 1.0):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))

@hookimpl
def register_grow(register):
    register("silent", score)
    register("quits", quits, summary="ends the process")
    register("misspelt", Misspelt, summary="an ability's name is wrong")
    register("mistyped", Mistyped, summary="an ability's type is wrong")
    register("absent", "nowhere_to_be_found:Score", summary="missing")

@hookimpl
def register_structure(register):
    register("misfitting", Misfitting, summary="an ability's name is wrong")
    register("retiling", Retiling, summary="an ability's type is wrong")

@hookimpl
def register_model(register):
    register("narrow", model, summary="ignores what it is given")

@hookimpl
def register_recipe(register):
    register("unknown-parts", lambda: Recipe(grow="gradeint"), summary="with a typing mistake")

@hookimpl
def register_dataset(register):
    register("void", lambda root, download: None, summary="nothing", revision="1", num_classes=2)
    said = {"revision": "1", "input_shape": (1, 8, 8), "num_classes": 10, "train_images": 5}
    register("miscounted", "dstbench_plugins.datasets.digits:Digits", summary="not five images", **said)
"""


@pytest.mark.parametrize(
    ("kind", "name", "check", "message"),
    [
        ("grow", "silent", "summary", "has no summary"),
        ("grow", "silent", "parameters", "parameter 'untyped' has no type hint"),
        ("grow", "absent", "builds", "can't import 'nowhere_to_be_found:Score'"),
        ("grow", "quits", "runs", "raised SystemExit: 3"),
        ("grow", "misspelt", "abilities", "nothing reads 'need'; did you mean 'needs'?"),
        ("grow", "mistyped", "builds", "needs: expected a Signal, got 'grad'"),
        ("structure", "misfitting", "abilities", "nothing reads 'mis_fit'; did you mean 'misfit'?"),
        ("structure", "retiling", "abilities", "nothing reads 'mis_fit'; did you mean 'misfit'?"),
        ("model", "narrow", "output", "expected [2, 10] for two images, got [2, 5]"),
        ("model", "narrow", "width", "width=0.5 doesn't make it smaller"),
        ("recipe", "unknown-parts", "grow", "unknown grow 'gradeint'; did you mean 'gradient'"),
        ("dataset", "void", "metadata", "isn't registered with 'input_shape'"),
        ("dataset", "void", "type", "expected TaskData or ImageData, got NoneType"),
        ("dataset", "miscounted", "metadata", "registered with train_images 5, but it is 1258"),
    ],
)
def test_broken_components(site, kind, name, check, message):
    install(site, "bad", BAD)
    found = {problem.check: problem for problem in check_component(kind, name)}
    assert message in found[check].message
    assert str(found[check]).startswith(f"{kind} {name}: {check}: ")


def test_plugins_check_prints_a_near_miss_and_fails(site):
    install(site, "bad", BAD)
    result = CliRunner().invoke(plugins_app, ["check", "grow", "misspelt"], catch_exceptions=False)
    assert result.exit_code == 1
    assert result.stdout == "grow misspelt: abilities: nothing reads 'need'; did you mean 'needs'?\n"


def test_problems_of_one_distribution(site):
    install(site, "broken", "1 / 0")
    install(site, "fine", registering("grow", "mine"))
    install(site, "bad", registering("grow", "theirs", target="nowhere:Score"))
    assert problems(distribution="fine") == []
    assert {problem.component for problem in problems(distribution="bad")} == {"grow theirs"}
    [loading] = problems(distribution="broken")
    assert (loading.check, "ZeroDivisionError" in loading.message) == ("loads", True)
    assert check_loading() == [loading]
    assert check_loading(distribution="fine") == []


def test_an_unknown_name_is_the_callers_mistake():
    with pytest.raises(BadInput, match="unknown grow 'gradeint'"):
        check_component("grow", "gradeint")
