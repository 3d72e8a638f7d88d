"""Loading, isolation, names and parameters of components, through real entry points."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import dstbench
from dstbench.errors import BadInput
from dstbench.hookspecs import KINDS
from dstbench.registration.registry import PluginError, Registry, _registry, registry
from fake_distribution import install, registering


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on ``sys.path`` for made-up distributions."""
    monkeypatch.delenv("DSTBENCH_DISABLE_PLUGINS", raising=False)
    monkeypatch.delenv("DSTBENCH_STRICT_PLUGINS", raising=False)
    _registry.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    _registry.cache_clear()


def reason(found: Registry, plugin: str = "plugin") -> str:
    """Why a plugin is disabled."""
    [disabled] = [d for d in found.disabled if d.plugin == plugin]
    return disabled.reason


def test_builtins_come_through_the_entry_point():
    found = registry()
    assert list(found) == list(KINDS)
    component = found["grow"]["gradient"]
    assert (component.distribution, component.plugin) == ("dstbench", "builtin")
    assert component.distribution_version == dstbench.__version__
    assert component.full_name == "dstbench/gradient"
    assert component.summary


def test_registry_is_cached_and_callable_from_the_package():
    assert dstbench.registry() is registry() is dstbench.registry()


def test_importing_the_registry_leaves_torch_alone():
    code = "import dstbench, sys; dstbench.registry(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_third_party_by_short_and_full_name(site):
    install(site, "Some_Outsider", registering("grow", "mine"), version="2.1")
    found = registry()
    component = found.resolve("grow", "mine")
    assert component.full_name == "some-outsider/mine"
    assert component.distribution_version == "2.1"
    assert found.resolve("grow", "some-outsider/mine") is component
    assert found.resolve("grow", "Some_Outsider/mine") is component
    assert found.normalise("grow", "mine") == {"name": "some-outsider/mine"}


def test_builtin_keeps_its_short_name(site):
    install(site, "a-outsider", registering("grow", "gradient"))
    found = registry()
    assert found.resolve("grow", "gradient").distribution == "dstbench"
    assert found.resolve("grow", "a-outsider/gradient").distribution == "a-outsider"
    assert set(found["grow"]) >= {"gradient", "a-outsider/gradient"}


def test_two_third_parties_with_one_name_are_ambiguous_only_when_used(site):
    install(site, "first-party", registering("grow", "mine"), plugin="one")
    install(site, "second-party", registering("grow", "mine"), plugin="one")
    found = registry()
    assert not found.disabled
    with pytest.raises(BadInput, match="'mine' is ambiguous: say 'first-party/mine' or 'second-party/mine'"):
        found.resolve("grow", "mine")
    assert found.resolve("grow", "second-party/mine").distribution == "second-party"


BROKEN = {
    "import error": (
        "import no_such_module_anywhere",
        "ModuleNotFoundError: No module named",
    ),
    "exit at import": ("raise SystemExit(3)", "SystemExit: 3"),
    "typo in a hook": (
        "@hookimpl\ndef register_grwo(register): pass",
        "implements 'register_grwo', which is no hook of dstbench; did you mean 'register_grow'",
    ),
    "unknown hook argument": ("@hookimpl\ndef register_grow(registry): pass", "registry"),
    "registered twice": (registering("grow", "mine", "mine"), "registers grow 'mine' twice"),
    "hook raises": ("@hookimpl\ndef register_grow(register): 1 / 0", "ZeroDivisionError: division by zero"),
    "bad name": (registering("grow", "a/b"), "grow 'a/b': a name is letters, digits"),
    "bad target": (registering("grow", "mine", target="nowhere"), "expected a target such as"),
    "no target": ("@hookimpl\ndef register_grow(register): register('x', None)", "the target is None"),
    "bad version": (
        "@hookimpl\ndef register_grow(register): register('x', 'a:b', version=2)",
        "version and summary are strings",
    ),
    "bad parameters": (
        "@hookimpl\ndef register_grow(register): register('x', 'a:b', parameters=['power'])",
        "grow 'x': expected parameters such as {'alpha': 0.5}, got ['power']",
    ),
    "another name": (
        "@hookimpl\ndef register_grow(register): register('x', 'a:b', parameters={'name': 'y'})",
        "grow 'x': expected parameters such as {'alpha': 0.5}, got {'name': 'y'}",
    ),
    "forgotten mark": ("def register_grow(register): pass", "register_grow isn't marked @dstbench.hookimpl"),
    "no hooks": ("", "has no function marked"),
    "no argument": ("@hookimpl\ndef register_grow(): pass", "takes no argument 'register'"),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef register_grow(register):\n    return (yield)",
        "register_grow is a hook wrapper",
    ),
}


