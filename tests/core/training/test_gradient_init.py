"""Inits that read the dense gradient: masks decided at the first step, from what the first batch says."""

import copy

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import Infeasible, StrategyError
from dstbench.core.cost.layers import layer_costs
from dstbench.core.cost.training import TrainingMeter
from dstbench.errors import BadInput
from fakes.engine import assert_masked, batches, bits, conv_net, mlp, recipe, sgd, train

SNIP = recipe("never", init="snip")


def linear():
    """y = W x without bias; the loss is their sum, so that the gradient of every row is x."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -4.0, 0.5], [3.0, 0.1, -2.0]]))
    return model, torch.tensor([[5.0, 1.0, -2.0]])


def test_snip_by_hand():
    """|g·w| is 5 4 1 / 15 .1 4: the best four. By |g| alone it would be both fives and both twos."""
    model, x = linear()
    sparsifier = dstbench.Sparsifier(model, sgd(model, lr=0.0), SNIP, 4 / 6, total_steps=3)
    assert sparsifier.density == 1
    assert sparsifier.active == {"0": 6}
    model(x).sum().backward()
    sparsifier.step()
    assert torch.equal(sparsifier.masks["0"], bits("110", "101"))
    assert torch.equal(model[0].weight, torch.tensor([[1.0, -4.0, 0.0], [3.0, 0.0, -2.0]]))
    assert sparsifier.density == sparsifier.r_s == 4 / 6
    assert sparsifier.budget == sparsifier.allocation == sparsifier.explored == {"0": 4}
    assert sparsifier.history == []


def test_the_step_that_decides_is_masked_already():
    """Weights outside the mask, their gradients and their momentum never leave zero."""
    model = mlp()
    optimizer = sgd(model)
    sparsifier = dstbench.Sparsifier(model, optimizer, SNIP, 0.2, total_steps=5)
    train(model, sparsifier, 5, after=lambda: assert_masked(sparsifier))
    assert sum(sparsifier.active.values()) == round(0.2 * sparsifier.size)
    assert all(optimizer.state[layer.weight] for layer in sparsifier.layers.values())


def test_the_ranking_is_global_and_every_layer_keeps_a_weight():
    model = mlp()
    sparsifier = dstbench.Sparsifier(model, sgd(model), SNIP, 0.1, total_steps=5)
    draw = torch.Generator().manual_seed(0)
    for name, layer in sparsifier.layers.items():
        layer.weight.grad = torch.randn(layer.info.shape, generator=draw) * (1e-9 if name == "2" else 1)
    saliency = {n: (p.weight * p.weight.grad).abs().detach() for n, p in sparsifier.layers.items()}
    sparsifier.step()
    assert sparsifier.active["2"] == 1
    others = torch.cat([saliency[n].flatten() for n in ("0", "4")])
    kept = torch.cat([sparsifier.masks[n].flatten() for n in ("0", "4")])
    assert others[kept].min() >= others[~kept].max()


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_decides_nothing(fused):
    """An overflow must not rank infinities; and what is decided doesn't depend on the scale."""
    masks = []
    for scale in (1.0, 1024.0):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=fused)
        sparsifier = dstbench.Sparsifier(model, optimizer, SNIP, 0.2, total_steps=5)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        images, labels = next(batches(1))
        if scale > 1:
            for parameter in (model[0].weight, model[0].bias):  # the bias overflows although no mask needs it
                scaler.scale(nn.functional.cross_entropy(model(images), labels)).backward()
                parameter.grad[..., 0] = torch.inf
                scaler.step(optimizer)
                scaler.update(new_scale=scale)
                optimizer.zero_grad()
                assert sparsifier.density == 1
        scaler.scale(nn.functional.cross_entropy(model(images), labels)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert sparsifier.steps == 1
        assert_masked(sparsifier)
        masks.append(sparsifier.masks)
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


def test_clipping_first_sees_infinities_and_decides_nothing():
    model, x = linear()
    sparsifier = dstbench.Sparsifier(model, sgd(model), SNIP, 0.5, total_steps=3)
    model[0].weight.grad = torch.full((2, 3), torch.inf)
    sparsifier.mask_gradients()
    assert sparsifier.density == 1
    model.zero_grad()
    model(x).sum().backward()
    sparsifier.mask_gradients()
    assert sparsifier.density == 0.5
    assert int(model[0].weight.grad.count_nonzero()) == 3


def test_an_applied_step_without_finite_gradients_is_an_error():
    model, x = linear()
    sparsifier = dstbench.Sparsifier(model, sgd(model), SNIP, 0.5, total_steps=3)
    (model(x).sum() * torch.nan).backward()
    with pytest.raises(StrategyError, match=r"Saliency.*aren't finite"):
        sparsifier.step()


def test_a_layer_without_a_gradient_is_named():
    model = mlp()
    sparsifier = dstbench.Sparsifier(model, sgd(model), SNIP, 0.5, total_steps=3)
    model[2].weight.requires_grad_(False)
    images, labels = next(batches(1))
    nn.functional.cross_entropy(model(images), labels).backward()
    with pytest.raises(StrategyError, match=r"layer '2' has no gradient, which the initial masks need"):
        sparsifier.step()


@pytest.mark.parametrize("step", [0, 1, 3])
def test_checkpoints_before_and_after_the_decision_continue_exactly(step):
    parts = recipe("constant", 2, init="snip", grow="gradient")

    def fresh(seed=0):
        model = mlp(seed)
        return model, dstbench.Sparsifier(model, sgd(model, momentum=0.0), parts, 0.2, total_steps=8)

    model, sparsifier = fresh()
    train(model, sparsifier, step)
    saved, weights = copy.deepcopy(sparsifier.state_dict()), copy.deepcopy(model.state_dict())
    train(model, sparsifier, 8, skip=step)
    again, resumed = fresh(seed=1)
    again.load_state_dict(weights)
    resumed.load_state_dict(saved)
    assert (resumed.density == 1) == (step == 0)
    train(again, resumed, 8, skip=step)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert resumed.history == sparsifier.history
    assert resumed.r_s == sparsifier.r_s


def test_the_first_step_costs_what_a_dense_one_does():
    """Before it the network is dense, and so are its forward pass and all its gradients."""
    model = conv_net()
    sparsifier = dstbench.Sparsifier(model, sgd(model), SNIP, 0.3, total_steps=3)
    meter = TrainingMeter(layer_costs(model, (3, 8, 8)))
    seen = []
    for images, labels in batches(2, (4, 3, 8, 8)):
        active = sparsifier.active
        nn.functional.cross_entropy(model(images), labels).backward()
        sparsifier.step()
        meter.add(active, 4, sparsifier.dense_gradient)
        seen.append((sparsifier.dense_gradient, meter.sparse / meter.dense))
    assert seen[0] == (True, 1.0)
    assert not seen[1][0]
    assert seen[1][1] < 1


def test_what_can_not_be_decided_is_said_at_once():
    with pytest.raises(BadInput, match=r"init: .*Saliency.*reads gradients, which only a training has"):
        dstbench.densities(mlp(), 0.1, init="snip")
    model = mlp()
    with pytest.raises(Infeasible, match="take at least 3"):
        dstbench.Sparsifier(model, sgd(model), SNIP, 1 / 736, total_steps=3)
