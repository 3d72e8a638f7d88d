"""Topology updates by the pure engine, by hand and against what reference code got wrong."""

from dataclasses import replace

import pytest
import torch

from dstbench.api import Infeasible, InPlace, Policy, Random, Signal, Target
from dstbench.core.engine.books import Books, Goal
from dstbench.core.engine.structures import Unstructured, as_structure
from dstbench_plugins.grow.gradient import Gradient
from dstbench_plugins.grow.momentum import Momentum
from dstbench_plugins.init.erk import ERK
from dstbench_plugins.prune.magnitude import Magnitude
from dstbench_plugins.prune.mest import Mest
from dstbench_plugins.prune.set import WithinSign
from dstbench_plugins.share.momentum import MeanMomentum
from dstbench_plugins.share.rank import Global
from dstbench_plugins.share.survivors import Survivors
from dstbench_plugins.structure.channel import Channel
from fakes.engine import bits, view
from fakes.updates import A, B, one, update


def test_rigl_by_hand():
    # a keeps 4 and -3, drops -1 and 2; grows where |g| is 9 (just dropped) and 8. b drops .1, grows at |-3|
    masks, budget = update([A, B], [2, 2], [4, 3])
    assert torch.equal(masks["a"], bits("1101", "1000"))
    assert torch.equal(masks["b"], bits("01", "01", "10"))
    assert budget == {"a": 4, "b": 3}


def test_snfs_sharing_by_hand():
    """Mean |m| of what was kept: 1 in a, 3 in b. Of 4 weights b gets 3, a gets 1."""
    masks, budget = update([A, B], [2, 1], [4, 3], grow=Policy(Momentum(), MeanMomentum()))
    assert budget == {"a": 3, "b": 4}
    assert torch.equal(masks["a"], bits("1000", "1001"))  # |m| = 6 before 5
    assert torch.equal(masks["b"], bits("11", "10", "10"))  # .5 was kept; |m| = 4, 3 (just dropped, twice)


def test_global_pruning_by_hand():
    """Of 4, 3, 2, 1 and .5, .3, .1 the four smallest go, but b keeps one."""
    masks, budget = update([A, B], [2, 2], [4, 3], prune=Policy(Magnitude(), Global()))
    assert budget == {"a": 4, "b": 3}
    masks, budget = update([A, B], [2, 2], [2, 2], prune=Policy(Magnitude(), Global()))
    assert budget == {"a": 3, "b": 1}
    assert torch.equal(masks["a"], bits("1000", "1100"))
    assert torch.equal(masks["b"], bits("01", "00", "00"))


def test_global_growth_by_hand():
    """|g| of what isn't kept: 9, 8, 7 and 1 in a, 3, 2, 1 in b: the best three are all in a."""
    masks, budget = update([A, B], [2, 2], [4, 3], grow=Policy(Gradient(), Global()))
    assert budget == {"a": 5, "b": 2}
    assert torch.equal(masks["a"], bits("1101", "1010"))


def test_dsr_sharing_by_hand():
    """In proportion to survivors, 3 in a and 1 in b: of 4 weights a gets 3."""
    _, budget = update([A, B], [3, 1], [4, 4], grow=Policy(Random(exclude_dropped=True), Survivors()))
    assert budget == {"a": 6, "b": 2}


def test_dsr_never_regrows_what_it_just_dropped():
    for step in range(20):
        masks, _ = update([A, B], [2, 2], [4, 3], grow=Policy(Random(exclude_dropped=True)), step=step)
        for layer in (A, B):
            kept = layer.mask & (layer.weight.abs() > {"a": 2, "b": 0.1}[layer.name])
            assert not (masks[layer.name] & layer.mask & ~kept).any()


def test_just_dropped_positions_may_regrow():
    weight, mask = torch.tensor([[3.0, 1, 0]]), bits("110")
    assert torch.equal(one(weight, mask, 1, 2, grad=torch.tensor([[0.0, 5, 4]])), mask)


def test_kept_weights_stay_although_others_have_larger_gradients():
    weight, mask = torch.tensor([[3.0, 2, 1, 0, 0]]), bits("11100")
    assert torch.equal(one(weight, mask, 2, 3, grad=torch.tensor([[0.0, 0, 0, 9, 8]])), bits("11010"))


