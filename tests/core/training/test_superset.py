"""A backward superset on live weights: Top-KAST against a training loop written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import StrategyError, Target
from dstbench.core.cost.layers import layer_costs
from dstbench.core.cost.training import TrainingMeter, training_cost
from dstbench.errors import BadInput
from fakes.engine import assert_masked, batches, mlp, recipe, sgd, train

KAST = {"name": "top-kast", "explore": 0.0, "delta_t": 2, "penalty": 0.0}


def one_layer():
    """The weights of the golden example: θ = .9 -.5 .3 .25 -.2 .1 .05 .01."""
    model = nn.Sequential(nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.9, -0.5, 0.3, 0.25, -0.2, 0.1, 0.05, 0.01]]))
    return model


def made(model, spec=KAST, density=0.25, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return dstbench.Sparsifier(model, optimizer, spec, density, total_steps=20, **options)


def backward(model, gradient):
    """Gradients as given: the loss is linear in the weights that the forward pass sees."""
    (model(torch.tensor([gradient]))).sum().backward()


def test_by_hand():
    """A = the two largest, B = the four largest. A step by -0.1 · gradient moves B, and the forward pass sees A."""
    model = one_layer()
    sparsifier = made(model)
    assert sparsifier.masks["0"].flatten().tolist() == [True] * 2 + [False] * 6
    assert sparsifier.masking.superset.masks["0"].flatten().tolist() == [True] * 4 + [False] * 4
    assert (sparsifier.density, sparsifier.backward_density, sparsifier.trained) == (0.25, 0.5, {"0": 4})
    assert model(torch.ones(1, 8)).item() == pytest.approx(0.4)  # .9 - .5: A alone
    backward(model, [1.0, 0.0, -1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    sparsifier.step()
    assert model[0].weight.flatten().tolist() == pytest.approx([0.8, -0.5, 0, 0, 0, 0, 0, 0])
    held = sparsifier.views()["0"].weight.flatten().tolist()
    assert held == pytest.approx([0.8, -0.5, 0.4, 0.25, -0.2, 0.1, 0.05, 0.01])  # outside B nothing moved
    backward(model, [0.0, -4.0, -3.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    sparsifier.optimizer.zero_grad()
    backward(model, [0.0, -1.0, -2.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    sparsifier.step()  # and an update: θ = .8 -.4 .6 .15 -.2 …
    assert sparsifier.masks["0"].flatten().tolist() == [True, False, True] + [False] * 5
    assert (
        sparsifier.masking.superset.masks["0"].flatten().tolist() == [True] * 3 + [False, True] + [False] * 3
    )
    assert model[0].weight.flatten().tolist() == pytest.approx(
        [0.8, 0, 0.6, 0, 0, 0, 0, 0]
    )  # kept, not zeroed
    held = sparsifier.views()["0"].weight.flatten().tolist()
    assert held == pytest.approx([0.8, -0.4, 0.6, 0.15, -0.2, 0.1, 0.05, 0.01])
    assert (sparsifier.history[-1].grown, sparsifier.history[-1].dropped) == (1, 1)


def test_against_a_loop_written_out():
    """Dense θ, forward by its top D, gradients on its top D + M, momentum cleared where a weight leaves them."""
    model = mlp(sizes=(12, 10, 4))
    twin = copy.deepcopy(model)
    sparsifier = dstbench.Sparsifier(
        model, sgd(model, weight_decay=0.0), {**KAST, "densities": "uniform"}, 0.25, total_steps=20
    )
    names = ("0", "2")
    theta = {name: twin.get_submodule(name).weight.detach().clone() for name in names}
    momentum = {name: torch.zeros_like(theta[name]) for name in names}
    sizes = {name: sparsifier.budget[name] for name in names}
    trained = dict(sparsifier.trained)

    def top(values, n):
        mask = torch.zeros(values.numel(), dtype=torch.bool)
        mask[values.abs().flatten().sort(descending=True, stable=True).indices[:n]] = True
        return mask.view(values.shape)

    def draw_up():
        active = {name: top(theta[name], sizes[name]) for name in names}
        return active, {name: top(theta[name], trained[name]) for name in names}

    active, wide = draw_up()
    biases = [twin[0].bias, twin[2].bias]
    steps = torch.optim.SGD(biases, lr=0.05, momentum=0.9)
    for step, (images, labels) in enumerate(batches(9), start=1):
        nn.functional.cross_entropy(model(images), labels).backward()
        sparsifier.step()
        sparsifier.optimizer.zero_grad()
        for name in names:
            twin.get_submodule(name).weight.data.copy_(theta[name] * active[name])
        nn.functional.cross_entropy(twin(images), labels).backward()
        for name in names:
            weight = twin.get_submodule(name).weight
            momentum[name] = 0.9 * momentum[name] + weight.grad * wide[name]
            theta[name] = theta[name] - 0.05 * momentum[name]
        steps.step()
        twin.zero_grad()
        if step % 2 == 0:
            active, wide = draw_up()
            momentum = {name: momentum[name] * wide[name] for name in names}
        for name in names:
            assert torch.equal(sparsifier.masks[name], active[name]), step
            assert torch.equal(sparsifier.masking.superset.masks[name], wide[name]), step
            assert torch.allclose(sparsifier.views()[name].weight, theta[name], atol=1e-6), step
        assert_masked(sparsifier)
    assert sum(report.grown for report in sparsifier.history) > 0


@pytest.mark.parametrize("optimizer", [sgd, lambda model: torch.optim.AdamW(model.parameters(), lr=0.01)])
def test_a_checkpoint_continues_bit_for_bit(optimizer):
    def start():
        model = mlp()
        return model, dstbench.Sparsifier(
            model, optimizer(model), {**KAST, "penalty": 0.01}, 0.3, total_steps=20
        )

    whole, sparsifier = start()
    train(whole, sparsifier, 9)
    model, first = start()
    train(model, first, 5)
    state = copy.deepcopy((model.state_dict(), first.optimizer.state_dict(), first.state_dict()))
    other, second = start()
    other.load_state_dict(state[0])
    second.optimizer.load_state_dict(state[1])
    second.load_state_dict(state[2])
    train(other, second, 9, skip=5)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))
    for name, value in sparsifier.masking.superset.values.items():
        assert torch.equal(value, second.masking.superset.values[name])


def test_a_step_that_fails_leaves_active_weights_alone_behind():
    class Failing(torch.optim.SGD):
        fails = False

        def step(self, closure=None):
            if self.fails:
                raise RuntimeError("out of luck")
            return super().step(closure)

    model = mlp()
    sparsifier = dstbench.Sparsifier(model, Failing(model.parameters(), lr=0.1), KAST, 0.3, total_steps=20)
    train(model, sparsifier, 1)
    Failing.fails = True
    with pytest.raises(RuntimeError, match="out of luck"):
        train(model, sparsifier, 1)
    sparsifier.enforce()
    assert_masked(sparsifier)
    held = {name: view.weight.clone() for name, view in sparsifier.views().items()}
    assert all(bool(held[name][~mask].any()) for name, mask in sparsifier.masks.items())


def test_imposed_masks_train_and_lose_no_other_value():
    model = one_layer()
    sparsifier = made(model)
    mask = torch.tensor([[True] + [False] * 4 + [True] + [False] * 2])
    sparsifier.set_masks({"0": mask})
    held = sparsifier.views()["0"].weight.flatten().tolist()
    assert held == pytest.approx([0.9, -0.5, 0.3, 0.25, -0.2, 0.0, 0.05, 0.01])
    assert bool((sparsifier.masking.superset.masks["0"] | ~mask).all())


def test_flops_are_two_of_what_is_active_and_one_of_what_trains():
    """8 weights, 2 active, 4 training: a sample costs 2 + 2 + 4 of 24."""
    meter = TrainingMeter(layer_costs(one_layer(), (8,)))
    meter.add({"0": 2}, 1, False, {"0": 4})
    assert meter.ratio() == pytest.approx(8 / 24)
    planned = training_cost(one_layer(), KAST, 0.25, 20, (8,))
    assert planned.ratio() == pytest.approx(8 / 24)


@pytest.mark.parametrize("storage", ["condensed", "compact"])
def test_other_storages_are_refused_by_name(storage):
    with pytest.raises(BadInput, match=f"storage: '{storage}' holds active weights alone, and TopKast"):
        made(mlp(), storage=storage, example_input=torch.zeros(8, 12))


def test_a_target_trains_no_less_than_it_keeps():
    with pytest.raises(StrategyError, match="final <= backward <= 1"):
        Target(0.1, 0.2, backward=0.1)
    assert repr(Target(0.1, 0.2)) == "Target(keep=0.1, final=0.2)"


def test_a_superset_begins_with_the_training():
    class Late:
        def __call__(self, clock, density):
            return Target(density, density, backward=2 * density) if clock.step == 2 else None

    model = mlp()
    sparsifier = dstbench.Sparsifier(
        model, sgd(model), recipe("never") | {"schedule": Late()}, 0.3, total_steps=4
    )
    with pytest.raises(StrategyError, match="asks for a superset, its target of step 0 didn't"):
        train(model, sparsifier, 3)
