"""Storages where loops and models are unusual: what would go wrong silently, and does not."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import Recipe
from dstbench.core.storage import fastest
from dstbench.core.storage.condensed_layer import CondensedLayer
from fakes.engine import batches, chain_net, mlp
from fakes.executions import Offering, Scattered

STEPS = 24


@pytest.fixture(autouse=True)
def always_faster(monkeypatch):
    monkeypatch.setattr(fastest, "speedup", lambda *_: 2.0)


def sparsify(model, storage, structure=None, optimizer=torch.optim.Adam, share="in_place", delta_t=4):
    method = Recipe(
        structure=structure or Offering(),
        grow={"name": "gradient", "share": share},
        schedule={"name": "constant", "delta_t": delta_t},
    )
    steps = optimizer(model.parameters(), lr=0.01)
    example = torch.zeros(8, 12)
    return dstbench.Sparsifier(
        model, steps, method, 0.3, total_steps=STEPS, storage=storage, example_input=example
    )


def train(model, sparsifier, first=0, last=STEPS, step=None):
    for turn, (images, labels) in enumerate(batches(last)):
        if turn >= first:
            sparsifier.optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            (step or sparsifier.step)()


def masks_of(storage, meanwhile=None, **options):
    """The masks at the end of a training, in which something happens at step 9."""
    model = mlp()
    sparsifier = sparsify(model, storage, **options)
    train(model, sparsifier, 0, 9)
    if meanwhile:
        meanwhile(model, sparsifier)
    train(model, sparsifier, 9)
    return sparsifier.masks


def assert_equal_masks(one, other):
    assert all(torch.equal(one[name], other[name]) for name in one)


def reload_optimizer(model, sparsifier):
    sparsifier.optimizer.load_state_dict(copy.deepcopy(sparsifier.optimizer.state_dict()))


def reload_all(model, sparsifier):
    """Twice the optimizer: Accelerate's ``prepare`` loads its state once more."""
    states = [copy.deepcopy(each.state_dict()) for each in (model, sparsifier.optimizer, sparsifier)]
    for each, state in zip((model, sparsifier.optimizer, sparsifier), states, strict=True):
        each.load_state_dict(state)
    reload_optimizer(model, sparsifier)


@pytest.mark.parametrize("meanwhile", [reload_optimizer, reload_all])
def test_state_that_was_loaded_once_is_not_loaded_again(meanwhile):
    assert_equal_masks(masks_of("masked"), masks_of("condensed", meanwhile))


def test_a_checkpoint_of_a_dense_layer_keeps_its_weights_where_it_is_condensed_now(monkeypatch):
    monkeypatch.setattr(fastest, "speedup", lambda *_: 0.5)
    model = mlp()
    sparsifier = sparsify(model, "condensed")
    train(model, sparsifier, 0, 9)
    saved = [copy.deepcopy(each.state_dict()) for each in (model, sparsifier.optimizer, sparsifier)]
    monkeypatch.setattr(fastest, "speedup", lambda *_: 2.0)
    again = mlp(1)
    resumed = sparsify(again, "condensed")
    assert isinstance(again[0], CondensedLayer)
    for each, state in zip((again, resumed.optimizer, resumed), saved, strict=True):
        each.load_state_dict(state)
    assert not isinstance(again[0], CondensedLayer)
    for name, value in again.state_dict().items():
        assert torch.equal(value, saved[0][name])


@pytest.mark.parametrize("share", ["in_place", "global"])
def test_a_loss_scale_does_not_reach_the_scores(share):
    def scaled(model, sparsifier):
        factor = 2.0**14

        def step():
            for group in sparsifier.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad /= factor  # as a scaler unscales
            sparsifier.step()

        for images, labels in batches(STEPS):
            sparsifier.optimizer.zero_grad()
            (factor * nn.functional.cross_entropy(model(images), labels)).backward()
            step()
        return sparsifier.masks

    masked, condensed = mlp(), mlp()
    assert_equal_masks(
        scaled(masked, sparsify(masked, "masked", share=share)),
        scaled(condensed, sparsify(condensed, "condensed", share=share)),
    )


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_skipped_step_leaves_nothing_behind(set_to_none):
    """A scaler that finds an overflow skips the optimizer; gradients are cleared in either way."""
    results = []
    for storage in ("masked", "condensed"):
        model = mlp()
        sparsifier = sparsify(model, storage, delta_t=1)
        for turn, (images, labels) in enumerate(batches(10)):
            loss = nn.functional.cross_entropy(model(images), labels)
            (loss * torch.inf if turn == 4 else loss).backward()
            if turn != 4:
                sparsifier.step()
            sparsifier.optimizer.zero_grad(set_to_none=set_to_none)
        results.append(sparsifier.masks)
    assert_equal_masks(*results)


