"""Loading, isolation and names of components, through real entry points; observers."""

from __future__ import annotations

import logging
import subprocess
import sys

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
