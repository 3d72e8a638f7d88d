"""Whose checkpoint it is: a recipe and its components' versions, whatever the components' code has gained since."""

from dataclasses import dataclass, field

import pytest
import torch

import dstbench
from dstbench.api import InPlace, Policy, Random, Recipe
from dstbench.core.training.identity import identify, plain
from dstbench.errors import BadInput
from dstbench.registration.loader import Component
from dstbench.registration.registry import Registry, registry
from dstbench_plugins.grow.gradient import Gradient
from dstbench_plugins.init.erk import ERK
from fakes.engine import mlp, recipe, sgd, train


@dataclass(frozen=True)
class Drawn:
    """A score with a parameter."""

    scale: float = 1.0

    def __call__(self, layer, rng):
        return self.scale * torch.rand(layer.shape, generator=rng)


@dataclass(frozen=True)
class Grown:
    """The same a release later, with one more parameter."""

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, layer, rng):
        return self.scale * torch.rand(layer.shape, generator=rng) + self.shift


Grown.__qualname__ = Grown.__name__ = "Drawn"


def with_component(target, version="1", release="1.0"):
    component = Component("grow", "drawn", target, "Draws.", version, "outsider", release, "outsider")
    return Registry([*(c for kind in registry().values() for c in kind.values()), component])


def sparsify(grow, source=None, **parts):
    model = mlp()
    method = recipe("constant", 4, grow=grow, **parts)
    return model, dstbench.Sparsifier(model, sgd(model), method, 0.2, total_steps=20, registry=source)


def state_after(steps, *arguments, **options):
    model, sparsifier = sparsify(*arguments, **options)
    train(model, sparsifier, steps)
    return sparsifier.state_dict()


@pytest.mark.parametrize("by_name", [True, False])
def test_a_component_that_gains_a_parameter_keeps_its_checkpoints(by_name):
    grow = {"name": "drawn", "scale": 2.0} if by_name else Policy(Drawn(2.0))
    saved = state_after(6, grow, with_component(Drawn))
    grow = grow if by_name else Policy(Grown(2.0))
    model, sparsifier = sparsify(grow, with_component(Grown, release="1.1"))
    sparsifier.load_state_dict(saved)
    assert sparsifier.steps == 6
    train(model, sparsifier, 20, skip=6)


@pytest.mark.parametrize(
    ("grow", "source", "difference"),
    [
        ({"name": "drawn", "scale": 3.0}, with_component(Drawn), r"grow is .*2\.0.*, here .*3\.0"),
        ({"name": "drawn", "scale": 2.0}, with_component(Drawn, "2"), r"grow is .*'1'.*, here .*'2'"),
        ({"name": "drawn", "scale": 2.0, "share": "global"}, with_component(Drawn), r"grow is .*, here .*global"),
        ("random", with_component(Drawn), r"grow is .*drawn.*, here .*random"),
        (Policy(Drawn(2.0)), with_component(Drawn), r"grow is .*drawn.*, here .*Drawn"),
    ],
)  # fmt: skip
def test_another_method_is_refused_by_what_differs(grow, source, difference):
    saved = state_after(6, {"name": "drawn", "scale": 2.0}, with_component(Drawn))
    _, sparsifier = sparsify(grow, source)
    with pytest.raises(BadInput, match=difference):
        sparsifier.load_state_dict(saved)
    assert sparsifier.steps == 0


def test_another_piece_or_flag_is_refused_too():
    saved = state_after(6, "random")
    with pytest.raises(BadInput, match=r"prune is .*magnitude.*, here .*set"):
        sparsify("random", prune="set")[1].load_state_dict(saved)
    with pytest.raises(BadInput, match=r"dense_layers is None, here \['2'\]"):
        sparsify("random", dense_layers=["2"])[1].load_state_dict(saved)


def test_what_a_recipe_says_by_its_defaults_it_need_not_say():
    spelled = Recipe(grow={"name": "random", "exclude_dropped": False, "share": "in_place"}, schedule="never")
    assert identify(spelled) == identify(Recipe(grow="random", schedule="never"))
    assert identify(Recipe(narrow=True)) == identify(Recipe(dense=True)) != identify(Recipe())


class Plain:
    def __init__(self, n):
        self.n = n


@dataclass(frozen=True)
class Nested:
    """Fields of every sort."""

    policy: Policy = field(default_factory=Policy)
    parts: tuple[object, ...] = ()
    derived: int = field(default=0, init=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Policy(), {"class": "Policy"}),
        (Policy(Random(True), InPlace()), {"class": "Policy", "score": {"class": "Random", "exclude_dropped": True}}),
        (Policy(Gradient(), ERK()), {"class": "Policy", "score": {"class": "Gradient"}, "share": {"class": "ERK"}}),
        (Plain(3), {"class": "Plain", "n": 3}),
        (Nested(parts=(Plain(1), 2)), {"class": "Nested", "parts": [{"class": "Plain", "n": 1}, 2]}),
        (torch.tensor([1.0, 2.0]), {"tensor": "torch.float32", "values": [1.0, 2.0]}),
        ({"b": (1, None)}, {"b": [1, None]}),
        (sgd, "sgd"),
    ],
)  # fmt: skip
def test_objects_are_told_apart_by_class_and_changed_fields(value, expected):
    assert plain(value) == expected


def test_a_checkpoint_of_version_2_is_read_where_the_methods_repr_is_the_same():
    model, sparsifier = sparsify("random")
    train(model, sparsifier, 6)
    new = sparsifier.state_dict()
    books = new["books"]
    old = {key: value for key, value in new.items() if key != "books"} | {
        "version": 2,
        "method": repr(sparsifier.method),
        "final": books["density"],
        **{key: books[key] for key in ("budget", "allocation", "proportions")},
    }
    _, again = sparsify("random")
    again.load_state_dict(old)
    assert again.state == sparsifier.state
    with pytest.raises(BadInput, match="it is of another method: Method"):
        sparsify("gradient")[1].load_state_dict(old)
