"""A network's outputs: the mode that they are computed in, and how far apart two networks' are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dstbench.core.network.outputs import difference, evaluating


def test_evaluating_gives_every_module_its_own_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout()))
    model.train()[1].eval()  # a frozen norm
    before = [module.training for module in model.modules()]
    with evaluating(model) as same:
        assert same is model
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize(
    ("outputs", "found"),
    [([1.0, 4.0], 0.0), ([1.0, 3.0], 0.25), ([1.0, float("nan")], float("inf")), ([1.0], float("inf"))],
)
def test_difference_is_relative_to_the_largest_output(outputs, found):
    assert difference(torch.tensor(outputs), torch.tensor([1.0, 4.0])) == found
