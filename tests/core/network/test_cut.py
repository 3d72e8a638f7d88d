"""Channels cut out of modules: what stays of the tensors, and the widths that modules say they have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dstbench.core.network.cut import cut, kept_positions

ROWS, COLUMNS = torch.tensor([True, False, True, True]), torch.tensor([False, True])


def test_positions_are_those_of_the_flattened_tensor():
    assert kept_positions((4,), ROWS).tolist() == [0, 2, 3]
    assert kept_positions((4, 2), ROWS, COLUMNS).tolist() == [[1], [5], [7]]
    assert kept_positions((2, 4), columns=COLUMNS).tolist() == [[2, 3], [6, 7]]  # two columns a channel
    assert kept_positions((2, 1, 3)).flatten().tolist() == list(range(6))


@pytest.mark.parametrize("bias", [True, False])
def test_a_cut_layer_computes_the_rows_that_stay_from_the_columns_that_stay(bias):
    torch.manual_seed(0)
    for layer, shape in ((nn.Linear(2, 4, bias=bias), (5, 2)), (nn.Conv2d(2, 4, 3, bias=bias), (5, 2, 6, 6))):
        x = torch.randn(shape)
        x[:, 0] = 0
        expected = layer(x)[:, ROWS]
        cut(layer, ROWS, COLUMNS)
        torch.testing.assert_close(layer(x[:, 1:]), expected)
        assert "1, " in repr(layer)
        assert "3, " in repr(layer)


@pytest.mark.parametrize("per_group", [1, 2])
def test_whole_groups_go(per_group):
    layer = nn.Conv2d(4, 4 * per_group, 3, groups=4)
    x = torch.randn(2, 4, 5, 5)
    rows = ROWS.repeat_interleave(per_group)
    expected = layer(x)[:, rows]
    cut(layer, rows)
    torch.testing.assert_close(layer(x[:, ROWS]), expected)
    assert (layer.groups, layer.in_channels, layer.out_channels) == (3, 3, 3 * per_group)


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_keeps_its_statistics(affine):
    norm = nn.BatchNorm2d(4, affine=affine)
    norm(torch.randn(8, 4, 3, 3))
    frozen = norm.eval().requires_grad_(False)
    x = torch.randn(2, 4, 3, 3)
    expected = frozen(x)[:, ROWS]
    cut(frozen, ROWS)
    torch.testing.assert_close(frozen(x[:, ROWS]), expected)
    assert frozen.num_features == 3
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