@dataclass(frozen=True)
class Moody(Offering):
    """Offers "even" only to masks with an even number of active weights in the first row, and may offer nothing."""

    else_nothing: bool = False

    def accelerate(self, call, mask):
        places = mask.flatten().nonzero().flatten()
        if int(mask.flatten(1)[0].sum()) % 2 == 0:
            return [Scattered(call, places, "even")]
        return [] if self.else_nothing else [Scattered(call, places, "odd")]


@pytest.mark.parametrize("else_nothing", [False, True])
def test_where_a_path_is_offered_no_more_another_takes_over(else_nothing):
    masked, model = masks_of("masked"), mlp()
    sparsifier = sparsify(model, "condensed", Moody(else_nothing=else_nothing))
    seen = set()

    def step():
        sparsifier.step()
        seen.update(sparsifier.arrangement.paths.values())

    train(model, sparsifier, step=step)
    assert_equal_masks(masked, sparsifier.masks)
    assert seen >= ({"even", "masked-dense"} if else_nothing else {"even", "odd"})


@pytest.mark.parametrize(
    "structure", ["unstructured", {"name": "shuffled_block", "block_size": 4}, "channel"]
)
def test_topologies_are_decided_outside_autocast(structure):
    """The engine's products count: in bfloat16 they would round."""
    model = mlp()
    with torch.autocast("cpu", torch.bfloat16):
        sparsifier = sparsify(model, "masked", structure)
        initial = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        train(model, sparsifier)
    assert_equal_masks(initial, sparsify(mlp(), "masked", structure).masks)
    assert len(sparsifier.history) == 5


class Rescaled(nn.Linear):
    """Computes with something else than its weight, though with the same zeros."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight / self.weight.norm(), self.bias)


def test_a_layer_with_a_forward_of_its_own_stays_as_it_is():
    model = nn.Sequential(Rescaled(12, 24), nn.Tanh(), nn.Linear(24, 4))
    before = copy.deepcopy(model)
    sparsifier = sparsify(model, "condensed")
    assert type(model[0]) is Rescaled
    assert isinstance(model[2], CondensedLayer)
    sparsifier.apply_masks(before)
    x = torch.randn(3, 12)
    assert torch.allclose(model(x), before(x), atol=1e-6)
    fast = dstbench.accelerate(before, sparsifier.masks, Offering(), x)
    assert torch.allclose(fast(x), before(x), atol=1e-6)


def test_a_layer_with_hooks_stays_as_it_is():
    model, heard = mlp(), []
    model[0].register_forward_hook(lambda *_: heard.append(1))
    sparsify(model, "condensed")
    heard.clear()
    model(torch.zeros(2, 12))
    assert heard == [1]


def test_lists_of_parameters_that_an_optimizer_keeps_follow():
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1)
    example = torch.zeros(8, 12)
    method = Recipe(structure=Offering(), schedule="never")
    sparsifier = dstbench.Sparsifier(
        model, optimizer, method, 0.3, total_steps=2, storage="condensed", example_input=example
    )
    [(images, labels)] = batches(1)
    before = model[0].weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    sparsifier.step(closure)
    assert not torch.equal(model[0].weight, before)


def test_costs_of_a_condensed_model_are_those_of_the_masked_one():
    masked, condensed = mlp(), mlp()
    one, other = sparsify(masked, "masked"), sparsify(condensed, "condensed")
    assert dstbench.cost(masked, one.masks, (12,)) == dstbench.cost(condensed, other.masks, (12,))


def test_copies_of_a_shrinking_network_keep_their_own_shapes():
    model = chain_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    structure = {"name": "emergent_channel", "channel_sparsity": 0.5, "delta_t": 2, "stop": 0.7}
    schedule = {"name": "constant", "delta_t": 2, "stop": 0.9}
    sparsifier = dstbench.Sparsifier(
        model,
        optimizer,
        Recipe(structure=structure, schedule=schedule),
        0.3,
        total_steps=16,
        storage="compact",
    )
    copies, shapes = [], {name: value.shape for name, value in model.state_dict().items()}
    for images, labels in batches(16, (4, 3, 8, 8)):
        copies.append(copy.deepcopy(model))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        sparsifier.step()
    assert sparsifier.arrangement.generation > 1
    for each in copies:
        assert {name: value.shape for name, value in each.state_dict().items()} == shapes
        assert each(images).shape == (4, 5)
    whole = chain_net(3)
    sparsifier.apply_masks(whole)
    for name, mask in sparsifier.masks.items():
        assert not whole.get_submodule(name).weight[~mask].any()
