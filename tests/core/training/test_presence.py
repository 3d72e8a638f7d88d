"""Parameters and layers that others put in the place of masked ones."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.prune import l1_unstructured

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


def go_on(model, optimizer, sparsifier, steps=1, to_none=True):
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=to_none)
        model(torch.randn(8, model[0].in_features)).square().sum().backward()
        sparsifier.step()


def replaced(method="static"):
    model, optimizer, sparsifier = trained(method=method)
    model[4] = nn.Linear(model[4].in_features, model[4].out_features)
    optimizer.add_param_group({"params": model[4].parameters()})
    return model, optimizer, sparsifier


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("method", ["static", recipe(delta_t=2)], ids=["static", "set"])
def test_a_layer_that_left_the_model_is_refused_in_the_same_step(method, to_none):
    """Also where its gradients stay, as zeros."""
    with pytest.raises(BadInput, match="layer 4 has left the model"):
        go_on(*replaced(method), to_none=to_none)


@pytest.mark.parametrize("ask", ["enforce", "summary", "state_dict"])
def test_a_layer_that_left_the_model_is_refused_where_its_masks_are_asked_for(ask):
    _, _, sparsifier = replaced()
    with pytest.raises(BadInput, match="layer 4 has left the model"):
        getattr(sparsifier, ask)()


def test_a_block_that_left_with_its_layers_is_refused():
    model = nn.Sequential(mlp(), nn.Linear(4, 4))
    optimizer = sgd(model)
    sparsifier = dstbench.Sparsifier(model, optimizer, "static", 0.2, total_steps=40)
    model[0] = copy.deepcopy(model[0])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(BadInput, match=r"layers 0.0, 0.2, 0.4 have left the model"):
        sparsifier.step()


def test_a_wrapper_around_a_layer_is_none_of_its_business():
    """As adapters are put on: the layer inside goes on."""
    model, optimizer, sparsifier = trained()

    class Adapted(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.more = layer, nn.Linear(layer.in_features, layer.out_features)

        def forward(self, x):
            return self.layer(x) + self.more(x)

    model[4] = Adapted(model[4])
    optimizer.add_param_group({"params": model[4].more.parameters()})
    go_on(model, optimizer, sparsifier, 9)
    assert sparsifier.steps == 12
    assert_masked(sparsifier)


def tie(model):
    model[2].weight = model[0].weight


def tie_another_kind(model):
    model[1] = nn.Embedding(4, 4)
    model[1].weight = model[0].weight


@pytest.mark.parametrize(("join", "said"), [(tie, "layer 0 .* 2"), (tie_another_kind, "layer 0 .* 1")])
def test_weights_that_are_tied_later_are_refused(join, said):
    """One weight can't have two masks, and an embedding none."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    sparsifier = dstbench.Sparsifier(model, sgd(model), "static", 0.5, total_steps=40)
    join(model)
    with pytest.raises(BadInput, match=f"{said} since the Sparsifier was made"):
        sparsifier.enforce()


def prune(layer):
    l1_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize(
    "change",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        prune,
    ],
)
def test_a_weight_that_is_computed_from_others_later_is_refused(change):
    model, optimizer, sparsifier = trained()
    change(model[2])
    with pytest.raises(BadInput, match="layer 2 has a weight that is computed since the Sparsifier was made"):
        go_on(model, optimizer, sparsifier)
    with pytest.raises(BadInput, match="computed"):
        sparsifier.summary()


def test_a_weight_of_another_shape_is_refused():
    model, _, sparsifier = trained()
    model[2].weight.data = torch.zeros(3, 24)
    for ask in (sparsifier.enforce, sparsifier.summary, sparsifier.state_dict):
        with pytest.raises(BadInput, match=r"layer 2 .* another shape .* expected \(16, 24\), got \(3, 24\)"):
            ask()


def test_of_two_for_the_same_weights_the_earlier_one_is_refused():
    """As a notebook makes them; both at once would leave the weights that both masks hold."""
    model, _, sparsifier = trained()
    later = dstbench.Sparsifier(model, sgd(model), recipe(), 0.5, total_steps=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none that the earlier one's steps aren't seen
        train(model, later, 6)
    assert_masked(later)
    with pytest.raises(BadInput, match=r"another Sparsifier was made for these weights .* detach\(\) one"):
        train(model, sparsifier, 1)
    later.detach()
    train(model, sparsifier, 4, skip=3)
    assert sparsifier.steps == 4


def test_a_layer_that_is_frozen_later_sits_updates_out():
    model, optimizer, sparsifier = trained(method=recipe("constant", 2))
    model[2].weight.requires_grad_(False)
    weight, mask = model[2].weight.clone(), sparsifier.masks["2"].clone()
    go_on(model, optimizer, sparsifier, 4)
    assert sparsifier.updates == 3
    assert torch.equal(model[2].weight, weight)
    assert torch.equal(sparsifier.masks["2"], mask)
    model[2].weight.requires_grad_(True)
    go_on(model, optimizer, sparsifier, 2)
    assert not torch.equal(sparsifier.masks["2"], mask)
    assert sum(sparsifier.active.values()) == round(0.2 * sparsifier.size)


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
