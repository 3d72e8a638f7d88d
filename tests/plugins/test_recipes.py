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


def test_gmp_starts_where_it_is_told():
    """As CHTs' language models have it, half dense."""
    registry = dstbench.registry()
    halved = registry.build("recipe", {"name": "gmp", "initial": 0.5}).schedule
    assert registry.normalise("schedule", halved) == PINNED["gmp"]["schedule"] | {"initial": 0.5}


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


@pytest.mark.parametrize(("density", "peak_density"), [(0.1, 0.3), (0.3, 0.9)])
def test_east_solves_its_densities_anew_while_they_rise_and_fall(density, peak_density):
    """At the peak and back at the density every layer has what ERK gives it there, to a weight: also where layers
    are dense meanwhile."""
    model = mlp()
    parts = {"name": "east", "length": 0.4, "delta_t": 1, "late_delta_t": 4}
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, density, total_steps=20)
    budgets = [dict(sparsifier.active)]
    train(model, sparsifier, 20, after=lambda: budgets.append(dict(sparsifier.active)))
    totals = [sum(budget.values()) / sparsifier.size for budget in budgets]
    peak = [step for step, total in enumerate(totals) if total == pytest.approx(peak_density, abs=2e-3)]
    assert peak == [4, 12]  # halfway through cycles of eight steps
    for step in (0, 4, 8, 12, 16, 20):
        solved = dstbench.densities(mlp(), peak_density if step in peak else density, init="erk")
        sizes = {name: layer.info.numel for name, layer in sparsifier.layers.items()}
        for name, size in sizes.items():
            assert abs(budgets[step][name] - solved[name] * size) < 1, (step, name)
    rising = [report for report in sparsifier.history if report.step in (1, 2, 3, 4, 9, 10, 11, 12)]
    falling = [report for report in sparsifier.history if report.step in (5, 6, 7, 8, 13, 14, 15)]
    assert all(report.dropped == 0 < report.grown for report in rising)
    assert all(report.grown == 0 < report.dropped for report in falling)
