"""Copies of a training: together they go on exactly, a Sparsifier alone refuses."""

import copy
import io
import pickle

import pytest
import torch
from accelerate import Accelerator
from torch import nn

import dstbench
from dstbench.api import Recipe
from dstbench.core.storage import fastest
from dstbench.errors import BadInput
from fakes.engine import assert_masked, batches, chain_net, mlp, recipe, sgd, train
from fakes.executions import Offering


def through_a_file(things):
    file = io.BytesIO()
    torch.save(things, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda things: pickle.loads(pickle.dumps(things)),
    "file": through_a_file,
}
METHODS = {
    "rigl": recipe(grow="gradient"),
    "snfs": recipe("constant", 3, grow={"name": "momentum", "share": "momentum"}),
    "by name": {"name": "rigl", "delta_t": 3},
    "undecided": {"name": "snip"},
    "dense": "dense",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [0, 7])
def test_together_they_go_on_exactly(way, method, step):
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sparsifier = dstbench.Sparsifier(model, optimizer, METHODS[method], 0.2, total_steps=20)
    train(model, sparsifier, step)
    copied, stepped, other = WAYS[way]((model, optimizer, sparsifier))
    assert other.optimizer is stepped
    train(copied, other, 20, skip=step, after=lambda: assert_masked(other) if other.decided else None)
    assert sparsifier.steps == step
    train(model, sparsifier, 20, skip=step)
    assert (other.steps, other.history) == (sparsifier.steps, sparsifier.history)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copied.parameters(), strict=True))
    saved, again = sparsifier.state_dict(), other.state_dict()
    assert all(torch.equal(bits, again["masks"][name]) for name, bits in saved["masks"].items())


@pytest.mark.parametrize("way", WAYS)
def test_the_copied_optimizers_own_step_counts(way):
    model = mlp()
    optimizer = sgd(model)
    sparsifier = dstbench.Sparsifier(model, optimizer, recipe(), 0.2, total_steps=20)
    copied, stepped, other = WAYS[way]([model, optimizer, sparsifier])
    for images, labels in batches(5):
        stepped.zero_grad()
        nn.functional.cross_entropy(copied(images), labels).backward()
        stepped.step()
    assert (sparsifier.steps, other.steps) == (0, 5)
    again = copy.deepcopy((copied, stepped, other))  # a copy of a copy
    train(again[0], again[2], 9, skip=5)
    assert (other.steps, again[2].steps) == (5, 9)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_in_any_order_inside_one_object(way):
    class_like = {"sparsifier": None, "optimizer": None, "model": mlp()}
    class_like["optimizer"] = sgd(class_like["model"])
    class_like["sparsifier"] = dstbench.Sparsifier(
        class_like["model"], class_like["optimizer"], recipe(), 0.2, total_steps=20
    )
    made = WAYS[way](class_like)
    train(made["model"], made["sparsifier"], 8, after=lambda: assert_masked(made["sparsifier"]))
    assert made["sparsifier"].steps == 8


def test_alone_a_sparsifier_refuses_with_the_way_to_do_it():
    model = mlp()
    optimizer = sgd(model)
    sparsifier = dstbench.Sparsifier(model, optimizer, recipe(), 0.2, total_steps=20)
    for make in (copy.copy, copy.deepcopy):
        with pytest.raises(BadInput, match=r"copy.deepcopy\(\(model, optimizer, sparsifier\)\).*state_dict"):
            make(sparsifier)
    without = [
        pickle.loads(pickle.dumps(sparsifier)),
        copy.deepcopy([sparsifier])[0],
        copy.deepcopy((model, sparsifier))[1],
        pickle.loads(pickle.dumps((model, sparsifier)))[1],
    ]
    for copied in without:
        for use in (copied.step, copied.mask_gradients):
            with pytest.raises(BadInput, match=r"copied without its optimizer.*copy.deepcopy\(\("):
                use()
    train(model, sparsifier, 4)
    assert sparsifier.steps == 4  # the one that was copied isn't touched


def test_a_wrapper_around_the_optimizer_is_not_copied():
    model = mlp()
    wrapped = Accelerator(cpu=True).prepare(sgd(model))
    sparsifier = dstbench.Sparsifier(model, wrapped, recipe(), 0.2, total_steps=20)
    with pytest.raises(BadInput, match=r"AcceleratedOptimizer: load its state_dict\(\) into a new one"):
        pickle.dumps(sparsifier)


@pytest.mark.parametrize("storage", ["condensed", "compact"])
def test_other_storages_are_copied_too(storage, monkeypatch):
    monkeypatch.setattr(fastest, "speedup", lambda *_: 2.0)
    shape, schedule = (4, 3, 8, 8), {"name": "constant", "delta_t": 2, "stop": 0.9}
    chase = {"name": "emergent_channel", "channel_sparsity": 0.5, "delta_t": 2, "stop": 0.7}
    structure = Offering() if storage == "condensed" else chase
    model = chain_net()
    optimizer = sgd(model)
    sparsifier = dstbench.Sparsifier(
        model, optimizer, Recipe(structure=structure, schedule=schedule), 0.3, total_steps=16,
        storage=storage, example_input=torch.zeros(shape),
    )  # fmt: skip
    train(model, sparsifier, 5, shape=shape)
    copied, stepped, other = copy.deepcopy((model, optimizer, sparsifier))
    for net, each in ((model, sparsifier), (copied, other)):
        train(net, each, 16, skip=5, shape=shape)
    assert all(torch.equal(mask, other.masks[name]) for name, mask in sparsifier.masks.items())
    for (name, one), again in zip(model.state_dict().items(), copied.state_dict().values(), strict=True):
        assert torch.equal(one, again), name
    for one, again in zip(*(o.state_dict()["state"].values() for o in (optimizer, stepped)), strict=True):
        assert torch.equal(one["momentum_buffer"], again["momentum_buffer"])
