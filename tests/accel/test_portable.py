"""Rows in groups, in operators that can be exported: the same function from fewer weights, or the layer stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dstbench.accel.compact import masked_copy
from dstbench.accel.portable import block_size, portable


def grouped_mask(out: int, channels: int, block: int, reads: int, *kernel: int, ragged: bool = False):
    """Rows in shuffled groups of ``block``; each reads ``reads`` channels, the first one fewer where ragged."""
    perm, mask = torch.randperm(out), torch.zeros(out, channels, dtype=torch.bool)
    for group in range(out // block):
        chosen = torch.randperm(channels)[: reads - (ragged and group == 0)]
        mask[perm[group * block : (group + 1) * block, None], chosen] = True
    return mask.view(out, channels, *(1 for _ in kernel)).expand(out, channels, *kernel).clone()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(13, 24, 3, padding=1), (3, 13, 7, 5)),
        (nn.Conv2d(13, 24, (3, 1), stride=2, dilation=2, bias=False), (1, 13, 11, 7)),
        (nn.Conv2d(13, 24, 1), (2, 13, 3, 3)),
        (nn.Linear(13, 24), (5, 13)),
        (nn.Linear(13, 24, bias=False), (2, 3, 13)),
    ],
    ids=["3x3", "stride 2", "1x1", "linear", "linear on tokens"],
)
def test_the_same_function_from_fewer_weights(layer, shape, ragged):
    torch.manual_seed(0)
    model = nn.Sequential(layer)
    masks = {"0": grouped_mask(24, 13, 8, 5, *layer.weight.shape[2:], ragged=ragged)}
    masked = masked_copy(model, masks)
    small, swapped = portable(masked, masks)
    assert swapped == 1
    x = torch.randn(shape)
    torch.testing.assert_close(small(x), masked(x), rtol=1e-5, atol=1e-6)
    weights = [sum(p.numel() for p in m.parameters() if p.dim() > 1) for m in (small, masked)]
    assert weights[0] * 13 == weights[1] * 5
    assert type(masked[0]) is type(layer)


def test_a_group_without_weights_gives_the_bias():
    mask = grouped_mask(8, 12, 4, 3)
    mask[mask[0].eq(mask).all(1)] = False
    masked = masked_copy(nn.Sequential(nn.Linear(12, 8)), {"0": mask})
    small, swapped = portable(masked, {"0": mask})
    assert swapped == 1
    x = torch.full((2, 12), 1e30)
    torch.testing.assert_close(small(x), masked(x))


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(8, 12, dtype=torch.bool),
        torch.zeros(8, 12, dtype=torch.bool),
        grouped_mask(8, 12, 2, 3),
        grouped_mask(8, 12, 4, 7),
        torch.eye(12, dtype=torch.bool)[:8],
    ],
    ids=["full", "empty", "small groups", "reads too much", "unstructured"],
)
def test_what_would_not_pay_stays_dense(mask):
    assert block_size(mask) is None
    model = nn.Sequential(nn.Linear(12, 8))
    small, swapped = portable(model, {"0": mask})
    assert (swapped, type(small[0])) == (0, nn.Linear)


def test_layers_of_another_kind_stay():
    mask = grouped_mask(8, 12, 4, 3, 3, 3)
    reflecting = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1, padding_mode="reflect"))
    grouped = nn.Sequential(nn.Conv2d(24, 8, 3, groups=2))
    for model in (reflecting, grouped):
        assert portable(model, {"0": mask})[1] == 0
