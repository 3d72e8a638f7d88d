"""Cannistraci-Hebb growth and its inits: scores by hand, another form of the formula, and what is random."""

from __future__ import annotations

import pytest
import torch

import dstbench
from dstbench.api import Infeasible, LayerInfo
from dstbench.core.engine.random import generator
from dstbench_plugins.grow.cannistraci_hebb import CannistraciHebb
from dstbench_plugins.init.receptive_fields import ReceptiveFields, SmallWorld
from fakes.engine import bits, conv_net, mlp, sgd, train, view

HARD = {variant: CannistraciHebb(variant, soft=False) for variant in ("ch2", "ch3")}


def rng(seed=0):
    return generator(seed, "layer", 1, "test")


def linear(mask, **more):
    return view(torch.ones(mask.shape), mask, **more)


@pytest.mark.parametrize(
    ("mask", "ch2", "ch3"),
    [
        (
            bits("1100", "0110", "0011"),
            [[0, 0, 4, 0], [4, 0, 0, 4], [0, 4, 0, 0]],
            [[0, 0, 2, 0], [2, 0, 0, 2], [0, 2, 0, 0]],
        ),
        (
            bits("1110", "1001", "0100"),
            [[0, 0, 0, 4], [0, 3, 3, 0], [3, 0, 3, 0]],
            [[0, 0, 0, 2], [0, 1.5, 1.5, 0], [1.5, 0, 1.5, 0]],
        ),
        (
            bits("1100", "1010", "0110", "0000"),
            [[0, 0, 8, 0], [0, 8, 0, 0], [8, 0, 0, 0], [0, 0, 0, 0]],
            [[0, 0, 4, 0], [0, 4, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]],
        ),
    ],
)
def test_link_scores_by_hand(mask, ch2, ch3):
    assert HARD["ch2"].link_scores(mask).tolist() == ch2
    assert HARD["ch3"].link_scores(mask).tolist() == ch3


def published(mask, variant):
    """The matrix form of the paper's Algorithm 1, with its clamps."""

    def half(a):
        degrees, common = a.sum(1), a @ a.T
        there = (common > 0).double()
        beyond = ((degrees[None, :] - common) * there).clamp(min=1) - 1
        return ((common * (variant == "ch2") + there) / (beyond + 1)) @ a

    a = mask.double()
    return (half(a) + half(a.T).T) * (1 - a)


@pytest.mark.parametrize("variant", ["ch2", "ch3"])
def test_link_scores_are_those_of_the_published_matrix_form(variant):
    draw = torch.Generator().manual_seed(0)
    for _ in range(40):
        mask = torch.rand((5, 7), generator=draw) < 0.4
        ours, theirs = HARD[variant].link_scores(mask), published(mask, variant)
        assert torch.allclose(ours, theirs, atol=1e-8)
        order = torch.randperm(5, generator=draw), torch.randperm(7, generator=draw)
        permuted = HARD[variant].link_scores(mask[order[0]][:, order[1]])
        assert torch.allclose(permuted, ours[order[0]][:, order[1]])


def test_the_best_links_grow_and_equal_ones_at_random():
    mask = bits("1110", "1001", "0100")
    first = [HARD["ch2"](linear(mask), rng(seed)).masked_fill(mask, -1).flatten().argsort(descending=True)
             for seed in range(30)]  # fmt: skip
    assert {int(order[0]) for order in first} == {3}
    assert {int(order[1]) for order in first} == {5, 6, 8, 10}
    assert {int(order[5]) for order in first} == {11}  # the one that scores nothing


def test_soft_growth_samples_by_the_scores():
    mask = bits("1110", "1001", "0100")  # 4, four of 3 and a zero: p = 1/4, 3/16 each
    soft, draws = CannistraciHebb("ch2"), rng()
    taken = torch.zeros(12)
    for _ in range(2000):
        scores = soft(linear(mask), draws)
        assert float(scores[2, 3]) < -1e29
        taken[int(scores.masked_fill(mask, -torch.inf).argmax())] += 1
    assert (taken / 2000)[torch.tensor([3, 5, 6, 8, 10])].tolist() == pytest.approx(
        [1 / 4, *[3 / 16] * 4], abs=0.03
    )


@pytest.mark.parametrize("soft", [True, False])
def test_counts_are_exact_where_nothing_scores(soft):
    """Two links of a layer of its own: all candidates score 0, and are legal all the same."""
    mask = bits("100000", "000000", "000001", "000000")
    scores = CannistraciHebb("ch3", soft)(linear(mask), rng())
    assert scores.isfinite().all()
    assert len(scores[~mask].unique()) == 22


