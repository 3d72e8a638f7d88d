"""What components take: parameters, their defaults and canonical forms, what is refused, and in which role."""

from __future__ import annotations

from pathlib import Path

import pytest

import dstbench
from dstbench.errors import BadInput
from dstbench.registration.registry import _registry, registry
from fake_distribution import install

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
def components(tmp_path_factory):
    """A registry with the components above, under the distribution 'o'."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "o", TARGETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        _registry.cache_clear()
        yield registry(strict=True)
    _registry.cache_clear()


def test_parameters_of_a_dataclass(components):
    parameters = {p.name: p for p in components["grow"]["score"].parameters()}
    assert list(parameters) == ["power", "steps", "mode", "sizes", "flag", "limit"]
    assert (parameters["power"].type, parameters["power"].default, parameters["power"].required) == (
        "float",
        1.0,
        False,
    )
    assert parameters["mode"].type == "Literal['a', 'b']"
    assert components["structure"]["rows"].parameters()[0].required


def test_parameters_of_functions(components):
    assert [p.name for p in components["grow"]["plain"].parameters()] == ["scale"]
    assert [p.name for p in components["model"]["net"].parameters()] == ["width"]
    assert [p.name for p in components["recipe"]["method"].parameters()] == ["power", "name_of"]
    assert [p.name for p in components["schedule"]["every"].parameters()] == ["delta_t"]
    assert components["grow"]["ready"].parameters() == ()


def test_defaults_are_omitted_and_forms_are_canonical(components):
    spec = {"name": "score", "steps": 10, "power": 1, "sizes": [1, 2], "mode": "a", "flag": False}
    assert components.normalise("grow", spec) == {"name": "o/score"}
    changed = {"name": "score", "power": 2, "sizes": (3,), "flag": True, "limit": 1, "mode": "b"}
    normal = components.normalise("grow", changed)
    assert normal == {"name": "o/score", "power": 2.0, "mode": "b", "sizes": [3], "flag": True, "limit": 1.0}
    assert isinstance(normal["power"], float)
    assert components.normalise("grow", normal) == normal
    assert components.build("grow", normal).score.sizes == (3,)


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
def test_bad_parameters(components, parameter, value, message):
    with pytest.raises(BadInput, match=message):
        components.normalise("grow", {"name": "score", parameter: value})


def test_required_parameter(components):
    with pytest.raises(BadInput, match=r"structure 'rows': parameter 'height' \(int\) is required"):
        components.build("structure", "rows")
    assert components.normalise("structure", {"name": "rows", "height": 2}) == {"name": "o/rows", "height": 2}


@pytest.mark.parametrize("spec", [3, None, {"power": 1.0}, ["score"]])
def test_not_a_spec(components, spec):
    with pytest.raises(BadInput, match="grow: expected a name or a mapping with the key 'name'"):
        components.build("grow", spec)


def test_policies(components):
    from dstbench.api import InPlace, Policy, Random, Signal

    assert components.build("grow", "score").share == InPlace()
    share = components.build("grow", "share")
    assert share.score == Random()
    assert share.share({"a": None}, {}, 1) == {"a": 1.0}
    assert components.build("grow", {"name": "policy", "power": 3}).score.power == 3.0
    assert components.build("grow", "ready") == Policy(Random(exclude_dropped=True))
    scaled = components.build("grow", {"name": "plain", "scale": 3}).score
    assert scaled.keywords == {"scale": 3.0}
    assert scaled.needs == Signal.GRAD  # attributes survive binding
    with pytest.raises(BadInput, match="grow 'odd': expected a Score"):
        components.build("grow", "odd")


def test_share_of_a_policy(components):
    even = {"name": "o/even"}
    assert components.normalise("grow", {"name": "score", "share": "even"}) == {
        "name": "o/score",
        "share": even,
    }
    assert components.normalise("grow", {"name": "score", "share": "in_place"}) == {"name": "o/score"}
    assert components.build("grow", {"name": "policy", "share": "even"}).share({"a": None}, {}, 1) == {
        "a": 1.0
    }
    with pytest.raises(BadInput, match="grow 'share' is a share itself"):
        components.build("grow", {"name": "share", "share": "even"})
    with pytest.raises(BadInput, match="only init, prune, grow take a share"):
        components.build("schedule", {"name": "every", "share": "even"})
    with pytest.raises(BadInput, match="unknown share 'evn'"):
        components.normalise("grow", {"name": "score", "share": "evn"})
    with pytest.raises(BadInput, match="share 'wrong': expected to be called with"):
        components.build("grow", {"name": "score", "share": "wrong"})


def test_families(components):
    assert components.resolve("model", "fam:x").name == "fam:"
    assert components.normalise("model", "fam:hub:x/y") == {"name": "o/fam:hub:x/y"}
    assert components.normalise("model", {"name": "fam:", "variant": "x"}) == {"name": "o/fam:x"}
    assert components.build("model", "o/fam:x")(num_classes=2, input_shape=(1, 2, 2)) == "x"
    assert components.versions("model", "fam:x")["name"] == "o/fam:x"
    with pytest.raises(BadInput, match="variant is given twice"):
        components.build("model", {"name": "fam:x", "variant": "y"})
    with pytest.raises(BadInput, match=r"'variant' \(str\) is required"):
        components.build("model", "fam:")


def test_models_take_what_the_runner_passes(components):
    build = components.build("model", {"name": "net", "width": 2, "depth": 3})
    assert build(num_classes=5, input_shape=(1, 8, 8)) == (5, (1, 8, 8), 2.0, {"depth": 3})
    assert components.normalise("model", {"name": "net", "depth": 3}) == {"name": "o/net", "depth": 3}


def test_other_roles(components):
    assert components.build("recipe", "method").init == "uniform"
    assert components.build("recipe", "data").grow == "random"
    assert components.build("schedule", {"name": "every", "delta_t": 5}).keywords == {"delta_t": 5}
    assert components.build("structure", {"name": "rows", "height": 2}).height == 2
    with pytest.raises(BadInput, match="recipe 'none': expected a Recipe, got 3"):
        components.build("recipe", "none")
    with pytest.raises(BadInput, match="structure 'nothing': expected a Layout"):
        components.build("structure", "nothing")


def test_versions(components):
    assert components.versions("grow", {"name": "score", "share": "global"}) == {
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


def test_source(components):
    file, line = components["grow"]["score"].source()
    assert file is not None
    assert Path(file).read_text().splitlines()[line - 1 :][:2] == ["@dataclass(frozen=True)", "class Score:"]