def test_prune_only_and_grow_only():
    weight, mask = torch.tensor([[3.0, 2, 1, 0]]), bits("1110")
    assert torch.equal(one(weight, mask, 2, 2), bits("1100"))  # reads no gradient: there is none
    assert torch.equal(one(weight, mask, 3, 4, grad=torch.ones(1, 4)), bits("1111"))
    assert torch.equal(one(weight, mask, 3, 3), mask)


# What is free, what is full


def test_a_dense_layer_stays_dense():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    full = torch.ones(5, 7).bool()
    for prune in (Magnitude(), Random(), WithinSign()):
        assert one(weight, full, 20, 35, Policy(prune), grad=torch.rand(5, 7)).all()


def test_more_than_is_free_goes_to_other_layers():
    full = view(torch.ones(2, 2), torch.ones(2, 2).bool(), name="a")
    sparse = view(torch.ones(4, 4), torch.eye(4).bool(), name="b")
    # a, emptied to 3, takes 1; the share asks for 9 there
    masks, budget = update([full, sparse], [3, 4], [12, 4], grow=Policy(Random()))
    assert budget == {"a": 4, "b": 12}
    assert masks["a"].all()
    assert int(masks["b"].sum()) == 12


def test_more_than_is_free_anywhere_is_infeasible_with_the_figures():
    mask = torch.ones(1, 4).bool()
    with pytest.raises(Infeasible, match=r"\b2\b.*\b0\b"):
        one(torch.arange(4.0).view(1, 4), mask, 2, 4, grow=Policy(Random(exclude_dropped=True)))


def test_no_layer_is_emptied():
    tiny = view(torch.full((1, 3), 1e-6), torch.ones(1, 3).bool(), name="tiny")
    big = view(torch.ones(5, 5), torch.ones(5, 5).bool(), name="big")
    masks, _ = update([tiny, big], [1, 3], [1, 3], prune=Policy(Magnitude(), Global()))
    assert int(masks["tiny"].sum()) == 1
    assert int(masks["big"].sum()) == 3


# What reference implementations got wrong


def test_itop_bug_2_a_planted_momentum_peak_is_grown():
    weight = torch.zeros(10, 10)
    mask = torch.rand(10, 10, generator=torch.Generator().manual_seed(1)) < 0.3
    weight[mask] = 1
    momentum = torch.zeros(10, 10)
    peaks = (~mask).nonzero()[-3:]
    momentum[tuple(peaks.T)] = torch.tensor([-3.0, 2, -1])
    n = int(mask.sum())
    grown = one(weight, mask, n - 3, n, grow=Policy(Momentum()), momentum=momentum) & ~mask
    assert torch.equal(grown.nonzero(), peaks)


def test_itop_bug_2_growth_never_lands_on_active_weights():
    """All momenta zero, as where the optimizer's buffer is masked: still exactly k new ones."""
    mask = torch.rand(40, 40, generator=torch.Generator().manual_seed(1)) < 0.5
    n = int(mask.sum())
    grown = one(
        torch.randn(40, 40) * mask, mask, n, n + 300, grow=Policy(Momentum()), momentum=torch.zeros(40, 40)
    )
    assert int((grown & ~mask).sum()) == 300
    assert not (mask & ~grown).any()


@pytest.mark.parametrize("zeta", [0.5, 0.3, 0.1, 0.02])
def test_itop_bug_3_set_drops_the_nearest_zero_of_each_sign_in_proportion(zeta):
    """ITOP keeps the largest negatives only and drops the same number whatever the rate (and SNFS, bug 4,
    drops the most negative)."""
    weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)) - 0.2
    full = torch.ones(40, 50).bool()
    n = round(2000 * (1 - zeta))
    kept = one(weight, full, n, n, Policy(WithinSign()))
    assert int(kept.sum()) == n
    for side in (weight >= 0, weight < 0):
        gone, stayed = weight[side & ~kept].abs(), weight[side & kept].abs()
        assert gone.max() <= stayed.min()
        assert abs(len(gone) - zeta * int(side.sum())) <= 1