@pytest.mark.parametrize(("source", "expected"), BROKEN.values(), ids=BROKEN)
def test_broken_plugin_is_disabled_with_its_reason(site, source, expected):
    install(site, "broken", source, plugin="bad")
    install(site, "working", registering("grow", "mine"))
    found = registry()
    assert expected in reason(found, "bad")
    assert "mine" in found["grow"]
    assert "gradient" in found["grow"]


@pytest.mark.parametrize("by_environment", [False, True])
def test_strict_raises_and_names_the_plugin(site, monkeypatch, by_environment):
    install(site, "broken", "1 / 0", plugin="bad", version="3")
    if by_environment:
        monkeypatch.setenv("DSTBENCH_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"plugin bad \(broken 3\): ZeroDivisionError"):
        registry(strict=not by_environment)


def test_what_a_plugin_prints_is_no_output(site, capsys):
    install(site, "chatty", "print('hello')\n" + registering("grow", "mine"))
    assert "mine" in registry()["grow"]
    assert capsys.readouterr() == ("", "hello\n")


def test_all_or_nothing(site):
    install(site, "broken", registering("grow", "mine") + "@hookimpl\ndef register_prune(register): 1 / 0")
    found = registry()
    assert "mine" not in found["grow"]
    assert "ZeroDivisionError" in reason(found)


def test_plugins_of_one_distribution_share_its_names(site):
    install(site, "outsider", registering("grow", "mine"), plugin="one")
    install(site, "outsider", registering("grow", "mine", "other"), plugin="two")
    found = registry()
    assert "which plugin 'one' of the same distribution registers too" in reason(found, "two")
    assert found.resolve("grow", "mine").plugin == "one"
    assert "other" not in found["grow"]


def test_distribution_listed_twice_is_loaded_once(site, monkeypatch):
    install(site, "outsider", registering("grow", "mine"), version="1.0")
    install(site / "wheel", "outsider", registering("grow", "mine"), version="0.9")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site / "wheel")])
    found = registry()
    assert not found.disabled
    assert found.resolve("grow", "mine").distribution_version == "1.0"


@pytest.mark.parametrize("name", ["plugin", "an-outsider", "An_Outsider"])
@pytest.mark.parametrize("by_environment", [False, True])
def test_switching_off(site, monkeypatch, name, by_environment):
    install(site, "an-outsider", registering("grow", "mine"))
    if by_environment:
        monkeypatch.setenv("DSTBENCH_DISABLE_PLUGINS", f"absent, {name}")
    found = registry() if by_environment else registry(no_plugins={name})
    assert "mine" not in found["grow"]
    assert "switched off" in reason(found)
    with pytest.raises(
        BadInput, match=r"unknown grow 'mine'.*disabled plugins: plugin \(an-outsider 1.0\): switched off"
    ):
        found.resolve("grow", "mine")


def test_switching_off_what_is_not_there(site):
    with pytest.raises(BadInput, match="'buildin' to switch off; did you mean 'builtin'"):
        registry(no_plugins=["buildin"])


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("grow", "gradeint", "unknown grow 'gradeint'; did you mean 'gradient'"),
        ("prune", "gradient", "'gradient' is registered as grow"),
        ("grow", "dstbench/gradeint", "did you mean 'dstbench/gradient'"),
        ("model", "tim:resnet18", "did you mean 'timm:'"),
        ("grwo", "gradient", "unknown kind 'grwo'; did you mean 'grow'"),
        ("grow", 3, r"grow: expected a name, got 3 \(int\)"),
    ],
)
def test_unknown_names(kind, name, message):
    with pytest.raises(BadInput, match=message):
        registry().resolve(kind, name)


def test_import_of_a_target_fails_with_its_name(site):
    install(site, "outsider", registering("grow", "mine", target="no_such_package_here:Thing"))
    with pytest.raises(BadInput, match=r"'outsider/mine': can't import 'no_such_package_here:Thing': Mod"):
        registry().normalise("grow", "mine")


# Parameters


