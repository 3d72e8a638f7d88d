"""Batch norms whose batch is in parts: in one process they are torch's own; see ``test_ranks`` for two."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from dstbench.runner.trial.synchronised_norm import SynchronisedNorms


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm2d(5), (6, 5, 4, 3)),
        (nn.BatchNorm1d(5), (6, 5)),
        (nn.BatchNorm1d(5, affine=False), (4, 5, 7)),
        (nn.BatchNorm2d(5, track_running_stats=False), (6, 5, 2, 2)),
        (nn.BatchNorm2d(5, momentum=None), (6, 5, 2, 2)),
        (BatchNormAct2d(5), (6, 5, 4, 3)),
    ],
    ids=repr,
)
def test_outputs_gradients_and_averages_are_those_of_torch(norm, shape):
    torch.manual_seed(0)
    norm = norm.double()
    mine = copy.deepcopy(norm)
    results = []
    for module, mode in ((norm, torch.enable_grad()), (mine, SynchronisedNorms())):
        images = (
            3 + torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        ).requires_grad_()
        for _ in range(2):
            with mode:
                output = module(images)
        output.pow(3).sum().backward()
        gradients = [parameter.grad for parameter in module.parameters()]
        results.append([output, images.grad, *gradients, *module.buffers(), module.eval()(images)])
    assert len(results[0]) >= 3
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_half_precision_is_normalised_in_float32():
    torch.manual_seed(0)
    norm, images = nn.BatchNorm2d(5), 100 + torch.randn(64, 5, 8, 8)
    expected = norm(images.bfloat16().float())
    with SynchronisedNorms():
        found = norm(images.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


def test_a_single_value_has_no_deviation():
    with SynchronisedNorms(), pytest.raises(ValueError, match="more than one value per channel"):
        nn.BatchNorm1d(5)(torch.randn(1, 5))
