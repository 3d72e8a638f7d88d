"""What recipes do as a whole, on small networks."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import dstbench
from dstbench.api import Recipe
from dstbench.hookspecs import STRATEGIES
from fakes.engine import mlp, sgd, train

PINNED = json.loads((Path(__file__).parent / "recipes.json").read_text())


def test_pinned_recipes_are_all():
    assert list(PINNED) == list(dstbench.registry()["recipe"])


@pytest.mark.parametrize("name", PINNED)
def test_recipe_is_what_it_was(name):
    """Its pieces are the identity of finished trials. A recipe that is to be another needs new results."""
    registry = dstbench.registry()
    recipe = registry.build("recipe", name)
    said = {field.name: getattr(recipe, field.name) for field in fields(Recipe)}
    pieces = {kind: registry.normalise(kind, said.pop(kind)) for kind in STRATEGIES}
    others = {key: value for key, value in said.items() if value != getattr(Recipe(), key)}
    assert json.loads(json.dumps({**pieces, **others})) == PINNED[name]
    assert registry.normalise("recipe", name) == {"name": name}


def test_dsr_moves_exactly_its_fraction_over_the_network_and_empties_no_layer():
    """N_p weights go at every event, by magnitude over all layers; none of them grows back in that event."""
    model = mlp()
    with torch.no_grad():
        model[0].weight.mul_(1e-3)  # the whole layer is below any global threshold
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), {"name": "dsr", "fraction": 0.3, "delta_t": 1}, density=0.2, total_steps=20
    )
    layers = [sparsifier.active]
    before = [sparsifier.masks]

    def check():
        layers.append(sparsifier.active)
        before.append(sparsifier.masks)

    train(model, sparsifier, 20, after=check)
    n = round(0.2 * sparsifier.size)
    moved = n - round(0.7 * 0.2 * sparsifier.size)
    assert len(sparsifier.history) > 5
    assert all((r.dropped, r.grown, r.active) == (moved, moved, n) for r in sparsifier.history)
    assert all(min(active.values()) >= 1 for active in layers)
    assert layers[0] != layers[-1]  # weights went to other layers