def test_set_by_hand():
    weight = torch.tensor([[5.0, 4, 3, 2, -0.5, -0.1]])  # plain magnitude would drop both negatives
    kept = one(weight, torch.ones(1, 6).bool(), 3, 3, Policy(WithinSign()))
    assert torch.equal(kept, bits("110010"))


def test_set_ranks_within_sign_at_low_precision():
    """Ranks of a bfloat16 layer are no bfloat16: that has 8 bits, and distinct ranks would tie."""
    weight = torch.cat([torch.linspace(0.1, 4, 120), -torch.linspace(0.1, 4, 2000)]).view(1, -1)
    weight = weight.to(torch.bfloat16)
    kept = one(weight, torch.ones(weight.shape).bool(), 1060, 1060, Policy(WithinSign()))
    assert int(kept[weight > 0].sum()) == 60
    assert weight[(weight < 0) & ~kept].abs().max() <= weight[(weight < 0) & kept].abs().min()


def test_itop_bug_5_random_growth_is_exact():
    mask = torch.rand(30, 30, generator=torch.Generator().manual_seed(2)) < 0.3
    n = int(mask.sum())
    weight = torch.randn(30, 30)
    for step in range(30):
        mask = one(weight, mask, n - 40, n, grow=Policy(Random()), step=step)
        assert int(mask.sum()) == n


