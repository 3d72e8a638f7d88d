"""Exploration and channel statistics: worked out by hand, as properties, and against what chance gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import dstbench
from dstbench.core.network import channel_statistics as channels
from dstbench.core.network.channel_statistics import channel_counts, channel_statistics, pooled
from dstbench.core.network.layers import maskable_layers
from fakes.engine import mlp, recipe, sgd, train


def stats(counts, fan_in):
    return channel_statistics(np.array(counts, dtype=np.int64), fan_in)


def test_statistics_worked_out_by_hand():
    """Four channels of fan-in 4 with 0, 1, 3, 4 weights: d = 1/2, mean 2, so 0 and 1 lie below 2 and 1.6, 0 below 1.

    Null, X ~ Binomial(4, 1/2): P(X < 2) = P(X < 1.6) = 5/16, P(X < 1) = 1/16.
    Gini: (-3·0 - 1·1 + 1·3 + 3·4) / (4·8) = 14/32. Standard deviation √(10/4), mean 2.
    """
    found = stats([3, 0, 4, 1], 4)
    assert (found.channels, found.below_100, found.below_80, found.below_50) == (4, 0.5, 0.5, 0.25)
    assert (found.null_100, found.null_80, found.null_50) == pytest.approx((5 / 16, 5 / 16, 1 / 16))
    assert (found.gini, found.dead) == (14 / 32, 0.25)
    assert found.cv == pytest.approx(2.5**0.5 / 2)


def test_a_channel_at_the_threshold_is_not_below_it():
    """Mean 5: the channels with exactly 5, 4 = 0.8 · 5 and 2.5 · 2 stay out, in exact arithmetic."""
    assert stats([5, 5], 7).below_100 == 0
    found = stats([4, 6], 7)
    assert (found.below_100, found.below_80) == (0.5, 0)
    assert stats([2, 6], 9).below_50 == 0
    assert stats([1, 5], 9).below_50 == 0.5


@pytest.mark.parametrize("count", [0, 9])
def test_an_empty_and_a_full_layer_have_nothing_below(count):
    found = stats([count] * 6, 9)
    assert (found.below_100, found.null_100, found.null_50, found.gini, found.cv) == (0, 0, 0, 0, 0)
    assert found.dead == (count == 0)


def test_channels_are_output_rows():
    mask = torch.zeros(3, 2, 2, 2, dtype=torch.bool)
    mask[0, 1] = True
    mask[2, 0, 0, 0] = True
    assert channel_counts(mask).tolist() == [4, 0, 1]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.randoms())
def test_statistics_do_not_depend_on_the_order_and_stay_in_range(counts, random):
    shuffled = random.sample(counts, len(counts))
    found = stats(counts, 30)
    assert found == stats(shuffled, 30)
    values = vars(found).copy()
    cv, channels = values.pop("cv"), values.pop("channels")
    assert all(0 <= value <= 1 for value in values.values())
    assert 0 <= cv <= channels**0.5
    assert found.below_50 <= found.below_80 <= found.below_100 < 1
    assert found.null_50 <= found.null_80 <= found.null_100


def test_pooled_fractions_are_those_of_all_channels_together():
    """Each channel against the mean of its own layer: 1 of 4 and 1 of 2 are dead, so 2 of 6."""
    one, other = stats([3, 0, 4, 1], 4), stats([0, 9], 9)
    together = pooled([one, other])
    assert together.channels == 6
    assert together.dead == pytest.approx(2 / 6)
    assert together.below_100 == pytest.approx((2 + 1) / 6)
    assert together.gini == pytest.approx((4 * 14 / 32 + 2 * 0.5) / 6)
    assert pooled([]) is None


def test_random_masks_are_as_uneven_as_the_binomial_null():
    """Random masks of ResNet-50 at ERK densities for d = 0.1: half of the channels lie below the mean by chance."""
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.resnet50()
    model.to_empty(device="cpu")  # random masks don't read weights: spare their initialisation
    for weight in model.parameters():
        nn.init.zeros_(weight)
    sparsifier = dstbench.Sparsifier(model, sgd(model), "set", 0.1, 10)
    layers = [
        channel_statistics(channel_counts(mask), mask[0].numel())
        for name, mask in sparsifier.masks.items()
        if channels.has_channels(sparsifier.layers[name].info)
    ]
    found = pooled(layers)
    assert found.channels == 26560
    assert found.below_100 == pytest.approx(0.51, abs=0.015)
    assert found.below_80 == pytest.approx(0.025, abs=0.01)
    assert found.below_50 == pytest.approx(0, abs=0.001)
    assert max(layer.below_100 for layer in layers) == pytest.approx(0.56, abs=0.02)
    for threshold in (100, 80, 50):
        gap = getattr(found, f"below_{threshold}") - getattr(found, f"null_{threshold}")
        assert abs(gap) < 0.005


def test_unified_mean_magnitude_counts_inactive_weights():
    weight = torch.tensor([[[1.0, -2.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.5]]])
    assert channels.umm(weight).tolist() == [1.0, 0.125]


def test_bottom_set_takes_the_lowest_scores_and_the_first_on_a_tie():
    chosen = channels.bottom_set(np.array([2.0, 0.0, 1.0, 0.0, 0.0]), 0.4)
    assert chosen.tolist() == [False, True, False, True, False]
    assert not channels.bottom_set(np.array([1.0]), 0.3).any()


@given(st.lists(st.floats(0, 1), min_size=4, max_size=50))
def test_bottom_set_has_its_size_and_nothing_outside_is_lower(scores):
    values = np.array(scores)
    chosen = channels.bottom_set(values)
    assert chosen.sum() == round(0.3 * len(values))
    assert values[chosen].max() <= values[~chosen].min()


def test_overlap_is_the_shared_part():
    one, other = np.array([True, True, False, False]), np.array([False, True, True, False])
    assert channels.overlap(one, other) == 0.5
    assert channels.overlap(one, one) == 1.0
    assert channels.overlap(one, ~one) == 0.0
    assert channels.overlap(one & ~one, other & ~other) is None


def test_classes_and_transposed_convolutions_have_no_channels():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 4, 2)
            self.conv = nn.Conv2d(4, 4, 3)
            self.head = nn.Linear(4, 2)

        def forward(self, images):
            return self.head(self.conv(self.up(images)).mean((2, 3)))

    layers = maskable_layers(Net())
    assert [name for name, layer in layers.items() if channels.has_channels(layer.info)] == ["conv"]


# What the Sparsifier keeps


def test_never_dropped_is_what_every_mask_held():
    model = mlp()
    sparsifier = dstbench.Sparsifier(model, sgd(model), recipe("constant", 3, grow="random"), 0.3, 30)
    initial = sparsifier.masks
    always = {name: mask.clone() for name, mask in initial.items()}
    assert (sparsifier.never_dropped, sparsifier.initial) == (1.0, sparsifier.active)

    def check():
        for name, mask in sparsifier.masks.items():
            always[name] &= mask

    train(model, sparsifier, 30, after=check)
    kept = {name: int(mask.sum()) for name, mask in always.items()}
    assert sparsifier.kept == kept
    assert sparsifier.never_dropped == sum(kept.values()) / sum(int(mask.sum()) for mask in initial.values())
    assert 0 < sparsifier.never_dropped < 1
    table = sparsifier.summary().set_index("layer")
    assert table["never_dropped"].to_dict() == {name: kept[name] / sparsifier.initial[name] for name in kept}
    counts = {name: channel_counts(mask) for name, mask in sparsifier.masks.items()}
    assert table["dead_rows"].to_dict() == {name: int((rows == 0).sum()) for name, rows in counts.items()}
