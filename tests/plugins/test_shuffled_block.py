"""Shuffled blocks: hand-made masks, properties on odd shapes, parameters."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dstbench.accel.kernels.groups import layout, to_mask
from dstbench.api import LayerInfo, StrategyError, Structure
from dstbench_plugins.structure.shuffled_block import ShuffledBlock
from dstbench_plugins.structure.shuffled_extract import (
    best_columns,
    column_scores,
    equal_columns,
)
from fakes.blocks import PAIRS, bits, extract, view

# Masks worked out by hand


@pytest.mark.parametrize(
    ("n", "rows_0_2", "rows_1_3"),
    [(2, "1000", "0000"), (4, "1000", "0010"), (6, "1000", "0011"), (8, "1100", "0011")],
)
def test_extraction_groups_similar_rows_and_takes_the_best_columns(n, rows_0_2, rows_1_3):
    assert torch.equal(extract(ShuffledBlock(2), PAIRS, n), bits(rows_0_2, rows_1_3, rows_0_2, rows_1_3))


def test_balanced_groups_have_equally_many_columns():
    scores = torch.tensor([[9.0, 8, 7, 0], [0, 0, 0, 1], [9, 8, 7, 0], [0, 0, 0, 1]])
    assert torch.equal(extract(ShuffledBlock(2), scores, 4), bits("1100", "0000", "1100", "0000"))
    assert torch.equal(
        extract(ShuffledBlock(2, balanced=True), scores, 4), bits("1000", "0001", "1000", "0001")
    )


def test_channel_granularity_takes_every_tap_of_an_in_channel():
    scores = torch.zeros(4, 3, 1, 2)
    scores[:, :, 0, :] = torch.tensor([[[3.0, 0], [2, 2], [0, 1]]] * 4)  # norms 3, √8, 1 a row
    assert torch.equal(extract(ShuffledBlock(2, "entry"), scores, 4).flatten(1), bits(*["100000"] * 4))
    assert torch.equal(extract(ShuffledBlock(2, "channel"), scores, 8).flatten(1), bits(*["110000"] * 4))


def test_rows_that_are_left_over_form_a_smaller_group():
    scores = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [0, 2]])
    structure = ShuffledBlock(2)
    mask = extract(structure, scores, 5)
    # clusters {1, 3, 4} and {0, 2}: groups (1, 3), (4, 0), (2,); worths (0, 1), (√½, √2), (1, 0)
    assert torch.equal(mask, bits("01", "01", "10", "01", "01"))
    assert structure.is_legal(view(scores).info, mask)


def test_smaller_group_competes_by_the_worth_of_a_weight():
    scores = torch.tensor([[1.0, 1.0], [1, 1], [1, 1], [3, 0]])
    worth = column_scores(scores, torch.arange(4), 3, 1)
    assert torch.equal(worth, torch.tensor([[1, 1], [3, 0]]) / 3)  # over the largest score


def test_ties_go_to_the_lowest_index():
    assert equal_columns(torch.tensor([[1.0, 2, 2], [0, 0, 0]]), 2).tolist() == [
        [False, True, True],
        [True, True, False],
    ]
    assert torch.equal(
        extract(ShuffledBlock(2), torch.ones(4, 4), 6), bits("1100", "1100", "1000", "1000")
    )  # column 0 of both groups first


def test_block_filter_spares_marks_that_are_alone_in_their_block():
    mask = torch.ones(4, 8, dtype=torch.bool)  # B = 4: blocks are columns 0-3 and 4-7
    scores = torch.ones(4, 8)
    for row, column in [(0, 0), (0, 1), (1, 2), (2, 5), (3, 5), (0, 7)]:
        scores[row, column] = 0.1
    layer = view(torch.ones(4, 8), mask)
    assert torch.equal(
        ShuffledBlock(4, drop="weight").shrink(layer, scores, 26),
        bits("00111111", "11111111", "11111011", "11111011"),
    )
    assert torch.equal(
        ShuffledBlock(4, drop="weight", block_filter=False).shrink(layer, scores, 26),
        bits("00111110", "11011111", "11111011", "11111011"),
    )


def test_block_filter_looks_at_scattered_rows_and_columns():
    mask = torch.zeros(8, 6, dtype=torch.bool)
    mask[::2, [0, 2, 3, 5]] = True
    mask[1::2, [1, 2, 4, 5]] = True
    scores = torch.rand(8, 6, generator=torch.Generator().manual_seed(0)) + 1
    scores[2, [0, 5]] = 0  # half of a row of the even rows' block
    scores[3, 2] = scores[5, 1] = 0  # alone
    kept = ShuffledBlock(4, drop="weight").shrink(view(torch.ones(8, 6), mask), scores, 28)
    expected = mask.clone()
    expected[2, [0, 5]] = False
    assert torch.equal(kept, expected)


def test_block_filter_works_where_blocks_are_narrower_than_half_a_block():
    scores = torch.tensor([[0.0], [1], [1]])
    kept = ShuffledBlock(16, drop="weight").shrink(
        view(torch.ones(3, 1), torch.ones(3, 1, dtype=torch.bool)), scores, 2
    )
    assert kept.tolist() == [[False], [True], [True]]


def test_whole_columns_drop_by_their_mean_score():
    mask = bits("1110", "0011", "1110", "0011", "0001")
    scores = torch.tensor(
        [[5.0, 1, 2, 9], [9, 9, 3, 4], [1, 0, 2, 9], [9, 9, 3, -torch.inf], [9, 9, 9, 8]]
    )  # means of rows 0 and 2: 3, ½, 2; of 1 and 3: 3, -∞; of 4: 8
    layer = view(torch.ones(5, 4), mask)
    structure = ShuffledBlock(2, drop="column")
    assert torch.equal(structure.shrink(layer, scores, 5), bits("1000", "0010", "1000", "0010", "0001"))
    assert torch.equal(structure.shrink(layer, scores, 7), bits("1010", "0010", "1010", "0010", "0001"))
    assert torch.equal(
        structure.shrink(layer, torch.full((5, 4), -torch.inf), 1),
        bits("1000", "0000", "1000", "0000", "0000"),
    )


def test_dropping_columns_moves_the_mask_further_than_the_published_rule():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    n, changed = 512, {}
    for drop in ("weight", "column"):
        structure = ShuffledBlock(16, drop=drop)
        first = structure.merge(torch.zeros(64, 64, dtype=torch.bool), None, weight.abs(), n)
        mask = structure.fill(view(weight), first, n)
        kept = structure.shrink(view(weight, mask), weight.abs(), 352)
        merged = structure.merge(kept, weight.abs(), grad.abs(), n)
        changed[drop] = int((mask & ~structure.fill(view(weight, kept), merged, n)).sum())
    assert changed["weight"] < 80 <= changed["column"]  # 160 were to go


def test_grown_weights_enter_at_the_mean_of_what_was_kept():
    kept = bits("1100", "0000")
    keep_scores = torch.tensor([[2.0, 4, 99, 99], [99] * 4])
    grow_scores = torch.tensor([[99.0, 99, 1, -torch.inf], [3, 2, 0, 5]])
    merged = ShuffledBlock(2).merge(kept, keep_scores, grow_scores, 4)
    assert merged.tolist() == [[2, 4, 0, 0], [3, 0, 0, 3]]


def test_first_weights_enter_with_their_own_scores():
    scores = torch.tensor([[0.5, -torch.inf, 0.1], [0.3, 0.2, 0.4]])
    merged = ShuffledBlock(2).merge(torch.zeros(2, 3, dtype=torch.bool), None, scores, 3)
    assert torch.equal(merged, torch.tensor([[0.5, 0, 0], [0.3, 0, 0.4]]))


def test_kept_weights_of_zero_or_less_stay_in_the_support():
    kept = bits("111")
    for scores in ([0.0, 1, 2], [-3.0, -2, -1], [0.0, 0, 0], [-torch.inf, 0, 5]):
        merged = ShuffledBlock(1).merge(kept, torch.tensor([scores]), torch.zeros(1, 3), 3)
        assert bool((merged > 0).all())
        assert torch.equal(merged, merged.sort().values)


def test_layout_names_rows_and_columns_of_every_group():
    mask = bits("1010", "0100", "1010", "0100", "1010")
    groups = layout(mask, 2)
    assert groups.perm.tolist() == [0, 2, 1, 3, 4]
    assert groups.ptr.tolist() == [0, 2, 3, 5]
    assert groups.cols.tolist() == [0, 2, 1, 0, 2]
    assert groups.cols.dtype == torch.int32
    assert torch.equal(to_mask(groups, (5, 4), 2), mask)


# Which masks are legal


@pytest.mark.parametrize(
    ("rows", "legal"),
    [
        (("1100", "0011", "1100", "0011"), True),
        (("1100", "1100", "1100", "1100"), True),
        (("1110", "0000", "1110", "0000"), True),  # dead rows
        (("1100", "0011", "1100", "0111"), False),
        (("1100", "1100", "1100", "0011"), False),
        (("1100", "0011", "1100", "0011", "0110"), True),
        (("1100", "0011", "1100", "0011", "0011"), True),
        (("1100", "0011", "1100", "0110", "1001"), False),
        (("1011",), True),
    ],
)
def test_legal_masks(rows, legal):
    mask = bits(*rows)
    assert ShuffledBlock(2).is_legal(view(mask.float()).info, mask) is legal


def test_channel_granularity_and_balance_are_part_of_legality():
    mask = bits("110000", "110000", "110011", "110011")
    info = LayerInfo("conv", (4, 3, 1, 2), "conv")
    assert ShuffledBlock(2, "channel").is_legal(info, mask.view(4, 3, 1, 2))
    assert not ShuffledBlock(2, "channel", balanced=True).is_legal(info, mask.view(4, 3, 1, 2))
    assert not ShuffledBlock(2, "channel").is_legal(info, mask.roll(1, 1).view(4, 3, 1, 2))
    assert ShuffledBlock(2, "entry").is_legal(info, mask.roll(1, 1).view(4, 3, 1, 2))
    assert not ShuffledBlock(2).is_legal(info, mask)  # the mask of another shape


def test_layout_refuses_other_masks():
    with pytest.raises(StrategyError, match="expected groups of 2 rows"):
        layout(bits("10", "01"), 2)


# Properties


@st.composite
def cases(draw: st.DrawFn) -> tuple[ShuffledBlock, Tensor, int]:
    kernel = draw(st.sampled_from([(), (1, 1), (2, 1), (3, 3)]))
    shape = (draw(st.integers(1, 13)), draw(st.integers(1, 7)), *kernel)
    structure = ShuffledBlock(
        draw(st.integers(1, 6)), draw(st.sampled_from(["entry", "channel"])), draw(st.booleans())
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    levels = draw(st.sampled_from([1, 2, 3, 10**6]))  # 1: all equal; few: many ties
    scores = torch.randint(0, levels, shape, generator=generator).float()
    unit = structure.unit(view(scores).info)
    return structure, scores, draw(st.integers(unit, scores.numel()))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_filled_masks_are_legal_and_within_half_a_unit(case):
    structure, scores, n = case
    info, original = view(scores).info, scores.clone()
    mask = extract(structure, scores, n)
    assert structure.is_legal(info, mask)
    assert 2 * abs(int(mask.sum()) - n) <= structure.unit(info)
    assert torch.equal(mask, extract(structure, scores, n))
    assert torch.equal(scores, original)
    groups = layout(mask, structure.block_size, structure.columns)
    assert torch.equal(to_mask(groups, info.shape, structure.block_size, structure.columns), mask)


@settings(max_examples=60, deadline=None)
@given(cases(), st.floats(0, 1), st.sampled_from(["weight", "column"]), st.booleans())
def test_an_update_retiles_within_the_budget(case, fraction, drop, block_filter):
    structure, scores, n = case
    structure = replace(structure, drop=drop, block_filter=block_filter)
    mask = extract(structure, scores, n)
    layer = view(scores, mask)
    keep = int(fraction * int(mask.sum()))
    kept = structure.shrink(layer, scores, keep)
    assert not bool((kept & ~mask).any())
    if drop == "column":
        unit = structure.unit(layer.info)
        assert structure.is_legal(layer.info, kept)
        left = int(kept.sum())
        assert 2 * abs(left - keep) <= unit or 0 < left <= unit  # at least one column stays
    else:
        assert int(kept.sum()) >= keep if block_filter else int(kept.sum()) == keep
    grow = scores.flip(0)
    merged = structure.merge(kept, scores, grow, n)
    assert int((merged > 0).sum()) == max(n, int(kept.sum()))
    assert not bool((kept & (merged == 0)).any())
    refilled = structure.fill(view(scores, kept), merged, n)
    assert structure.is_legal(layer.info, refilled)
    assert 2 * abs(int(refilled.sum()) - n) <= structure.unit(layer.info)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 4), st.integers(0, 3), st.data())
def test_best_columns_is_the_greedy_ranking(groups, width, size, smaller, data):
    sizes = torch.tensor([size + smaller] * (groups - 1) + [size])
    count = groups * width
    drawn = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    scores = torch.tensor(drawn).view(groups, width).float()
    n = data.draw(st.integers(1, int(sizes.sum()) * width))
    order = sorted(
        ((g, c) for g in range(groups) for c in range(width)),
        key=lambda gc: (-float(scores[gc]), gc[1], gc[0]),
    )
    totals = [sum(int(sizes[g]) for g, _ in order[:k]) for k in range(1, count + 1)]
    nearest = min(range(count), key=lambda k: (abs(totals[k] - n), k))
    expected = torch.zeros(groups, width, dtype=torch.bool)
    for group, column in order[: nearest + 1]:
        expected[group, column] = True
    assert torch.equal(best_columns(scores, sizes, n), expected)


def test_less_than_a_unit_still_keeps_one_column():
    for n in (0, 1, 2):
        assert int(extract(ShuffledBlock(8), torch.rand(16, 5), n).sum()) == 8


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 9), (9, 1), (7, 1, 3, 3), (17, 13, 3, 3), (23, 5, 1, 1), (10, 31)]
)
@pytest.mark.parametrize("columns", ["entry", "channel"])
def test_odd_and_depthwise_shapes(shape, columns):
    structure, n = ShuffledBlock(columns=columns), math.prod(shape) // 2 + 1
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    mask = extract(structure, scores, n)
    assert structure.is_legal(view(scores).info, mask)
    assert 2 * abs(int(mask.sum()) - n) <= structure.unit(view(scores).info)


def test_large_layer():
    structure = ShuffledBlock()
    weight = torch.randn(512, 256, 3, 3, generator=torch.Generator().manual_seed(0))
    merged = structure.merge(torch.zeros_like(weight, dtype=torch.bool), None, weight.abs(), 117_965)
    mask = extract(structure, merged, 117_965)
    assert structure.is_legal(view(weight).info, mask)
    assert abs(int(mask.sum()) - 117_965) <= 8


def test_blocks_keep_more_magnitude_than_fixed_ones():
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(64, 64)
    for part in range(4):  # interleaved rows that use the same columns
        columns = torch.randperm(64, generator=generator)[:16]
        rows = torch.arange(part, 64, 4)
        weight[rows[:, None], columns] = torch.rand(16, 16, generator=generator) + 0.5
    mask = extract(ShuffledBlock(16), weight, 1024)
    assert torch.equal(mask, weight > 0)


def test_scores_of_half_precision_or_below_zero_are_fine():
    scores = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    structure = ShuffledBlock(4)
    merged = structure.merge(torch.zeros(8, 8, dtype=torch.bool), None, scores, 30)
    assert structure.is_legal(view(scores).info, extract(structure, merged, 32))
    assert int(extract(structure, -torch.rand(8, 8), 32).sum()) == 32


# Parameters


def test_parameters():
    structure = ShuffledBlock(8, balanced=True)
    assert isinstance(structure, Structure)
    assert ShuffledBlock(8).unit(LayerInfo("l", (20, 3, 3, 3), "conv")) == 8
    assert ShuffledBlock(8, "channel").unit(LayerInfo("l", (20, 3, 3, 3), "conv")) == 72
    assert ShuffledBlock(8, "channel").unit(LayerInfo("l", (5, 3), "linear")) == 5
    assert structure.unit(LayerInfo("l", (20, 3, 3, 3), "conv")) == 20
    assert structure.capacity(LayerInfo("l", (20, 3, 3, 3), "conv")) == 540
    assert structure.misfit(LayerInfo("l", (20, 3, 3, 3), "conv")) is None
    assert "inputs" in structure.misfit(LayerInfo("l", (20, 3, 3, 3), "conv_transpose"))


@pytest.mark.parametrize(
    "bad", [{"block_size": 0}, {"block_size": 2.0}, {"block_size": True}, {"columns": "tap"}]
)
def test_bad_parameters_are_named(bad):
    with pytest.raises(StrategyError, match=next(iter(bad))):
        ShuffledBlock(**bad)
