"""Removals that a prune score insists on, by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dstbench.api import LayerView, Policy
from dstbench.core.engine.books import Goal
from dstbench.core.engine.structures import as_structure
from dstbench.core.engine.update import update_masks
from dstbench_plugins.share.rank import Global
from dstbench_plugins.structure.block import Block
from dstbench_plugins.structure.unstructured import Unstructured
from fakes.engine import bits, draw, view


@dataclass(frozen=True)
class Positive:
    """w, -inf where it isn't above 0."""

    def __call__(self, layer: LayerView, rng: torch.Generator) -> Tensor:
        return layer.weight.masked_fill(layer.weight <= 0, -torch.inf)


@dataclass(frozen=True)
class Last:
    """The last positions first."""

    def __call__(self, layer: LayerView, rng: torch.Generator) -> Tensor:
        return torch.arange(layer.weight.numel(), dtype=torch.float32).view(layer.shape)


def update(layers, keep, structure=None, prune=None):
    """Masks and budgets of layers that go back to what they held, keeping ``keep`` of each in between."""
    return decided(layers, keep, structure, prune)[:2]


def decided(layers, keep, structure=None, prune=None):
    """The same, and what was removed by force."""
    views = {f"{i}": view(w, mask, name=f"{i}") for i, (w, mask) in enumerate(layers)}
    held = {name: layer.active for name, layer in views.items()}
    kept = dict(zip(views, keep, strict=True))
    structures = dict.fromkeys(views, as_structure(structure or Unstructured()))
    goal = Goal(sum(keep), sum(held.values()), kept, held)
    return update_masks(views, structures, prune or Policy(Positive()), Policy(Last()), goal, draw())


W = torch.tensor([[0.3, -0.1, 0.2, 0.4], [0.5, 0.6, 0.0, 0.7]])
MASK = bits("1110", "1110")


def test_what_is_forbidden_goes_even_where_the_target_keeps_all():
    """-0.1 and 0.0 go; positions 7 and 6 come, the latter just dropped."""
    masks, budget = update([(W, MASK)], [6])
    assert torch.equal(masks["0"], bits("1010", "1111"))
    assert budget == {"0": 6}


def test_what_was_removed_by_force_is_told_even_where_it_grows_again():
    """Of three that must go in a full layer all come back; where nothing must go nothing is told."""
    masks, budget, forbidden = decided([(W - 0.25, bits("1111", "1111")), (W.abs() + 1, MASK)], [8, 6])
    assert budget == {"0": 8, "1": 6}
    assert bool(masks["0"].all())
    assert list(forbidden) == ["0"]
    assert torch.equal(forbidden["0"], bits("0110", "0010"))


def test_where_the_target_keeps_fewer_the_smallest_go_too():
    """To 3: -0.1, 0.0 and then 0.2 go."""
    masks, budget = update([(W, MASK)], [3])
    assert torch.equal(masks["0"], bits("1000", "1111") | bits("0001", "0000"))
    assert budget == {"0": 6}


def test_layers_lose_what_they_must_however_few_the_target_takes():
    """One is to go in all, of the layer that has to lose none; the other loses both of its own."""
    other = torch.full((1, 4), 0.9), bits("1100")
    masks, budget = update([(W, MASK), other], [6, 1])
    assert torch.equal(masks["0"], bits("1010", "1111"))
    assert budget == {"0": 6, "1": 2}
    masks, budget = update([(W, MASK), other], [6, 2], prune=Policy(Positive(), Global()))
    assert torch.equal(masks["1"], bits("1100"))
    assert budget == {"0": 6, "1": 2}


def test_a_layer_that_loses_all_comes_back_elsewhere():
    masks, budget = update([(torch.full((1, 4), -1.0), bits("1100"))], [2])
    assert torch.equal(masks["0"], bits("0011"))
    assert budget == {"0": 2}


def test_a_forbidden_weight_takes_its_unit_along():
    """2 x 2 blocks: of the left ones only the upper holds a negative weight; the lower right one comes."""
    weight = torch.ones(4, 4)
    weight[0, 1] = -1
    masks, budget = update([(weight, bits("1100", "1100", "1100", "1100"))], [8], Block(2))
    assert torch.equal(masks["0"], bits("0000", "0000", "1111", "1111"))
    assert budget == {"0": 8}


@pytest.mark.parametrize("seed", range(5))
def test_nothing_forbidden_stays_and_budgets_are_exact(seed):
    rng = torch.Generator().manual_seed(seed)
    layers = [(torch.randn(6, 7, generator=rng), torch.rand(6, 7, generator=rng) < 0.4) for _ in range(3)]
    held = [int(mask.sum()) for _, mask in layers]
    masks, budget = update(layers, held)
    assert list(budget.values()) == held == [int(mask.sum()) for mask in masks.values()]
    for (weight, before), mask in zip(layers, masks.values(), strict=True):
        must = before & (weight <= 0)
        free = ~before | must  # what comes are the last of the free positions
        grown = mask & free
        last = free.flatten().nonzero().flatten()[-int(must.sum()) :] if bool(must.any()) else []
        assert grown.flatten().nonzero().flatten().tolist() == list(map(int, last))
