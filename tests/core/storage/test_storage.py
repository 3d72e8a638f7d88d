"""Storages: whatever the parameters hold, training is that of masked dense, and checkpoints are logical."""

import copy
from itertools import permutations

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import Recipe, StrategyError
from dstbench.core.storage import fastest
from dstbench.core.storage.condensed_layer import CondensedLayer, expanded
from dstbench.errors import BadInput
from fakes.engine import settle
from fakes.executions import Offering
from fakes.storages import (
    CHASE,
    assert_same,
    chain,
    lives,
    losses,
    network,
    resumed,
    sparsify,
    train,
    trained,
)

pytestmark = pytest.mark.usefixtures("always_faster")


@pytest.mark.parametrize("parts", [1, 2])
def test_condensed_training_is_that_of_masked_dense(parts):
    masked, condensed = trained("masked", parts=parts), trained("condensed", parts=parts)
    assert len(masked[1].history) == 5
    assert all(isinstance(condensed[0].get_submodule(name), CondensedLayer) for name in condensed[1].masks)
    assert_same(masked, condensed)
    for (_, x), (_, y) in zip(masked[0].state_dict().items(), condensed[0].state_dict().items(), strict=True):
        assert torch.allclose(x.float(), y.float(), atol=1e-5)
    for x, y in zip(
        *(s.optimizer.state_dict()["state"].values() for _, s in (masked, condensed)), strict=True
    ):
        assert torch.allclose(x["momentum_buffer"], y["momentum_buffer"], atol=1e-5)


def test_only_active_weights_are_held_and_stay_where_they_are():
    model = network()
    sparsifier = sparsify(model, "condensed")
    weights = [model.get_submodule(name).weight for name in sparsifier.masks]
    before = [weight.data_ptr() for weight in weights]
    train(model, sparsifier)
    assert sparsifier.history[0].grown > 0
    assert [weight.data_ptr() for weight in weights] == before
    assert [weight.numel() for weight in weights] == list(sparsifier.active.values())
    assert sum(weight.numel() for weight in weights) == round(0.3 * sparsifier.size)
    held = {id(p) for group in sparsifier.optimizer.param_groups for p in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters()}
    momentum = [sparsifier.optimizer.state[weight]["momentum_buffer"] for weight in weights]
    assert [each.shape for each in momentum] == [weight.shape for weight in weights]


def test_the_dense_gradient_is_made_only_where_an_update_reads_it():
    model = network()
    sparsifier = sparsify(model, "condensed")
    seen = []
    for step, (images, labels) in enumerate(losses(12), start=1):
        sparsifier.optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        seen.append((step, model[0].dense_gradient is not None))
        sparsifier.step()
    assert [step for step, made in seen if made] == [4, 8, 12]


def test_a_step_that_never_came_leaves_no_gradient_behind():
    """Without an optimizer step, as where a loss scaler skips it, the next backward pass starts anew."""
    model = network()
    sparsifier = sparsify(model, "condensed", total_steps=24, schedule={"name": "constant", "delta_t": 1})
    (images, labels), (other, also) = losses(2)
    nn.functional.cross_entropy(model(images), labels).backward()
    sparsifier.optimizer.zero_grad()
    nn.functional.cross_entropy(model(other), also).backward()
    found = model[0].dense_gradient.clone()
    sparsifier.optimizer.zero_grad()
    nn.functional.cross_entropy(model(other), also).backward()
    assert torch.equal(found, model[0].dense_gradient)


def test_a_layer_that_is_not_one_of_its_own_stays_dense():
    shared, tied = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
    other = nn.Linear(6, 6, bias=False)
    other.weight = tied.weight

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.again, self.tied, self.other, self.own = (
                shared,
                shared,
                tied,
                other,
                nn.Linear(6, 6),
            )
            self.twice = nn.Linear(6, 6)

        def forward(self, x):
            return self.own(self.twice(self.twice(self.other(self.tied(self.again(self.one(x)))))))

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = Recipe(structure=Offering(), schedule="never")
    example = torch.zeros(2, 6)
    sparsifier = dstbench.Sparsifier(
        model, optimizer, method, 0.5, total_steps=4, storage="condensed", example_input=example
    )
    assert [n for n, path in sparsifier.arrangement.paths.items() if path == "scattered"] == ["own"]
    sparsifier = dstbench.Sparsifier(
        alone := nn.Linear(4, 4), torch.optim.SGD(alone.parameters()), method, 0.5, total_steps=4,
        storage="condensed", example_input=torch.zeros(1, 4),
    )  # fmt: skip
    assert set(sparsifier.arrangement.paths.values()) == {"masked-dense"}


FORMS = [(a, b) for a in ("masked", "condensed") for b in ("masked", "condensed")]


@pytest.mark.parametrize(("before", "after"), FORMS)
@pytest.mark.parametrize("step", [3, 4, 10])
def test_a_checkpoint_of_either_form_goes_on_in_either(before, after, step):
    whole = trained("masked")
    model = network()
    sparsifier = sparsify(model, before)
    train(model, sparsifier, step)
    assert_same(whole, resumed(lives(model, sparsifier), after))


