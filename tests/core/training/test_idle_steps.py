"""Steps that aren't training count as none and decide nothing."""

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import dstbench
from dstbench.api import StrategyError
from dstbench.runner.trial.measures import check_budget
from fakes.engine import assert_masked, batches, mlp, recipe, sgd, train


def no_gradients(model, optimizer):
    optimizer.zero_grad()
    optimizer.step()


def zeros_by_hand(model, optimizer):
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def a_checkpointing_library(model, optimizer):
    get_optimizer_state_dict(model, optimizer)  # it steps to make the state that it then asks for


IDLE = [no_gradients, zeros_by_hand, a_checkpointing_library]
METHODS = {
    "rigl": recipe("constant", 1, grow="gradient"),
    "set": recipe("constant", 1),
    "snip": {"name": "snip"},
    "dense": "dense",
}


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("method", METHODS)
def test_they_count_as_none(idle, method):
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    sparsifier = dstbench.Sparsifier(model, optimizer, METHODS[method], 0.2, total_steps=20)
    decided, masks = sparsifier.decided, {name: mask.clone() for name, mask in sparsifier.masks.items()}
    idle(model, optimizer)
    assert (sparsifier.steps, sparsifier.history, sparsifier.decided) == (0, [], decided)
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())
    train(model, sparsifier, 3)
    assert sparsifier.steps == 3
    assert sparsifier.decided
    if method != "dense":
        assert sum(sparsifier.active.values()) == round(0.2 * 736)
        assert_masked(sparsifier)


def test_a_library_that_makes_state_before_it_loads_leaves_the_training_as_it_would_be():
    models = mlp(), mlp()
    runs = [dstbench.Sparsifier(m, sgd(m, momentum=0.0), "snip", 0.2, total_steps=20) for m in models]
    a_checkpointing_library(models[0], runs[0].optimizer)
    for model, run in zip(models, runs, strict=True):
        train(model, run, 8)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


@pytest.mark.parametrize("method", ["rigl", "snip"])
def test_zeros_that_a_backward_pass_made_decide_no_mask(method):
    """A loss multiplied by zero, as ranks without data use: every score would be a tie."""
    model = mlp()
    optimizer = sgd(model)
    sparsifier = dstbench.Sparsifier(model, optimizer, METHODS[method], 0.2, total_steps=20)
    decided, masks = sparsifier.decided, {name: mask.clone() for name, mask in sparsifier.masks.items()}
    [(images, labels)] = batches(1)
    (0 * nn.functional.cross_entropy(model(images), labels)).backward()
    sparsifier.step()
    assert (sparsifier.steps, sparsifier.decided) == (0, decided)
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())
    optimizer.zero_grad()
    train(model, sparsifier, 4)
    assert sparsifier.steps == 4


def test_gradients_that_someone_wrote_are_training():
    model = mlp()
    sparsifier = dstbench.Sparsifier(model, sgd(model), recipe(), 0.2, total_steps=20)
    for count in range(1, 4):
        model[4].bias.grad = torch.ones(4)
        sparsifier.step()
        assert sparsifier.steps == count


def dead(method):
    """A network of which no unit is ever on again; its last bias still learns."""
    model = mlp()
    model[1] = model[3] = nn.ReLU()
    sparsifier = dstbench.Sparsifier(model, sgd(model), method, 0.2, total_steps=20)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias.fill_(-1000.0)
        model[4].weight.zero_()
        model[4].bias[0] = 1.0  # no batch is in balance
    return model, sparsifier


def test_a_network_that_died_goes_on_to_the_end_of_its_schedule():
    """Its last bias still learns: such steps are training. What growth reads is zero, and decides no mask."""
    model, sparsifier = dead(METHODS["rigl"])
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    train(model, sparsifier, 20)
    assert (sparsifier.steps, sparsifier.updates) == (20, 0)
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())


@pytest.mark.parametrize("grow", ["gradient", "random"])
def test_a_network_that_died_above_its_density_falls_to_it(grow):
    """By the weights, which its score reads besides gradients: 184 of them at first, 147 in the end."""
    model, sparsifier = dead(recipe("soft_memory", 4, grow=grow, prune="mest"))
    before = {name: layer.weight.detach().abs() for name, layer in sparsifier.layers.items()}
    held = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    train(model, sparsifier, 20)
    check_budget(sparsifier)
    assert sum(int(mask.sum()) for mask in held.values()) == 184
    assert sum(sparsifier.active.values()) == 147
    for name in ("0", "2"):
        left, mask = before[name], sparsifier.masks[name]
        assert not (mask & ~held[name]).any()
        assert left[mask].min() >= left[held[name] & ~mask].max() * 0.9  # weight decay aside


def test_a_network_without_any_gradient_above_its_density_is_no_result_and_is_told_why():
    """Nothing of it learns: no step at an update is one. Stopping the schedule earlier wouldn't help."""
    model = nn.Sequential(nn.Linear(12, 24, bias=False), nn.ReLU(), nn.Linear(24, 4, bias=False))
    parts = recipe("soft_memory", 4, grow="gradient", prune="mest")
    sparsifier = dstbench.Sparsifier(model, sgd(model), parts, 0.2, total_steps=20)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    train(model, sparsifier, 20)
    said = r"96 weights are .* 3 of 20 steps, 77 were .*and all weights of '0', '2' are zero: the network has died$"
    again = dstbench.Sparsifier(model, sgd(model), parts, 0.2, total_steps=20)
    again.load_state_dict(sparsifier.state_dict())
    for trained in (sparsifier, again):  # one that is gone on with says so, too
        with pytest.raises(StrategyError, match=said):
            check_budget(trained)