def test_convolutions_grow_at_random_and_are_listed():
    model = conv_net()
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), {"name": "chts", "delta_t": 2}, density=0.5, total_steps=8
    )
    train(model, sparsifier, 8, shape=(4, 3, 8, 8))
    assert sparsifier.unscored == {
        "0": "grow: a convolution is no network of links",
        "3": "init: a depthwise convolution links no inputs with outputs; grow: a convolution is no network of links",
        "5": "grow: a convolution is no network of links",
    }
    table = sparsifier.summary().set_index("layer")
    assert table.loc["0", "at_random"] == "grow: a convolution is no network of links"
    assert sparsifier.updates == 2


# Inits


def test_receptive_fields_prefer_near_places_by_hand():
    """Two nodes at places 0 and 2 of four: p = 3, 1.5, 1, 1.5 of 7 at r = 1/2, and the same for the other."""
    field, first, draws = ReceptiveFields(0.5, "fixed"), torch.zeros(2, 4), rng()
    for _ in range(4000):
        first += field(view(torch.ones(2, 4), allocation=2), draws) >= 1
    near = [3 / 7, 1.5 / 7, 1 / 7, 1.5 / 7]
    assert (first[0] / 4000).tolist() == pytest.approx(near, abs=0.03)
    assert (first[1] / 4000).tolist() == pytest.approx([near[2], near[3], near[0], near[1]], abs=0.03)
    nearest = ReceptiveFields(0, "fixed")(view(torch.ones(2, 4), allocation=4), rng()) >= 1
    assert torch.equal(nearest, bits("1100", "0110"))


@pytest.mark.parametrize("degrees", ["fixed", "uniform"])
@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (7, 7), (8, 3, 3, 3)])
@pytest.mark.parametrize("r", [0, 0.3, 1])
def test_receptive_fields_have_exactly_the_links_asked_for(degrees, shape, r):
    size = torch.Size(shape).numel()
    for links in (10, size // 2, size - 1, size):
        mask = ReceptiveFields(r, degrees)(view(torch.ones(shape), allocation=links), rng()) >= 1
        per_node = mask.flatten(1).sum(1 if mask.flatten(1).shape[0] <= mask.flatten(1).shape[1] else 0)
        assert int(mask.sum()) == links
        if degrees == "fixed":
            assert int(per_node.max() - per_node.min()) <= 1
        else:
            assert int(per_node.min()) >= 1


def test_random_receptive_fields_have_the_degrees_of_chance():
    """r = 1: the degrees of the larger side, whose places nobody prefers, are as those of random masks."""
    counts = sum(
        (ReceptiveFields(1, "fixed")(view(torch.ones(20, 40), allocation=200), rng(seed)) >= 1)
        .sum(0)
        .double()
        for seed in range(40)
    )
    chi2 = float(((counts - 200) ** 2 / (200 * 0.75)).sum())  # 40 x 20 draws of probability 1/4 each
    assert 15 < chi2 < 73  # 39 degrees of freedom, beyond 0.999 each way


def test_receptive_fields_need_a_link_a_node():
    with pytest.raises(Infeasible, match="3 links for 4 nodes"):
        ReceptiveFields()(view(torch.ones(4, 8), allocation=3), rng())


def test_receptive_fields_see_the_allocation_of_their_share():
    """With ERK's densities, too, the degrees are those asked for."""
    model = mlp()
    init = {"name": "brf", "degrees": "fixed", "share": "erk"}
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), {"init": init, "schedule": "never"}, density=0.3, total_steps=4
    )
    assert len({sparsifier.budget[n] / w.numel() for n, w in sparsifier.masks.items()}) > 1
    for mask in sparsifier.masks.values():
        per_node = mask.sum(1 if mask.shape[0] <= mask.shape[1] else 0)
        assert int(per_node.max() - per_node.min()) <= 1


def test_small_world_without_chance_is_a_lattice():
    lattice = SmallWorld(0.0)(view(torch.ones(4, 4), allocation=8), rng()) >= 1
    assert torch.equal(lattice, bits("1100", "0110", "0011", "1001"))


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_small_world_moves_its_share_of_links(beta):
    moved = 0
    for seed in range(50):
        mask = SmallWorld(beta)(view(torch.ones(12, 30), allocation=90), rng(seed)) >= 1
        lattice = SmallWorld(0)(view(torch.ones(12, 30), allocation=90), rng(seed)) >= 1
        assert int(mask.sum()) == int(lattice.sum()) == 90
        moved += int((lattice & ~mask).sum())
    back = 90 * beta / (270 + 90 * beta)  # what is just dropped may be drawn again
    assert moved / 50 / 90 == pytest.approx(beta * (1 - back), abs=0.03)


@pytest.mark.parametrize("score", [ReceptiveFields(), SmallWorld(), CannistraciHebb()])
def test_depthwise_convolutions_have_no_links(score):
    assert "depthwise" in str(score.misfit(LayerInfo("l", (8, 1, 3, 3), "conv"))) or "no network" in str(
        score.misfit(LayerInfo("l", (8, 1, 3, 3), "conv"))
    )
    assert score.misfit(LayerInfo("l", (8, 4), "linear")) is None
