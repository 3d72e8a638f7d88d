"""Trainings in one storage and another, and how they are held against each other."""

import copy

import torch
from torch import nn

import dstbench
from dstbench.api import Recipe
from fakes.engine import settle
from fakes.executions import Offering

IMAGES = (4, 3, 8, 8)


def network(seed=0):
    layers = (
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5),
    )
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    return settle(nn.Sequential(*layers, *head), seed)


def sparsify(model, storage, structure=None, density=0.3, total_steps=24, **parts):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    options = {"grow": "gradient", "schedule": {"name": "constant", "delta_t": 4}, **parts}
    method = Recipe(structure=structure or Offering(), **options)
    return dstbench.Sparsifier(
        model,
        optimizer,
        method,
        density,
        total_steps=total_steps,
        storage=storage,
        example_input=torch.zeros(IMAGES),
    )


def losses(steps=24, skip=0, shape=IMAGES):
    draw = torch.Generator().manual_seed(1)
    for step in range(steps):
        batch = torch.randn(shape, generator=draw), torch.randint(4, shape[:1], generator=draw)
        if step >= skip:
            yield batch


def train(model, sparsifier, steps=24, skip=0, parts=1):
    """The loss is held over the next forward pass, as loops do: its graph is still alive when shapes change."""
    for images, labels in losses(steps, skip):
        sparsifier.optimizer.zero_grad()
        for some, same in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            loss = nn.functional.cross_entropy(model(some), same) / parts
            loss.backward()
        sparsifier.step()


def trained(storage, structure=None, make=network, parts=1, **options):
    model = make()
    sparsifier = sparsify(model, storage, structure, **options)
    train(model, sparsifier, parts=parts)
    return model, sparsifier


def assert_same(one, other, tolerance=1e-5):
    (model_a, a), (model_b, b) = one, other
    assert all(torch.equal(a.masks[name], b.masks[name]) for name in a.masks)
    assert (a.steps, a.active, a.budget, a.explored, a.kept) == (
        b.steps,
        b.active,
        b.budget,
        b.explored,
        b.kept,
    )
    for (key, x), (other_key, y) in zip(*(m.state_dict().items() for m in (model_a, model_b)), strict=True):
        assert key == other_key
        assert x.shape == y.shape
    images = next(losses())[0]
    assert torch.allclose(model_a.eval()(images), model_b.eval()(images), atol=tolerance)
    states = (each.optimizer.state_dict()["state"] for each in (a, b))
    for x, y in zip(*(state.values() for state in states), strict=True):
        assert x["momentum_buffer"].shape == y["momentum_buffer"].shape


def lives(model, sparsifier):
    """Everything that a checkpoint holds, through a file."""
    states = {
        "model": model.state_dict(),
        "optimizer": sparsifier.optimizer.state_dict(),
        "masks": sparsifier.state_dict(),
    }
    return copy.deepcopy(states)


def resumed(saved, storage, structure=None, make=network, steps=24, **options):
    model = make(7)
    sparsifier = sparsify(model, storage, structure, **options)
    model.load_state_dict(saved["model"])
    sparsifier.optimizer.load_state_dict(saved["optimizer"])
    sparsifier.load_state_dict(saved["masks"])
    train(model, sparsifier, steps, skip=saved["masks"]["steps"])
    return model, sparsifier


def chain(seed=0):
    """Three convolutions in a row, with norms, and a classifier behind a flatten."""
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, bias=False))
    more = (
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    return settle(nn.Sequential(*layers, *more, nn.Linear(48, 4)), seed)


CHASE = {
    "structure": {
        "name": "emergent_channel",
        "channel_sparsity": 0.5,
        "delta_t": 4,
        "floor": 0.2,
        "stop": 0.7,
    },
    "make": chain,
    "schedule": {"name": "constant", "delta_t": 4, "stop": 0.9},
}
