"""Constant fan-in (SRigL): one update by hand, ablation, and the bugs of the published code."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dstbench
from dstbench.api import LayerInfo, LayerView, StrategyError
from dstbench_plugins.structure.fan_in import FanIn
from fakes.engine import bits, mlp, sgd, train

WEIGHT = torch.tensor([[9.0, 8, 0, 0], [0, 7, 6, 0], [0, 0, 1, 2], [0.5, 0, 0, 0.4]])
GRADIENT = torch.tensor(
    [[5, 0.1, 4, 0.2], [0.3, 0.4, 0.5, 3.5], [0.6, 0.7, 0.8, 0.9], [0.01, 0.02, 0.03, 0.04]]
)


def update(structure, weight, gradient, keep, classifier=False, before=None):
    """One update of a layer at constant budget: keep so many weights by |w|, grow the others by |g|."""
    before = weight != 0 if before is None else before
    n = int(before.sum())
    info = LayerInfo("layer", tuple(weight.shape), "linear", classifier)
    kept = structure.shrink(LayerView(info, weight, before, before, n, keep), weight.abs(), keep)
    scores = structure.merge(kept, weight.abs(), gradient.abs(), n)
    mask = structure.fill(LayerView(info, weight, kept, before, keep, n), scores, n)
    assert structure.is_legal(info, mask)
    return mask


# By hand: F = 2; 9, 8, 7, 6 and 2 stay, and the layer's three largest |g| are salient: 5, which stays, 4 and 3.5


@pytest.mark.parametrize(
    ("gamma", "mask"),
    [
        (0, ["1100", "0110", "0011", "0011"]),  # no ablation: every row keeps its best two
        (0.3, ["1110", "0111", "0111", "0000"]),  # row 3 has nothing salient: F = 8/3, to the nearest 3
        (1, ["1111", "1111", "0000", "0000"]),  # row 2 has one salient weight of two: F = 4
    ],
)
def test_one_update_by_hand(gamma, mask):
    assert torch.equal(update(FanIn(gamma), WEIGHT, GRADIENT, 5), bits(*mask))


def test_enough_rows_stay_to_hold_the_budget():
    """Only row 0 is salient, but eight weights need two rows of four: the next one, by index, stays."""
    weight = torch.tensor([[9.0, 8, 0, 0], [0.1, 0.1, 0, 0], [0.1, 0.1, 0, 0], [0.1, 0.1, 0, 0]])
    gradient = torch.zeros(4, 4)
    gradient[0] = 1
    assert torch.equal(update(FanIn(1), weight, gradient, 2), bits("1111", "1111", "0000", "0000"))


def test_an_ablated_row_comes_back_when_its_gradients_are_among_the_largest():
    weight = torch.tensor([[9.0, 8, 7, 0], [6, 5, 4, 0], [0, 0, 0, 0]])
    gradient = torch.zeros(3, 4)
    gradient[2] = torch.tensor([1.0, 3, 2, 0])
    assert torch.equal(update(FanIn(), weight, gradient, 4), bits("1100", "1100", "0110"))
    gradient[2] = 0
    gradient[1, 3] = 1
    assert not update(FanIn(), weight, gradient, 5)[2].any()


def test_the_first_mask_ablates_nothing():
    info = LayerInfo("layer", (4, 4), "linear")
    empty = torch.zeros(4, 4, dtype=torch.bool)
    structure = FanIn(1)
    scores = structure.merge(empty, None, GRADIENT, 8)
    mask = structure.fill(LayerView(info, WEIGHT, empty, empty, 0, 8), scores, 8)
    assert torch.equal(mask, bits("1010", "0011", "0011", "0011"))


def test_forbidden_positions_are_taken_last():
    """As DSR's growth forbids what was just dropped: row 0 has others, row 1 can't reach F without it."""
    before = bits("11000", "11110")
    weight = torch.tensor([[9.0, 1, 0, 0, 0], [9, 8, 1, 1, 0]])
    kept = bits("10000", "11000")
    grow = torch.where(before & ~kept, -torch.inf, torch.ones(2, 5))
    structure, info = FanIn(0), LayerInfo("layer", (2, 5), "linear")
    scores = structure.merge(kept, weight, grow, 8)
    mask = structure.fill(LayerView(info, weight, kept, before, 3, 8), scores, 8)
    assert torch.equal(mask[0], bits("10111")[0])
    assert mask[1, [0, 1, 4]].all()
    assert int(mask[1].sum()) == 4


def test_only_masks_of_constant_fan_in_are_legal():
    info = LayerInfo("layer", (3, 4), "linear")
    assert FanIn().is_legal(info, bits("1100", "0000", "1001"))
    assert not FanIn().is_legal(info, bits("1100", "1000", "1001"))


@pytest.mark.parametrize("gamma", [-0.1, 1.5, True, "half"])
def test_a_bad_gamma_is_named(gamma):
    with pytest.raises(StrategyError, match="gamma"):
        FanIn(gamma)


@settings(deadline=None, max_examples=50)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 12)),
    density=st.floats(0.05, 1),
    drop=st.floats(0, 1),
    gamma=st.sampled_from([0, 0.3, 1]),
    seed=st.integers(0, 99),
)
def test_any_update_is_legal_within_half_a_weight_per_row(shape, density, drop, gamma, seed):
    draw = torch.Generator().manual_seed(seed)
    weight, gradient = torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)
    before = torch.zeros(shape, dtype=torch.bool)
    fan_in = max(1, round(density * shape[1]))
    before.scatter_(1, torch.rand(shape, generator=draw).argsort(1)[:, :fan_in], True)
    n = int(before.sum())
    mask = update(FanIn(gamma), weight * before, gradient, round((1 - drop) * n), before=before)
    assert abs(int(mask.sum()) - n) <= shape[0] / 2


# Bugs of the published code


def test_srigl_bug_12_trimming_keeps_the_best_scores_not_the_lowest_index():
    """It sorts the bool mask, whose ones are all equal, so what stays in a full row is arbitrary."""
    weight = torch.tensor([[5.0, 6, 7, 0, 0, 0], [0.1, 0.2, 0.3, 0, 0, 0], [1, 1, 1, 0, 0, 0]])
    gradient = torch.zeros(3, 6)
    gradient[1] = 1
    mask = update(FanIn(0), weight, gradient, 6)
    assert torch.equal(mask[0], bits("111000")[0])
    falling = update(FanIn(0), torch.tensor([[5.0, 6, 7, 8], [1, 2, 0, 0]]), torch.zeros(2, 4), 5)
    assert torch.equal(falling[0], bits("0111")[0])  # six weights in two rows: three each, the weakest goes


def test_srigl_bug_12_the_classifier_is_never_ablated():
    """Its guard for the last layer is dead, since no names given become an empty list."""
    assert not update(FanIn(), WEIGHT, GRADIENT, 5)[3].any()
    assert torch.equal(
        update(FanIn(), WEIGHT, GRADIENT, 5, classifier=True), bits("1100", "0110", "0011", "0011")
    )


# In training


class Net(nn.Sequential):
    """A hidden layer with many rows that nothing makes salient, and a classifier."""

    def __init__(self) -> None:
        super().__init__(*mlp(sizes=(12, 40, 10)))


def test_srigl_ablates_hidden_rows_only_and_keeps_its_budget():
    model = Net()
    with torch.no_grad():
        model[0].weight[20:] *= (
            1e-3  # these neurons' weights are among the smallest, and so are their gradients
        )
        model[2].weight[:, 20:] *= 1e-3
    sparsifier = dstbench.Sparsifier(
        model,
        sgd(model, lr=1e-4),
        recipe={"name": "srigl", "delta_t": 2, "gamma": 0.9},
        density=0.4,
        total_steps=40,
    )
    assert all(bool(mask.any(1).all()) for mask in sparsifier.masks.values())
    train(model, sparsifier, 40)
    hidden, classifier = sparsifier.masks.values()
    assert 0 < int(hidden.any(1).sum()) < 40
    assert classifier.any(1).all()
    for name, mask in sparsifier.masks.items():
        fan_in = mask.sum(1)
        assert len(fan_in[fan_in > 0].unique()) == 1
        assert abs(int(mask.sum()) - sparsifier.budget[name]) <= len(mask) / 2
    dead = ~hidden.any(1)
    assert not model[0].bias[dead].any()  # no update follows: what is dead can be removed exactly
