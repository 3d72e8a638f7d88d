"""R_s: the share of weights that were ever active, counted and in closed form."""

import pytest
import torch
from torch import nn

import dstbench
from fakes.engine import mlp, recipe, train
from fakes.loops import sparsify


def test_r_s_counts_what_was_ever_active():
    model = mlp()
    sparsifier = sparsify(model, density=0.2, total_steps=20, recipe=recipe("constant", 2))
    ever = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    assert sparsifier.r_s == sparsifier.density

    def check():
        for name, mask in sparsifier.masks.items():
            ever[name] |= mask
        assert sparsifier.r_s == sum(int(mask.sum()) for mask in ever.values()) / 736

    train(model, sparsifier, 20, after=check)
    assert sparsifier.r_s == sparsifier.history[-1].r_s > 0.5


def expected_r_s(density, fractions):
    """1 - R_s = (1 - d) Π (1 - p d / (1 - d + p d)): random growth over what is free, the just-dropped too."""
    left = 1 - density
    for p in fractions:
        left *= 1 - p * density / (1 - density + p * density)
    return 1 - left


class One(nn.Module):
    """A single layer of 80,000 weights whose gradient is cheap."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(400, 200)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    "schedule", [{"name": "constant", "zeta": 0.3}, {"name": "cosine", "alpha": 0.5, "stop": 1.0}]
)
@pytest.mark.parametrize("density", [0.05, 0.2])
def test_r_s_of_random_growth_is_the_closed_form(schedule, density):
    model = One()
    sparsifier = dstbench.Sparsifier(
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        recipe=recipe(init="uniform", schedule={**schedule, "delta_t": 1}, prune="random"),
        density=density,
        total_steps=25,
    )
    made = sparsifier.method.schedule
    fractions = []
    for _ in range(25):
        model.layer.weight.grad = torch.ones(200, 400)  # a step without one is none
        sparsifier.step()
        target = made(dstbench.api.Clock(sparsifier.steps, 25), density)
        fractions += [] if target is None else [1 - target.keep / density]
    assert len(fractions) == 24
    assert sparsifier.r_s == pytest.approx(expected_r_s(density, fractions), abs=0.005)


def test_the_r_s_formula_gives_the_published_setting():
    """88,000 steps, ΔT 1500, α .5 of all steps, d = .05: 0.555 (ITOP's settings)."""
    from math import cos, pi

    fractions = [0.25 * (1 + cos(pi * t / 88_000)) for t in range(1500, 88_000, 1500)]
    assert expected_r_s(0.05, fractions) == pytest.approx(0.555, abs=0.005)
