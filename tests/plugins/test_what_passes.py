"""Scores that read what passes through layers, or what built up over steps: by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dstbench
from dstbench.core.engine.random import generator
from dstbench.errors import BadInput
from dstbench.testing import check_accumulator
from dstbench_plugins.grow.accumulated import AccumulatedGradient
from dstbench_plugins.grow.guided import GuidedExploration
from dstbench_plugins.prune.history import MovementPruning, OptimalBrainDamage
from dstbench_plugins.prune.wanda import Wanda, importance
from fakes.engine import bits, recipe, sgd, view

REGISTRY = dstbench.registry()
W = torch.tensor([[1.0, -4, 2], [3, 1, -2]])


def rng():
    return generator(0, "layer", 1)


def test_wanda_by_hand():
    """‖X‖ = 3, ½, 1: |w|·‖X‖ is 3 2 2 / 9 ½ 2. A third of each row goes: (0, 1), first of two ties, and (1, 1)."""
    layer = view(W, W != 0, extra={"input_norm": torch.tensor([[3.0, 0.5, 1]]).expand(2, 3)})
    assert importance(layer).tolist() == [[3, 2, 2], [9, 0.5, 2]]
    ranks = Wanda()(layer, rng()) * 3
    assert ranks.tolist() == [[3, 1, 2], [3, 1, 2]]


def test_wanda_through_a_training_and_by_a_calibration_set():
    """x with these norms, over two batches: the same masks from the last step's inputs and from an init's."""
    inputs = [torch.tensor([[3.0, 0, 0], [0, 0.5, 0]]), torch.tensor([[0.0, 0, 1]])]
    expected = bits("101", "101")

    def network():
        model = nn.Sequential(nn.Linear(3, 2, bias=False))
        model[0].weight.data = W.clone()
        return model

    model = network()
    schedule = {"name": "cubic", "delta_t": 1, "stop": 0.1}
    parts = {"init": "dense", "prune": "wanda", "schedule": schedule}
    sparsifier = dstbench.Sparsifier(model, sgd(model, lr=0.0), parts, 4 / 6, total_steps=10)
    for x in inputs:  # micro-batches of one step
        model(x).sum().backward()
    sparsifier.step()
    assert torch.equal(sparsifier.masks["0"], expected)

    model = network()
    calibration = dstbench.Calibration([(x, None) for x in inputs], lambda outputs, _: outputs.sum())
    parts = recipe("never", init={"name": "wanda", "batches": 2})
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 4 / 6, total_steps=9, calibration=calibration)
    assert torch.equal(sparsifier.masks["0"], expected)


def test_wanda_ranks_active_weights_of_a_row_alone():
    mask = bits("1101", "0110")
    weight = torch.tensor([[3.0, 1, 9, 2], [9, 5, 4, 9]])
    layer = view(weight * mask, mask, extra={"input_norm": torch.ones(2, 4)})
    scores = Wanda()(layer, rng())
    assert scores[mask].tolist() == pytest.approx([1, 1 / 3, 2 / 3, 1, 1 / 2])
    assert not scores[~mask].any()


def test_optimal_brain_damage_movement_and_sums_by_hand():
    v = torch.tensor([[1.0, 0.25, 0], [2, 1, 1]])
    layer = view(W, W != 0, extra={"second_moment": v, "movement": -v, "gradient_sum": -v})
    assert OptimalBrainDamage()(layer, rng()).tolist() == [[1, 4, 0], [18, 1, 4]]
    assert torch.equal(MovementPruning()(layer, rng()), -v)
    assert torch.equal(AccumulatedGradient()(layer, rng()), v)


@pytest.mark.parametrize("by", ["grabo", "graest"])
def test_guided_growth_draws_pairs_by_what_passed(by):
    """Outputs 3 : 0 : 1 and inputs 0 : 1 : 1 : 2: no pair of output 1 or of input 0, (0, 3) most often."""
    outputs = torch.tensor([[3.0], [0], [-1 if by == "graest" else 1]]).expand(3, 4)
    inputs = torch.tensor([[0.0, 1, 1, 2]]).expand(3, 4)
    layer = view(torch.zeros(3, 4), extra={"inputs": inputs, "outputs": outputs})
    counts = torch.zeros(12)
    draws = GuidedExploration(by=by)._positions(layer, 8000, rng())
    counts.scatter_add_(0, draws, torch.ones(8000))
    expected = torch.tensor([[3.0], [0], [1]]) / 4 * torch.tensor([[0.0, 1, 1, 2]]) / 4
    assert torch.allclose(counts.view(3, 4) / 8000, expected, atol=0.02)
    assert not counts.view(3, 4)[1].any()


def test_guided_growth_where_nothing_passed_and_with_groups():
    zeros = torch.zeros(2, 3)
    layer = view(torch.zeros(2, 3), extra={"inputs": zeros, "outputs": zeros})
    draws = GuidedExploration(by="grabo")._positions(layer, 600, rng())
    assert draws.unique().tolist() == [0, 1, 2, 3, 4, 5]
    inputs = torch.tensor([[1.0, 0, 0], [0, 0, 5]])  # each output has inputs of its own
    layer = view(torch.zeros(2, 3), extra={"inputs": inputs, "outputs": torch.ones(2, 3)})
    assert GuidedExploration(by="grabo")._positions(layer, 100, rng()).unique().tolist() == [0, 5]


@pytest.mark.parametrize("by", ["grabo", "graest"])
def test_guided_growth_with_many_draws_is_rigl(by):
    """γ large: every position is drawn, so that the largest |g| grow."""
    draw = torch.Generator().manual_seed(0)
    weight, grad = torch.randn(6, 8, generator=draw), torch.randn(6, 8, generator=draw)
    mask = torch.rand(6, 8, generator=draw) < 0.2
    extra = {"inputs": torch.rand(1, 8, generator=draw).expand(6, 8) + 0.1, "outputs": torch.ones(6, 8)}
    scores = GuidedExploration(gamma=200, by=by)(view(weight * mask, mask, grad=grad, extra=extra), rng())
    assert torch.equal(scores, grad.abs().double())


def test_the_kit_finds_what_breaks_it():
    class InPlace:
        def fold(self, total, layer, clock):
            return total.add_(1)

    class Misspelt:
        rest = "update"
        widow = 3

        def fold(self, total, layer, clock):
            return total + 1

    assert {problem.check for problem in check_accumulator(InPlace())} >= {"purity"}
    assert any("'reset'" in str(problem) for problem in check_accumulator(Misspelt()))


@pytest.mark.parametrize(
    ("kind", "spec", "match"),
    [
        ("prune", {"name": "wanda", "window": 0}, "window: expected an integer >= 1"),
        ("grow", {"name": "gse", "by": "grab"}, "parameter 'by' expected .*'uniform', 'grabo', 'graest'"),
        ("accumulator", {"name": "second_moment", "beta": 1.0}, "beta: expected a fraction"),
        ("init", {"name": "grasp", "batches": 0}, "batches: expected an integer >= 1"),
        ("init", {"name": "force", "rounds": -3}, "count: expected an integer >= 0, got -3"),
        ("recipe", {"name": "synflow", "rounds": "many"}, "rounds"),
    ],
)
def test_parameters_are_checked(kind, spec, match):
    with pytest.raises(BadInput, match=match):
        REGISTRY.build(kind, spec)
