"""The small things of a Sparsifier: what it says of itself, whom it calls, which masks it takes."""

import copy
import re

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import Recipe
from dstbench.errors import BadInput
from fakes.engine import assert_masked, mlp, recipe, sgd, train

CONSTANT = recipe("constant", 3)


def sparsify(model, method=CONSTANT, **options):
    return dstbench.Sparsifier(model, sgd(model), method, 0.25, total_steps=40, **options)


def test_a_narrower_model_is_refused():
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadInput, match=r"narrower model; ask for 'dense' with that model"):
        sparsify(model, "small-dense")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("rigl", "rigl"),
        ({"name": "rigl", "grow": "random"}, "rigl(grow='random')"),
        (CONSTANT, "erk · unstructured · magnitude · random · constant"),
        (Recipe(grow="random"), "erk · unstructured · magnitude · random · cosine"),
    ],
)
def test_repr_says_recipe_density_and_step(method, said):
    model = mlp()
    sparsifier = sparsify(model, method)
    assert repr(sparsifier) == f"Sparsifier({said}, density=0.25 of 0.25, step=0/40, updates=0)"
    train(model, sparsifier, 4)
    assert f"step=4/40, updates={sparsifier.updates})" in repr(sparsifier)


def test_updates_are_counted_and_told():
    model, heard = mlp(), []

    def listener(report):
        heard.append((report, sparsifier.steps, sparsifier.updates, sparsifier.last_update))

    sparsifier = sparsify(model, on_update=listener)
    assert (sparsifier.steps, sparsifier.updates, sparsifier.last_update) == (0, 0, 0)
    train(model, sparsifier, 8)
    assert heard == [(sparsifier.history[0], 3, 1, 3), (sparsifier.history[1], 6, 2, 6)]
    assert (sparsifier.steps, sparsifier.updates, sparsifier.last_update) == (8, 2, 6)
    assert sparsifier.last_planned_update == max(s for s in range(41) if sparsifier.timetable.target(s))


def test_a_listener_that_fails_leaves_a_training_that_goes_on():
    model, calls = mlp(), []

    def listener(report):
        calls.append(report)
        if len(calls) == 1:
            raise RuntimeError("full disk")

    sparsifier, plain = sparsify(model, on_update=listener), mlp()
    other = sparsify(plain)
    with pytest.raises(RuntimeError, match="full disk"):
        train(model, sparsifier, 3)
    for parameter in model.parameters():
        parameter.grad = None
    train(model, sparsifier, 12, skip=3)
    train(plain, other, 12)
    assert sparsifier.history == other.history
    assert all(torch.equal(mask, other.masks[name]) for name, mask in sparsifier.masks.items())


def masks_of(sparsifier):
    return {name: mask.clone() for name, mask in sparsifier.masks.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: m | {"0": m["0"].float()},
            "masks: layer '0': expected bool (24, 12), got torch.float32 (24, 12)",
        ),
        (lambda m: m | {"0": m["0"].T}, "masks: layer '0': expected bool (24, 12), got torch.bool (12, 24)"),
        (lambda m: m | {"0": m["0"].tolist()}, "masks: layer '0': expected bool (24, 12), got list"),
        (lambda m: m | {"4.weight": m["4"]}, "masks: no layer '4.weight' is in the budget"),
        (lambda m: {"0": m["0"]}, "masks: expected one for each layer in the budget, none for 2, 4"),
        (lambda m: m | {"2": torch.zeros_like(m["2"])}, "masks: layer '2': no weight is active"),
        (lambda m: list(m), "masks: expected {layer name: bool tensor}, got list"),
    ],
)
def test_masks_that_do_not_fit_are_refused_and_change_nothing(change, said):
    model = mlp()
    sparsifier = sparsify(model)
    weights, masks = copy.deepcopy(model.state_dict()), masks_of(sparsifier)
    with pytest.raises(BadInput, match=re.escape(said)):
        sparsifier.set_masks(change(masks_of(sparsifier)))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())


def test_masks_have_to_obey_the_structure():
    model = mlp()
    sparsifier = sparsify(model, recipe("constant", 3, structure="channel"))
    masks = masks_of(sparsifier)
    masks["0"][masks["0"].any(1).nonzero()[0, 0], 0] = False
    with pytest.raises(BadInput, match=r"layer '0': not a mask of Channel"):
        sparsifier.set_masks(masks)
    with pytest.raises(BadInput, match="a dense recipe has none"):
        sparsify(mlp(), "dense").set_masks(masks)


@pytest.mark.parametrize("init", ["erk", "snip"])
def test_masks_of_another_density_are_held_and_updates_go_on_from_them(init):
    model = mlp()
    sparsifier = sparsify(model, recipe("constant", 3, init=init))
    masks = {name: torch.zeros(mask.shape, dtype=torch.bool) for name, mask in sparsifier.masks.items()}
    for mask in masks.values():
        mask[:, ::6] = True
    sparsifier.set_masks(masks)
    masks["0"].fill_(False)  # a copy is held
    assert sparsifier.decided
    assert sparsifier.active == {"0": 48, "2": 64, "4": 12}
    train(model, sparsifier, 2)
    assert sparsifier.active == {"0": 48, "2": 64, "4": 12}
    assert_masked(sparsifier)
    train(model, sparsifier, 6, skip=2)
    assert sum(sparsifier.active.values()) == round(0.25 * 736)
    assert_masked(sparsifier)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (nn.Sequential(nn.Linear(3, 3)), r"Sequential has no weight of the layers 2, 4"),
        (nn.Linear(3, 3), r"Linear has no weight of the layers 0, 2, 4"),
        (mlp(sizes=(12, 24, 16, 5)), r"layer '4': expected a weight of \(4, 16\), got \(5, 16\)"),
    ],
)
def test_masks_are_not_put_on_another_model(other, said):
    sparsifier = sparsify(mlp())
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(BadInput, match=said):
        sparsifier.apply_masks(other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dense_layers": 3}, "dense_layers: expected patterns of layer names, got 3"),
        ({"dense_layers": ["0", None]}, "dense_layers: expected patterns of layer names"),
        ({"on_update": 3}, "on_update: expected a function of an UpdateReport, got 3"),
        ({"model": None}, "model: expected a torch.nn.Module, got NoneType"),
    ],
)
def test_an_argument_of_another_kind_is_named(given, said):
    model = mlp()
    options = {"model": model, "optimizer": sgd(model), "recipe": "set", "density": 0.2, "total_steps": 9}
    with pytest.raises(BadInput, match=re.escape(said)):
        dstbench.Sparsifier(**options | given)


def test_one_pattern_is_one_everywhere():
    """A string is a sequence of strings, too."""
    model = nn.Sequential()
    for name in ("one", "other"):
        model.add_module(name, nn.Linear(8, 8))
    assert list(dstbench.densities(model, 0.2, dense_layers="one")) == ["other"]
    one, listed = (
        dstbench.training_cost(model, "set", 0.5, 10, (8,), dense_layers=given) for given in ("one", ["one"])
    )
    assert one.ratio() == listed.ratio() == (64 + 32) / 128
