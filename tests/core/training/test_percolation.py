"""A training whose removals percolate: its budgets are exact, and a dead neuron's links have gone elsewhere."""

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import Policy
from dstbench.core.training.method import build_method
from dstbench.errors import BadInput
from dstbench_plugins.recipes.topology import chts, chtss

DENSITY = 0.2


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4))


def trained(percolates):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    recipe = {"name": "chts", "delta_t": 2, "alpha": 0.3, "percolates": percolates}
    sparsifier = dstbench.Sparsifier(model, optimizer, recipe, DENSITY, total_steps=12)
    counts = []
    for _ in range(12):
        optimizer.zero_grad()
        model(torch.randn(8, 12)).square().mean().backward()
        optimizer.step()
        counts.append(sum(int(mask.sum()) for mask in sparsifier.masks.values()))
    return sparsifier, counts


def test_budgets_are_exact_and_masks_are_others():
    (sparsifier, counts), (plain, _) = trained(True), trained(False)
    total = sum(mask.numel() for mask in sparsifier.masks.values())
    assert set(counts) == {round(DENSITY * total)}
    assert any(not torch.equal(mask, plain.masks[name]) for name, mask in sparsifier.masks.items())


def test_a_structure_of_more_than_single_weights_is_refused():
    with pytest.raises(BadInput, match=r"percolates, link by link, and structure .*[Bb]lock"):
        build_method({**_parts(chts(percolates=True)), "structure": {"name": "block"}})


def _parts(recipe):
    return {kind: getattr(recipe, kind) for kind in ("init", "prune", "grow", "schedule")}


@pytest.mark.parametrize("recipe", [chts, chtss])
def test_off_it_is_no_part_of_a_recipe(recipe):
    assert "percolates" not in recipe().prune
    assert recipe(percolates=True).prune == {**recipe().prune, "percolates": True}
    assert build_method(recipe(percolates=True)).prune.percolates
    assert not Policy().percolates
