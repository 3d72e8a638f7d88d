"""Prune scores of papers, worked out by hand."""

from __future__ import annotations

import pytest
import torch

import dstbench
from dstbench.api import Policy
from dstbench.core.engine.books import Goal
from dstbench.core.engine.random import generator
from dstbench.core.engine.update import update_masks
from dstbench_plugins.prune.importance import RelativeImportance
from dstbench_plugins.prune.lamp import Lamp
from dstbench_plugins.prune.soft import Soft
from dstbench_plugins.prune.taylor import Taylor
from fakes.engine import draw, view

REGISTRY = dstbench.registry()


def scored(score, weight, **signals):
    weight = torch.tensor(weight)
    return score(view(weight, weight != 0, **signals), generator(0, "layer", 1))


def test_relative_importance_by_hand():
    scores = scored(RelativeImportance(), [[4.0, 0, -2], [0, 1, 0], [1, -3, 0]])
    expected = [[1.4667, 0, 1.3333], [0, 1.25, 0], [0.45, 1.5, 0]]
    assert torch.allclose(scores, torch.tensor(expected, dtype=torch.float64), atol=1e-4)
    assert scored(RelativeImportance(), [[0.0, 0], [0, 5]]).tolist() == [[0, 0], [0, 2]]  # its only link


@pytest.mark.parametrize(
    ("temperature", "kept"),
    [(1, (0.8952, 0.7143, 0.3905)), (2, (0.9793, 0.8095, 0.2112)), (9, (1, 0.9981, 0.0019))],
)
def test_soft_removal_keeps_two_of_three_with_these_probabilities(temperature, kept):
    soft, layer = Soft(start=temperature, end=temperature), view(torch.tensor([[4.0, -2, 1]]))
    rng, counts = generator(0, "layer", 1), torch.zeros(3)
    for _ in range(8000):
        counts[soft(layer, rng)[0].topk(2).indices] += 1
    assert (counts / 8000).tolist() == pytest.approx(kept, abs=0.02)


def test_soft_removal_of_relative_importance_samples_that():
    weight, kept = torch.tensor([[4.0, 1, 0], [0, 1, 0]]), 0
    layer = view(weight, weight != 0)  # RI 1.8, 0.7, 1.5 of three, where magnitude has 4, 1, 1
    rng = generator(0, "layer", 1)
    for _ in range(4000):
        scores = Soft(of="ri", start=1, end=1)(layer, rng).masked_fill(weight == 0, -torch.inf)
        kept += int(scores.flatten().argmax()) == 4
    assert kept / 4000 == pytest.approx(1.5 / 4, abs=0.03)


def test_temperatures_by_hand():
    assert [Soft().temperature(p) for p in (0, 0.375, 0.75, 1)] == [1, 5, 9, 9]
    by_softness = [Soft(path="softness").temperature(p) for p in (0, 0.375, 0.75, 1)]
    assert by_softness == pytest.approx([1, 7 / 3, 9, 9])
    assert Soft(path="softness", end=3).temperature(0.375) == pytest.approx(0.625 / 0.375)


def test_infinitely_hot_is_magnitude():
    weight = torch.randn((6, 8), generator=torch.Generator().manual_seed(1))
    scores = Soft(start=1e6, end=1e6)(view(weight), generator(0, "layer", 1))
    assert torch.equal(scores.flatten().argsort(), weight.abs().flatten().argsort())


def test_taylor_by_hand():
    grad = torch.tensor([[0.1, -0.5], [1, -0.01]])
    weight = [[2.0, -1], [0.5, 3]]
    first = scored(Taylor(power=1), weight, active_grad=grad)
    assert torch.allclose(first, torch.tensor([[0.2, 0.5], [0.5, 0.03]], dtype=torch.float64))
    assert torch.allclose(scored(Taylor(), weight, active_grad=grad), first**2)


def test_lamp_by_hand():
    first, second = scored(Lamp(), [[1.0, -2, 3, 4]]), scored(Lamp(), [[0.1, 0.2, 0.2, 0.4]])
    assert first[0].tolist() == pytest.approx([1 / 30, 4 / 29, 9 / 25, 1])
    assert second[0].tolist() == pytest.approx([0.04, 1 / 6, 0.2, 1], rel=1e-6)


def test_lamp_leaves_each_layer_its_largest():
    """Four of eight over both layers; by global magnitude the first would keep all four."""
    weights = {"first": torch.tensor([[1.0, -2, 3, 4]]), "second": torch.tensor([[0.1, 0.2, 0.2, 0.4]])}
    views = {n: view(w, torch.ones(1, 4).bool(), name=n) for n, w in weights.items()}
    structure = REGISTRY.build("structure", "unstructured")
    from dstbench.core.engine.structures import as_structure

    goal = Goal(4, 4, {"first": 2, "second": 2}, {"first": 2, "second": 2})
    kept = {}
    for name in ("lamp", "magnitude"):
        policy = REGISTRY.build("prune", {"name": name, "share": "global"})
        masks, *_ = update_masks(
            views, dict.fromkeys(views, as_structure(structure)), policy, Policy(), goal, draw()
        )
        kept[name] = [mask.int().tolist()[0] for mask in masks.values()]
    assert kept["lamp"] == [[0, 0, 1, 1], [0, 0, 1, 1]]
    assert kept["magnitude"] == [[0, 1, 1, 1], [0, 0, 0, 1]]  # a layer keeps one in any case
