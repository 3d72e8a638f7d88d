"""Choices: a spec resolved once, and aliases, through real entry points."""

from __future__ import annotations

import dataclasses

import pytest

from dstbench.errors import BadInput
from dstbench.registration.registry import Registry, _registry, registry
from fake_distribution import install

TARGETS = """
    from dataclasses import dataclass
    from dstbench.api import InPlace, Policy, Random, Recipe

    @dataclass(frozen=True)
    class Score:
        power: float = 1.0
        sizes: tuple[int, ...] = (1, 2)

        def __call__(self, layer, rng):
            return layer.weight.abs() ** self.power

    def share(layers, candidates, n, *, power: float = 1.0):
        return {name: power for name in layers}

    def rows(height: int, width: int = 4):
        return Rows(height, width)

    @dataclass(frozen=True)
    class Rows:
        height: int
        width: int

        def units(self, layer):
            return None

    def model(num_classes: int, input_shape, *, variant: str, width: float = 1.0, **extra):
        return (variant, width, extra)

    def method(zeta: float = 0.3, delta_t: int = 100):
        return Recipe(grow="random", schedule={"name": "cosine", "alpha": zeta, "delta_t": delta_t})

    @hookimpl
    def register_share(register):
        register("even", share)

    @hookimpl
    def register_grow(register):
        register("score", Score)
        register("cube", Score, parameters={"power": 3, "sizes": [4]})
        register("evenly", Score, parameters={"share": {"name": "even", "power": 2.0}})
        register("typo", Score, parameters={"powr": 2.0})
        register("wrong", Score, parameters={"power": "high"})

    @hookimpl
    def register_structure(register):
        register("rows", rows)
        register("pairs", rows, parameters={"height": 2})

    @hookimpl
    def register_schedule(register):
        register("shared", "dstbench_plugins.schedule.dst:Cosine", parameters={"share": "even"})

    @hookimpl
    def register_model(register):
        register("fam:", model)
        register("wide:", model, parameters={"width": 2.0})
        register("one", model, parameters={"variant": "one", "depth": 3})

    @hookimpl
    def register_recipe(register):
        register("method", method)
        register("often", method, parameters={"delta_t": 10}, version="3")
        register("long", method, parameters={"multiplier": 2, "grow": "score"})
"""


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


def test_a_choice_is_frozen_and_makes_anew(found):
    choice = found.choose("grow", {"name": "score", "power": 2, "share": "global"})
    assert choice.component is found.resolve("grow", "score")
    assert choice.parameters == {"power": 2.0}
    assert choice.changes == {"share": found.choose("share", "global")}
    assert choice.make() == choice.make() == found.build("grow", choice.normal)
    assert choice.make().score is not choice.make().score
    with pytest.raises(dataclasses.FrozenInstanceError):
        choice.parameters = {}


def test_every_name_is_found_once(monkeypatch):
    names = []
    find = Registry._find
    monkeypatch.setattr(
        Registry, "_find", lambda self, kind, name: names.append(name) or find(self, kind, name)
    )
    share = {"name": "magnitude", "share": "global"}
    choice = registry().choose("recipe", {"name": "rigl", "prune": share, "schedule": "never"})
    assert names == ["rigl", "magnitude", "global", "never"]
    names.clear()
    assert choice.normal == {
        "name": "rigl",
        "prune": {**share, "share": {"name": "global"}},
        "schedule": {"name": "never"},
    }
    assert names == ["magnitude", "cosine"]  # the recipe's own, to tell whether the changes are any
    assert (choice.versions["name"], choice.make().schedule, len(names)) == (
        "dstbench/rigl",
        {"name": "never"},
        2,
    )


CHANGED = {  # spec -> its canonical form
    "a default": ({"name": "rigl", "alpha": 0.3}, {"name": "rigl"}),
    "a default in another type": ({"name": "rigl", "multiplier": 1}, {"name": "rigl"}),
    "its own piece": ({"name": "rigl", "grow": {"name": "gradient", "share": "in_place"}}, {"name": "rigl"}),
    "its own piece's parameters": (
        {"name": "rigl", "schedule": {"name": "cosine", "alpha": 0.3, "delta_t": 100}},
        {"name": "rigl"},
    ),
    "a list for a tuple": (
        {"name": "mest", "mu": [0.2, 0.1, 0.0], "dense_layers": ["@first_conv"]},
        {"name": "mest", "dense_layers": ["@first_conv"]},
    ),
    "in order": (
        {"schedule": "never", "grow": "momentum", "stop": 0.5, "alpha": 0.2, "name": "rigl"},
        {
            "name": "rigl",
            "alpha": 0.2,
            "stop": 0.5,
            "grow": {"name": "momentum"},
            "schedule": {"name": "never"},
        },
    ),
    "an alias's own": ({"name": "chase-0.4", "channel_sparsity": 0.4, "delta_t": 100}, {"name": "chase-0.4"}),
    "an alias's parameter": ({"name": "chase-0.4", "delta_t": 50}, {"name": "chase-0.4", "delta_t": 50}),
    "an alias's own piece": ({"name": "chase-1.5x-0.3", "multiplier": 1.5}, {"name": "chase-1.5x-0.3"}),
    "an alias's piece": (
        {"name": "chase-1.5x-0", "multiplier": 1},
        {"name": "chase-1.5x-0", "multiplier": 1.0},
    ),
    "what an alias sets": (
        {"name": "dsb-32", "block_size": 8, "delta_t": 5},
        {"name": "dsb-32", "block_size": 8, "delta_t": 5},
    ),
}