@pytest.mark.parametrize("value", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("score", [Magnitude(), WithinSign()])
def test_itop_bug_6_equal_weights_do_not_empty_a_layer(value, score):
    mask = torch.ones(40, 38).bool()
    kept = one(torch.full((40, 38), value), mask, 1000, 1000, Policy(score))
    assert int(kept.sum()) == 1000


def test_chase_bug_10_zero_weights_do_not_fill_a_layer():
    weight, mask = torch.zeros(20, 20), torch.eye(20).bool()
    assert int(one(weight, mask, 10, 10, Policy(Magnitude(), Global())).sum()) == 10
    assert not (one(weight, mask, 10, 10, Policy(Magnitude(), Global())) & ~mask).any()


def test_itop_bug_7_zero_gradients_still_grow_exactly_k():
    mask = torch.rand(40, 40, generator=torch.Generator().manual_seed(3)) < 0.5
    weight = torch.randn(40, 40, generator=torch.Generator().manual_seed(4)) * mask
    n = int(mask.sum())
    after = one(weight, mask, n - 300, n, grad=torch.zeros(40, 40))
    assert int(after.sum()) == n
    before = one(weight, mask, n - 300, n - 300)
    assert not (before & ~after).any()
    assert int((after & ~before).sum()) == 300


def test_rigl_bug_9_inactive_weights_are_never_kept():
    """300 dead weights and stale values behind the mask: what is kept is active."""
    weight = torch.randn(40, 40, generator=torch.Generator().manual_seed(5)) * 10
    mask = torch.rand(40, 40, generator=torch.Generator().manual_seed(6)) < 0.4
    weight[mask & (torch.rand(40, 40, generator=torch.Generator().manual_seed(7)) < 0.5)] = 0
    n = int(mask.sum())
    for score in (Magnitude(), WithinSign(), Random()):
        assert not (one(weight, mask, n // 2, n // 2, Policy(score)) & ~mask).any()


def test_mest_bug_13_importance_changes_with_lambda():
    weight, active_grad = torch.tensor([[3.0, 2, 1, 0]]), torch.tensor([[0.0, 0, 4, 0]])
    for lam, kept in ((0.0, "1100"), (1.0, "1010")):
        found = one(weight, bits("1110"), 2, 2, Policy(Mest(lam)), active_grad=active_grad)
        assert torch.equal(found, bits(kept))


def test_growth_by_gradient_is_by_its_size_not_its_sign():
    assert torch.equal(
        one(torch.ones(1, 4), bits("1000"), 1, 2, grad=torch.tensor([[0.0, 1, 2, -3]])), bits("1001")
    )


# Purity, devices, other structures


def test_nothing_that_a_strategy_sees_is_written():
    layers = [A, B]
    saved = [
        {k: v.clone() for k, v in vars(layer).items() if isinstance(v, torch.Tensor)} for layer in layers
    ]
    for grow in (Policy(Gradient(), Global()), Policy(Momentum(), MeanMomentum()), Policy(Random(True))):
        update(layers, [2, 2], [4, 3], prune=Policy(Magnitude(), Global()), grow=grow)
    for layer, tensors in zip(layers, saved, strict=True):
        assert all(torch.equal(getattr(layer, name), value) for name, value in tensors.items())


def test_channels_move_whole_rows():
    weight = torch.tensor([[1.0, 1], [3, 3], [2, 2], [0, 0]])
    layer = view(weight, bits("11", "11", "11", "00"), grad=torch.tensor([[0.0, 0], [0, 0], [0, 0], [1, 1]]))
    masks, budget = update([layer], [4], [6], structure=Channel())
    assert torch.equal(masks["layer"], bits("00", "11", "11", "11"))
    assert budget == {"layer": 6}


def test_in_place_gives_back_what_each_layer_lost():
    layers = {
        "a": replace(A, active=2, allocation=4),
        "b": replace(B, active=3, allocation=3),
    }
    assert InPlace()(layers, {}, 2) == {"a": 2.0, "b": 0.0}
    assert Policy(Gradient(), MeanMomentum()).needs == Signal.GRAD | Signal.MOMENTUM


def test_books_go_from_one_decision_to_the_next():
    opened = Books.opened(0.5, {"a": 4, "b": 6})
    assert opened == Books(0.5, {"a": 4, "b": 6}, {"a": 4, "b": 6}, {"a": 4, "b": 6})
    goal = Goal(5, 8, {"a": 2, "b": 3}, {"a": 3, "b": 5})
    after = opened.after(Target(0.25, 0.4), goal, {"a": 1, "b": 7})
    assert after == Books(0.4, {"a": 1, "b": 7}, {"a": 3, "b": 5}, {"a": 4, "b": 6})
    assert after.without({"a": 2, "b": 3}) == replace(after, budget={"a": 0, "b": 4})


def test_a_goal_among_some_layers_leaves_the_others_what_they_hold():
    """Of 12 weights in three layers of 10 the last keeps its 5, one more than it should hold."""
    views = {name: view(torch.ones(1, 10), torch.tensor([[True] * n + [False] * (10 - n)])) for name, n in
             (("a", 3), ("b", 4), ("c", 5))}  # fmt: skip
    goal = Goal(8, 12, {"a": 2, "b": 3, "c": 3}, {"a": 4, "b": 4, "c": 4})
    budget, structures = {"a": 3, "b": 4, "c": 5}, dict.fromkeys("abc", as_structure(Unstructured()))
    some = goal.among({name: views[name] for name in "ab"}, budget, structures)
    assert some == Goal(5, 7, {"a": 2, "b": 3}, {"a": 4, "b": 3})  # 7 in halves: the first takes the odd one
    tight = replace(goal, keep=3, final=3).among({"a": views["a"]}, budget, structures)
    assert (tight.keep, tight.final) == (1, 1)  # less than others hold: one weight is the least
    books = Books(0.4, budget, {"a": 4, "b": 4, "c": 4}, budget).after(
        Target(0.3, 0.4), some, {"a": 4, "b": 3}
    )
    assert books.budget == {"a": 4, "b": 3, "c": 5}
    assert books.allocation == {"a": 4, "b": 3, "c": 4}


@pytest.mark.parametrize(("density", "final"), [(0.5, 6), (0.6, 6), (0.7, None)])
def test_where_positions_were_removed_an_excursion_stops_at_what_is_left(density, final):
    """6 of 10 positions are left: a soft bound of 0.8 becomes 0.6, and density 0.7 can not be held."""
    mask = torch.tensor([[True] * 4 + [False] * 6])
    support = torch.tensor([[True] * 6 + [False] * 4])
    views = {"a": replace(view(torch.ones(1, 10), mask), support=support, allocation=5)}
    books = Books(density=0.8, budget={"a": 4}, allocation={"a": 5}, proportions={"a": 5})
    arguments = (Target(0.4, 0.8), views, {"a": Unstructured()}, ERK(), density)
    if final is None:
        with pytest.raises(
            Infeasible, match=r"density 0\.7: 7 weights are asked for, and 6 of 10 may be active"
        ):
            books.goal(*arguments)
    else:
        goal = books.goal(*arguments)
        assert (goal.keep, goal.final, goal.final_allocation) == (4, final, {"a": final})