TARGETS = '''
    from dataclasses import dataclass, field
    from typing import Literal
    import torch
    from dstbench.api import InPlace, Policy, Random, Recipe, Signal

    @dataclass(frozen=True)
    class Score:
        """Scores for a test."""
        power: float = 1.0
        steps: int = 10
        mode: Literal["a", "b"] = "a"
        sizes: tuple[int, ...] = (1, 2)
        flag: bool = False
        limit: float | None = None

        def __post_init__(self):
            if self.power < 0:
                raise ValueError(f"power must be >= 0, got {self.power}")

        def __call__(self, layer, rng):
            return layer.weight.abs() ** self.power

    def plain(layer, rng, *, scale: float = 2.0):
        return layer.weight * scale
    plain.needs = Signal.GRAD

    def share(layers, candidates, n):
        return {name: 1.0 for name in layers}

    def policy(power: float = 2.0):
        return Policy(Score(power=power), InPlace())

    def odd(a):
        return a

    def model(num_classes: int, input_shape, *, width: float = 1.0, **extra):
        return (num_classes, input_shape, width, extra)

    def family(num_classes: int, input_shape, *, variant: str):
        return variant

    def recipe(power: float = 1.0, *, name_of: str = "random"):
        return Recipe(grow={"name": name_of}, init="uniform")

    def no_recipe():
        return 3

    @dataclass(frozen=True)
    class Layout:
        height: int
        def units(self, layer):
            return torch.arange(layer.numel).view(layer.shape)

    def every(clock, density, *, delta_t: int = 100):
        return None

    @hookimpl
    def register_grow(register):
        register("score", Score)
        register("plain", plain)
        register("share", share)
        register("policy", policy)
        register("ready", Policy(Random(exclude_dropped=True)))
        register("odd", odd)

    @hookimpl
    def register_share(register):
        register("even", share)
        register("wrong", plain)

    @hookimpl
    def register_model(register):
        register("net", model)
        register("fam:", family)

    @hookimpl
    def register_recipe(register):
        register("method", recipe)
        register("none", no_recipe)
        register("data", Recipe(grow="random"))

    @hookimpl
    def register_structure(register):
        register("rows", Layout)
        register("nothing", Score)

    @hookimpl
    def register_schedule(register):
        register("every", every)
'''


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A registry with the components above, under the distribution 'o'."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "o", TARGETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        _registry.cache_clear()
        yield registry(strict=True)
    _registry.cache_clear()


def test_parameters_of_a_dataclass(found):
    parameters = {p.name: p for p in found["grow"]["score"].parameters()}
    assert list(parameters) == ["power", "steps", "mode", "sizes", "flag", "limit"]
    assert (parameters["power"].type, parameters["power"].default, parameters["power"].required) == (
        "float",
        1.0,
        False,
    )
    assert parameters["mode"].type == "Literal['a', 'b']"
    assert found["structure"]["rows"].parameters()[0].required


def test_parameters_of_functions(found):
    assert [p.name for p in found["grow"]["plain"].parameters()] == ["scale"]
    assert [p.name for p in found["model"]["net"].parameters()] == ["width"]
    assert [p.name for p in found["recipe"]["method"].parameters()] == ["power", "name_of"]
    assert [p.name for p in found["schedule"]["every"].parameters()] == ["delta_t"]
    assert found["grow"]["ready"].parameters() == ()


def test_defaults_are_omitted_and_forms_are_canonical(found):
    spec = {"name": "score", "steps": 10, "power": 1, "sizes": [1, 2], "mode": "a", "flag": False}
    assert found.normalise("grow", spec) == {"name": "o/score"}
    changed = {"name": "score", "power": 2, "sizes": (3,), "flag": True, "limit": 1, "mode": "b"}
    normal = found.normalise("grow", changed)
    assert normal == {"name": "o/score", "power": 2.0, "mode": "b", "sizes": [3], "flag": True, "limit": 1.0}
    assert isinstance(normal["power"], float)
    assert found.normalise("grow", normal) == normal
    assert found.build("grow", normal).score.sizes == (3,)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("power", "abc", r"parameter 'power' expected float, got 'abc' \(str\)"),
        ("power", True, r"parameter 'power' expected float, got True \(bool\)"),
        ("steps", True, r"parameter 'steps' expected int, got True \(bool\)"),
        ("steps", 1.5, r"parameter 'steps' expected int, got 1.5 \(float\)"),
        ("flag", 1, r"parameter 'flag' expected bool, got 1 \(int\)"),
        ("mode", "c", r"parameter 'mode' expected Literal\['a', 'b'\], got 'c'"),
        ("sizes", [1, "x"], r"parameter 'sizes' expected tuple\[int, ...\]"),
        ("powr", 1.0, "unknown parameter 'powr'; did you mean 'power'"),
        ("power", -1.0, "grow 'score': power must be >= 0, got -1.0"),
        ("power", object(), "not a value that a matrix file can hold"),
    ],
)
def test_bad_parameters(found, parameter, value, message):
    with pytest.raises(BadInput, match=message):
        found.normalise("grow", {"name": "score", parameter: value})


def test_required_parameter(found):
    with pytest.raises(BadInput, match=r"structure 'rows': parameter 'height' \(int\) is required"):
        found.build("structure", "rows")
    assert found.normalise("structure", {"name": "rows", "height": 2}) == {"name": "o/rows", "height": 2}


@pytest.mark.parametrize("spec", [3, None, {"power": 1.0}, ["score"]])
def test_not_a_spec(found, spec):
    with pytest.raises(BadInput, match="grow: expected a name or a mapping with the key 'name'"):
        found.build("grow", spec)