@pytest.mark.parametrize(("spec", "normal"), CHANGED.values(), ids=CHANGED)
def test_canonical_forms_of_recipes(spec, normal):
    assert list(registry().normalise("recipe", spec).items()) == list(normal.items())
    assert registry().normalise("recipe", normal) == normal


# Aliases


@pytest.mark.parametrize(
    ("kind", "name", "spec"),
    [
        ("grow", "cube", {"name": "score", "power": 3.0, "sizes": (4,)}),
        ("structure", "pairs", {"name": "rows", "height": 2}),
        ("recipe", "often", {"name": "method", "delta_t": 10}),
        ("recipe", "long", {"name": "method", "multiplier": 2.0, "grow": "score"}),
    ],
)
def test_an_alias_makes_what_its_spec_does_under_its_own_name(found, kind, name, spec):
    assert found.build(kind, name) == found.build(kind, spec)
    assert found.normalise(kind, name) == {"name": f"o/{name}"}
    assert found.normalise(kind, {**spec, "name": name}) == {"name": f"o/{name}"}
    assert found.versions(kind, name)["name"] == f"o/{name}"


def test_an_alias_has_its_own_version(found):
    assert (found.versions("recipe", "often")["version"], found.versions("recipe", "method")["version"]) == (
        "3",
        "1",
    )


def test_what_an_alias_sets_is_a_default(found):
    assert {p.name: p.default for p in found["grow"]["cube"].parameters()} == {"power": 3.0, "sizes": (4,)}
    assert [(p.name, p.default, p.required) for p in found["structure"]["pairs"].parameters()] == [
        ("height", 2, False),
        ("width", 4, False),
    ]
    spec = {"name": "cube", "power": 1.0, "sizes": [4]}
    assert found.normalise("grow", spec) == {"name": "o/cube", "power": 1.0}
    assert found.build("grow", spec).score == found.build("grow", {"name": "score", "sizes": [4]}).score
    spec = {"name": "long", "multiplier": 1, "grow": {"name": "random"}, "zeta": 0.5}
    normal = {"name": "o/long", "zeta": 0.5, "grow": {"name": "random"}, "multiplier": 1.0}
    assert found.normalise("recipe", spec) == normal
    assert found.build("recipe", normal) == found.build(
        "recipe", {"name": "method", "zeta": 0.5, "grow": {"name": "random"}}
    )


def test_an_alias_with_a_share(found):
    assert found.normalise("grow", "evenly") == {"name": "o/evenly"}
    even = {"name": "o/even", "power": 2.0}
    assert found.normalise("grow", {"name": "evenly", "share": even}) == {"name": "o/evenly"}
    assert found.build("grow", "evenly").share({"a": None}, {}, 1) == {"a": 2.0}
    other = {"name": "o/evenly", "share": {"name": "in_place"}}
    assert found.normalise("grow", {"name": "evenly", "share": "in_place"}) == other


def test_aliases_of_and_within_families(found):
    made = {"num_classes": 2, "input_shape": (1, 2, 2)}
    assert found.normalise("model", "wide:x") == {"name": "o/wide:x"}
    assert found.build("model", "wide:x")(**made) == ("x", 2.0, {})
    assert found.normalise("model", {"name": "wide:x", "width": 1}) == {"name": "o/wide:x", "width": 1.0}
    assert found.build("model", "one")(**made) == ("one", 1.0, {"depth": 3})
    assert found.normalise("model", {"name": "one", "depth": 3}) == {"name": "o/one"}
    assert found.normalise("model", {"name": "one", "depth": 4}) == {"name": "o/one", "depth": 4}


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("grow", "typo", "grow 'typo': unknown parameter 'powr'; did you mean 'power'"),
        ("grow", "wrong", r"grow 'wrong': parameter 'power' expected float, got 'high' \(str\)"),
        ("schedule", "shared", "schedule 'shared': only init, prune, grow take a share"),
    ],
)
def test_an_alias_of_what_its_target_does_not_take(found, kind, name, message):
    with pytest.raises(BadInput, match=message):
        found.choose(kind, name)