@pytest.mark.parametrize("order", [*permutations(["model", "optimizer", "masks"])], ids="-".join)
@pytest.mark.parametrize("used", [0, 5], ids=["new", "used"])
@pytest.mark.parametrize("storage", ["masked", "condensed", "compact"])
def test_states_are_loaded_in_any_order(order, used, storage):
    """Into a training that is new, or at another point of its way."""
    parts = {**CHASE} if storage == "compact" else {"make": chain}
    if storage == "compact" and used:
        pytest.skip("cut channels don't come back: refused")
    make, options = parts.pop("make"), parts
    model = make()
    sparsifier = sparsify(model, storage, **options)
    train(model, sparsifier, 11)
    saved = lives(model, sparsifier)
    train(model, sparsifier, skip=11)
    again = make(7)
    other = sparsify(again, storage, **options)
    train(again, other, used)
    loads = {"model": again, "optimizer": other.optimizer, "masks": other}
    for each in order:
        loads[each].load_state_dict(copy.deepcopy(saved[each]))
    train(again, other, skip=11)
    assert all(torch.equal(mask, other.masks[name]) for name, mask in sparsifier.masks.items())
    for (name, one), two in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_rewinding_a_condensed_training_keeps_its_mask_when_told_to():
    model = network()
    first = copy.deepcopy(model.state_dict())
    sparsifier = sparsify(model, "condensed")
    train(model, sparsifier, 6)
    model.load_state_dict(first)
    with pytest.raises(StrategyError, match=r"another mask; load .* or keep .* enforce\(\)"):
        model(next(losses())[0])
    sparsifier.enforce()
    for name, mask in sparsifier.masks.items():
        assert torch.equal(model.state_dict()[f"{name}.weight"], first[f"{name}.weight"] * mask)
    train(model, sparsifier, 12, skip=6)


def test_a_training_measures_each_sort_of_layer_once_for_itself(monkeypatch):
    measured = []
    monkeypatch.setattr(fastest, "speedup", lambda layer, *_: measured.append(type(layer)) or 2.0)
    twins = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)]
    for _ in range(2):
        model = settle(nn.Sequential(*copy.deepcopy(twins), nn.Flatten(), nn.Linear(3 * 8 * 8, 4)))
        sparsify(model, "condensed", init="uniform")
    assert measured == [nn.Conv2d, nn.Linear] * 2


def test_a_resumed_training_runs_as_it_was_measured_first(monkeypatch):
    first = trained("condensed", Offering(("scattered", "other")))
    saved = lives(*first)
    monkeypatch.setattr(
        fastest, "speedup", lambda layer, call, execution, example: 0.5
    )  # a busy machine, say
    model, sparsifier = resumed(saved, "condensed", Offering(("scattered", "other")))
    assert sparsifier.arrangement.paths == first[1].arrangement.paths
    assert isinstance(model[0], CondensedLayer)
    saved["masks"]["paths"]["0"] = "scatered"
    with pytest.raises(BadInput, match=r"layer '0'.*can't run 'scatered' here; did you mean 'scattered'"):
        resumed(saved, "condensed", Offering(("scattered", "other")))


def test_weights_of_another_mask_are_never_run():
    model, _ = trained("condensed")
    dense = network(3)
    model.load_state_dict(dense.state_dict())
    with pytest.raises(StrategyError, match="layer '0': the weights loaded are of another mask"):
        model(next(losses())[0])


def test_what_can_not_be_condensed_is_refused_with_a_reason():
    with pytest.raises(BadInput, match=r"init .* reads gradients"):
        sparsify(network(), "condensed", init="snip")
    with pytest.raises(BadInput, match="momentum growth"):
        sparsify(network(), "condensed", grow="momentum")
    wrapped = nn.DataParallel(network())
    with pytest.raises(BadInput, match=r"before DDP or torch.compile"):
        sparsify(wrapped, "condensed")


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # torch's own, of what it traces
def test_a_condensed_model_compiles_clips_and_runs_under_autocast():
    model = network()
    sparsifier = sparsify(model, "condensed")
    compiled = torch.compile(model, backend="eager")
    for images, labels in losses(6):
        sparsifier.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(compiled(images), labels)
        loss.backward()
        sparsifier.mask_gradients()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        sparsifier.step()
    assert torch.isfinite(loss)
    assert len(sparsifier.history) == 1


def test_a_condensed_model_is_expanded_to_the_layers_it_stands_for():
    model, _ = trained("condensed")
    whole = expanded(model)
    assert [type(module) for module in whole] == [type(module) for module in network()]
    images = next(losses())[0]
    assert torch.allclose(whole.eval()(images), model.eval()(images), atol=1e-6)
    assert whole.state_dict().keys() == network().state_dict().keys()
    [linear] = [module for module in model if isinstance(module, CondensedLayer) and not module.call.stride]
    assert isinstance(expanded(linear), nn.Linear)
