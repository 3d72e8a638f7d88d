"""Parameters and layers that others put in the place of masked ones."""

import copy

import pytest
import torch
from torch import nn

import dstbench
from dstbench.errors import BadInput
from fakes.engine import assert_masked, mlp, recipe, sgd, train


def trained(steps=3, method=None):
    model = mlp()
    optimizer = sgd(model)
    sparsifier = dstbench.Sparsifier(model, optimizer, method or recipe(), 0.2, total_steps=40)
    train(model, sparsifier, steps)
    return model, optimizer, sparsifier


def another_parameter(model):
    model[2].weight = nn.Parameter(torch.randn_like(model[2].weight))


def test_a_parameter_that_no_optimizer_holds_is_refused():
    model, _, sparsifier = trained()
    another_parameter(model)
    with pytest.raises(BadInput, match="layer 2 has another parameter"):
        train(model, sparsifier, 4, skip=3)


def test_a_state_dict_that_was_assigned_is_refused():
    """The optimizer's parameters get no gradient any more: no step would count, and nothing would be said."""
    model, _, sparsifier = trained()
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    with pytest.raises(BadInput, match="assign=True"):
        train(model, sparsifier, 4, skip=3)


def test_a_parameter_that_the_optimizer_was_given_takes_its_place():
    model, optimizer, sparsifier = trained()
    another_parameter(model)
    optimizer.add_param_group({"params": [model[2].weight]})
    train(model, sparsifier, 12, skip=3)
    assert sparsifier.steps == 12
    assert_masked(sparsifier)


@pytest.mark.parametrize(
    ("method", "to_none"), [("static", True), (recipe(delta_t=2), True), (recipe(delta_t=2), False)]
)
def test_a_layer_that_left_the_model_is_refused(method, to_none):
    """Where gradients stay as zeros, at the next topology update."""
    model, optimizer, sparsifier = trained(method=method)
    model[4] = nn.Linear(model[4].in_features, model[4].out_features)
    optimizer.add_param_group({"params": model[4].parameters()})

    def go_on():
        for _ in range(3):
            optimizer.zero_grad(set_to_none=to_none)
            model(torch.randn(8, model[0].in_features)).square().sum().backward()
            sparsifier.step()

    with pytest.raises(BadInput, match="layer 4 has left the model"):
        go_on()


def test_a_layer_that_is_only_unused_may_stay():
    model, optimizer, sparsifier = trained()
    optimizer.zero_grad()
    model[:3](
        torch.randn(8, model[0].in_features)
    ).square().sum().backward()  # no gradient for the last layer
    sparsifier.step()
    train(model, sparsifier, 6, skip=4)
    assert sparsifier.steps == 6


def test_a_graph_is_good_for_another_backward_pass_after_gradients_were_masked():
    """Zeros that are written for good measure are no new version of a weight."""
    model, optimizer, sparsifier = trained()
    optimizer.zero_grad()
    loss = model(torch.randn(8, model[0].in_features)).square().sum()
    loss.backward(retain_graph=True)
    sparsifier.mask_gradients()
    loss.backward()
    sparsifier.step()
    assert sparsifier.steps == 4
    assert_masked(sparsifier)
