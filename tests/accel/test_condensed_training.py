"""Training on real kernels is training on masked dense: the same masks imposed on both, a hundred steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dstbench
from dstbench.core.storage import fastest
from dstbench.core.storage.condensed_layer import CondensedLayer
from fakes.engine import settle

BALANCED = {"name": "shuffled_block", "block_size": 4, "columns": "channel", "balanced": True}
STRUCTURES = {
    "stock": (BALANCED, "shuffled-block grouped convolution, channels_last"),
    "compiled": ({"name": "shuffled_block", "block_size": 4}, "shuffled-block compiled"),
    "rows": ({"name": "unstructured"}, "csr compiled"),
}


def network():
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2))
    head = (nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return settle(nn.Sequential(*layers, *head, nn.Linear(16, 4)))


def batches(steps, seed=0):
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.randn(8, 3, 8, 8, generator=draw), torch.randint(4, (8,), generator=draw)


def sparsify(model, structure, storage, seed=0):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    recipe = {"init": "uniform", "structure": structure, "schedule": "never"}
    images = next(batches(1))[0]
    return dstbench.Sparsifier(
        model, optimizer, recipe, 0.3, total_steps=100, seed=seed, storage=storage, example_input=images
    )


def prefer(path):
    """Stands in for the measurement: the wanted path is fast, others aren't."""
    return lambda layer, call, execution, example: 3.0 if execution.path == path else 1.5


@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_hundred_steps_with_the_same_masks(kind, monkeypatch):
    structure, path = STRUCTURES[kind]
    monkeypatch.setattr(fastest, "speedup", prefer(path))
    masks = [sparsify(network(), structure, "masked", seed).masks for seed in range(10)]
    models = {}
    for storage in ("masked", "condensed"):
        models[storage] = model = network()
        sparsifier = sparsify(model, structure, storage)
        if storage == "condensed" and path not in sparsifier.arrangement.paths.values():
            pytest.skip(f"{path} is not offered here")
        for step, (images, labels) in enumerate(batches(100)):
            if step % 10 == 0:
                sparsifier.set_masks(masks[step // 10])
            sparsifier.optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            sparsifier.step()
    assert sum(isinstance(module, CondensedLayer) for module in models["condensed"].modules()) >= 3
    for (name, a), b in zip(
        models["masked"].state_dict().items(), models["condensed"].state_dict().values(), strict=True
    ):
        assert torch.allclose(a.float(), b.float(), atol=1e-3), name


def test_the_same_seed_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(fastest, "speedup", prefer(STRUCTURES["stock"][1]))
    trained = []
    for _ in range(2):
        model = network()
        sparsifier = sparsify(model, BALANCED, "condensed")
        for images, labels in batches(5):
            sparsifier.optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            sparsifier.step()
        trained.append(model.state_dict())
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())
