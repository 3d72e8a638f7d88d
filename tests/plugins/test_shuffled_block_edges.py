"""Shuffled blocks at the edges: rounding, ties of clusters, columns that the block doesn't divide, new entries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import dstbench
from dstbench_plugins.structure.shuffled_block import ShuffledBlock
from dstbench_plugins.structure.shuffled_extract import cluster_rows
from fakes.blocks import PAIRS, extract


def test_budget_is_rounded_to_the_nearest_unit_not_up_to_whole_blocks():
    assert int(extract(ShuffledBlock(2), PAIRS, 5).sum()) == 4  # there: 2 blocks of 4
    assert int(extract(ShuffledBlock(2), PAIRS, 7).sum()) == 6


def test_clustering_needs_no_removed_affinity_keyword():
    from sklearn.cluster import AgglomerativeClustering

    support = torch.rand(24, 40, generator=torch.Generator().manual_seed(3)) < 0.3
    unit = support.double() / support.double().norm(dim=1, keepdim=True)
    label = AgglomerativeClustering(6, metric="precomputed", linkage="complete").fit_predict(
        (1 - unit @ unit.T).numpy()
    )
    clusters = sorted(
        ([row for row in range(24) if label[row] == c] for c in range(6)), key=lambda rows: (-len(rows), rows)
    )
    assert cluster_rows(support, 4).tolist() == [row for rows in clusters for row in rows]


def test_column_count_that_the_block_does_not_divide():
    scores = torch.rand(32, 3, 5, 5, generator=torch.Generator().manual_seed(0))  # 75 columns, B = 16
    assert int(extract(ShuffledBlock(16), scores, 1200).sum()) == 1200


def test_ties_between_clusters_do_not_lose_a_cluster():
    order = cluster_rows(torch.ones(12, 5, dtype=torch.bool), 3)
    assert sorted(order.tolist()) == list(range(12))


class Net(nn.Module):
    """A convolution that B doesn't divide, a depthwise one, a hidden linear layer and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(3, 18, 3), nn.Conv2d(18, 18, 3, groups=18)
        self.hidden, self.head = nn.Linear(18, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.depthwise(self.conv(x)).mean((2, 3))).relu())


@pytest.mark.parametrize("columns", ["entry", "channel"])
def test_entries_that_extraction_activates_start_at_zero_with_clear_state(columns):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    structure = {"name": "shuffled_block", "block_size": 4, "columns": columns, "block_filter": False}
    recipe = {"structure": structure, "grow": "random", "schedule": {"name": "constant", "delta_t": 2}}
    sparsifier = dstbench.Sparsifier(model, optimizer, recipe, density=0.4, total_steps=12)
    moved = dict.fromkeys(sparsifier.masks, False)
    for _ in range(10):
        before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        sparsifier.step()
        for name, mask in sparsifier.masks.items():
            weight = model.get_submodule(name).weight
            new = mask & ~before[name]
            moved[name] |= bool(new.any())
            assert not bool(weight[new | ~mask].any())
            assert not bool(optimizer.state[weight]["momentum_buffer"][new | ~mask].any())
            assert ShuffledBlock(4, columns).is_legal(sparsifier.layers[name].info, mask)
    assert all(moved.values()), moved  # linear and undivided layers too; there they stay as they are
