"""Structures: masks by hand, and their contract on odd shapes."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dstbench.api import LayerInfo, Quota, StrategyError, Structure
from dstbench.core.engine.structures import Unstructured, as_structure, fitted, merge_ranks
from dstbench_plugins.structure.channel import Channel
from fakes.engine import bits, view


@dataclass(frozen=True)
class TwoOfFour:
    """2:4 sparsity: units are weights, groups four neighbours in a row."""

    def units(self, layer):
        return torch.arange(layer.numel).view(layer.shape)

    def quota(self, layer):
        return Quota(torch.arange(layer.numel) // 4, 2)


@dataclass(frozen=True)
class Columns:
    """Columns 0, 1-2, 3-5, 6-9, …: units of unequal size."""

    def units(self, layer):
        widths = torch.arange(1, 20)
        columns = torch.repeat_interleave(torch.arange(19), widths)[: layer.shape[1]]
        return columns.view(-1, *[1] * (len(layer.shape) - 2)).expand(layer.shape)


def fill(structure, scores, n, mask=None):
    return structure.fill(view(torch.ones_like(scores), mask), scores, n)


# The door


@dataclass(frozen=True)
class Pairs(Unstructured):
    """Any mask, with every ability of its own."""

    retiles = True
    whole_rows = True

    def misfit(self, layer):
        return "too small"

    def accelerate(self, call, mask):
        return ["fast"]

    def merge(self, kept, keep_scores, grow_scores, n):
        return -grow_scores

    def allowed(self, layer, scores):
        return 7


@dataclass(frozen=True)
class Bare:
    """What a structure must have, and nothing else."""

    def unit(self, layer):
        return 3

    def capacity(self, layer):
        return 6

    def shrink(self, layer, scores, n):
        return layer.mask

    def fill(self, layer, scores, n):
        return scores > n

    def is_legal(self, layer, mask):
        return False


@dataclass(frozen=True)
class Removing:
    """A mere support."""

    whole_rows = True

    def events(self, clock):
        return False

    def support(self, layers, couplings, clock):
        return {}


INFO = LayerInfo("layer", (2, 4), "linear")


def test_a_structures_own_abilities_are_used():
    structure, scores = as_structure(Pairs()), torch.rand(2, 4)
    assert (structure.retiles, structure.whole_rows, structure.silences) == (True, True, True)
    assert structure.misfit(INFO) == "too small"
    assert structure.accelerate(None, None) == ["fast"]
    assert torch.equal(structure.merge(None, None, scores, 1), -scores)
    assert structure.allowed(view(scores), scores) == 7
    assert structure.reads_keep_scores


def test_what_a_structure_lacks_is_the_engines():
    structure, scores = as_structure(Bare()), torch.tensor([[0.5, -torch.inf, 2, 5], [1, 1, 1, -torch.inf]])
    layer = view(scores, bits("1100", "0000"))
    assert (structure.retiles, structure.whole_rows, structure.silences) == (False, False, False)
    assert structure.misfit(INFO) is None
    assert structure.accelerate(None, None) == ()
    assert structure.allowed(layer, scores) == 5
    assert structure.merge is merge_ranks
    assert structure.reads_keep_scores
    assert (structure.unit(INFO), structure.capacity(INFO), structure.is_legal(INFO, layer.mask)) == (
        3,
        6,
        False,
    )
    assert torch.equal(structure.shrink(layer, scores, 1), layer.mask)
    assert torch.equal(structure.fill(layer, scores, 1), bits("0011", "0000"))


def test_the_door_leaves_what_came_through_it_and_tells_structures_apart():
    structure = as_structure(Channel())
    assert as_structure(structure) is structure
    assert structure == as_structure(Channel()) != as_structure(Columns())
    assert repr(structure) == "Partition(layout=Channel())"
    assert structure.component == Channel()
    assert hash(structure) == hash(as_structure(Channel()))


def test_a_mere_support_leaves_any_mask_legal_and_rows_unsilenced():
    structure = as_structure(Removing())
    assert (repr(structure), structure.component) == ("Unstructured()", Removing())
    assert (structure.whole_rows, structure.silences) == (True, False)


def test_what_does_not_fit_is_unstructured():
    assert fitted(as_structure(Bare()), INFO) == (as_structure(Bare()), None)
    assert fitted(as_structure(Pairs()), INFO) == (as_structure(Unstructured()), "too small")


def test_merged_ranks_put_every_kept_position_above_every_other():
    merged = merge_ranks(
        bits("1100"), torch.tensor([[5.0, 9, 7, 7]]), torch.tensor([[8.0, 8, -torch.inf, 100]]), 3
    )
    assert merged.tolist() == [[1.0, 2.0, -torch.inf, 0.0]]


# Unstructured


def test_unstructured_fills_and_shrinks_by_hand():
    scores = torch.tensor([[5.0, 1, 4], [2, 6, 3]])
    any_mask = Unstructured()
    assert torch.equal(fill(any_mask, scores, 3), bits("101", "010"))
    kept = bits("010", "100")
    assert torch.equal(fill(any_mask, scores, 4, kept), bits("110", "110"))
    assert torch.equal(any_mask.shrink(view(scores, bits("111", "000")), scores, 2), bits("101", "000"))


def test_unstructured_fill_with_less_than_it_has_keeps_all():
    assert torch.equal(fill(Unstructured(), torch.rand(1, 3), 1, bits("110")), bits("110"))


# Channels

CHANNEL = as_structure(Channel())


def test_channels_rank_by_their_mean_score():
    scores = torch.tensor([[9.0, 0, 0], [4, 4, 4], [5, 5, 1], [1, 1, 1]])  # means 3, 4, 3.67, 1
    assert torch.equal(fill(CHANNEL, scores, 6), bits("000", "111", "111", "000"))
    assert torch.equal(fill(CHANNEL, scores, 9), bits("111", "111", "111", "000"))
    layer = view(scores, bits("111", "111", "000", "111"))
    assert torch.equal(CHANNEL.shrink(layer, scores, 3), bits("000", "111", "000", "000"))


@pytest.mark.parametrize(("n", "rows"), [(1, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 3), (12, 4)])
def test_channels_go_to_the_nearest_unit_and_keep_at_least_one(n, rows):
    scores = torch.tensor([[4.0], [3], [2], [1]]).expand(4, 3)
    mask = fill(CHANNEL, scores, n)
    assert mask.any(1).tolist() == [row < rows for row in range(4)]
    shrunk = CHANNEL.shrink(view(scores, torch.ones(4, 3).bool()), scores, n)
    assert torch.equal(shrunk, mask)


def test_equal_channels_go_to_the_lowest_index():
    assert torch.equal(fill(CHANNEL, torch.ones(4, 2), 4), bits("11", "11", "00", "00"))


def test_channels_of_a_convolution_are_its_output_rows():
    scores = torch.zeros(3, 2, 3, 3)
    scores[1] = 1
    mask = fill(CHANNEL, scores, 18)
    assert mask.flatten(1).all(1).tolist() == [False, True, False]
    assert CHANNEL.unit(view(scores).info) == 18


def test_classifiers_and_transposed_convolutions_do_not_fit_channels():
    assert "classes" in CHANNEL.misfit(LayerInfo("fc", (10, 5), "linear", classifier=True))
    assert "second" in CHANNEL.misfit(LayerInfo("up", (4, 2, 2, 2), "conv_transpose"))
    assert CHANNEL.misfit(LayerInfo("fc", (10, 5), "linear")) is None


def test_a_forbidden_weight_forbids_its_channel():
    scores = torch.tensor([[9.0, -torch.inf], [1, 1]])
    assert torch.equal(fill(CHANNEL, scores, 4), bits("00", "11"))


# Quotas

NM = as_structure(TwoOfFour())


def test_two_of_four_takes_the_best_two_of_each_group():
    scores = torch.tensor([[8.0, 7, 6, 5, 1, 2, 3, 4]])
    assert NM.capacity(view(scores).info) == 4
    assert torch.equal(fill(NM, scores, 4), bits("1100 0011"))
    assert torch.equal(fill(NM, scores, 3), bits("1100 0001"))  # 8, 7, then 4: the first group is full


def test_two_of_four_counts_what_was_kept():
    scores = torch.tensor([[8.0, 7, 6, 5, 1, 2, 3, 4]])
    assert torch.equal(fill(NM, scores, 4, bits("0011 0000")), bits("0011 0011"))
    assert torch.equal(fill(NM, scores, 3, bits("0010 1000")), bits("1010 1000"))


def test_two_of_four_says_what_is_legal():
    info = LayerInfo("layer", (1, 8), "linear")
    assert NM.is_legal(info, bits("1100 1010"))
    assert not NM.is_legal(info, bits("1110 0000"))


def test_a_pruned_two_of_four_mask_can_grow_elsewhere():
    """A calculator that ignores the wanted sparsity drops nothing and regrows nothing: 2:4 stays static."""
    scores = torch.tensor([[8.0, 7, 6, 5, 1, 2, 3, 4]])
    kept = NM.shrink(view(scores, bits("1100 0011")), scores, 2)
    assert torch.equal(kept, bits("1100 0000"))
    assert torch.equal(fill(NM, -scores, 4, kept), bits("1100 1100"))


# Unequal units

UNEQUAL = as_structure(Columns())


@pytest.mark.parametrize(
    ("n", "widths"), [(1, [4]), (4, [4]), (5, [4]), (6, [4, 3]), (8, [4, 3]), (9, [4, 3, 2])]
)
def test_unequal_units_go_to_the_nearest_total(n, widths):
    mask = fill(UNEQUAL, torch.arange(10.0).view(1, 10), n)  # the last, widest unit is the best
    assert int(mask.sum()) == sum(widths)
    assert mask[0, 10 - sum(widths) :].all()


def test_units_of_the_wrong_shape_name_the_layer():
    @dataclass(frozen=True)
    class Flat:
        def units(self, layer):
            return torch.arange(layer.numel)

    with pytest.raises(StrategyError, match=r"Flat.*'layer'.*\(2, 3\).*\(6,\)"):
        fill(as_structure(Flat()), torch.rand(2, 3), 2)


# Properties on odd shapes

SHAPES = st.one_of(
    st.just((1, 1)),
    st.tuples(st.sampled_from([1, 2, 5, 7, 13]), st.sampled_from([1, 3, 4, 11])),
    st.tuples(st.sampled_from([1, 5, 8]), st.just(1), st.just(3), st.just(3)),  # depthwise
    st.tuples(st.integers(1, 6), st.integers(1, 5), st.sampled_from([1, 3]), st.sampled_from([1, 2])),
)
STRUCTURES = {"unstructured": Unstructured(), "channel": CHANNEL, "unequal": UNEQUAL, "2:4": NM}


@pytest.mark.parametrize("name", STRUCTURES)
@settings(deadline=None, max_examples=60)
@given(data=st.data(), shape=SHAPES, ties=st.booleans())
def test_shrink_and_fill_keep_their_contract(name, data, shape, ties):
    structure: Structure = STRUCTURES[name]
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    scores = torch.zeros(shape) if ties else torch.randn(shape, generator=draw)
    info = view(scores).info
    unit, capacity = structure.unit(info), structure.capacity(info)
    assert 1 <= unit <= info.numel
    assert capacity <= info.numel
    least = min(unit, capacity)

    full = structure.fill(view(scores), scores, capacity)
    assert int(full.sum()) == capacity
    n = data.draw(st.integers(least, capacity))
    mask = structure.fill(view(scores), scores, n)
    assert structure.is_legal(info, mask)
    assert abs(int(mask.sum()) - n) <= unit / 2
    assert mask.any()

    fewer = data.draw(st.integers(least, max(least, int(mask.sum()))))
    kept = structure.shrink(view(scores, mask), -scores, fewer)
    assert not (kept & ~mask).any()
    assert structure.is_legal(info, kept)
    assert abs(int(kept.sum()) - fewer) <= unit / 2
    assert kept.any()

    again = structure.fill(view(scores, kept), torch.randn(shape, generator=draw), n)
    assert structure.is_legal(info, again)
    assert not (kept & ~again).any()
    assert abs(int(again.sum()) - n) <= unit / 2


def test_scores_of_two_precisions_merge_in_one_that_tells_all_ranks_apart():
    kept = bits("1100")
    merged = merge_ranks(kept, torch.tensor([[1.0, 3, 0, 0]]).double(), torch.tensor([[0.0, 0, 5, 4]]), 3)
    assert merged.tolist() == [[1, 2, 1, 0]]
    many = torch.arange(4000.0).view(1, -1).bfloat16()  # fewer than 256 values between 0 and 1
    assert len(merge_ranks(torch.zeros(1, 4000).bool(), None, many, 3).unique()) == 4000


def test_merged_ranks_leave_ties_to_the_lowest_index():
    merged = merge_ranks(bits("11000"), torch.ones(1, 5), torch.tensor([[0.0, 0, 7, 7, 8]]), 3)
    assert merged.tolist() == [[2, 1, 0.5, 0, 1]]
    one = merge_ranks(bits("10"), torch.ones(1, 2), torch.ones(1, 2), 2)
    assert one.tolist() == [[1, 0]]
