"""Folding batch norms, and the activations that timm keeps inside them: the same outputs from fewer modules."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dstbench.accel.fold import fold_norms, relus_in_place
from dstbench.core.network.outputs import difference

FAMILIES = {  # norms that stay: no convolution is right in front of them, but a sum or a concatenation
    "regnety_002": 0,
    "rexnet_100": 0,
    "test_efficientnet": 0,
    "test_byobnet": 0,
    "mobilenetv3_small_050": 0,
    "tf_efficientnet_lite0": 0,
    "mixnet_s": 34,
    "lcnet_050": 0,
    "resnetv2_18": 9,
}


def model_of(name: str) -> nn.Module:
    """A random model whose norms, activations or not, shift and scale every channel in a way of its own."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, _BatchNorm):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.5, 0.5)
                norm.running_mean.uniform_(-0.5, 0.5)
                norm.running_var.uniform_(0.5, 2)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_activations_inside_norms_survive(name):
    model, images = model_of(name), torch.randn(2, 3, 64, 64)
    assert any(isinstance(module, BatchNormAct2d) for module in model.modules())
    folded = fold_norms(copy.deepcopy(model))
    assert norms(folded) == FAMILIES[name] < norms(model)
    assert difference(folded(images), model(images)) < 1e-4


@pytest.mark.parametrize("act", [nn.ReLU, nn.Sigmoid])
def test_relus_spare_what_an_activation_inside_a_norm_reads_backwards(act):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, act_layer=act), nn.ReLU())
    changed = relus_in_place(copy.deepcopy(model))
    assert not changed[2].inplace
    for network in (model, changed):
        network(torch.ones(2, 3, 5, 5)).sum().backward()
    assert torch.equal(changed[0].weight.grad, model[0].weight.grad)
