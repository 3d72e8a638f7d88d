"""Initial masks: as many weights as asked for, where scores and shares say, by seed and layer alone."""

from dataclasses import dataclass

import pytest
import torch

from dstbench.api import Infeasible, Policy, Random
from dstbench.core.engine.structures import Unstructured, as_structure
from dstbench.core.engine.update import initial_masks
from dstbench.core.network.layers import maskable_layers
from dstbench_plugins.init.erk import ERK
from dstbench_plugins.init.uniform import Uniform
from dstbench_plugins.prune.magnitude import Magnitude
from dstbench_plugins.share.rank import Global
from fakes.engine import mlp


def start(init, n, structure=None, seed=0, sizes=(12, 24, 16, 4)):
    layers = maskable_layers(mlp(sizes=sizes))
    return initial_masks(
        layers, dict.fromkeys(layers, as_structure(structure or Unstructured())), init, n, seed
    )


@pytest.mark.parametrize("n", [3, 4, 70, 371, 735, 736])
def test_initial_masks_hold_exactly_n(n):
    for init in (
        Policy(Random(), ERK()),
        Policy(Random(), Uniform()),
        Policy(Magnitude(), Global()),
        Policy(),
    ):
        masks, budget = start(init, n)
        assert sum(int(mask.sum()) for mask in masks.values()) == n == sum(budget.values())
        assert all(int(masks[name].sum()) == budget[name] >= 1 for name in masks)


@pytest.mark.parametrize("n", [2, 737])
def test_initial_masks_that_can_not_be_say_the_figures(n):
    with pytest.raises(Infeasible, match=rf"\b{n}\b.*\b3\b.*\b736\b"):
        start(Policy(Random(), ERK()), n)


def test_initial_magnitude_takes_the_largest_weights():
    masks, _ = start(Policy(Magnitude(), Global()), 100)
    layers = maskable_layers(mlp())
    values = torch.cat([layer.weight.detach().abs().flatten() for layer in layers.values()])
    cut = values.sort(descending=True).values[99]
    assert all(torch.equal(masks[name], layer.weight.abs() >= cut) for name, layer in layers.items())


def test_initial_masks_depend_on_seed_and_layer_only():
    first, _ = start(Policy(Random(), Uniform()), 200, sizes=(16, 16, 16, 16))
    torch.rand(7)
    again, _ = start(Policy(Random(), Uniform()), 200, sizes=(16, 16, 16, 16))
    other, _ = start(Policy(Random(), Uniform()), 200, sizes=(16, 16, 16, 16), seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert not torch.equal(first["0"], first["2"])


def test_an_init_may_forbid_positions():
    @dataclass(frozen=True)
    class UpperHalf:
        def __call__(self, layer, rng):
            scores = torch.rand(layer.shape, generator=rng)
            scores[layer.shape[0] // 2 :] = -torch.inf
            return scores

    masks, _ = start(Policy(UpperHalf(), Uniform()), 360)
    assert all(not mask[len(mask) // 2 :].any() for mask in masks.values())
    with pytest.raises(Infeasible, match=r"\b369\b.*\b368\b"):
        start(Policy(UpperHalf(), Uniform()), 369)