def test_policies(found):
    from dstbench.api import InPlace, Policy, Random, Signal

    assert found.build("grow", "score").share == InPlace()
    share = found.build("grow", "share")
    assert share.score == Random()
    assert share.share({"a": None}, {}, 1) == {"a": 1.0}
    assert found.build("grow", {"name": "policy", "power": 3}).score.power == 3.0
    assert found.build("grow", "ready") == Policy(Random(exclude_dropped=True))
    scaled = found.build("grow", {"name": "plain", "scale": 3}).score
    assert scaled.keywords == {"scale": 3.0}
    assert scaled.needs == Signal.GRAD  # attributes survive binding
    with pytest.raises(BadInput, match="grow 'odd': expected a Score"):
        found.build("grow", "odd")


def test_share_of_a_policy(found):
    even = {"name": "o/even"}
    assert found.normalise("grow", {"name": "score", "share": "even"}) == {"name": "o/score", "share": even}
    assert found.normalise("grow", {"name": "score", "share": "in_place"}) == {"name": "o/score"}
    assert found.build("grow", {"name": "policy", "share": "even"}).share({"a": None}, {}, 1) == {"a": 1.0}
    with pytest.raises(BadInput, match="grow 'share' is a share itself"):
        found.build("grow", {"name": "share", "share": "even"})
    with pytest.raises(BadInput, match="only init, prune, grow take a share"):
        found.build("schedule", {"name": "every", "share": "even"})
    with pytest.raises(BadInput, match="unknown share 'evn'"):
        found.normalise("grow", {"name": "score", "share": "evn"})
    with pytest.raises(BadInput, match="share 'wrong': expected to be called with"):
        found.build("grow", {"name": "score", "share": "wrong"})


def test_families(found):
    assert found.resolve("model", "fam:x").name == "fam:"
    assert found.normalise("model", "fam:hub:x/y") == {"name": "o/fam:hub:x/y"}
    assert found.normalise("model", {"name": "fam:", "variant": "x"}) == {"name": "o/fam:x"}
    assert found.build("model", "o/fam:x")(num_classes=2, input_shape=(1, 2, 2)) == "x"
    assert found.versions("model", "fam:x")["name"] == "o/fam:x"
    with pytest.raises(BadInput, match="variant is given twice"):
        found.build("model", {"name": "fam:x", "variant": "y"})
    with pytest.raises(BadInput, match=r"'variant' \(str\) is required"):
        found.build("model", "fam:")


def test_models_take_what_the_runner_passes(found):
    build = found.build("model", {"name": "net", "width": 2, "depth": 3})
    assert build(num_classes=5, input_shape=(1, 8, 8)) == (5, (1, 8, 8), 2.0, {"depth": 3})
    assert found.normalise("model", {"name": "net", "depth": 3}) == {"name": "o/net", "depth": 3}


def test_other_roles(found):
    assert found.build("recipe", "method").init == "uniform"
    assert found.build("recipe", "data").grow == "random"
    assert found.build("schedule", {"name": "every", "delta_t": 5}).keywords == {"delta_t": 5}
    assert found.build("structure", {"name": "rows", "height": 2}).height == 2
    with pytest.raises(BadInput, match="recipe 'none': expected a Recipe, got 3"):
        found.build("recipe", "none")
    with pytest.raises(BadInput, match="structure 'nothing': expected a Layout"):
        found.build("structure", "nothing")


def test_versions(found):
    assert found.versions("grow", {"name": "score", "share": "global"}) == {
        "name": "o/score",
        "version": "1",
        "distribution": "o",
        "distribution_version": "1.0",
        "share": {
            "name": "dstbench/global",
            "version": "1",
            "distribution": "dstbench",
            "distribution_version": dstbench.__version__,
        },
    }


def test_source(found):
    file, line = found["grow"]["score"].source()
    assert file is not None
    assert Path(file).read_text().splitlines()[line - 1 :][:2] == ["@dataclass(frozen=True)", "class Score:"]


# Observers


def test_observers_are_isolated(site, caplog):
    install(
        site,
        "watcher",
        """
        seen = []
        @hookimpl
        def topology_updated(trial, step):
            seen.append((trial["seed"], step))
        @hookimpl
        def trial_finished(result):
            seen.append(result)
        """,
    )
    install(site, "a-faulty", "@hookimpl\ndef topology_updated(step): 1 / (step - step)")
    hook = registry().hook
    seen = sys.modules[next(name for name in sys.modules if name.startswith("watcher_"))].seen
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            hook.topology_updated(trial={"seed": 7}, step=step, report={})
        hook.trial_started(trial={})
        hook.trial_finished(trial={}, result="done")
    assert seen == [(7, 1), (7, 2), "done"]
    assert [r.getMessage() for r in caplog.records] == ["observer topology_updated of plugin plugin failed"]
