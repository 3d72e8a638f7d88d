"""Values on weights whose channels are cut out."""

import pytest
import torch
from torch import nn

import dstbench
from dstbench.api import Recipe
from fakes.engine import settle

CHASE = {"name": "emergent_channel", "channel_sparsity": 0.5, "delta_t": 4, "floor": 0.2, "stop": 0.7}
VALUES = ({"name": "swi", "grown": "last", "restart": "lr_restart"}, "deep-r", "pixelfly")


def trained(storage, values):
    """Two convolutions that lose channels, and a classifier behind a flatten."""
    first = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, bias=False))
    last = (nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 4))
    model = settle(nn.Sequential(*first, *last), 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    schedule = {"name": "constant", "delta_t": 4, "stop": 0.9}
    method = Recipe(structure=CHASE, grow="gradient", schedule=schedule)
    sparsifier = dstbench.Sparsifier(
        model, optimizer, method, 0.3, total_steps=24, storage=storage, values=values,
        example_input=torch.zeros(4, 3, 8, 8),
    )  # fmt: skip
    draw = torch.Generator().manual_seed(1)
    for _ in range(24):
        optimizer.zero_grad()
        images, labels = torch.randn(4, 3, 8, 8, generator=draw), torch.randint(4, (4,), generator=draw)
        nn.functional.cross_entropy(model(images), labels).backward()
        sparsifier.step()
    return sparsifier


@pytest.mark.parametrize("values", VALUES, ids=str)
def test_values_in_compact_storage_are_those_of_masked_dense(values):
    """Initial and grown weights, memories of positions that are gone, pulls, and rates behind an update."""
    masked, compact = trained("masked", values), trained("compact", values)
    assert len(compact.removals) > 1
    assert sum(report.grown for report in compact.history) > 0
    for name, mask in masked.masks.items():
        assert torch.equal(mask, compact.masks[name])
        one, other = (part.weights.logical(name) * mask for part in (masked, compact))
        assert torch.allclose(one, other, atol=1e-6)
