"""What a process set for all of torch changes no mask."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

import dstbench
from fakes.engine import chain_net, recipe, sgd

METHODS = {
    "set": "set",
    "rigl": recipe("constant", 2, grow="gradient"),
    "snip": {"init": "snip", "schedule": "never"},
    "srigl": {"name": "srigl", "schedule": {"name": "constant", "delta_t": 2}},
    "blocks": recipe("constant", 2, structure={"name": "shuffled_block", "block_size": 4}, grow="gradient"),
    "chase": {"name": "chase", "schedule": {"name": "cosine", "delta_t": 2}},
}


@contextmanager
def changed(dtype=torch.float32, device="cpu"):
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def trained(method, **defaults):
    model = chain_net()
    draw = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(4, 3, 8, 8, generator=draw), torch.randint(5, (4,), generator=draw)) for _ in range(8)
    ]
    with changed(**defaults):
        optimizer = sgd(model)
        sparsifier = dstbench.Sparsifier(model, optimizer, method, 0.3, total_steps=40)
        for images, labels in data:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            sparsifier.step()
            sparsifier.views()
        sparsifier.summary()
    return sparsifier


DEFAULTS = [{"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"device": "meta"}]


@pytest.mark.parametrize("defaults", DEFAULTS, ids=["float64", "bfloat16", "another device"])
@pytest.mark.parametrize("method", METHODS)
def test_defaults_change_no_mask(method, defaults):
    plain, other = trained(METHODS[method]), trained(METHODS[method], **defaults)
    for name, mask in plain.masks.items():
        assert torch.equal(mask, other.masks[name])
        assert torch.equal(plain.layers[name].weight, other.layers[name].weight)
    assert plain.history == other.history


@pytest.mark.parametrize("defaults", DEFAULTS, ids=["float64", "bfloat16", "another device"])
def test_defaults_change_no_density(defaults):
    model = chain_net()
    plain = dstbench.densities(model, 0.3)
    with changed(**defaults):
        assert dstbench.densities(model, 0.3) == plain
        assert torch.get_default_dtype() == defaults.get("dtype", torch.float32)
        assert str(torch.get_default_device()) == defaults.get("device", "cpu")


@pytest.mark.parametrize("defaults", DEFAULTS, ids=["float64", "bfloat16", "another device"])
def test_defaults_change_no_cost(defaults):
    model = chain_net()
    plain = dstbench.cost(model, None, (3, 8, 8))
    with changed(**defaults):
        assert dstbench.cost(model, None, (3, 8, 8)) == plain
