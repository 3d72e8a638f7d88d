"""Channels of a stream that norms take their statistics over: what is left is normalised as it was among zeros."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dstbench.accel.compact import compact
from dstbench.core.network.channels import channels, removable
from dstbench.core.network.couplings import couplings
from dstbench.core.network.narrow import NarrowNorm


@pytest.mark.parametrize("bias", [True, False])
def test_a_narrow_norm_counts_the_zeros_that_are_gone(bias):
    torch.manual_seed(0)
    x = torch.randn(4, 7, 6) + 3
    x[..., [1, 4]] = 0
    norm = nn.LayerNorm(6, bias=bias)
    nn.init.normal_(norm.weight)
    stay = [0, 2, 3, 5]
    narrow = NarrowNorm(norm.weight[stay], norm.bias[stay] if bias else None, 4 / 6, norm.eps, -1)
    torch.testing.assert_close(narrow(x[..., stay]), norm(x)[..., stay])
    group = nn.GroupNorm(1, 6, eps=1e-3)
    x = x.mT.contiguous()
    narrow = NarrowNorm(group.weight[stay], None, 4 / 6, group.eps, 1, over="sample")
    torch.testing.assert_close(narrow(x[:, stay]), group(x)[:, stay])


class Stream(nn.Module):
    """Tokens of an image, a class token and positions, one block, and a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.scale = nn.Parameter(torch.randn(8))
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        x = x + self.scale * self.down(torch.relu(self.up(self.norm(x))))
        return self.head(self.last(x)[:, 0])


DEAD = [1, 4, 6]


def dead_stream() -> tuple[Stream, dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    model = Stream()
    with torch.no_grad():
        for norm in (model.norm, model.last):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        for vector in (model.patches.bias, model.down.bias, model.token[0, 0]):
            vector[DEAD] = 0
        model.places[..., DEAD] = 0
    masks = {name: torch.ones_like(model.get_submodule(name).weight).bool() for name in ("patches", "down")}
    for mask in masks.values():
        mask[DEAD] = False
    return model, masks, torch.randn(2, 3, 4, 4)


def test_a_stream_loses_its_dead_channels_but_one_that_stands_for_them():
    """Behind the norm all zeros are the same but for a scale and a shift, which readers take into one column."""
    model, masks, images = dead_stream()
    small = compact(model, masks, images)
    assert small.compaction.removed == {"patches": (4, 6), "down": (4, 6)}
    assert set(small.compaction.kept) == {"patches", "down"}
    assert "it stands for the channels that are gone" in small.compaction.kept["down"]
    shapes = [tuple(t.shape) for t in (small.token, small.places, small.scale, small.norm.weight)]
    assert shapes == [(1, 1, 6), (1, 5, 6), (6,), (6,)]
    assert (small.up.in_features, small.head.in_features) == (6, 6)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_submodule(name).weight.mul_(mask)
        other = torch.randn(3, 3, 4, 4)
        torch.testing.assert_close(small(other), model(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("token", "token isn't zero there"),
        ("places", "places isn't zero there"),
        ("down.bias", "last takes its statistics over"),
    ],
)
def test_a_stream_that_is_not_silent_stays_and_says_why(path, why):
    model, masks, images = dead_stream()
    with torch.no_grad():
        model.get_parameter(path)[..., DEAD] += 1
    small = compact(model, masks, images)
    assert small.compaction.removed == {}
    assert why in small.compaction.kept["patches"]


def test_a_stream_is_a_coupling_of_its_own_kind():
    """Its norm runs over its channels, so that storage "compact" can't cut it while a network trains."""
    model, _, images = dead_stream()
    assert channels(model, None, images).blocked("down") is None
    plain, stream = couplings(model, ("patches", "up", "down", "head"), images)
    assert (plain.producers, plain.stream) == (("up",), False)
    assert (stream.producers, stream.stream) == (("patches", "down"), True)
    assert "last" in stream.norms
    model.places.requires_grad_(False)
    assert couplings(model, ("patches", "up", "down", "head"), images) == (plain,)


def test_group_norms_lose_whole_groups():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    nn.init.normal_(model[1].bias)
    masks = {"0": torch.ones(8, 3, 1, 1, dtype=torch.bool)}
    masks["0"][[2, 3, 5]] = False  # the second group, and half of the third
    images = torch.randn(2, 3, 5, 5)
    small = compact(model, masks, images)
    assert small.compaction.removed == {"0": (2, 3)}
    assert (small[1].num_groups, small[1].num_channels, small[3].in_channels) == (3, 6, 6)
    assert small.compaction.kept == {"0": "0 sends into the same channels"}
    assert removable(model, masks).rows["0"].nonzero().flatten().tolist() == [2, 3]
